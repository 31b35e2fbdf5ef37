"""Segment: the objects of a photo, each with its mask and its crop.

The masks are the shard's own, or SAM's. SAM is prompted with the shard's points or boxes, or with a grid of points.
`photo/select.py` says which masks are kept. SAM looks at those of its own once more, from closer by (`segment.zoom`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import torch
from jaxtyping import UInt8
from torch import Tensor

from anything3d.errors import Anything3DError, InputError, NumericsError, Skipped
from anything3d.models.finite import check_network
from anything3d.models.sam import Predicted, Sam, load_sam, look_closer
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.photo.annotation import Annotation
from anything3d.photo.crop import Crop, cut, side_px, square_of
from anything3d.photo.occluders import occluders
from anything3d.photo.prompt import Prompt
from anything3d.photo.sam_prompts import boxes, check_prompt, points, promptable
from anything3d.photo.select import QUOTA, ObjectMask, name_of, prompt_name, select
from anything3d.settings.segment import SegmentConfig, Source

__all__ = [
    "Judged",
    "ObjectMask",
    "Segmented",
    "Segmenter",
    "load_segmenter",
    "name_of",
    "prompt_name",
]


@dataclass(frozen=True, slots=True)
class Segmented:
    """An Object: its mask and its crop."""

    mask: ObjectMask
    crop: Crop


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mask of a photo, before the selection."""

    mask: ObjectMask
    predicted: Predicted | None  # what SAM made it of; None if it is the shard's own


