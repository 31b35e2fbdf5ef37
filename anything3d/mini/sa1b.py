"""The mini world's annotations as SA-1B's JSON has them, quirks included.

Boxes' width and height are one less than the pixels they span; the last annotations of a file have integer boxes; a
mask belongs to one of the 21 crops of SAM's grid (1, 2 x 2 and 4 x 4), small crops come first; its prompt is a grid
point of that crop, and about one in 17 lies just outside its mask.
Source: segment_anything/automatic_mask_generator.py and utils/amg.py; a real file as measured in sa_226381.json.
"""

import json
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anything3d import mask as masks
from anything3d.mini.draw import chance, uniform

LAYERS = (4, 2, 1)  # crops along each side, in the order of the file
POINTS = {1: 32, 2: 16, 4: 8}  # grid points along each side of a crop
OVERLAP = 512 / 1500  # of neighbouring crops, of the shorter side
OUTSIDE_SHARE = 1 / 17  # of the prompts lie outside their mask
CHANGED = 2  # annotations at the end that SAM's small-region clean-up changed: integer boxes
PREDICTED_IOU = (0.88, 1.05)
STABILITY = (0.92, 1.0)

Crop = tuple[int, int, int, int]  # left, top, width, height; pixels


@dataclass(frozen=True, slots=True)
class Region:
    """A mask that gets an annotation; `owner` is the object it shows whole, or None for parts, stuff and specks."""

    mask: Bool[Tensor, "H W"]
    owner: int | None


def annotate(
    regions: list[Region], image_id: int, first_id: int, generator: torch.Generator
) -> tuple[bytes, dict[int, int]]:
    """The JSON of a photo, and where in it each object's annotation stands. Regions must not be empty."""
    height, width = regions[0].mask.shape if regions else (0, 0)
    placed = sorted(
        ((_crop_of(region.mask), index) for index, region in enumerate(regions)),
        key=lambda entry: (LAYERS.index(entry[0][0]), entry[1]),
    )
    places = {}
    annotations = []
    for place, ((layer, crop), index) in enumerate(placed):
        region = regions[index]
        if region.owner is not None:
            places[region.owner] = place
        changed = place >= len(placed) - CHANGED
        annotations.append(_annotation(region.mask, (layer, crop), first_id + place, changed, generator))
    image = {"image_id": image_id, "width": width, "height": height, "file_name": f"sa_{image_id}.jpg"}
    return json.dumps({"image": image, "annotations": annotations}).encode(), places


def crops(height: int, width: int, layer: int) -> list[Crop]:
    """The `layer` x `layer` overlapping crops of a photo, row by row."""
    overlap = int(OVERLAP * min(height, width) * 2 / layer)
    w, h = (math.ceil((overlap * (layer - 1) + length) / layer) for length in (width, height))
    corners = [((w - overlap) * column, (h - overlap) * row) for row in range(layer) for column in range(layer)]
    return [(x, y, min(w, width - x), min(h, height - y)) for x, y in corners]


def grid(crop: Crop, layer: int) -> Float[Tensor, "N 2"]:
    """The prompts (x, y) of a crop, in pixels of the photo."""
    x, y, w, h = crop
    steps = (torch.arange(POINTS[layer], dtype=torch.float64) + 0.5) / POINTS[layer]
    rows, columns = torch.meshgrid(y + steps * h, x + steps * w, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], dim=-1)


def _crop_of(region: Bool[Tensor, "H W"]) -> tuple[int, Crop]:
    """The smallest crop that holds the mask and does not cut it; the whole photo if there is no other."""
    height, width = region.shape
    x, y, w, h = masks.box(masks.runs_of(region), height)
    for layer in LAYERS[:-1]:
        for left, top, cw, ch in crops(height, width, layer):
            # SAM drops masks that touch a crop's edge unless it is the photo's
            inside_x = (x > left or left == 0) and (x + w < left + cw or left + cw == width)
            inside_y = (y > top or top == 0) and (y + h < top + ch or top + ch == height)
            if x >= left and y >= top and x + w <= left + cw and y + h <= top + ch and inside_x and inside_y:
                return layer, (left, top, cw, ch)
    return 1, (0, 0, width, height)


def _annotation(
    region: Bool[Tensor, "H W"], where: tuple[int, Crop], number: int, changed: bool, generator: torch.Generator
) -> dict[str, object]:
    lengths = masks.runs_of(region)
    x, y, w, h = masks.box(lengths, region.shape[0])
    layer, crop = where
    box = [x, y, w - 1, h - 1]
    return {
        "bbox": box if changed else [float(value) for value in box],
        "area": masks.area(lengths),
        "segmentation": {"size": list(region.shape), "counts": masks.encode_runs(lengths)},
        "predicted_iou": uniform(generator, *PREDICTED_IOU),
        "point_coords": [_prompt(region, grid(crop, layer), chance(generator, OUTSIDE_SHARE))],
        "crop_box": [float(value) for value in crop],
        "id": number,
        "stability_score": uniform(generator, *STABILITY),
    }


def _prompt(region: Bool[Tensor, "H W"], points: Float[Tensor, "N 2"], outside: bool) -> list[float]:
    """The grid point inside the mask that is nearest to its middle, or the nearest one outside."""
    rows, columns = region.nonzero(as_tuple=True)
    middle = torch.stack([columns.double().median() + 0.5, rows.double().median() + 0.5])
    inside = region[points[:, 1].long(), points[:, 0].long()]
    wanted = ~inside if outside else inside
    if not wanted.any():
        wanted = torch.ones_like(inside)
    distance = torch.where(wanted, (points - middle).norm(dim=-1), torch.inf)
    return [float(value) for value in points[int(distance.argmin())]]
