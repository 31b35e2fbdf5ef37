"""Prompting SAM: masks from points, from boxes, or from a grid of points (Kirillov et al. 2023)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from anything3d.errors import NumericsError
from anything3d.photo import mask
from anything3d.photo.mask import Box

STABILITY_OFFSET = 1.0  # of the logits' threshold, up and down; segment_anything SamAutomaticMaskGenerator
DUPLICATE_IOU = 0.7  # of two boxes; above, the less sure mask goes; segment_anything SamAutomaticMaskGenerator
LOGITS_PX = 2**25  # of all masks that are enlarged at once: 128 MiB; at least one mask is


@dataclass(frozen=True, slots=True)
class Predicted:
    """A mask that SAM made."""

    lengths: Int64[np.ndarray, "R"]  # runs, background first
    height: int  # rows of the photo
    predicted_iou: float  # NaN if SAM's logits were not finite
    stability_score: float  # IoU of the mask at two thresholds; 0 if it is empty

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.predicted_iou)


@dataclass(frozen=True, slots=True)
class Enlarged:
    """Masks at the photo's size, where SAM has made them."""

    solid: Bool[Tensor, "N H W"]
    predicted_iou: Float[Tensor, "N"]
    stability: Float[Tensor, "N"]


@dataclass(frozen=True, slots=True)
class Sam:
    """A frozen SAM. The encoder may run in a lower precision; prompts and masks are always float32."""

    network: Any  # segment_anything's Sam, which comes without types

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's."""
        return next(self.network.image_encoder.parameters()).dtype

    def is_sound(self) -> bool:
        """Whether what it says of plain white is finite, at a point and in a box."""
        side = self.network.image_encoder.img_size
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
    ) -> list[list[Predicted]]:
        """One mask per prompt: [N, 2] points (x, y), of three masks the surest; or [N, 4] boxes (x, y, x, y).

        Pixels of the photo, edges of a box included. Each photo is encoded once; those without prompts are not.
        """
        results: list[list[Predicted]] = [[] for _ in images]
        wanted = [place for place, rows in enumerate(prompts) if len(rows)]
        for start in range(0, len(wanted), images_per_batch):
            indices = wanted[start : start + images_per_batch]
            inputs = [self._input(images[index]) for index in indices]
            for index, image, feature in zip(indices, inputs, self.encode(inputs), strict=True):
                (height, width), shown = images[index].shape[:2], (image.shape[1], image.shape[2])
                for rows in prompts[index].split(prompts_per_batch):
                    results[index] += _in_runs(self.surest(feature[None], rows, shown, (height, width)), height)
        return results

    def encode(self, inputs: Sequence[Float[Tensor, "3 _ _"]]) -> Float[Tensor, "B C h w"]:
        """What prompts are answered from, of photos with the longer side that the encoder wants, RGB 0..255."""
        return self.network.image_encoder(torch.stack([self.network.preprocess(image) for image in inputs]))

    def surest(
        self,
        feature: Float[Tensor, "1 C h w"],
        rows: Float[Tensor, "N _"],
        shown: tuple[int, int],
        size: tuple[int, int],
    ) -> Iterator[Enlarged]:
        """The surest mask of each prompt. Nothing here waits for the device."""
        masks, predicted_iou = self._decode(feature, rows, shown, size)
        surest = predicted_iou.argmax(dim=1, keepdim=True)
        masks = masks.take_along_dim(surest[..., None, None], dim=1)[:, 0]
        yield from self._enlarged(masks, predicted_iou.take_along_dim(surest, dim=1)[:, 0], shown, size)

    @torch.inference_mode()
    def grid(
        self,
        image: UInt8[Tensor, "H W 3"],
        points_per_side: int,
        min_predicted_iou: float,
        min_stability: float,
        prompts_per_batch: int = 32,
    ) -> list[Predicted]:
        """The masks of a photo from a grid of points, surest first: those above both thresholds, once each.

        They are those of segment_anything's SamAutomaticMaskGenerator, which holds 3 x 64 masks at the photo's full
        size at once; here a mask becomes run lengths before the next ones are enlarged. A threshold of 0 is none.

        Raises: NumericsError("sam_not_finite").
        """
        from segment_anything.utils.amg import build_point_grid
        from torchvision.ops import batched_nms

        height, width = image.shape[:2]
        shown = self._input(image)
        feature = self.network.image_encoder(self.network.preprocess(shown)[None])
        points = torch.from_numpy(build_point_grid(points_per_side) * np.array([[width, height]]))
        predicted: list[Predicted] = []
        for rows in points.split(prompts_per_batch):
            masks, predicted_iou = self._decode(feature, rows, (shown.shape[1], shown.shape[2]), (height, width))
            if not predicted_iou.isfinite().all():
                raise NumericsError("sam_not_finite", "what SAM says is NaN or infinite at a point of the grid")
            masks, ious = masks.flatten(0, 1), predicted_iou.flatten()
            if min_predicted_iou > 0:
                masks, ious = masks[ious > min_predicted_iou], ious[ious > min_predicted_iou]
            sure = _in_runs(self._enlarged(masks, ious, (shown.shape[1], shown.shape[2]), (height, width)), height)
            predicted += [one for one in sure if min_stability <= 0 or one.stability_score >= np.float32(min_stability)]
        boxes = torch.tensor([_corners(mask.box(one.lengths, height)) for one in predicted], dtype=torch.float32)
        ious = torch.tensor([one.predicted_iou for one in predicted])
        kept = batched_nms(boxes.reshape(-1, 4), ious, torch.zeros(len(predicted)), DUPLICATE_IOU)
        return [predicted[index] for index in kept.tolist()]

    def _input(self, image: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "3 h w"]:
        """The photo with the longer side the encoder wants, RGB 0..255, on the network's device."""
        from segment_anything.utils.transforms import ResizeLongestSide

        resized = ResizeLongestSide(self.network.image_encoder.img_size).apply_image(image.numpy())
        return torch.from_numpy(resized).permute(2, 0, 1).to(self.network.device, torch.float32)

    def _decode(
        self,
        feature: Float[Tensor, "1 C h w"],
        prompts: Float[Tensor, "N _"],
        shown: tuple[int, int],
        size: tuple[int, int],
    ) -> tuple[Float[Tensor, "N M rows columns"], Float[Tensor, "N M"]]:
        """Logits as small as SAM makes them, and predicted IoU: three masks for each point, one for each box.

        The IoU of logits that are not finite is NaN: thresholds would make an empty mask or a full one of them.
        """
        network, device = self.network, feature.device
        scale = torch.tensor([shown[1] / size[1], shown[0] / size[0]], dtype=prompts.dtype, device=device)
        corners = prompts.to(device).reshape(len(prompts), -1, 2) * scale
        is_point = prompts.shape[1] == 2
        boxes = None if is_point else corners.flatten(1)
        sparse, dense = network.prompt_encoder(points=None, boxes=boxes, masks=None)
        if is_point:
            sparse = self._points(corners)
        masks, predicted_iou = network.mask_decoder(
            image_embeddings=feature,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=is_point,  # a point is ambiguous, a box is not
        )
        return masks, torch.where(masks.isfinite().flatten(2).all(dim=2), predicted_iou, torch.nan)

    def _points(self, corners: Float[Tensor, "N 1 2"]) -> Float[Tensor, "N 2 C"]:
        """What the decoder reads of one point for each mask, and of the place of a box that is not there.

        segment_anything picks both by their labels, for which the host would wait for the device.
        """
        encoder = self.network.prompt_encoder
        inside = encoder.pe_layer.forward_with_coords(corners + 0.5, encoder.input_image_size)  # a pixel's centre
        inside = inside + encoder.point_embeddings[1].weight
        return torch.cat([inside, encoder.not_a_point_embed.weight.expand_as(inside)], dim=1)

    def _enlarged(
        self,
        masks: Float[Tensor, "N h w"],
        predicted_iou: Float[Tensor, "N"],
        shown: tuple[int, int],
        size: tuple[int, int],
    ) -> Iterator[Enlarged]:
        """Masks at the photo's `size`, as many at once as `LOGITS_PX` allows."""
        from segment_anything.utils.amg import calculate_stability_score

        threshold, between = self.network.mask_threshold, self.network.image_encoder.img_size**2
        few = max(1, LOGITS_PX // max(size[0] * size[1], between))
        for some, ious in zip(masks.split(few), predicted_iou.split(few), strict=True):
            logits = self.network.postprocess_masks(some[:, None], shown, size)[:, 0]
            stability = calculate_stability_score(logits, threshold, STABILITY_OFFSET).nan_to_num(0.0)  # 0 / 0: empty
            yield Enlarged(logits > threshold, ious, stability)


def _in_runs(several: Iterable[Enlarged], height: int) -> Iterator[Predicted]:
    for masks in several:
        scores = zip(masks.solid.cpu(), masks.predicted_iou.tolist(), masks.stability.tolist(), strict=True)
        yield from (Predicted(mask.runs_of(one), height, iou, stability) for one, iou, stability in scores)


def _corners(box: Box) -> tuple[int, int, int, int]:
    """First and last column and row of a box: x, y, x, y; of an empty one zeros."""
    x, y, width, height = box
    return (x, y, x + max(width, 1) - 1, y + max(height, 1) - 1)
