"""Row 1: the masks of a photo, from the JSON of SA-1B to crops."""

import json
import math
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from anything3d.errors import InputError
from anything3d.photo import mask
from anything3d.photo.annotation import parse_annotations
from anything3d.segment import Segmented, Segmenter
from anything3d.settings.segment import SegmentConfig
from tests.bench.row import Pair, Timed

SIZES = {"full": (1500, 2250, 100, 512), "toy": (150, 225, 12, 32)}  # rows, columns, masks, side of a crop
WOBBLE = ((5, 0.15), (31, 0.05))  # waves along an outline, and their height; real outlines have about as many runs


@contextmanager
def make(size, folder, device):
    height, width, count, side = SIZES[size]
    config = SegmentConfig(crop_size=side, min_area_px=64)
    data = annotations(height, width, count)
    image = np.random.default_rng(1).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    pixels, segmenter = torch.from_numpy(image.copy()), Segmenter(config, None)

    def ours():
        _, entries = parse_annotations(data, "sa_1")
        assert not any(isinstance(entry, InputError) for entry in entries)
        return {
            one.mask.name: one.crop.rgba.numpy()
            for one in segmenter([pixels], [entries])[0]
            if isinstance(one, Segmented)
        }

    yield Pair(ours, lambda: peer(image, data, config), check)


ROW = Timed("1", "masks of a photo: parse, select, crop", "pycocotools decodes, PIL crops", 5, make, memory=True)


def peer(image, data, config):
    """The same rules on decoded masks. pycocotools' own C code compares them, which is faster than pixels are."""
    from pycocotools import mask as coco

    height, width = image.shape[:2]
    entries = json.loads(data)["annotations"]
    masks = [coco.decode(entry["segmentation"]) for entry in entries]
    areas, boxes, left = [int(one.sum()) for one in masks], [box_of(one) for one in masks], []
    for index, (area, (x, y, w, h), entry) in enumerate(zip(areas, boxes, entries, strict=True)):
        margins = (x, y, width - x - w, height - y - h)
        if (
            max(config.min_area_px, config.min_area_share * height * width) <= area
            and area <= config.max_area_share * height * width
            and min(w, h) / max(w, h) >= config.min_aspect
            and sum(margin < config.border_px for margin in margins) <= config.max_edges
            and entry["predicted_iou"] >= config.min_predicted_iou
            and entry["stability_score"] >= config.min_stability
        ):
            left.append(index)
    rles = [entry["segmentation"] for entry in entries]
    iou = coco.iou(rles, rles, [0] * len(rles))
    inside = coco.iou(rles, rles, [1] * len(rles))  # of a "crowd": the share of the first mask that lies in the second
    quality = [entry["predicted_iou"] * entry["stability_score"] for entry in entries]
    for rank, shares, limit in ((quality, iou, config.max_iou), (areas, inside, config.max_containment)):
        kept = []
        for index in sorted(left, key=lambda index: (-rank[index], index)):
            if not any(shares[index, other] > limit for other in kept):
                kept.append(index)
        left = kept
    prominence = [
        math.sqrt(areas[index]) * areas[index] / (boxes[index][2] * boxes[index][3]) * quality[index]
        for index in range(len(masks))
    ]
    left = sorted(left, key=lambda index: (-prominence[index], index))[: config.max_per_image]
    return {f"{index:04d}": crop(image, masks[index], boxes[index], config) for index in sorted(left)}


def crop(image, found, box, config):
    x, y, w, h = box
    side = math.ceil(config.context * max(w, h))
    left, top = x + (w - side) // 2, y + (h - side) // 2
    corners = (left, top, left + side, top + side)
    size = (config.crop_size, config.crop_size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(Image.fromarray(image), (-left, -top))
    alpha = Image.fromarray(found * np.uint8(255)).crop(corners)
    resized = [one.resize(size, Image.Resampling.BILINEAR) for one in (canvas, alpha)]
    return np.dstack([np.asarray(one) for one in resized])


def box_of(found):
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )


def check(ours, theirs):
    assert list(ours) == list(theirs), "other masks were selected"
    assert ours, "no mask was selected"
    most = max(int(np.abs(ours[name].astype(int) - theirs[name].astype(int)).max()) for name in ours)
    assert most <= 2, f"a crop differs by {most} of 255"
    return f"the same {len(ours)} masks are selected; the crops differ by at most {most} of 255"


def annotations(height, width, count):
    """SA-1B's JSON of `count` round masks of very different sizes, many of which overlap; no crop leaves the photo."""
    generator, entries = np.random.default_rng(0), []
    for index in range(count):
        radii = height * generator.uniform(0.02, 0.16, 2)
        reach = 1.3 * radii.max() + 2
        cy, cx = generator.uniform(reach, height - reach), generator.uniform(reach, width - reach)
        found = blob(height, width, cy, cx, radii, generator.uniform(0, 6))
        lengths = mask.runs_of(torch.from_numpy(found))
        x, y, w, h = mask.box(lengths, height)
        entries.append(
            {
                "id": index,
                "area": mask.area(lengths),
                "bbox": [x, y, w - 1, h - 1],
                "segmentation": {"size": [height, width], "counts": mask.encode_runs(lengths)},
                "predicted_iou": generator.uniform(0.88, 1.0),
                "stability_score": generator.uniform(0.95, 1.0),
                "point_coords": [[cx, cy]],
                "crop_box": [0, 0, width, height],
            }
        )
    image = {"image_id": 1, "width": width, "height": height, "file_name": "sa_1.jpg"}
    return json.dumps({"image": image, "annotations": entries}).encode()


def blob(height, width, cy, cx, radii, phase):
    y, x = np.ogrid[:height, :width]
    y, x = (y - cy) / radii[0], (x - cx) / radii[1]
    angle = np.arctan2(y, x)
    outline = 0.8 * (1 + sum(depth * np.sin(waves * angle + phase) for waves, depth in WOBBLE))
    return y**2 + x**2 < outline**2