@dataclass(frozen=True, slots=True)
class Judged:
    """A mask of a photo, or what is wrong with it, and what becomes of it: the mask of an object, or why there is none.

    That mask is finer than `found` if SAM has looked closer.
    """

    found: ObjectMask | Anything3DError
    outcome: ObjectMask | Anything3DError


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
    images_per_batch: int = 4  # photos, or parts of one, that SAM encodes at once
    prompts_per_batch: int = 32  # prompts of one photo that SAM decodes at once; fewer masks are enlarged at once

    def __call__(
        self,
        images: Sequence[UInt8[Tensor, "_ _ 3"]],
        annotations: Sequence[Sequence[Annotation | Prompt | InputError]],
    ) -> list[list[Segmented | Anything3DError]]:
        """One outcome per annotation of each photo, in order (sam-grid: per mask that SAM finds); `name_of` names
        it by its index.

        An annotation that is an error already passes through; sam-grid does not look at the annotations.

        Raises: WeightsError as `check_network`: what all photos of a batch share is SAM.
        """
        return [
            self._cut_all(image, judged) for image, judged in zip(images, self.judged(images, annotations), strict=True)
        ]

    def judged(
        self,
        images: Sequence[UInt8[Tensor, "_ _ 3"]],
        annotations: Sequence[Sequence[Annotation | Prompt | InputError]],
    ) -> list[list[Judged]]:
        """As the call, without crops: every mask of each photo, also one that is left out. Raises: as the call."""
        assert len(images) == len(annotations), f"{len(images)} photos, {len(annotations)} lists of annotations"
        return [
            self._judged(image, masks) for image, masks in zip(images, self._masks(images, annotations), strict=True)
        ]

    def at(self, image: UInt8[Tensor, "H W 3"], prompt: Sequence[float]) -> Segmented:
        """The object at a point (x, y) or in a box (x, y, x, y), pixels of the photo.

        Whoever points at it has chosen it: nothing is asked of its size or place. Nobody knows of other objects.

        Raises: InputError prompt_outside, empty_mask; NumericsError sam_not_finite; WeightsError as `check_network`.
        """
        assert self.sam is not None
        check_prompt(prompt, image.shape[0], image.shape[1])
        prompts = [torch.tensor([prompt], dtype=torch.float32)]
        ((predicted,),) = self.sam.prompt([image], prompts, self.images_per_batch, 1, self.config.min_island_certainty)
        self._check_network(self.sam, [not predicted.is_finite])
        source: Source = "sam-points" if len(prompt) == 2 else "sam-boxes"
        own = replace(self, config=replace(self.config, source=source))
        found = own._named(predicted, prompt_name(prompt))
        if isinstance(found, NumericsError):
            raise found
        if found.mask.area_px == 0:
            raise InputError("empty_mask", f"SAM finds nothing at {tuple(prompt)}; point elsewhere, or draw a box")
        (seen,) = own._closer(image, [found]) if self.config.zoom else [found.mask]
        if isinstance(seen, NumericsError):
            raise seen
        if seen.area_px == 0:  # the closer look doubts all of it
            seen = found.mask
        return self._cut(image, seen, [])

    def most_prominent(self, image: UInt8[Tensor, "H W 3"]) -> Segmented:
        """Of all objects that `config.source` finds in the photo without annotations, the most prominent.

        Raises: InputError no_object; WeightsError as `check_network`.
        """
        outcomes = self([image], [[]])[0]
        if objects := [outcome for outcome in outcomes if isinstance(outcome, Segmented)]:
            return max(objects, key=lambda one: one.mask.prominence)
        reasons = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Anything3DError))
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise InputError(
            "no_object", f"none of SAM's {len(outcomes)} masks is an object ({why}); point at one, or draw a box"
        )

    def _masks(
        self,
        images: Sequence[UInt8[Tensor, "_ _ 3"]],
        annotations: Sequence[Sequence[Annotation | Prompt | InputError]],
    ) -> list[list[Candidate | Anything3DError]]:
        source = self.config.source
        match source:
            case "annotations":
                return [[_own(entry) for entry in entries] for entries in annotations]
            case "sam-points" | "sam-boxes":
                return self._prompted(images, annotations)
            case "sam-grid":
                assert self.sam is not None
                outcomes = [self._gridded(self.sam, image) for image in images]
                lost = [any(isinstance(one, NumericsError) for one in masks) for masks in outcomes]
                self._check_network(self.sam, lost)
                return outcomes
            case _:
                assert_never(source)

    def _gridded(self, sam: Sam, image: UInt8[Tensor, "H W 3"]) -> list[Candidate | Anything3DError]:
        """SAM's masks of a photo, or the one error that it has instead."""
        config = self.config
        how = (config.min_predicted_iou, config.min_stability, self.prompts_per_batch, config.min_island_certainty)
        try:
            predicted = sam.grid(image, config.grid_points, *how)
        except NumericsError as error:
            return [error]
        return [self._named(one, name_of(config.source, index)) for index, one in enumerate(predicted)]

    def _prompted(
        self,
        images: Sequence[UInt8[Tensor, "_ _ 3"]],
        annotations: Sequence[Sequence[Annotation | Prompt | InputError]],
    ) -> list[list[Candidate | Anything3DError]]:
        """SAM's mask for every annotation that is sound and has what SAM is prompted with."""
        assert self.sam is not None
        config = self.config
        asked = [
            [promptable(entry, config.source, image) for entry in entries]
            for image, entries in zip(images, annotations, strict=True)
        ]
        sound = [[entry for entry in entries if isinstance(entry, Prompt)] for entries in asked]
        prompts = [boxes(entries) if config.source == "sam-boxes" else points(entries) for entries in sound]
        how = (self.images_per_batch, self.prompts_per_batch, config.min_island_certainty)
        predicted = self.sam.prompt(images, prompts, *how)
        self._check_network(self.sam, [not any(one.is_finite for one in some) for some in predicted if some])
        return [
            [
                self._named(next(some), name_of(config.source, entry.index)) if isinstance(entry, Prompt) else entry
                for entry in entries
            ]
            for entries, some in zip(asked, map(iter, predicted), strict=True)
        ]

    def _check_network(self, sam: Sam, lost: Sequence[bool]) -> None:
        """`lost`: of which photos that SAM looked at nothing finite came."""
        check_network(lost, sam.is_sound, self.config.weights, sam.dtype)

    def _named(self, predicted: Predicted, name: str) -> Candidate | NumericsError:
        found = _predicted(predicted, name, self.config)
        return found if isinstance(found, NumericsError) else Candidate(found, predicted)

    def _judged(self, image: UInt8[Tensor, "H W 3"], masks: Sequence[Candidate | Anything3DError]) -> list[Judged]:
        outcomes = iter(self._selected(image, [one for one in masks if isinstance(one, Candidate)]))
        return [Judged(one.mask, next(outcomes)) if isinstance(one, Candidate) else Judged(one, one) for one in masks]

    def _selected(
        self, image: UInt8[Tensor, "H W 3"], found: Sequence[Candidate]
    ) -> list[ObjectMask | Anything3DError]:
        """What becomes of each mask. Those of SAM's that are kept get the outline of its closer look.

        A mask stays as it was if the closer look would make it one that is not kept. So it costs no object, and what
        was left out beside a mask is beside one that is kept.
        """
        height, width = image.shape[:2]
        selected = select([one.mask for one in found], height, width, self.config)
        kept = [
            place
            for place, outcome in enumerate(selected)
            if isinstance(outcome, ObjectMask) and found[place].predicted and self.config.zoom
        ]
        closer = self._closer(image, [found[place] for place in kept])
        again = iter(select([one for one in closer if isinstance(one, ObjectMask)], height, width, self.config))
        outcomes: list[ObjectMask | Anything3DError] = [*selected]
        for place, seen in zip(kept, closer, strict=True):
            if isinstance(seen, NumericsError):
                outcomes[place] = seen
            elif isinstance(finer := next(again), ObjectMask):
                outcomes[place] = finer
        return outcomes

    def _closer(self, image: UInt8[Tensor, "H W 3"], found: Sequence[Candidate]) -> list[ObjectMask | NumericsError]:
        """SAM's masks after its closer look at them."""
        if not (looks := [(one.predicted, one.mask.box) for one in found if one.predicted]):
            return []
        assert self.sam is not None
        how = (self.config.zoom, self.images_per_batch, self.config.min_island_certainty)
        closer = look_closer(self.sam, image, looks, *how)
        return [_predicted(seen, one.mask.name, self.config) for seen, one in zip(closer, found, strict=True)]

    def _cut_all(self, image: UInt8[Tensor, "H W 3"], judged: Sequence[Judged]) -> list[Segmented | Anything3DError]:
        """The objects of one photo. One beyond `max_per_image` is not cut out, but it may stand before others."""
        kept = [one.outcome for one in judged if isinstance(one.outcome, ObjectMask)]
        beyond = [one.found for one in judged if isinstance(one.outcome, Skipped) and one.outcome.reason == QUOTA]
        objects = [*kept, *(one for one in beyond if isinstance(one, ObjectMask))]
        return [
            self._cut(image, one.outcome, objects) if isinstance(one.outcome, ObjectMask) else one.outcome
            for one in judged
        ]

    def _cut(self, image: UInt8[Tensor, "H W 3"], kept: ObjectMask, others: Sequence[ObjectMask]) -> Segmented:
        """One object; `others` are all objects of the photo."""
        own = self.config
        side = side_px(kept.box, own.context, own.framing)
        hiding = occluders(kept, others, square_of(kept.box, side)) if own.occluders else None
        return Segmented(kept, cut(image, kept.counts, kept.box, side, own.crop_size, hiding))


