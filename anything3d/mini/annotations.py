"""The annotations of a mini-world photo in SA-1B's form: masks of objects, their parts, stuff and specks.

The peculiarities of SA-1B's files are kept. The width and height of a box are last - first. Masks that were found in
small crops come first. Masks that a clean-up changed come last and have integer boxes. The prompt point of about one
mask in 17 lies just outside it. A predicted IoU can exceed 1.

Source: SA-1B's published format; crops and points by the formulas of segment-anything's automatic mask generator.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from anything3d.mini.draw import chance, integer, pick, uniform
from anything3d.photo import mask as masks

MIN_PX = 64  # visible pixels of an object or part that gets a mask
MAX_PART = 0.95  # of its object; a part that shows almost alone is the object
OVERLAP = 512 / 1500  # of neighbouring crops / shorter side
LAYERS = (4, 2, 1)  # crops along each side, in the order in which their masks are stored
GRIDS = {4: 8, 2: 16, 1: 32}  # prompt points along each side of a crop
CROP_EDGE = 0.02  # of the shorter side; SAM drops masks this near to an inner edge of their crop
LARGER_CROP = 0.4  # share of masks not found in the smallest crop that holds them
OUTSIDE = 1 / 17  # share of prompt points that lie beside their mask
OUTSIDE_PX = 3  # how far at most
CHANGED = 3  # masks at most that the clean-up changed
PREDICTED_IOU = (0.88, 1.05)
STABILITY = (0.92, 1.0)

Crop = tuple[int, int, int, int]  # x, y, width, height in pixels
Point = tuple[float, float]  # x, y in pixels


@dataclass(frozen=True, slots=True)
class Region:
    """A mask before it is an annotation."""

    mask: Bool[Tensor, "H W"]
    owner: int | None = None  # index of the object that it shows whole; None for parts, stuff and specks


@dataclass(frozen=True, slots=True)
class Entry:
    """A region and how it was found."""

    region: Region
    layer: int  # crops along each side
    crop: Crop
    point: Point


@dataclass(frozen=True, slots=True)
class Annotated:
    """The annotations of one photo."""

    records: list[dict[str, Any]]  # as in the JSON, in its order
    objects: dict[int, int]  # index of an object -> index of its record


def annotate(regions: list[Region], first_id: int, generator: torch.Generator) -> Annotated:
    """Records with running ids from `first_id` on, in SA-1B's order."""
    entries = [_find(region, generator) for region in regions]
    order = torch.randperm(len(entries), generator=generator).tolist()
    count = min(len(entries), integer(generator, 1, CHANGED))
    changed, kept = order[:count], sorted(order[count:], key=lambda index: LAYERS.index(entries[index].layer))
    records, objects = [], {}
    for number, index in enumerate(kept + changed):
        entry = entries[index]
        if entry.region.owner is not None:
            objects[entry.region.owner] = number
        records.append(_record(entry, first_id + number, index in changed, generator))
    return Annotated(records, objects)


def regions_of(label: Int[Tensor, "H W"], part: Int[Tensor, "H W"], generator: torch.Generator) -> list[Region]:
    """Everything that gets a mask: objects, their parts, ground and what is behind, one or two specks."""
    regions = []
    for index in range(int(label.max())):
        whole = label == index + 1
        area = int(whole.sum())
        if area < MIN_PX:
            continue
        regions.append(Region(whole, owner=index))
        pieces = [whole & (part == number) for number in range(int(part[whole].max()) + 1)]
        regions += [Region(piece) for piece in pieces if MIN_PX <= int(piece.sum()) < MAX_PART * area]
    stuff = [(label == 0) & (part == number) for number in range(int(part[label == 0].max()) + 1)] if 0 in label else []
    regions += [Region(piece) for piece in stuff if int(piece.sum()) >= MIN_PX]
    height, width = label.shape
    for _ in range(integer(generator, 1, 2)):
        x, y = pick(generator, grid_points((0, 0, width, height), GRIDS[1]))
        speck = torch.zeros_like(label, dtype=torch.bool)
        speck[int(y) : int(y) + integer(generator, 1, 2), int(x) : int(x) + integer(generator, 1, 2)] = True
        regions.append(Region(speck))
    return regions


