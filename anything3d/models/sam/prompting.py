"""Prompting SAM or SAM 2: masks from points, from boxes, or from a grid of points (Kirillov et al. 2023)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from anything3d.errors import NumericsError
from anything3d.models.sam.islands import doubtful_islands
from anything3d.photo import mask
from anything3d.photo.mask import Box

STABILITY_OFFSET = 1.0  # of the logits' threshold, up and down; segment_anything SamAutomaticMaskGenerator
DUPLICATE_IOU = 0.7  # of two boxes; above, the less sure mask goes; segment_anything SamAutomaticMaskGenerator
LOGITS_PX = 2**25  # of all masks that are enlarged at once: 128 MiB; at least one mask is
MASK_THRESHOLD = 0.0  # of the logits
MAX_LOGIT = 8.0  # of those that are kept. So a pixel of which two looks are certain, and not the same, is no object
Features = tuple[Float[Tensor, "1 _ _ _"], ...]  # of one photo: what prompts are answered from


@dataclass(frozen=True, slots=True)
class Predicted:
    """A mask that SAM made."""

    lengths: Int64[np.ndarray, "R"]  # runs, background first
    height: int  # rows of the photo
    predicted_iou: float  # NaN if SAM's logits were not finite
    stability_score: float  # IoU of the mask at two thresholds; 0 if it is empty
    prompt: Float[Tensor, "K 2"]  # what it was made of: a point (x, y), or two corners of a box; pixels of the photo
    logits: Float[Tensor, "h w"]  # as small as SAM makes them, -MAX_LOGIT to MAX_LOGIT, in float16
    doubtful_share: float = 0.0  # of SAM's mask, that was left out as doubtful islands; of two looks the larger one

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.predicted_iou)


@dataclass(frozen=True, slots=True)
class Enlarged:
    """Masks at the photo's size, where SAM has made them."""

    solid: Bool[Tensor, "N H W"]
    prompts: Float[Tensor, "N _"]  # in pixels of the photo
    logits: Float[Tensor, "N h w"]  # as small as SAM makes them, clamped
    predicted_iou: Float[Tensor, "N"]
    stability: Float[Tensor, "N"]
    doubtful_share: Float[Tensor, "N"]


