"""Loading parts of transformers and diffusers folders: networks, tokenizers, noise schedules, image processors.

BLIP, CLIP and the Denoiser are loaded by this file. `layout.py` checks beforehand that a folder is of a kind that is
understood; `tensors.py` says which file of tensors is taken.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anything3d.errors import WeightsError
from anything3d.models.layout import check_pictures, read_settings
from anything3d.models.tensors import reading, tensor_files
from anything3d.models.weights import Place

Library = Literal["transformers", "diffusers"]
Network = TypeVar("Network", bound=nn.Module)
Settings = TypeVar("Settings")  # a tokenizer or a noise schedule

TENSORS: Mapping[Library, tuple[str, str]] = {  # safetensors, and a pickle
    "transformers": ("model.safetensors", "pytorch_model.bin"),
    "diffusers": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
}
SPARE_TOKENS = 2  # rows of a vocabulary that its tokenizer need not know; BLIP has [DEC] and [ENC]


def load_network(
    from_pretrained: Callable[..., tuple[Network, dict[str, Collection[str]]]],
    folder: Path,
    place: Place,
    library: Library = "transformers",
) -> Network:
    """A network from a local folder, frozen, in evaluation mode, at its place.

    Safetensors are read, or where there are none a pickle, of which only tensors are read.

    Raises: WeightsError if the file is missing or damaged, or lacks a tensor of the architecture.
    """
    dtype = getattr(torch, place.dtype)
    use_safetensors, variant = tensor_files(folder, *TENSORS[library])
    with reading(folder):
        network, report = from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=use_safetensors,
            variant=variant,
            output_loading_info=True,
            **({"torch_dtype": dtype} if library == "diffusers" else {"dtype": dtype, "weights_only": True}),
        )
    if missing := sorted(map(str, report["missing_keys"])):
        raise WeightsError(
            "weights_mismatch",
            f"{folder}: {len(missing)} tensors of the architecture are missing, {missing[0]} among them; "
            "use a checkpoint of that architecture",
        )
    return at(place, network)


def at(place: Place, network: Network) -> Network:
    """The network at its place, frozen, in evaluation mode.

    On a GPU the weights of convolutions lie channels last, as the tensor cores read them. Otherwise cuDNN would turn
    them at every call. What a network says does not depend on it, but for rounding.
    """
    placed = network.requires_grad_(False).eval().to(place.device)
    return placed if place.device == "cpu" else placed.to(memory_format=torch.channels_last)


def load_settings(from_pretrained: Callable[..., Settings], folder: Path) -> Settings:
    """A part that has no tensors: a tokenizer or a noise schedule.

    Raises: WeightsError if its files are missing or damaged.
    """
    with reading(folder):
        return from_pretrained(folder, local_files_only=True)


def check_tokenizer(tokens: int, vocabulary: int, folder: Path) -> None:
    """A tokenizer knows the network's vocabulary but for a few spare rows (BLIP's begin and encode tokens).

    transformers reads a folder without tokenizer files as a tokenizer that knows its special tokens only.
    Raises: WeightsError if they do not belong together.
    """
    if not vocabulary - SPARE_TOKENS <= tokens <= vocabulary:
        raise WeightsError(
            "weights_mismatch",
            f"{folder}: the tokenizer knows {tokens} tokens, the network {vocabulary}; "
            "put the checkpoint's own tokenizer.json or vocabulary files there",
        )


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """An image processor's settings, applied to tensors: shorter side to `resize_px` (bicubic, antialiased), centre
    crop to a square of `crop_px`, then (rgb - mean) / std."""

    resize_px: int
    crop_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        height, width = rgb.shape[-2:]
        shorter = min(height, width)
        size = [self.resize_px * height // shorter, self.resize_px * width // shorter]
        if size != [height, width]:
            rgb = F.interpolate(rgb, size, mode="bicubic", antialias=True).clamp(0, 1)  # bicubic overshoots
        top, left = (round((side - self.crop_px) / 2) for side in size)
        rgb = rgb[..., top : top + self.crop_px, left : left + self.crop_px]
        mean, std = (rgb.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (rgb - mean) / std


def load_preprocessor(folder: Path) -> Preprocessor:
    """The settings of a transformers image processor, of today's form or that of the official CLIP folders.

    Where they name height and width instead of the shorter side (BLIP), only squares may be given to it.
    Raises: WeightsError if preprocessor_config.json is missing or broken.
    """
    path = folder / "preprocessor_config.json"
    settings: Any = read_settings(path)
    check_pictures(path, settings)
    try:
        resize_px = _side_px(settings["size"])
        return Preprocessor(
            resize_px=resize_px,
            crop_px=_side_px(settings["crop_size"]) if settings.get("do_center_crop") else resize_px,
            mean=_three(settings["image_mean"]),
            std=_three(settings["image_std"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            "weights_broken", f"{folder}/preprocessor_config.json: {error!r}; download the folder again"
        ) from error


def _side_px(size: object) -> int:
    if isinstance(size, dict):
        if size.get("height") != size.get("width"):
            raise ValueError(f"size {size} is no square")
        size = size["shortest_edge"] if "shortest_edge" in size else size["height"]
    if type(size) is not int or size < 1:
        raise ValueError(f"size is {size!r}")
    return size


def _three(values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != 3 or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{values!r} are not three numbers")
    return tuple(values)
