"""Point-E networks from a configuration or a folder of weights: ours, or an official checkpoint as it is."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from anything3d.errors import WeightsError
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