def to_json(records: list[dict[str, Any]], image_id: int, width: int, height: int) -> bytes:
    """The file beside the photo."""
    image = {"image_id": image_id, "width": width, "height": height, "file_name": f"sa_{image_id}.jpg"}
    return json.dumps({"image": image, "annotations": records}).encode("ascii")


def crops(layer: int, width: int, height: int) -> list[Crop]:
    """The overlapping crops in which masks of a layer are looked for."""
    overlap = int(OVERLAP * min(width, height) * 2 / layer)
    w, h = (math.ceil((overlap * (layer - 1) + side) / layer) for side in (width, height))
    return [
        (x, y, min(x + w, width) - x, min(y + h, height) - y)
        for x in ((w - overlap) * column for column in range(layer))
        for y in ((h - overlap) * row for row in range(layer))
    ]


def _find(region: Region, generator: torch.Generator) -> Entry:
    """A crop that holds the region, and the prompt point in it."""
    height, width = region.mask.shape
    x, y, w, h = masks.box(masks.runs_of(region.mask), height)
    edge = CROP_EDGE * min(width, height)
    beside = chance(generator, OUTSIDE)
    for layer in LAYERS:
        fitting = [crop for crop in crops(layer, width, height) if _holds(crop, (x, y, w, h), edge, (width, height))]
        if layer > 1 and (not fitting or chance(generator, LARGER_CROP)):
            continue
        crop = pick(generator, fitting)
        points = _prompts(region.mask, crop, GRIDS[layer], beside)
        if points:
            return Entry(region, layer, crop, pick(generator, points))
    whole = (0, 0, width, height)
    middle = (x + w / 2, y + h / 2)
    nearest = min(grid_points(whole, GRIDS[1]), key=lambda point: math.dist(point, middle))
    return Entry(region, 1, whole, nearest)


def _holds(crop: Crop, box: Crop, edge: float, size: tuple[int, int]) -> bool:
    """Whether a box lies in a crop, clear of its edges except those of the photo."""
    for axis in (0, 1):
        low, high = crop[axis], crop[axis] + crop[axis + 2]
        low_clear = low + edge if low > 0 else 0
        high_clear = high - edge if high < size[axis] else high
        if box[axis] < low_clear or box[axis] + box[axis + 2] > high_clear:
            return False
    return True


def _prompts(mask: Bool[Tensor, "H W"], crop: Crop, grid: int, beside: bool) -> list[Point]:
    """The crop's prompt points in the mask, or just beside it if wanted and there are any."""
    points = grid_points(crop, grid)
    if beside:
        wide = F.max_pool2d(mask[None, None].float(), 2 * OUTSIDE_PX + 1, 1, OUTSIDE_PX)[0, 0] > 0
        if outside := [(x, y) for x, y in points if wide[int(y), int(x)] and not mask[int(y), int(x)]]:
            return outside
    return [(x, y) for x, y in points if mask[int(y), int(x)]]


def grid_points(crop: Crop, grid: int) -> list[Point]:
    """The `grid` x `grid` prompts of a crop, row by row."""
    x, y, w, h = crop
    return [(x + (i + 0.5) / grid * w, y + (j + 0.5) / grid * h) for j in range(grid) for i in range(grid)]


def _record(entry: Entry, number: int, changed: bool, generator: torch.Generator) -> dict[str, Any]:
    mask = entry.region.mask
    runs = masks.runs_of(mask)
    x, y, w, h = masks.box(runs, mask.shape[0])
    box = [x, y, w - 1, h - 1]
    return {
        "bbox": box if changed else [float(value) for value in box],
        "area": masks.area(runs),
        "segmentation": {"size": list(mask.shape), "counts": masks.encode_runs(runs)},
        "predicted_iou": uniform(generator, *PREDICTED_IOU),
        "point_coords": [list(entry.point)],
        "crop_box": [float(value) for value in entry.crop],
        "id": number,
        "stability_score": uniform(generator, *STABILITY),
    }
