"""Training of the mini SAM: masks of objects and of stuff from one point, or of objects from a box."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from anything3d.mini import sam
from anything3d.mini.training.data import SCENE_PX, STUFF, Scenes, load_scenes
from anything3d.mini.training.loop import Training
from anything3d.models.sam import PIXEL_MEAN, PIXEL_STD, Sam, Sam1
from anything3d.photo import mask
from anything3d.quality.metrics import mask_iou

BATCH = 4  # scenes
PROMPTS = 5  # of each scene
BOX_SHARE = 0.2  # of the steps whose prompts are boxes
STUFF_SHARE = 0.15  # of the points that lie on no object
BOX_JITTER = 0.08  # of the box's sides
LEAST_PX = 48  # pixels of a segment that is asked for
PASTED = 0.25  # of the scenes that get another one's objects too
PASTED_LABEL = 50  # added to their labels
ZOOM = (0.7, 1.3)  # side of the part of a scene that is shown / the scene's
CLOSER = 0.4  # of the scenes that are shown as a closer look of `segment` shows an object: the part around it
CLOSER_SIDE = (1.2, 2.2)  # side of that part / the longer side of the object's box
LEAST_SIDE = 0.2  # of that part / the scene's
CELL_PX = 2  # pixels along one side of a logit
SHARPNESS = 3.0  # of the targets at edges: how steeply a logit's cell goes from 0 to 1 with its covered share
BCE, FOCUS = 4.0, 1.0  # weight of the cross-entropy beside the dice loss, exponent of its focal factor
DENSE = 1.0  # weight of the encoder's own loss
DENSE_PX, EMBEDDING = 4, 16  # pixels along one side of its cells, channels of their embeddings
ANCHORS = 48  # cells of each scene whose segment is asked for there
JUDGED = 200  # held-out objects


@dataclass(frozen=True, slots=True)
class Batch:
    rgb: Float[Tensor, "B 3 S S"]  # 0..255
    label: UInt8[Tensor, "B S S"]  # as Scenes


class Trained(nn.Module):
    """SAM and a layer that is dropped after training.

    That layer gives each cell of the image an embedding; cells of one segment shall lie near each other, all others
    away. It asks the encoder about many more points than the decoder has time for. The decoder's own tokens get one
    too, near the cells of their mask: without it they take long to learn what lies at their point.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.sam: Any = sam.build(seed)
        self.cells = sam.SHAPE.patch_size // DENSE_PX  # along each side of a token
        self.dense = nn.Conv2d(sam.SHAPE.prompt_width, EMBEDDING * self.cells**2, 1)
        self.reach = nn.Parameter(torch.zeros(()))
        self.asked = nn.Linear(sam.SHAPE.prompt_width, EMBEDDING)

    def embed(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B E _"]:
        return F.pixel_shuffle(self.dense(features), self.cells).flatten(2).float()

    def near(self, embedding: Float[Tensor, "B N E"], cells: Float[Tensor, "B E _"]) -> Float[Tensor, "B N _"]:
        """Logits of being of one segment: the nearer, the likelier."""
        return 3 + self.reach - 2 * torch.cdist(embedding.float(), cells.mT)


def training(work: Path, seed: int, device: str) -> Training:
    scenes, held_out = load_scenes("training", work), load_scenes("held-out", work)
    trained = Trained(seed).to(device)
    mean, std = (torch.tensor(value, device=device)[:, None, None] for value in (PIXEL_MEAN, PIXEL_STD))

    def loss(generator: torch.Generator) -> Tensor:
        batch = draw(scenes, generator)
        features = trained.sam.image_encoder((batch.rgb.to(device) - mean) / std)
        by_box = float(torch.rand((), generator=generator)) < BOX_SHARE
        owner, segment = choose(batch.label, by_box, generator)
        prompts = (boxes if by_box else points)(segment, generator).to(device)
        owner = owner.to(device)
        logits, predicted_iou, tokens = decode(trained.sam, features[owner], prompts)
        target = F.avg_pool2d(segment[:, None].float(), CELL_PX)[:, 0].to(device)
        cells = trained.embed(features)
        same = segment[:, DENSE_PX // 2 :: DENSE_PX, DENSE_PX // 2 :: DENSE_PX].flatten(1).to(device)
        asked = trained.near(trained.asked(tokens), cells[owner])
        return (
            mask_loss(logits.float(), predicted_iou.float(), target)
            + DENSE * dense_loss(trained, cells, batch.label, generator)
            + DENSE * near_loss(asked, same[:, None].expand_as(asked).float())
        )

    def score() -> dict[str, float]:
        return judge(Sam1(trained.sam), held_out)

    def save(folder: Path) -> None:
        sam.save(trained.sam, folder / "sam")

    def load(folder: Path) -> None:
        trained.sam.load_state_dict(load_file(folder / "sam" / "model.safetensors"))

    return Training("sam", trained, loss, save, score, steps=15000, lr=6e-4, bf16=True, every=500, load=load)


def draw(scenes: Scenes, generator: torch.Generator) -> Batch:
    """Scenes with objects of others pasted in, zoomed, mirrored, in other colours."""
    rows = torch.randint(len(scenes), (2 * BATCH,), generator=generator)
    rgb, label = scenes.rgb[rows].float(), scenes.label[rows].long()
    rgb, label = _zoom(rgb, label, generator)
    rgb, other_rgb = rgb.chunk(2)
    label, other = label.chunk(2)
    pasted = torch.rand(BATCH, 1, 1, generator=generator) < PASTED
    pasted = pasted & (other > 0) & (other < STUFF)
    label = torch.where(pasted, other + PASTED_LABEL, label)
    rgb = torch.where(pasted[:, None], other_rgb, rgb)
    gain = 1 + 0.25 * (2 * torch.rand(BATCH, 1, 1, 1, generator=generator) - 1)
    tint = 1 + 0.08 * (2 * torch.rand(BATCH, 3, 1, 1, generator=generator) - 1)
    permuted = torch.stack([torch.randperm(3, generator=generator) for _ in range(BATCH)])
    keep = torch.rand(BATCH, 1, generator=generator) < 0.6
    channels = torch.where(keep, torch.arange(3), permuted)
    rgb = rgb.take_along_dim(channels[:, :, None, None], dim=1) * gain * tint
    rgb = (rgb + 4 * torch.randn(rgb.shape, generator=generator)).clamp(0, 255)
    return Batch(torch.where(label[:, None] > 0, rgb, 0.0), label.to(torch.uint8))


def _zoom(
    rgb: Float[Tensor, "B 3 S S"], label: Int[Tensor, "B S S"], generator: torch.Generator
) -> tuple[Float[Tensor, "B 3 S S"], Int[Tensor, "B S S"]]:
    count = len(rgb)
    low, high, shift, mirror, closer = torch.rand(5, count, generator=generator)
    side = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * low
    centre = (2 * torch.stack([high, shift], dim=1) - 1) * (1 - side).abs()[:, None]
    for row in (closer < CLOSER).nonzero()[:, 0].tolist():
        side[row], centre[row] = _closer(label[row], side[row], centre[row], generator)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side * torch.where(mirror < 0.5, -1.0, 1.0), side
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta, list(rgb.shape), align_corners=False)
    shown = F.grid_sample(rgb, grid, align_corners=False)
    return shown, F.grid_sample(label[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].long()


def _closer(
    label: Int[Tensor, "S S"], side: Float[Tensor, ""], centre: Float[Tensor, "2"], generator: torch.Generator
) -> tuple[Float[Tensor, ""], Float[Tensor, "2"]]:
    """Side and centre (x, y; -1 to 1) of the part around a random object; those that are given if there is none."""
    sizes = torch.bincount(label.flatten(), minlength=STUFF)[:STUFF]
    large = (sizes[1:] >= LEAST_PX).nonzero()[:, 0] + 1
    if len(large) == 0:
        return side, centre
    chosen = large[torch.randint(len(large), (), generator=generator)]
    places = (label == chosen).nonzero().flip(1)
    low, high = places.amin(0), places.amax(0) + 1
    factor, *shift = torch.rand(3, generator=generator)
    enlarged = CLOSER_SIDE[0] + (CLOSER_SIDE[1] - CLOSER_SIDE[0]) * factor
    side = (enlarged * (high - low).max() / len(label)).clamp(LEAST_SIDE, 1)
    free = side - (high - low) / len(label)  # how far the object may move in the part, to both sides together
    middle = (low + high) / len(label) - 1 + free * (torch.stack(shift) - 0.5)
    return side, torch.minimum(torch.maximum(middle, side - 1), 1 - side)


def choose(
    label: UInt8[Tensor, "B S S"], only_objects: bool, generator: torch.Generator
) -> tuple[Int[Tensor, "P"], Bool[Tensor, "P S S"]]:
    """PROMPTS segments of each scene, as masks, and whose they are; objects mostly, each of a scene's alike."""
    owners, masks = [], []
    for row, scene in enumerate(label):
        sizes = torch.bincount(scene.flatten(), minlength=256)
        large = (sizes >= LEAST_PX).nonzero()[:, 0]
        objects, stuff = large[(large > 0) & (large < STUFF)], large[large >= STUFF]
        for _ in range(PROMPTS):
            of_stuff = not only_objects and float(torch.rand((), generator=generator)) < STUFF_SHARE
            kind = (stuff, objects) if of_stuff else (objects, stuff)
            labels = kind[0] if len(kind[0]) else kind[1]
            if len(labels) == 0:
                continue
            chosen = labels[torch.randint(len(labels), (), generator=generator)]
            owners.append(row)
            masks.append(scene == chosen)
    return torch.tensor(owners), torch.stack(masks)


def points(segments: Bool[Tensor, "P S S"], generator: torch.Generator) -> Float[Tensor, "P 2"]:
    """A random pixel (x, y) of each segment."""
    y = _draw(segments.sum(2), generator)
    x = _draw(segments[torch.arange(len(segments)), y], generator)
    return torch.stack([x, y], dim=1).float()


def _draw(counts: Int[Tensor, "P S"] | Bool[Tensor, "P S"], generator: torch.Generator) -> Int[Tensor, "P"]:
    """A place in each row, with a probability that is proportional to its count."""
    upto = counts.cumsum(1)
    rank = (torch.rand(len(upto), 1, generator=generator) * upto[:, -1:]).long() + 1
    return torch.searchsorted(upto, rank)[:, 0]


def boxes(segments: Bool[Tensor, "P S S"], generator: torch.Generator) -> Float[Tensor, "P 4"]:
    """The box (x, y, x, y) around each segment, not quite exact."""
    edges = []
    for axis in (1, 2):
        line = segments.any(axis).float()
        edges.append((line.argmax(1), segments.shape[axis] - line.flip(1).argmax(1)))
    (left, right), (top, bottom) = edges
    box = torch.stack([left, top, right, bottom], dim=1).float()
    sides = torch.stack([right - left, bottom - top, right - left, bottom - top], dim=1)
    return box + BOX_JITTER * sides * torch.randn(box.shape, generator=generator)


def decode(
    network: nn.Module, features: Float[Tensor, "P C h w"], prompts: Float[Tensor, "P _"]
) -> tuple[Float[Tensor, "P M H W"], Float[Tensor, "P M"], Float[Tensor, "P M C"]]:
    """All masks (logits) of each prompt on its own image, their predicted IoU and their tokens.

    What segment_anything's MaskDecoder.predict_masks does for many prompts on one image.
    """
    encoder: Any = network.prompt_encoder
    decoder: Any = network.mask_decoder
    count, is_point = len(prompts), prompts.shape[1] == 2
    corners, labels = prompts[:, None], torch.ones(count, 1, dtype=torch.int64, device=prompts.device)
    sparse, dense = encoder(
        points=(corners, labels) if is_point else None, boxes=None if is_point else prompts, masks=None
    )
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(count, -1, -1)
    position = encoder.get_dense_pe().expand(count, -1, -1, -1)
    hidden, image = decoder.transformer(features + dense, position, torch.cat([own, sparse], dim=1))
    upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(features.shape))
    heads = decoder.output_hypernetworks_mlps
    weights = torch.stack([head(hidden[:, 1 + row]) for row, head in enumerate(heads)], dim=1)
    logits = torch.einsum("pmc,pchw->pmhw", weights, upscaled)
    return logits, decoder.iou_prediction_head(hidden[:, 0]), hidden[:, 1 : 1 + len(heads)]


def mask_loss(
    logits: Float[Tensor, "P M h w"], predicted_iou: Float[Tensor, "P M"], share: Float[Tensor, "P h w"]
) -> Float[Tensor, ""]:
    """Focal and dice loss of every mask against the covered `share` of its cells, and the error of its IoU.

    The mini world's points are not ambiguous: all masks of a prompt have one target.
    """
    target = ((share - 0.5) * SHARPNESS + 0.5).clamp(0, 1)[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    focal = (entropy * (probability - target).abs().detach() ** FOCUS).mean()
    overlap = (probability * target).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + target.sum((2, 3)) + 1)
    with torch.no_grad():
        solid, true = logits > 0, target > 0.5
        iou = (solid & true).sum((2, 3)) / (solid | true).sum((2, 3)).clamp(min=1)
    return BCE * focal + dice.mean() + F.mse_loss(predicted_iou, iou)


def dense_loss(
    trained: Trained, embedding: Float[Tensor, "B E _"], label: UInt8[Tensor, "B S S"], generator: torch.Generator
) -> Float[Tensor, ""]:
    """Which cells are of the same segment as an anchor, told by the distance of their embeddings alone."""
    cells = label[:, DENSE_PX // 2 :: DENSE_PX, DENSE_PX // 2 :: DENSE_PX].flatten(1)
    anchors = torch.multinomial((cells > 0).float(), ANCHORS, generator=generator)
    same = (cells.gather(1, anchors)[:, :, None] == cells[:, None]).float().to(embedding)
    at_anchors = embedding.gather(2, anchors[:, None].expand(-1, EMBEDDING, -1).to(embedding.device))
    return near_loss(trained.near(at_anchors.mT, embedding), same)


def near_loss(logits: Float[Tensor, "B N _"], same: Float[Tensor, "B N _"]) -> Float[Tensor, ""]:
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * same).sum(2) + 1) / (probability.sum(2) + same.sum(2) + 1)
    return F.binary_cross_entropy_with_logits(logits, same) + dice.mean()


def judge(network: Sam, scenes: Scenes) -> dict[str, float]:
    """Masks from one random point on each of JUDGED held-out objects, through the pipeline's own code."""
    generator = torch.Generator().manual_seed(0)
    images, prompts = [], []
    true: list[Tensor] = []
    for rgb, label in zip(scenes.rgb, scenes.label, strict=True):
        sizes = torch.bincount(label.flatten(), minlength=256)
        indices = [index for index in range(1, STUFF) if sizes[index] >= LEAST_PX][: JUDGED - len(true)]
        if not indices:
            continue
        segments = torch.stack([label == index for index in indices])
        images.append(rgb.permute(1, 2, 0))
        prompts.append(points(segments, generator))
        true += list(segments)
    predicted = [row for rows in network.prompt(images, prompts, 16, 32) for row in rows]
    masks = torch.stack([mask.decode(mask.encode_runs(row.lengths), SCENE_PX, SCENE_PX) for row in predicted])
    ious = mask_iou(masks, torch.stack(true))
    surest = torch.tensor([row.predicted_iou for row in predicted])
    return {
        "mask_iou": float(ious.mean()),
        "iou_over_75": float((ious >= 0.75).float().mean()),
        "iou_prediction_error": float((surest - ious).abs().mean()),
    }
