"""Point-E networks from a configuration or a folder of weights: ours, or an official checkpoint as it is."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from anything3d.errors import WeightsError
from anything3d.pointe.config import OFFICIAL, OFFICIAL_CLIP, SdfConfig, parse_clip, parse_network
from anything3d.pointe.networks import PointCloudSdf, PointDenoiser
from anything3d.weights import Place, directory


def build(config: Mapping[str, object], clip: Mapping[str, object]) -> PointDenoiser | PointCloudSdf:
    """The network of a configuration, with fresh weights from torch's global generator, in evaluation mode.

    Raises: WeightsError("weights_config") if the configuration is not one of a Point-E network.
    """
    parsed = parse_network(config)
    if isinstance(parsed, SdfConfig):
        return PointCloudSdf(parsed).eval()
    return PointDenoiser(parsed, parse_clip(clip)).eval()


def load_denoiser(name: str, place: Place) -> PointDenoiser:
    """The point denoiser of the weights `name`: config.json with model.safetensors, or one official .pt file.

    Raises: WeightsError if there is no such folder, or the files are damaged or of another network.
    """
    network = _load(name, place)
    if not isinstance(network, PointDenoiser):
        raise WeightsError("weights_config", f"{name} is {network.config.name}; a point denoiser is needed")
    return network


def load_sdf(name: str, place: Place) -> PointCloudSdf:
    """The signed distance network of the weights `name`; files and errors as for `load_denoiser`."""
    network = _load(name, place)
    if not isinstance(network, PointCloudSdf):
        raise WeightsError("weights_config", f"{name} is {network.config.name}; a signed distance network is needed")
    return network


def _load(name: str, place: Place) -> PointDenoiser | PointCloudSdf:
    config, clip, tensors = read(directory(name, place))
    with torch.device("meta"):
        network = build(config, clip)
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:  # names or shapes differ
        raise WeightsError("weights_mismatch", f"{name} does not fit {network.config.name}: {error}") from error
    return _placed(network, place)


def _placed(network: nn.Module, place: Place) -> PointDenoiser | PointCloudSdf:
    placed = network.to(device=place.device, dtype=getattr(torch, place.dtype)).eval().requires_grad_(False)
    assert isinstance(placed, PointDenoiser | PointCloudSdf)
    return placed


def read(folder: Path) -> tuple[Mapping[str, object], Mapping[str, object], dict[str, Tensor]]:
    """Configuration, CLIP sizes and tensors of a folder of weights.

    Raises: WeightsError if there is not exactly one network, or its files are damaged.
    """
    if (folder / "config.json").is_file():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            entry = json.loads((folder / "config.json").read_text())
            return entry["config"], entry["clip"], load_file(folder / "model.safetensors")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise WeightsError(
                "weights_damaged", f"{folder}: {error!r}; expected config and clip, and tensors"
            ) from error
    found = sorted(path for path in folder.glob("*.pt") if path.name in OFFICIAL)
    if len(found) != 1:
        raise WeightsError(
            "weights_missing",
            f"{folder} has {len(found)} Point-E checkpoints; put in config.json and model.safetensors, or one of "
            + ", ".join(OFFICIAL),
        )
    try:
        tensors = torch.load(found[0], map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError("weights_broken", f"{found[0]}: {error}; download it again") from error
    return OFFICIAL[found[0].name], OFFICIAL_CLIP, tensors
