"""Selection: which masks of a photo are worth making three-dimensional.

Most masks of a photo are stuff, parts or repetitions. Each of them is dropped under its own reason. The reasons that
need no pixels come first; the overlap of the run lengths comes after them. A whole is kept rather than its parts. This
holds for a part that is nearly all of it, too, such as the top of a table. What is ground-like and would contain
everything has been dropped before, by its area and by its contact with the photo's edge.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anything3d.errors import Skipped
from anything3d.photo import mask
from anything3d.photo.mask import Bounds, Box
from anything3d.settings.segment import SegmentConfig, Source

QUOTA = "quota"  # the reason of an object that is one too many
WITHIN = 0.97  # share of a mask in a larger one: it is a part even if the two are nearly equal


@dataclass(frozen=True, slots=True)
class ObjectMask:
    """A mask in its photo and what is known of it without decoding it."""

    name: str  # within the photo: 0031 = annotation 31, g0007 = mask 7 of SAM's grid, p290x220 = what a user points at
    counts: str  # COCO's compressed RLE
    box: Box  # pixels; (0, 0, 0, 0) if the mask is empty
    area_px: int
    predicted_iou: float  # SAM's estimate, before a closer look; can exceed 1
    stability_score: float  # IoU of the mask at two thresholds, before a closer look, 0 to 1
    source: Source
    doubtful_share: float | None = None  # of SAM's mask, that was deleted as doubtful islands; None if it is not SAM's

    @property
    def quality(self) -> float:
        """How sure SAM was of it."""
        return self.predicted_iou * self.stability_score

    @property
    def prominence(self) -> float:
        """How much of an object it promises to be: its size, how well it fills its box, how sure SAM was of it."""
        fill = self.area_px / max(self.box[2] * self.box[3], 1)
        return math.sqrt(self.area_px) * fill * self.quality


def name_of(source: Source, index: int) -> str:
    """An object's name within its photo: the index of its annotation, or of its mask among those of SAM's grid."""
    return f"g{index:04d}" if source == "sam-grid" else f"{index:04d}"


def prompt_name(prompt: Sequence[float]) -> str:
    """The name of an object that somebody points at: p, x, y or b, left, top, right, bottom; 290.5 px is 290_5."""
    kind = "p" if len(prompt) == 2 else "b"
    return kind + "x".join(f"{value:g}" for value in prompt).replace(".", "_")  # a dot would begin a suffix


def select(masks: Sequence[ObjectMask], height: int, width: int, config: SegmentConfig) -> list[ObjectMask | Skipped]:
    """One outcome per mask of a photo: itself, or why it is not wanted.

    In this order: empty, area_small, area_large, thin, border, predicted_iou, stability, each without pixels;
    by overlap, part of what holds nearly all of it, duplicate, and part; quota: beyond `max_per_image` the less
    prominent ones go.
    """
    judged = [_judge(one, height, width, config) for one in masks]
    drops = {index: drop for index, drop in enumerate(judged) if drop}
    sound = [index for index in range(len(masks)) if index not in drops]
    overlaps = _Overlaps(masks, {index: mask.bounds(mask.runs(masks[index].counts, height * width)) for index in sound})
    wholly = max(WITHIN, config.max_containment)
    for drop, limit in ((_parts, wholly), (_duplicates, config.max_iou), (_parts, config.max_containment)):
        drops |= drop(masks, [index for index in sound if index not in drops], overlaps, limit)
    ranked = sorted(set(sound) - drops.keys(), key=lambda index: (-masks[index].prominence, index))
    for rank, index in enumerate(ranked[config.max_per_image :], start=config.max_per_image + 1):
        drops[index] = Skipped(QUOTA, f"number {rank} by prominence; {config.max_per_image} are kept per photo")
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


def _duplicates(
    masks: Sequence[ObjectMask], left: Sequence[int], overlaps: "_Overlaps", limit: float
) -> dict[int, Skipped]:
    """Masks that nearly equal a better one; better is what SAM was surer of."""
    drops: dict[int, Skipped] = {}
    kept: list[int] = []
    for index in sorted(left, key=lambda index: (-masks[index].quality, index)):
        iou, better = overlaps.first(index, kept, limit, of_both=True)
        if better is None:
            kept.append(index)
        else:
            drops[index] = Skipped("duplicate", f"IoU {iou:.3f} with the better mask {masks[better].name}")
    return drops


def _parts(masks: Sequence[ObjectMask], left: Sequence[int], overlaps: "_Overlaps", limit: float) -> dict[int, Skipped]:
    """Masks that lie in a larger one which is itself no part."""
    drops: dict[int, Skipped] = {}
    wholes: list[int] = []
    for index in sorted(left, key=lambda index: (-masks[index].area_px, index)):
        larger = [whole for whole in wholes if masks[whole].area_px > masks[index].area_px]
        inside, whole = overlaps.first(index, larger, limit, of_both=False)
        if whole is None:
            wholes.append(index)
        else:
            drops[index] = Skipped("part", f"{inside:.3f} of it lies in mask {masks[whole].name}")
    return drops


class _Overlaps:
    """What the masks of a photo share with each other. Boxes and areas rule nearly all pairs out before runs are read.

    The result is that of comparing all pairs: no two masks share more pixels than their boxes do, or than the smaller
    one has.
    """

    def __init__(self, masks: Sequence[ObjectMask], bounds: Mapping[int, Bounds]) -> None:
        self._bounds = bounds
        self._areas = np.array([one.area_px for one in masks], np.int64)
        boxes = np.array([one.box for one in masks], np.int64).reshape(-1, 4)
        self._first, self._end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]  # x, y

    def first(self, index: int, others: Sequence[int], limit: float, *, of_both: bool) -> tuple[float, int | None]:
        """The first of the masks `others` that shares more than `limit` of its pixels with `index`, and what it shares.

        The share is of the pixels of both masks together, or of those of `index` alone.
        """
        other = np.array(others, np.int64)
        sides = np.minimum(self._end[index], self._end[other]) - np.maximum(self._first[index], self._first[other])
        own, areas = self._areas[index], self._areas[other]
        at_most = np.minimum(np.maximum(sides, 0).prod(axis=1), np.minimum(own, areas))
        total = own + areas if of_both else own
        possible = at_most / (total - at_most if of_both else total) > limit
        for place in other[possible].tolist():
            pixels = mask.shared(self._bounds[index], self._bounds[place])
            union = int(own) + int(self._areas[place]) - pixels if of_both else int(own)
            if pixels / union > limit:
                return pixels / union, place
        return 0.0, None
