"""SAM: masks from points, from boxes, or from a grid of points (Kirillov et al. 2023, segment_anything).

Weights are an official checkpoint (`sam_vit_b_01ec64.pth` and its larger siblings; the tensors' shapes tell which), or
`config.json` with `model.safetensors` for any other size; the packaged `sam` is the toy-sized one.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from anything3d.errors import NumericsError, WeightsError
from anything3d.models.tensors import fill, read_tensors
from anything3d.models.weights import Place, directly_in, directory
from anything3d.photo import mask
from anything3d.photo.mask import Box

OFFICIAL = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # segment_anything's registry, by the encoder's width
STABILITY_OFFSET = 1.0  # of the logits' threshold, up and down; segment_anything SamAutomaticMaskGenerator
DUPLICATE_IOU = 0.7  # of two boxes; above, the less sure mask goes; segment_anything SamAutomaticMaskGenerator
LOGITS_PX = 2**25  # of all masks that are enlarged at once: 128 MiB; at least one mask is
PIXEL_MEAN = [123.675, 116.28, 103.53]  # of RGB 0..255; segment_anything build_sam
PIXEL_STD = [58.395, 57.12, 57.375]  # the same


@dataclass(frozen=True, slots=True)
class SamShape:
    """Sizes of a SAM; everything else is as in the official ones."""

    image_size: int  # pixels of the longer side that the encoder sees
    patch_size: int  # pixels
    width: int  # of the encoder
    depth: int  # blocks of the encoder
    heads: int  # of the encoder
    window: int  # patches along a local attention window
    global_blocks: tuple[int, ...]  # blocks that attend to the whole image
    prompt_width: int  # of the decoder
    decoder_heads: int
    decoder_mlp: int  # hidden width
    iou_hidden: int  # hidden width of the head that predicts the IoU


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
        return all(found.is_finite for (found,) in self.prompt([white, white], prompts, 1, 1))

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
            places = wanted[start : start + images_per_batch]
            inputs = [self._input(images[place]) for place in places]
            features = self.network.image_encoder(torch.stack([self.network.preprocess(image) for image in inputs]))
            for place, image, feature in zip(places, inputs, features, strict=True):
                (height, width), shown = images[place].shape[:2], (image.shape[1], image.shape[2])
                for rows in prompts[place].split(prompts_per_batch):
                    masks, predicted_iou = self._decode(feature[None], rows, shown, (height, width))
                    surest = predicted_iou.argmax(dim=1, keepdim=True)
                    masks = masks.take_along_dim(surest[..., None, None], dim=1)[:, 0]
                    ious = predicted_iou.take_along_dim(surest, dim=1)[:, 0]
                    results[place] += self._enlarged(masks, ious, shown, (height, width))
        return results

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
        found: list[Predicted] = []
        for rows in points.split(prompts_per_batch):
            masks, predicted_iou = self._decode(feature, rows, (shown.shape[1], shown.shape[2]), (height, width))
            if not predicted_iou.isfinite().all():
                raise NumericsError("sam_not_finite", "what SAM says is NaN or infinite at a point of the grid")
            masks, ious = masks.flatten(0, 1), predicted_iou.flatten()
            if min_predicted_iou > 0:
                masks, ious = masks[ious > min_predicted_iou], ious[ious > min_predicted_iou]
            sure = self._enlarged(masks, ious, (shown.shape[1], shown.shape[2]), (height, width))
            found += [one for one in sure if min_stability <= 0 or one.stability_score >= np.float32(min_stability)]
        boxes = torch.tensor([_corners(mask.box(one.lengths, height)) for one in found], dtype=torch.float32)
        ious = torch.tensor([one.predicted_iou for one in found])
        kept = batched_nms(boxes.reshape(-1, 4), ious, torch.zeros(len(found)), DUPLICATE_IOU)
        return [found[place] for place in kept.tolist()]

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
        labels = torch.ones(len(prompts), 1, dtype=torch.int64, device=device)
        sparse, dense = network.prompt_encoder(
            points=(corners, labels) if is_point else None,
            boxes=None if is_point else corners.flatten(1),
            masks=None,
        )
        masks, predicted_iou = network.mask_decoder(
            image_embeddings=feature,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=is_point,  # a point is ambiguous, a box is not
        )
        return masks, torch.where(masks.isfinite().flatten(2).all(dim=2), predicted_iou, torch.nan)

    def _enlarged(
        self,
        masks: Float[Tensor, "N h w"],
        predicted_iou: Float[Tensor, "N"],
        shown: tuple[int, int],
        size: tuple[int, int],
    ) -> Iterator[Predicted]:
        """Masks at the photo's `size`, as many at once as `LOGITS_PX` allows."""
        from segment_anything.utils.amg import calculate_stability_score

        threshold, between = self.network.mask_threshold, self.network.image_encoder.img_size**2
        few = max(1, LOGITS_PX // max(size[0] * size[1], between))
        for some, ious in zip(masks.split(few), predicted_iou.split(few), strict=True):
            logits = self.network.postprocess_masks(some[:, None], shown, size)[:, 0]
            stability = calculate_stability_score(logits, threshold, STABILITY_OFFSET).nan_to_num(0.0)  # 0 / 0: empty
            solid = (logits > threshold).cpu()
            for one, iou, score in zip(solid, ious.tolist(), stability.tolist(), strict=True):
                yield Predicted(mask.runs_of(one), size[0], iou, score)


def load_sam(name: str, place: Place) -> Sam:
    """The SAM of a weights folder, frozen; `place.dtype` is the precision of its encoder.

    Raises: WeightsError if the folder is missing, holds no or several checkpoints, or they are damaged.
    """
    folder = directory(name, place)
    dtype = getattr(torch, place.dtype)
    network = _load_shaped(folder) if (folder / "config.json").exists() else _load_official(folder, dtype)
    sam = Sam(network.requires_grad_(False).eval().to(place.device))
    if dtype is not torch.float32:
        encoder = sam.network.image_encoder.to(dtype)
        encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
        encoder.register_forward_hook(lambda _, inputs, features: features.float())
    return sam


def build(shape: SamShape) -> nn.Module:
    """A SAM of any size with fresh weights, put together as segment_anything puts together its own."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = shape.image_size // shape.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=shape.image_size,
            patch_size=shape.patch_size,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            out_chans=shape.prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=shape.window,
            global_attn_indexes=shape.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(shape.image_size, shape.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=shape.prompt_width,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=shape.prompt_width, num_heads=shape.decoder_heads, mlp_dim=shape.decoder_mlp
            ),
            iou_head_hidden_dim=shape.iou_hidden,
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


def _load_shaped(folder: Path) -> nn.Module:
    try:
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text())
        settings |= {"global_blocks": tuple(settings["global_blocks"])}
        if wrong := [value for value in settings.values() if not _is_size(value)]:
            raise TypeError(f"{wrong[0]!r} is no size; whole numbers of 1 or more are needed")
        shape = SamShape(**settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError("weights_broken", f"{folder}/config.json: {error!r}; get the folder again") from error
    path = folder / "model.safetensors"
    network = build(shape)
    fill(network, read_tensors(path, torch.float32), path)
    return network


def _is_size(value: object) -> bool:
    """A whole number of 1 or more; blocks are numbered from 0."""
    if isinstance(value, tuple):
        return all(type(block) is int and block >= 0 for block in value)
    return type(value) is int and value >= 1


def _load_official(folder: Path, dtype: torch.dtype) -> nn.Module:
    from segment_anything import sam_model_registry

    files = directly_in(folder, ".pth")
    if len(files) != 1:
        raise WeightsError(
            "weights_missing",
            f"{folder} has {len(files)} .pth files and no config.json; put exactly one official SAM checkpoint there",
        )
    tensors = read_tensors(files[0], dtype, part="image_encoder.")
    position = tensors.get("image_encoder.pos_embed")
    width = position.shape[-1] if position is not None and position.ndim == 4 else 0
    if width not in OFFICIAL:
        raise WeightsError(
            "weights_mismatch", f"{files[0]} is no SAM of {', '.join(OFFICIAL.values())}; encoder width {width}"
        )
    with torch.device("meta"):  # the file's own pages become the parameters: nothing is allocated twice
        network = sam_model_registry[OFFICIAL[width]]()
    for name, value in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):  # the buffers that no file holds
        network.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)
    fill(network, tensors, files[0])
    return network


def _corners(box: Box) -> tuple[int, int, int, int]:
    """First and last column and row of a box: x, y, x, y; of an empty one zeros."""
    x, y, width, height = box
    return (x, y, x + max(width, 1) - 1, y + max(height, 1) - 1)