def _own(entry: Annotation | Prompt | InputError) -> Candidate | Anything3DError:
    if isinstance(entry, InputError):
        return entry
    assert isinstance(entry, Annotation), "a prompt is no mask"
    own = ObjectMask(
        name=name_of("annotations", entry.index),
        counts=entry.counts,
        box=entry.box,
        area_px=entry.area_px,
        predicted_iou=entry.predicted_iou,
        stability_score=entry.stability_score,
        source="annotations",
    )
    return Candidate(own, None)


def _predicted(predicted: Predicted, name: str, config: SegmentConfig) -> ObjectMask | NumericsError:
    if not predicted.is_finite:
        return NumericsError("sam_not_finite", f"{name}: SAM's mask or its predicted IoU is NaN or infinite")
    size = predicted.height, int(predicted.lengths.sum()) // predicted.height
    lengths = mask.runs_of(mask.tidy(mask.decode(mask.encode_runs(predicted.lengths), *size), config.min_region_px))
    return ObjectMask(
        name=name,
        counts=mask.encode_runs(lengths),
        box=mask.box(lengths, predicted.height),
        area_px=mask.area(lengths),
        predicted_iou=predicted.predicted_iou,
        stability_score=predicted.stability_score,
        source=config.source,
        doubtful_share=predicted.doubtful_share,
    )
