"""Objects of a photo: which masks are worth making three-dimensional, and their crops.

The masks are the shard's own, or SAM's, prompted with the shard's points or boxes or with a grid. Most masks of a photo
are stuff, parts or repetitions; each is dropped under its own reason, by what is known of it without pixels first, then
by overlap of the run lengths. A whole is kept rather than its parts: what is ground-like and would contain everything
has gone before, by area and by contact with the photo's edge.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, assert_never

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from anything3d.errors import Anything3DError, ConfigError, InputError, NumericsError, Skipped
from anything3d.models.finite import check_network
from anything3d.models.sam import Predicted, Sam, load_sam
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.photo.annotation import Annotation
from anything3d.photo.crop import Crop, Framing, cut, side_px
from anything3d.photo.image import ImageLimits
from anything3d.photo.mask import Box

Source = Literal["annotations", "sam-points", "sam-boxes", "sam-grid"]
Lengths = Mapping[int, Int64[np.ndarray, "_"]]  # runs of the masks that are left, by place


@dataclass(frozen=True, slots=True)
class SegmentConfig:
    """Where masks come from, which are kept, and how they are cropped."""

    source: Source = "annotations"  # the shard's own masks, or SAM prompted with their points, boxes, or a grid
    weights: str = "sam"  # of SAM, for the sam-* sources
    min_area_px: int = 1024  # pixels; below, a crop holds nothing but enlargement
    min_area_share: float = 0.001  # of the photo
    max_area_share: float = 0.5  # of the photo; above, it is ground or sky
    min_aspect: float = 0.05  # shorter / longer side of the box; below, it is a sliver
    border_px: int = 2  # a box that comes so close to an edge touches it; SAM's masks often stop short of the edge
    max_edges: int = 0  # edges of the photo that an object may touch: it goes on beyond them; 4 = all
    min_predicted_iou: float = 0.6  # the mini SAM is less sure than the official ones, whose own threshold is 0.88
    min_stability: float = 0.7  # IoU of the mask at two thresholds; SAM's own is 0.95, SA-1B's too
    max_iou: float = 0.8  # of two masks; above, they are one object and the better one stays
    max_containment: float = 0.8  # share of a mask inside a larger one; above, it is a part
    max_per_image: int = 8  # objects
    crop_size: int = 512  # pixels; what Stable Diffusion takes
    framing: Framing = "longest"  # what the crop is measured by; "area" in AnyObject3D, which cuts long objects
    context: float = 1.25  # side of the crop / longer side of the box (or root of its area); >= 1; AnyObject3D 1.8
    min_region_px: int = 100  # smaller islands of SAM's masks go, smaller holes are filled, as in SA-1B; 0: neither
    grid_points: int = 32  # along each side, for sam-grid; SAM's default
    images_per_batch: int = 4  # photos that SAM encodes at once
    prompts_per_batch: int = 32  # prompts of one photo that SAM decodes at once; fewer masks are enlarged at once
    limits: ImageLimits = field(default_factory=ImageLimits)  # what photos are decoded at all

    def __post_init__(self) -> None:
        if not 1 <= self.context <= 8:
            raise ConfigError("config_value", f"segment.context is {self.context}; 1 (tight) to 8 are allowed")
        if self.min_region_px < 0:
            raise ConfigError("config_value", f"segment.min_region_px is {self.min_region_px}; must be >= 0")
        for name in ("crop_size", "max_per_image", "grid_points", "images_per_batch", "prompts_per_batch"):
            if getattr(self, name) < 1:
                raise ConfigError("config_value", f"segment.{name} is {getattr(self, name)}; must be >= 1")


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


@dataclass(frozen=True, slots=True)
class Found:
    """An Object: its mask and its crop."""

    mask: ObjectMask
    crop: Crop


def load_segmenter(config: SegmentConfig, place: Place) -> "Segmenter":
    """The segmenter; SAM is loaded only if the source needs it.

    Raises: WeightsError.
    """
    return Segmenter(config, None if config.source == "annotations" else load_sam(config.weights, place))


@dataclass(frozen=True, slots=True)
class Segmenter:
    """Photos and their annotations in, objects out."""

    config: SegmentConfig
    sam: Sam | None  # None if the masks are the shard's own

    def __call__(
        self, images: Sequence[UInt8[Tensor, "_ _ 3"]], annotations: Sequence[Sequence[Annotation | InputError]]
    ) -> list[list[Found | Anything3DError]]:
        """One outcome per annotation of each photo, in order (sam-grid: per mask that SAM finds), `name_of` its place.

        An annotation that is an error already passes through; sam-grid does not look at the annotations.

        Raises: WeightsError as `check_network`: what all photos of a batch share is SAM.
        """
        assert len(images) == len(annotations), f"{len(images)} photos, {len(annotations)} lists of annotations"
        return [
            self._outcomes(image, masks) for image, masks in zip(images, self._masks(images, annotations), strict=True)
        ]

    def at(self, image: UInt8[Tensor, "H W 3"], prompt: Sequence[float]) -> Found:
        """The object at a point (x, y) or in a box (x, y, x, y), pixels of the photo, as `config.source` says.

        Whoever points at it has chosen it: nothing is asked of its size or place.

        Raises: InputError prompt_outside, empty_mask; NumericsError sam_not_finite; WeightsError as `check_network`.
        """
        assert self.sam is not None
        _check_prompt(prompt, image.shape[0], image.shape[1])
        prompts = [torch.tensor([prompt], dtype=torch.float32)]
        ((predicted,),) = self.sam.prompt([image], prompts, self.config.images_per_batch, 1)
        self._check_network(self.sam, [not predicted.is_finite])
        found = _predicted(predicted, prompt_name(prompt), self.config)
        if isinstance(found, NumericsError):
            raise found
        if found.area_px == 0:
            raise InputError("empty_mask", f"SAM finds nothing at {tuple(prompt)}; point elsewhere, or draw a box")
        return self._cut(image, found)

    def most_prominent(self, image: UInt8[Tensor, "H W 3"]) -> Found:
        """Of all objects that `config.source` finds in the photo without annotations, the most prominent.

        Raises: InputError no_object; WeightsError as `check_network`.
        """
        outcomes = self([image], [[]])[0]
        if found := [outcome for outcome in outcomes if isinstance(outcome, Found)]:
            return max(found, key=lambda outcome: outcome.mask.prominence)
        reasons = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Anything3DError))
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise InputError(
            "no_object", f"none of SAM's {len(outcomes)} masks is an object ({why}); point at one, or draw a box"
        )

    def _masks(
        self, images: Sequence[UInt8[Tensor, "_ _ 3"]], annotations: Sequence[Sequence[Annotation | InputError]]
    ) -> list[list[ObjectMask | Anything3DError]]:
        source = self.config.source
        match source:
            case "annotations":
                return [[_own(entry) for entry in entries] for entries in annotations]
            case "sam-points" | "sam-boxes":
                return self._prompted(images, annotations)
            case "sam-grid":
                assert self.sam is not None
                found = [self._gridded(self.sam, image) for image in images]
                lost = [any(isinstance(one, NumericsError) for one in masks) for masks in found]
                self._check_network(self.sam, lost)
                return found
            case _:
                assert_never(source)

    def _gridded(self, sam: Sam, image: UInt8[Tensor, "H W 3"]) -> list[ObjectMask | Anything3DError]:
        """SAM's masks of a photo, or the one error that it has instead."""
        config = self.config
        thresholds = (config.min_predicted_iou, config.min_stability)
        try:
            founds = sam.grid(image, config.grid_points, *thresholds, config.prompts_per_batch)
        except NumericsError as error:
            return [error]
        return [self._named(found, place) for place, found in enumerate(founds)]

    def _prompted(
        self, images: Sequence[UInt8[Tensor, "_ _ 3"]], annotations: Sequence[Sequence[Annotation | InputError]]
    ) -> list[list[ObjectMask | Anything3DError]]:
        """SAM's mask for every annotation that is sound and has what SAM is prompted with."""
        assert self.sam is not None
        config = self.config
        asked = [[_promptable(entry, config.source) for entry in entries] for entries in annotations]
        sound = [[entry for entry in entries if isinstance(entry, Annotation)] for entries in asked]
        prompts = [_boxes(entries) if config.source == "sam-boxes" else _points(entries) for entries in sound]
        predicted = self.sam.prompt(images, prompts, config.images_per_batch, config.prompts_per_batch)
        self._check_network(self.sam, [not any(found.is_finite for found in founds) for founds in predicted if founds])
        return [
            [self._named(next(founds), entry.index) if isinstance(entry, Annotation) else entry for entry in entries]
            for entries, founds in zip(asked, map(iter, predicted), strict=True)
        ]

    def _check_network(self, sam: Sam, lost: Sequence[bool]) -> None:
        """`lost`: of which photos that SAM looked at nothing finite came."""
        check_network(lost, sam.is_sound, self.config.weights, sam.dtype)

    def _named(self, found: Predicted, place: int) -> ObjectMask | NumericsError:
        return _predicted(found, name_of(self.config.source, place), self.config)

    def _outcomes(
        self, image: UInt8[Tensor, "H W 3"], masks: Sequence[ObjectMask | Anything3DError]
    ) -> list[Found | Anything3DError]:
        height, width = image.shape[:2]
        sound = [found for found in masks if isinstance(found, ObjectMask)]
        selected = iter(select(sound, height, width, self.config))
        outcomes = [next(selected) if isinstance(found, ObjectMask) else found for found in masks]
        return [self._cut(image, found) if isinstance(found, ObjectMask) else found for found in outcomes]

    def _cut(self, image: UInt8[Tensor, "H W 3"], found: ObjectMask) -> Found:
        side = side_px(found.box, self.config.context, self.config.framing)
        return Found(found, cut(image, found.counts, found.box, side, self.config.crop_size))


