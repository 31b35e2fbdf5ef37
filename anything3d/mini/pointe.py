"""A toy-sized Point-E: 512 points from an image's grid of features, then 512 more.

These networks predict the clean points. They see the whole image at every point and in every layer. They get the
coordinates as waves too, and they begin from what the image and the coarse cloud say about a point. At this size the
official design does not learn to use the image (noise prediction, image tokens only, bare coordinates).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from anything3d.models.pointe.loading import build as build_network
from anything3d.models.pointe.networks import PointDenoiser

CLIP = {"grid_size": 8, "grid_feature_dim": 128}  # of the toy-sized CLIP
SHARED = {
    "input_channels": 6,
    "output_channels": 6,  # no learned variance
    "heads": 4,
    "init_scale": 0.25,
    "time_token_cond": True,
    "prediction": "x0",
    "pooled_channels": 12,
    "pooled_width": 384,
    "wave_bands": 5,
    "known_reach": 0.04,
}
BASE = {
    "name": "CLIPImageGridPointDiffusionTransformer",
    "width": 128,
    "layers": 4,
    "n_ctx": 512,
    "shape_cells": 12,
    **SHARED,
}
UPSAMPLER = {
    "name": "CLIPImageGridUpsamplePointDiffusionTransformer",
    "width": 96,
    "layers": 4,
    "n_ctx": 512,
    "cond_ctx": 512,
    **SHARED,
}


@dataclass(frozen=True, slots=True)
class Networks:
    base: PointDenoiser
    upsampler: PointDenoiser


def build(seed: int) -> Networks:
    """Fresh networks, the same for the same seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks(_denoiser(BASE), _denoiser(UPSAMPLER))


def save(networks: Networks, directory: Path) -> None:
    """Write the weights folders `pointe` and `pointe-upsampler` into `directory`, float16."""
    save_base(networks.base, directory)
    save_upsampler(networks.upsampler, directory)


def save_base(network: PointDenoiser, directory: Path) -> None:
    """Write the weights folder `pointe`."""
    _write(directory / "pointe", BASE, network)


def save_upsampler(network: PointDenoiser, directory: Path) -> None:
    """Write the weights folder `pointe-upsampler`."""
    _write(directory / "pointe-upsampler", UPSAMPLER, network)


def _denoiser(config: dict[str, object]) -> PointDenoiser:
    return build_network(config, CLIP)


def _write(folder: Path, config: dict[str, object], network: PointDenoiser) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"config": config, "clip": CLIP}, indent=1) + "\n")
    save_file(
        {name: value.half().contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors"
    )
