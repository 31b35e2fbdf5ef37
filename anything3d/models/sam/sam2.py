"""SAM 2's network for photos, transformers' own (Ravi et al. 2024), from a folder as transformers lays it out.

The owner's files hold a memory for videos, too, which is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from anything3d.errors import WeightsError
from anything3d.models.layout import check_model_type
from anything3d.models.pretrained import load_network, load_settings
from anything3d.models.sam.prompting import Features, Sam
from anything3d.models.tensors import reading
from anything3d.models.weights import Place, files

MODEL_TYPES = ("sam2", "sam2_video")  # the owner's files have the second
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


@dataclass(frozen=True, slots=True)
class Sam2(Sam):
    """The photo is stretched to the square that the encoder sees: nothing is padded."""

    processor: Any  # transformers' Sam2ImageProcessor

    @property
    def encoder(self) -> nn.Module:
        return self.network.vision_encoder

    @property
    def side_px(self) -> int:
        return self.network.config.prompt_encoder_config.image_size

    def shown(self, size: tuple[int, int]) -> tuple[int, int]:
        del size
        return self.side_px, self.side_px

    def read(self, image: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "3 S S"]:
        """Normalized, as the folder's own preprocessor makes it."""
        pixels = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        return pixels[0].to(self.network.device)

    def encode(self, inputs: Sequence[Float[Tensor, "3 S S"]]) -> list[Features]:
        """Three levels of each photo, finest first."""
        levels = self.network.get_image_embeddings(torch.stack(list(inputs)))
        return list(zip(*(level.split(1) for level in levels), strict=True))

    def answer(
        self, features: Features, corners: Float[Tensor, "N K 2"]
    ) -> tuple[Float[Tensor, "N M h w"], Float[Tensor, "N M"]]:
        is_point, corners = corners.shape[1] == 1, corners.float()[None]
        prompts = {"input_points": corners} if is_point else {"input_boxes": corners.flatten(2)}
        found = self.network(image_embeddings=list(features), multimask_output=is_point, **prompts)
        return found.pred_masks[0], found.iou_scores[0]

    def enlarge(self, masks: Float[Tensor, "N h w"], size: tuple[int, int]) -> Float[Tensor, "N H W"]:
        return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def load_sam2(folder: Path, place: Place) -> Sam2:
    """The SAM 2 of a folder, frozen; `place.dtype` is the precision of its encoder.

    Raises: WeightsError if the folder holds another network, lacks a file, or a file is damaged.
    """
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model

    if not (folder / FILES[0]).exists():
        raise WeightsError(
            "weights_missing",
            f"{folder} has no {FILES[0]}; SAM 2 is read as transformers lays it out ({', '.join(FILES)}), "
            f"not from {', '.join(files(folder))}",
        )
    settings = check_model_type(folder / FILES[0], MODEL_TYPES)
    with reading(folder):
        config = Sam2Config.from_dict(settings | {"model_type": MODEL_TYPES[0]})
    network: Any = load_network(partial(Sam2Model.from_pretrained, config=config), folder, Place())
    processor: Any = load_settings(Sam2ImageProcessor.from_pretrained, folder)
    network.to(place.device).vision_encoder.to(getattr(torch, place.dtype))
    sam, (rows, columns) = assemble_sam2(network, processor), (processor.size[side] for side in ("height", "width"))
    if (rows, columns) != (sam.side_px, sam.side_px):
        raise WeightsError(
            "weights_mismatch",
            f"{folder}: {FILES[1]} makes pictures of {rows} x {columns} px, the network takes {sam.side_px}; "
            "take both from one model",
        )
    return sam


def assemble_sam2(network: Any, processor: Any) -> Sam2:  # noqa: ANN401 - a network may have no values
    """The Sam2 of a network whose encoder may be in a lower precision than the rest of it."""
    sam = Sam2(network, processor)
    if sam.dtype is not torch.float32:
        network.vision_encoder.register_forward_hook(_in_float32)
    return sam


def _in_float32(encoder: nn.Module, inputs: object, found: Any) -> Any:  # noqa: ANN401
    del encoder, inputs
    found.fpn_hidden_states = tuple(level.float() for level in found.fpn_hidden_states)
    return found
