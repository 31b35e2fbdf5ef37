"""Selection: which masks of a photo are worth making three-dimensional.

Most masks of a photo are stuff, parts or repetitions. Each of them is dropped under its own reason. The reasons that
need no pixels come first; the overlap of the run lengths comes after them. A whole is kept rather than its parts: what
is ground-like and would contain everything has been dropped before, by its area and by its contact with the photo's
edge.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from anything3d.errors import Skipped
from anything3d.photo import mask
from anything3d.photo.mask import Box
from anything3d.settings.segment import SegmentConfig, Source

Lengths = Mapping[int, Int64[np.ndarray, "_"]]  # runs of the masks that are left, by index


@dataclass(frozen=True, slots=True)
class ObjectMask:
    """A mask in its photo and what is known of it without decoding it."""

    name: str  # within the photo: 0031 = annotation 31, g0007 = mask 7 of SAM's grid, p290x220 = what a user points at
    counts: str  # COCO's compressed RLE
    box: Box  # pixels; (0, 0, 0, 0) if the mask is empty
    area_px: int
    predicted_iou: float  # SAM's estimate; can exceed 1
    stability_score: float  # IoU of the mask at two thresholds, 0 to 1
    source: Source

    @property
    def quality(self) -> float:
        """How sure SAM was of it."""
        return self.predicted_iou * self.stability_score

    @property
    def prominence(self) -> float:
        """How much of an object it promises to be: its size, how well it fills its box, how sure SAM was of it."""
        fill = self.area_px / max(self.box[2] * self.box[3], 1)
        return math.sqrt(self.area_px) * fill * self.quality


def select(masks: Sequence[ObjectMask], height: int, width: int, config: SegmentConfig) -> list[ObjectMask | Skipped]:
    """One outcome per mask of a photo: itself, or why it is not wanted.

    In this order: empty, area_small, area_large, thin, border, predicted_iou, stability, each without pixels;
    duplicate and part by overlap; quota: beyond `max_per_image` the less prominent ones go.
    """
    judged = [_judge(one, height, width, config) for one in masks]
    drops = {index: drop for index, drop in enumerate(judged) if drop}
    lengths = {index: mask.runs(one.counts, height * width) for index, one in enumerate(masks) if index not in drops}
    for overlap in (_duplicates, _parts):
        drops |= overlap(masks, {index: runs for index, runs in lengths.items() if index not in drops}, config)
    ranked = sorted(lengths.keys() - drops.keys(), key=lambda index: (-masks[index].prominence, index))
    for rank, index in enumerate(ranked[config.max_per_image :], start=config.max_per_image + 1):
        drops[index] = Skipped("quota", f"number {rank} by prominence; {config.max_per_image} are kept per photo")
    return [drops.get(index, one) for index, one in enumerate(masks)]


def _judge(judged: ObjectMask, height: int, width: int, config: SegmentConfig) -> Skipped | None:
    """Why a mask is not wanted, by what is known of it without its pixels; None if nothing speaks against it."""
    area, total = judged.area_px, height * width
    if area == 0:
        return Skipped("empty", "the mask has no pixel")
    smallest = max(config.min_area_px, config.min_area_share * total)
    if area < smallest:
        return Skipped("area_small", f"{area} px; {smallest:.0f} is the minimum (segment.min_area_px, min_area_share)")
    if area > config.max_area_share * total:
        return Skipped("area_large", f"{area / total:.3f} of the photo; more than segment.max_area_share")
    x, y, box_width, box_height = judged.box
    aspect = min(box_width, box_height) / max(box_width, box_height)
    if aspect < config.min_aspect:
        return Skipped("thin", f"{box_width}x{box_height} px; segment.min_aspect is {config.min_aspect}")
    margins = (x, y, width - x - box_width, height - y - box_height)
    if (edges := sum(margin < config.border_px for margin in margins)) > config.max_edges:
        return Skipped("border", f"touches {edges} edges of the photo; segment.max_edges is {config.max_edges}")
    if judged.predicted_iou < config.min_predicted_iou:
        return Skipped("predicted_iou", f"{judged.predicted_iou:.3f}; segment.min_predicted_iou is the minimum")
    if judged.stability_score < config.min_stability:
        return Skipped("stability", f"{judged.stability_score:.3f}; segment.min_stability is the minimum")
    return None


def _duplicates(masks: Sequence[ObjectMask], lengths: Lengths, config: SegmentConfig) -> dict[int, Skipped]:
    """Masks that nearly equal a better one; better is what SAM was surer of."""
    drops: dict[int, Skipped] = {}
    kept: list[int] = []
    for index in sorted(lengths, key=lambda index: (-masks[index].quality, index)):
        for other in kept:
            shared = _shared_px(masks, lengths, index, other)
            iou = shared / (masks[index].area_px + masks[other].area_px - shared)
            if iou > config.max_iou:
                drops[index] = Skipped("duplicate", f"IoU {iou:.3f} with the better mask {masks[other].name}")
                break
        else:
            kept.append(index)
    return drops


def _parts(masks: Sequence[ObjectMask], lengths: Lengths, config: SegmentConfig) -> dict[int, Skipped]:
    """Masks that lie in a larger one which is itself no part."""
    drops: dict[int, Skipped] = {}
    wholes: list[int] = []
    for index in sorted(lengths, key=lambda index: (-masks[index].area_px, index)):
        for whole in wholes:
            inside = _shared_px(masks, lengths, index, whole) / masks[index].area_px
            if inside > config.max_containment:
                drops[index] = Skipped("part", f"{inside:.3f} of it lies in mask {masks[whole].name}")
                break
        else:
            wholes.append(index)
    return drops


def _shared_px(masks: Sequence[ObjectMask], lengths: Lengths, a: int, b: int) -> int:
    if not mask.boxes_meet(masks[a].box, masks[b].box):
        return 0
    return mask.intersection(lengths[a], lengths[b])
