"""SAM or SAM 2 from a folder of weights: an official checkpoint, or one of any other size.

An official checkpoint of SAM is `sam_vit_b_01ec64.pth` or one of its larger siblings; its tensors' shapes tell which.
For any other size the folder has `config.json` and `model.safetensors`; the packaged `sam` is the toy-sized one. A
folder of transformers is SAM 2's.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anything3d.errors import WeightsError
from anything3d.models.layout import read_settings
from anything3d.models.sam.prompting import Sam
from anything3d.models.sam.sam1 import Sam1
from anything3d.models.sam.sam2 import load_sam2
from anything3d.models.tensors import fill, read_tensors
from anything3d.models.weights import Place, directly_in, directory

OFFICIAL = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # segment_anything's registry, by the encoder's width
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


def load_sam(name: str, place: Place) -> Sam:
    """The SAM or SAM 2 of a weights folder, frozen; `place.dtype` is the precision of its encoder.

    Raises: WeightsError if the folder is missing, holds no or several checkpoints, or they are damaged; also if its
    name begins with "sam2", and it is none.
    """
    folder = directory(name, place)
    has_config = (folder / "config.json").exists()
    if folder.name.startswith("sam2") or (has_config and "model_type" in read_settings(folder / "config.json")):
        return load_sam2(folder, place)
    dtype = getattr(torch, place.dtype)
    network = _load_shaped(folder) if has_config else _load_official(folder, dtype)
    network = network.requires_grad_(False).eval().to(place.device)
    network.image_encoder.to(dtype)
    return assemble(network)


def assemble(network: Any) -> Sam1:  # noqa: ANN401 - segment_anything comes without types
    """The Sam1 of a network whose encoder may be in a lower precision than the rest of it."""
    sam = Sam1(network)
    if (dtype := sam.dtype) is not torch.float32:
        network.image_encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
        network.image_encoder.register_forward_hook(lambda _, inputs, features: features.float())
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
