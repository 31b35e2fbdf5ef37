"""Point-E networks from a configuration or a folder of weights: ours, or an official checkpoint as it is."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from anything3d.errors import WeightsError
from anything3d.models.clip import Clip
from anything3d.models.pointe.config import OFFICIAL, OFFICIAL_CLIP, parse_clip, parse_network
from anything3d.models.pointe.networks import PointDenoiser
from anything3d.models.tensors import fill, read_tensors
from anything3d.models.weights import Place, directly_in, directory


def build(config: Mapping[str, object], clip: Mapping[str, object]) -> PointDenoiser:
    """The network of a configuration, with fresh weights from torch's global generator, in evaluation mode.

    Raises: WeightsError("weights_config") if the configuration is not one of a Point-E network.
    """
    return PointDenoiser(parse_network(config), parse_clip(clip)).eval()


def load_point_denoiser(name: str, place: Place) -> PointDenoiser:
    """The point denoiser of the weights `name`: config.json with model.safetensors, or one official .pt file.

    Raises: WeightsError if there is no such folder, or the files are damaged or of another network.
    """
    config, clip, path = described(directory(name, place))
    with torch.device("meta"):
        network = build(config, clip)
    fill(network, read_tensors(path, getattr(torch, place.dtype)), path)
    return network.to(place.device).requires_grad_(False)


def load_pair(base_name: str, upsampler_name: str, place: Place) -> tuple[PointDenoiser, PointDenoiser]:
    """A base network and an upsampler that takes as many points as the base network makes.

    Raises: WeightsError as `load_point_denoiser`; "weights_mismatch" if they are no such pair.
    """
    base, upsampler = load_point_denoiser(base_name, place), load_point_denoiser(upsampler_name, place)
    if base.config.cond_ctx or not upsampler.config.cond_ctx:
        raise WeightsError("weights_mismatch", f"{base_name} must be a base network and {upsampler_name} an upsampler")
    if upsampler.config.cond_ctx != base.config.n_ctx:
        raise WeightsError(
            "weights_mismatch",
            f"{upsampler_name} takes {upsampler.config.cond_ctx} points, {base_name} makes {base.config.n_ctx}",
        )
    return base, upsampler


def check_clip(network: PointDenoiser, name: str, clip: Clip) -> None:
    """Raises: WeightsError("weights_mismatch") if the network `name` was made for another CLIP."""
    needed = [network.clip.grid_size, network.clip.grid_feature_dim]
    given = [clip.grid_size, clip.grid_feature_dim]
    if needed != given:
        raise WeightsError("weights_mismatch", f"{name} was made for CLIP features {needed}; this CLIP gives {given}")


def described(folder: Path) -> tuple[Mapping[str, object], Mapping[str, object], Path]:
    """Configuration, CLIP sizes and file of tensors of a folder of weights.

    Raises: WeightsError if there is not exactly one network, or its configuration is damaged.
    """
    if (folder / "config.json").is_file():
        try:
            entry = json.loads((folder / "config.json").read_text())
            config, clip = entry["config"], entry["clip"]
            if not isinstance(config, dict) or not isinstance(clip, dict):
                raise TypeError(f"config is {config!r:.40}, clip is {clip!r:.40}")
            return config, clip, folder / "model.safetensors"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                "weights_broken", f"{folder}/config.json: {error!r}; expected config and clip"
            ) from error
    checkpoints = [path for path in directly_in(folder, ".pt") if path.name in OFFICIAL]
    if len(checkpoints) != 1:
        raise WeightsError(
            "weights_missing",
            f"{folder} has {len(checkpoints)} Point-E checkpoints; put in config.json and model.safetensors, or one of "
            + ", ".join(OFFICIAL),
        )
    return OFFICIAL[checkpoints[0].name], OFFICIAL_CLIP, checkpoints[0]