def name_of(source: Source, place: int) -> str:
    """An object's name within its photo: the place of its annotation, or of its mask among those of SAM's grid."""
    return f"g{place:04d}" if source == "sam-grid" else f"{place:04d}"


def prompt_name(prompt: Sequence[float]) -> str:
    """The name of an object that somebody points at: p, x, y or b, left, top, right, bottom; 290.5 px is 290_5."""
    kind = "p" if len(prompt) == 2 else "b"
    return kind + "x".join(f"{value:g}" for value in prompt).replace(".", "_")  # a dot would begin a suffix


def select(masks: Sequence[ObjectMask], height: int, width: int, config: SegmentConfig) -> list[ObjectMask | Skipped]:
    """One outcome per mask of a photo: itself, or why it is not wanted.

    In this order: empty, area_small, area_large, thin, border, predicted_iou, stability, each without pixels;
    duplicate and part by overlap; quota: beyond `max_per_image` the less prominent ones go.
    """
    judged = [_judge(found, height, width, config) for found in masks]
    drops = {place: drop for place, drop in enumerate(judged) if drop}
    lengths = {
        place: mask.runs(found.counts, height * width) for place, found in enumerate(masks) if place not in drops
    }
    for overlap in (_duplicates, _parts):
        drops |= overlap(masks, {place: runs for place, runs in lengths.items() if place not in drops}, config)
    ranked = sorted(lengths.keys() - drops.keys(), key=lambda place: (-masks[place].prominence, place))
    for rank, place in enumerate(ranked[config.max_per_image :], start=config.max_per_image + 1):
        drops[place] = Skipped("quota", f"number {rank} by prominence; {config.max_per_image} are kept per photo")
    return [drops.get(place, found) for place, found in enumerate(masks)]