@dataclass(frozen=True, slots=True)
class Sam(ABC):
    """A frozen network, SAM's or SAM 2's, and what is asked of it.

    The encoder may run in a lower precision; prompts and masks are always float32.
    """

    network: Any  # segment_anything's comes without types

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The part that sees the photo."""

    @property
    @abstractmethod
    def side_px(self) -> int:
        """Side of the square that the encoder sees."""

    @abstractmethod
    def shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns that the encoder sees of a photo of `size`."""

    @abstractmethod
    def read(self, image: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "3 _ _"]:
        """The photo as `encode` takes it, on the network's device."""

    @abstractmethod
    def encode(self, inputs: Sequence[Float[Tensor, "3 _ _"]]) -> list[Features]:
        """Of each photo, what prompts are answered from."""

    @abstractmethod
    def answer(
        self, features: Features, corners: Float[Tensor, "N K 2"]
    ) -> tuple[Float[Tensor, "N M h w"], Float[Tensor, "N M"]]:
        """Logits and predicted IoU: three masks for each point (K = 1), one for each box (K = 2), in pixels `shown`.

        A point is ambiguous, a box is not. Nothing here waits for the device.
        """

    @abstractmethod
    def enlarge(self, masks: Float[Tensor, "N h w"], size: tuple[int, int]) -> Float[Tensor, "N H W"]:
        """Logits at the photo's `size`."""

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's."""
        return next(self.encoder.parameters()).dtype

    def is_sound(self) -> bool:
        """Whether what it says of plain white is finite, at a point and in a box."""
        side = self.side_px
        white = torch.full((side, side, 3), 255, dtype=torch.uint8)
        prompts = [torch.tensor([[side / 2, side / 2]]), torch.tensor([[side / 4, side / 4, side / 2, side / 2]])]
        return all(one.is_finite for (one,) in self.prompt([white, white], prompts, 1, 1))

    @torch.inference_mode()
    def prompt(
        self,
        images: Sequence[UInt8[Tensor, "_ _ 3"]],
        prompts: Sequence[Float[Tensor, "_ _"]],
        images_per_batch: int,
        prompts_per_batch: int,
        min_island_certainty: float = 0.0,
    ) -> list[list[Predicted]]:
        """One mask per prompt: [N, 2] points (x, y), of three masks the surest; or [N, 4] boxes (x, y, x, y).

        Pixels of the photo, edges of a box included. Each photo is encoded once; those without prompts are not.
        `min_island_certainty` is as in `sure_of`.
        """
        results: list[list[Predicted]] = [[] for _ in images]
        wanted = [place for place, rows in enumerate(prompts) if len(rows)]
        for start in range(0, len(wanted), images_per_batch):
            indices = wanted[start : start + images_per_batch]
            encoded = self.encode([self.read(images[index]) for index in indices])
            for index, features in zip(indices, encoded, strict=True):
                height, width = images[index].shape[:2]
                for rows in prompts[index].split(prompts_per_batch):
                    surest = self.surest(features, rows, (height, width), min_island_certainty)
                    results[index] += _in_runs(surest, height)
        return results

    def surest(
        self,
        features: Features,
        rows: Float[Tensor, "N _"],
        size: tuple[int, int],
        min_island_certainty: float = 0.0,
    ) -> Iterator[Enlarged]:
        """The surest mask of each prompt. Only `sure_of` waits for the device."""
        masks, predicted_iou = self.decode(features, rows, size)
        surest = predicted_iou.argmax(dim=1, keepdim=True)
        masks = masks.take_along_dim(surest[..., None, None], dim=1)[:, 0]
        masks, doubtful = self.sure_of(masks, rows, size, min_island_certainty)
        yield from self._enlarged(rows, masks, predicted_iou.take_along_dim(surest, dim=1)[:, 0], doubtful, size)

    @torch.inference_mode()
    def grid(
        self,
        image: UInt8[Tensor, "H W 3"],
        points_per_side: int,
        min_predicted_iou: float,
        min_stability: float,
        prompts_per_batch: int = 32,
        min_island_certainty: float = 0.0,
    ) -> list[Predicted]:
        """The masks of a photo from a grid of points, surest first: those above both thresholds, once each.

        They are those of segment_anything's SamAutomaticMaskGenerator, which holds 3 x 64 masks at the photo's full
        size at once; here a mask becomes run lengths before the next ones are enlarged. A threshold of 0 is none.
        `min_island_certainty`, which theirs has not, is as in `sure_of`.

        Raises: NumericsError("sam_not_finite").
        """
        from segment_anything.utils.amg import build_point_grid
        from torchvision.ops import batched_nms

        height, width = image.shape[:2]
        (features,) = self.encode([self.read(image)])
        points = torch.from_numpy(build_point_grid(points_per_side) * np.array([[width, height]]))
        predicted: list[Predicted] = []
        for rows in points.split(prompts_per_batch):
            masks, predicted_iou = self.decode(features, rows, (height, width))
            if not predicted_iou.isfinite().all():
                raise NumericsError("sam_not_finite", "what SAM says is NaN or infinite at a point of the grid")
            rows, masks, ious = rows.repeat_interleave(masks.shape[1], 0), masks.flatten(0, 1), predicted_iou.flatten()
            if min_predicted_iou > 0:
                good = ious > min_predicted_iou
                rows, masks, ious = rows[good.cpu()], masks[good], ious[good]
            masks, doubtful = self.sure_of(masks, rows, (height, width), min_island_certainty)
            sure = _in_runs(self._enlarged(rows, masks, ious, doubtful, (height, width)), height)
            predicted += [one for one in sure if min_stability <= 0 or one.stability_score >= np.float32(min_stability)]
        boxes = torch.tensor([_corners(mask.box(one.lengths, height)) for one in predicted], dtype=torch.float32)
        ious = torch.tensor([one.predicted_iou for one in predicted])
        kept = batched_nms(boxes.reshape(-1, 4), ious, torch.zeros(len(predicted)), DUPLICATE_IOU)
        return [predicted[index] for index in kept.tolist()]

    def decode(
        self, features: Features, prompts: Float[Tensor, "N _"], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "N M h w"], Float[Tensor, "N M"]]:
        """Logits as small as SAM makes them, and predicted IoU, for points or boxes in pixels of the photo.

        The IoU of logits that are not finite is NaN: thresholds would make an empty mask or a full one of them.
        """
        device, shown = features[0].device, self.shown(size)
        scale = torch.tensor([shown[1] / size[1], shown[0] / size[0]], dtype=prompts.dtype, device=device)
        masks, predicted_iou = self.answer(features, prompts.to(device).reshape(len(prompts), -1, 2) * scale)
        return masks, torch.where(masks.isfinite().flatten(2).all(dim=2), predicted_iou, torch.nan)

    def sure_of(
        self, masks: Float[Tensor, "N h w"], prompts: Float[Tensor, "N _"], size: tuple[int, int], min_certainty: float
    ) -> tuple[Float[Tensor, "N h w"], Float[Tensor, "N"]]:
        """The logits, with the opposite sign at doubtful islands (`islands.py`), so that these are background.

        And the share of each mask that these islands were.

        With a `min_certainty` of 0 they stay as they are, and nothing waits for the device. Prompts are in pixels of a
        photo of this `size`.
        """
        if min_certainty == 0 or len(masks) == 0:
            return masks, masks.new_zeros(len(masks))
        scale = torch.tensor(self.shown(size)) / torch.tensor(size) * torch.tensor(masks.shape[1:]) / self.side_px
        places = prompts.reshape(len(prompts), -1, 2) * scale.flip(0)  # of rows and columns
        doubtful = doubtful_islands(clamped(masks), places, min_certainty)
        share = doubtful.sum((1, 2)) / (masks > MASK_THRESHOLD).sum((1, 2)).clamp(min=1)
        return torch.where(doubtful, -masks, masks), share

    def _enlarged(
        self,
        prompts: Float[Tensor, "N _"],
        masks: Float[Tensor, "N h w"],
        predicted_iou: Float[Tensor, "N"],
        doubtful_share: Float[Tensor, "N"],
        size: tuple[int, int],
    ) -> Iterator[Enlarged]:
        """Masks at the photo's `size`, as many at once as `LOGITS_PX` allows."""
        from segment_anything.utils.amg import calculate_stability_score

        few = max(1, LOGITS_PX // max(size[0] * size[1], self.side_px**2))
        parts = (all_.split(few) for all_ in (prompts, masks, predicted_iou, doubtful_share))
        for asked, some, ious, doubtful in zip(*parts, strict=True):
            logits = self.enlarge(some, size)
            stability = calculate_stability_score(logits, MASK_THRESHOLD, STABILITY_OFFSET)
            stability = stability.nan_to_num(0.0)  # 0 / 0: empty
            yield Enlarged(logits > MASK_THRESHOLD, asked, clamped(some), ious, stability, doubtful)


def clamped(logits: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """-MAX_LOGIT to MAX_LOGIT."""
    return logits.clamp(-MAX_LOGIT, MAX_LOGIT)


def _in_runs(several: Iterable[Enlarged], height: int) -> Iterator[Predicted]:
    for masks in several:
        made = zip(
            masks.solid.cpu(),
            masks.predicted_iou.tolist(),
            masks.stability.tolist(),
            masks.prompts.unflatten(1, (-1, 2)),
            masks.logits.half().cpu(),
            masks.doubtful_share.tolist(),
            strict=True,
        )
        for solid, iou, stability, prompt, logits, doubtful in made:
            own = logits.clone()  # not its whole batch
            yield Predicted(mask.runs_of(solid), height, iou, stability, prompt, own, doubtful)


def _corners(box: Box) -> tuple[int, int, int, int]:
    """First and last column and row of a box: x, y, x, y; of an empty one zeros."""
    x, y, width, height = box
    return (x, y, x + max(width, 1) - 1, y + max(height, 1) - 1)
