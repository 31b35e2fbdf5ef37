"""CLIP: what an image or a text looks like to a network that was trained on both (Radford et al. 2021).

Point-E is conditioned on its grid of image features; the score compares views with the crop by its embeddings.
Weights are a transformers folder (`CLIPModel`, image processor, tokenizer); the packaged `clip` is the toy-sized one.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anything3d.errors import WeightsError
from anything3d.models.layout import (
    check_model_type,
    check_pictures,
    check_tokenizer_settings,
    read_settings,
    tensor_files,
)
from anything3d.models.stored import reading
from anything3d.models.weights import Place, directory

Network = TypeVar("Network", bound=nn.Module)
Tokenizer = TypeVar("Tokenizer")

SPARE_TOKENS = 2  # rows of a vocabulary that its tokenizer need not know; BLIP has [DEC] and [ENC]


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


@dataclass(frozen=True, slots=True)
class Clip:
    """A frozen CLIP: two towers, their projections into the common space, and what turns pixels and words into inputs.

    Results are float32 whatever the network's dtype. No gradient flows through any method.
    """

    vision: nn.Module
    text: nn.Module
    visual_projection: nn.Module
    text_projection: nn.Module
    preprocess: Preprocessor
    tokenize: Callable[[list[str]], tuple[Tensor, Tensor]]  # ids and attention mask, both Int "B L"
    feature_dim: int  # of an embedding
    grid_size: int  # patches along one side
    grid_feature_dim: int  # of one patch's feature
    image_size: int  # pixels along one side of what the network sees
    dtype: torch.dtype
    device: torch.device

    @torch.no_grad()  # not inference_mode: a Point-E that is being trained takes these as its input
    def image_grid(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C N"]:
        """Patch features, N = grid_size ** 2 in row order, of images in [0, 1].

        The last block's output tokens without the class token, before the final layer norm.
        Source: point-e `FrozenImageCLIP.embed_images_grid`.
        """
        tokens = self.vision(pixel_values=self._pixels(rgb)).last_hidden_state
        return tokens[:, 1:].mT.contiguous().float()

    @torch.no_grad()
    def image_embeddings(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Unit vectors of images in [0, 1]; their scalar products are cosine similarities."""
        pooled = self.vision(pixel_values=self._pixels(rgb)).pooler_output
        return F.normalize(self.visual_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def text_embeddings(self, texts: list[str]) -> Float[Tensor, "B D"]:
        """Unit vectors of texts; what exceeds the network's context length is cut off."""
        ids, attention = (values.to(self.device) for values in self.tokenize(texts))
        pooled = self.text(input_ids=ids, attention_mask=attention).pooler_output
        return F.normalize(self.text_projection(pooled).float(), dim=-1)

    def is_sound(self) -> bool:
        """Whether what it says of plain white is finite."""
        side = self.image_size
        return bool(self.image_embeddings(torch.ones(1, 3, side, side)).isfinite().all())

    def _pixels(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        return self.preprocess(rgb.to(self.device, torch.float32)).to(self.dtype)


def load_clip(name: str, place: Place) -> Clip:
    """The CLIP of a transformers folder, frozen.

    Raises: WeightsError if the folder is missing, incomplete, or holds another architecture.
    """
    from transformers import CLIPModel, CLIPTokenizer

    folder = directory(name, place)
    check_model_type(folder / "config.json", ("clip",))
    check_tokenizer_settings(folder, ("CLIPTokenizer",))
    model = load_network(CLIPModel.from_pretrained, folder, place)
    vision = model.config.vision_config
    preprocess = load_preprocessor(folder)
    tokenizer = load_tokenizer(CLIPTokenizer.from_pretrained, folder)
    check_tokenizer(len(tokenizer), model.config.text_config.vocab_size, folder)
    context = model.config.text_config.max_position_embeddings

    def tokenize(texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=context, return_tensors="pt")
        return tokens["input_ids"], tokens["attention_mask"]

    if preprocess.crop_px != vision.image_size or preprocess.resize_px < preprocess.crop_px:
        raise WeightsError(
            "weights_mismatch",
            f"{folder}: the image processor makes {preprocess.crop_px} px out of {preprocess.resize_px} px, "
            f"the network takes {vision.image_size} px; use the folder's original preprocessor_config.json",
        )
    return Clip(
        vision=model.vision_model,
        text=model.text_model,
        visual_projection=model.visual_projection,
        text_projection=model.text_projection,
        preprocess=preprocess,
        tokenize=tokenize,
        feature_dim=model.config.projection_dim,
        grid_size=vision.image_size // vision.patch_size,
        grid_feature_dim=vision.hidden_size,
        image_size=vision.image_size,
        dtype=model.dtype,
        device=model.device,
    )


def load_network(
    from_pretrained: Callable[..., tuple[Network, dict[str, Collection[str]]]], folder: Path, place: Place
) -> Network:
    """A transformers network from a local folder, frozen, in evaluation mode, at its place.

    Safetensors, or where there are none a pickle of which only tensors are read (`pytorch_model.bin`).

    Raises: WeightsError if the file is missing or damaged, or lacks a tensor of the architecture.
    """
    use_safetensors, variant = tensor_files(folder, "model.safetensors", "pytorch_model.bin")
    with reading(folder):
        network, report = from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=use_safetensors,
            variant=variant,
            weights_only=True,
            dtype=getattr(torch, place.dtype),
            output_loading_info=True,
        )
    if missing := sorted(map(str, report["missing_keys"])):
        raise WeightsError(
            "weights_mismatch",
            f"{folder}: {len(missing)} tensors of the architecture are missing, {missing[0]} among them; "
            "use a checkpoint of that architecture",
        )
    return network.requires_grad_(False).eval().to(place.device)


def load_tokenizer(from_pretrained: Callable[..., Tokenizer], folder: Path) -> Tokenizer:
    """Raises: WeightsError if its files are missing or damaged."""
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
