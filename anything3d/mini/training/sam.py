"""Training of the mini SAM: masks of objects and of stuff from one point, or of objects from a box."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from anything3d.mini import sam
from anything3d.mini.training.data import SCENE_PX, STUFF, Scenes, load_scenes
from anything3d.mini.training.loop import Training
from anything3d.mini.training.scenes import LEAST_PX, boxes, choose, draw, points
from anything3d.models.sam import PIXEL_MEAN, PIXEL_STD, Sam, Sam1
from anything3d.photo import mask
from anything3d.quality.metrics import mask_iou

BOX_SHARE = 0.2  # of the steps whose prompts are boxes
CELL_PX = 2  # pixels along one side of a logit
SHARPNESS = 3.0  # of the targets at edges: how steeply a logit's cell goes from 0 to 1 with its covered share
BCE, FOCUS = 4.0, 1.0  # weight of the cross-entropy beside the dice loss, exponent of its focal factor
DENSE = 1.0  # weight of the encoder's own loss
DENSE_PX, EMBEDDING = 4, 16  # pixels along one side of its cells, channels of their embeddings
ANCHORS = 48  # cells of each scene whose segment is asked for there
JUDGED = 200  # held-out objects


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