def _judge(found: ObjectMask, height: int, width: int, config: SegmentConfig) -> Skipped | None:
    """Why a mask is not wanted, by what is known of it without its pixels; None if nothing speaks against it."""
    area, total = found.area_px, height * width
    if area == 0:
        return Skipped("empty", "the mask has no pixel")
    smallest = max(config.min_area_px, config.min_area_share * total)
    if area < smallest:
        return Skipped("area_small", f"{area} px; {smallest:.0f} is the minimum (segment.min_area_px, min_area_share)")
    if area > config.max_area_share * total:
        return Skipped("area_large", f"{area / total:.3f} of the photo; more than segment.max_area_share")
    x, y, box_width, box_height = found.box
    aspect = min(box_width, box_height) / max(box_width, box_height)
    if aspect < config.min_aspect:
        return Skipped("thin", f"{box_width}x{box_height} px; segment.min_aspect is {config.min_aspect}")
    margins = (x, y, width - x - box_width, height - y - box_height)
    if (edges := sum(margin < config.border_px for margin in margins)) > config.max_edges:
        return Skipped("border", f"touches {edges} edges of the photo; segment.max_edges is {config.max_edges}")
    if found.predicted_iou < config.min_predicted_iou:
        return Skipped("predicted_iou", f"{found.predicted_iou:.3f}; segment.min_predicted_iou is the minimum")
    if found.stability_score < config.min_stability:
        return Skipped("stability", f"{found.stability_score:.3f}; segment.min_stability is the minimum")
    return None


