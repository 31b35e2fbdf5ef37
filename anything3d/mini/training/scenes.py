"""What SAM learns from: scenes that are pasted together and zoomed, and prompts for their segments."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from anything3d.mini.training.data import STUFF, Scenes

BATCH = 4  # scenes
PROMPTS = 5  # of each scene
STUFF_SHARE = 0.15  # of the points that lie on no object
BOX_JITTER = 0.08  # of the box's sides
LEAST_PX = 48  # pixels of a segment that is asked for
PASTED = 0.25  # of the scenes that get another one's objects too
PASTED_LABEL = 50  # added to their labels
ZOOM = (0.7, 1.3)  # side of the part of a scene that is shown / the scene's
CLOSER = 0.4  # of the scenes that are shown as a closer look of `segment` shows an object: the part around it
CLOSER_SIDE = (1.2, 2.2)  # side of that part / the longer side of the object's box
LEAST_SIDE = 0.2  # of that part / the scene's


@dataclass(frozen=True, slots=True)
class Batch:
    rgb: Float[Tensor, "B 3 S S"]  # 0..255
    label: UInt8[Tensor, "B S S"]  # as Scenes


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