def _duplicates(masks: Sequence[ObjectMask], lengths: Lengths, config: SegmentConfig) -> dict[int, Skipped]:
    """Masks that nearly equal a better one; better is what SAM was surer of."""
    drops: dict[int, Skipped] = {}
    kept: list[int] = []
    for place in sorted(lengths, key=lambda place: (-masks[place].quality, place)):
        for other in kept:
            shared = _shared_px(masks, lengths, place, other)
            iou = shared / (masks[place].area_px + masks[other].area_px - shared)
            if iou > config.max_iou:
                drops[place] = Skipped("duplicate", f"IoU {iou:.3f} with the better mask {masks[other].name}")
                break
        else:
            kept.append(place)
    return drops


def _parts(masks: Sequence[ObjectMask], lengths: Lengths, config: SegmentConfig) -> dict[int, Skipped]:
    """Masks that lie in a larger one which is itself no part."""
    drops: dict[int, Skipped] = {}
    wholes: list[int] = []
    for place in sorted(lengths, key=lambda place: (-masks[place].area_px, place)):
        for whole in wholes:
            inside = _shared_px(masks, lengths, place, whole) / masks[place].area_px
            if inside > config.max_containment:
                drops[place] = Skipped("part", f"{inside:.3f} of it lies in mask {masks[whole].name}")
                break
        else:
            wholes.append(place)
    return drops


def _shared_px(masks: Sequence[ObjectMask], lengths: Lengths, a: int, b: int) -> int:
    if not mask.boxes_meet(masks[a].box, masks[b].box):
        return 0
    return mask.intersection(lengths[a], lengths[b])


def _own(entry: Annotation | InputError) -> ObjectMask | Anything3DError:
    if isinstance(entry, InputError):
        return entry
    return ObjectMask(
        name=name_of("annotations", entry.index),
        counts=entry.counts,
        box=entry.box,
        area_px=entry.area_px,
        predicted_iou=entry.predicted_iou,
        stability_score=entry.stability_score,
        source="annotations",
    )


def _predicted(found: Predicted, name: str, config: SegmentConfig) -> ObjectMask | NumericsError:
    if not found.is_finite:
        return NumericsError("sam_not_finite", f"{name}: SAM's mask or its predicted IoU is NaN or infinite")
    width = int(found.lengths.sum()) // found.height
    pixels = mask.decode(mask.encode_runs(found.lengths), found.height, width)
    lengths = mask.runs_of(mask.tidy(pixels, config.min_region_px))
    return ObjectMask(
        name=name,
        counts=mask.encode_runs(lengths),
        box=mask.box(lengths, found.height),
        area_px=mask.area(lengths),
        predicted_iou=found.predicted_iou,
        stability_score=found.stability_score,
        source=config.source,
    )


def _promptable(entry: Annotation | InputError, source: Source) -> Annotation | Anything3DError:
    if isinstance(entry, Annotation) and source == "sam-boxes" and entry.area_px == 0:
        return Skipped("empty", "the shard's mask has no pixel, hence no box that SAM could be prompted with")
    return entry


def _check_prompt(prompt: Sequence[float], height: int, width: int) -> None:
    x, y = prompt[0::2], prompt[1::2]
    inside = all(0 <= value < width for value in x) and all(0 <= value < height for value in y)
    if not inside or (len(prompt) == 4 and not (x[0] < x[1] and y[0] < y[1])):
        raise InputError(
            "prompt_outside",
            f"{tuple(prompt)} in a photo of {width}x{height} px; a point is x y, a box x y x y (left, top, right, "
            "bottom), in pixels from the top left corner",
        )


def _points(annotations: Sequence[Annotation]) -> Float[Tensor, "N 2"]:
    return torch.tensor([entry.point for entry in annotations], dtype=torch.float32).reshape(-1, 2)


def _boxes(annotations: Sequence[Annotation]) -> Float[Tensor, "N 4"]:
    """First and last column and row, as SAM takes boxes: x, y, x, y."""
    boxes = torch.tensor([entry.box for entry in annotations], dtype=torch.float32).reshape(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1], dim=1)
