"""What a Point-E network is made of, read from the entries of a config.json, and the four official ones.

Source: openai/point-e@fc8a607 (configs.py). `prediction`, `pooled_...`, `shape_cells`, `known_reach` and
`wave_bands` are ours, for networks of toy size; the official entries lack them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from anything3d.errors import WeightsError

Prediction = Literal["eps", "x0"]
T = TypeVar("T", int, float, str)

BASE = "CLIPImageGridPointDiffusionTransformer"
UPSAMPLER = "CLIPImageGridUpsamplePointDiffusionTransformer"

CHANNEL_SCALES = (2.0, 2.0, 2.0, 0.007843137255, 0.007843137255, 0.007843137255)  # model units per data unit; 2 / 255
CHANNEL_BIASES = (0.0, 0.0, 0.0, -1.0, -1.0, -1.0)  # model units


@dataclass(frozen=True, slots=True)
class ClipSizes:
    """Sizes of the CLIP image encoder that a network was made for."""

    grid_size: int  # tokens on a side
    grid_feature_dim: int  # of a grid token, before CLIP's last norm and projection


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A point denoiser. The time is always a token of its own, as in all official ones."""

    name: str
    width: int
    layers: int
    heads: int
    n_ctx: int  # points that it makes
    cond_ctx: int  # points of the coarse cloud that an upsampler sees; 0: a base network
    input_channels: int
    output_channels: int  # the first `input_channels` are the prediction, the others a variance that nobody reads here
    init_scale: float
    channel_scales: tuple[float, ...]
    channel_biases: tuple[float, ...]
    prediction: Prediction
    pooled_channels: int  # per grid token in the image vector that modulates every point; 0: none
    pooled_width: int  # of all tokens' channels, mixed
    shape_cells: int  # along a side of the grid of signed distances that a base network reads from the image; 0: none
    known_reach: (
        float  # model units, of the look-up from which points begin, in that shape or the coarse cloud; 0: none
    )
    wave_bands: int  # wavelengths of the coordinates that a point is also given as sines; 0: none


def parse_clip(entry: Mapping[str, object]) -> ClipSizes:
    return ClipSizes(
        grid_size=_read(entry, "grid_size", int),
        grid_feature_dim=_read(entry, "grid_feature_dim", int),
    )


def parse_network(entry: Mapping[str, object]) -> NetworkConfig:
    """Raises: WeightsError("weights_config") if the network is unknown, or a value missing or of another type."""
    name = _read(entry, "name", str)
    _check_heads(entry)
    if name not in (BASE, UPSAMPLER):
        raise WeightsError("weights_config", f"network {name!r} is unknown; known are {BASE}, {UPSAMPLER}")
    if entry.get("time_token_cond") is not True:
        raise WeightsError("weights_config", f"{name}: only conditions as tokens are built (time_token_cond)")
    prediction = _read(entry, "prediction", str, "eps")
    if prediction not in ("eps", "x0"):
        raise WeightsError("weights_config", f"prediction {prediction!r}; known are eps, x0")
    pooled_channels = _read(entry, "pooled_channels", int, 0)
    shape_cells, known_reach = _read(entry, "shape_cells", int, 0), _read(entry, "known_reach", float, 0.0)
    if shape_cells and not (pooled_channels and known_reach and name != UPSAMPLER):
        raise WeightsError("weights_config", f"{name} reads shape_cells from pooled tokens, for known_reach")
    if known_reach and not (prediction == "x0" and (shape_cells or name == UPSAMPLER)):
        raise WeightsError("weights_config", f"{name}: known_reach is for prediction x0, and needs something known")
    return NetworkConfig(
        name=name,
        width=_read(entry, "width", int),
        layers=_read(entry, "layers", int),
        heads=_read(entry, "heads", int),
        n_ctx=_read(entry, "n_ctx", int),
        cond_ctx=_read(entry, "cond_ctx", int) if name == UPSAMPLER else 0,
        input_channels=_read(entry, "input_channels", int),
        output_channels=_read(entry, "output_channels", int),
        init_scale=_read(entry, "init_scale", float, 0.25),
        channel_scales=_read_tuple(entry, "channel_scales", CHANNEL_SCALES),
        channel_biases=_read_tuple(entry, "channel_biases", CHANNEL_BIASES),
        prediction="x0" if prediction == "x0" else "eps",
        pooled_channels=pooled_channels,
        pooled_width=_read(entry, "pooled_width", int) if pooled_channels else 0,
        shape_cells=shape_cells,
        known_reach=known_reach,
        wave_bands=_read(entry, "wave_bands", int, 0),
    )


def _check_heads(entry: Mapping[str, object]) -> None:
    """Raises: WeightsError("weights_config") if the width cannot be shared out over the heads."""
    width, heads = _read(entry, "width", int), _read(entry, "heads", int)
    if width < 1 or heads < 1 or width % heads:
        raise WeightsError("weights_config", f"width = {width} cannot be shared out over heads = {heads}")


def _read(entry: Mapping[str, object], key: str, kind: type[T], default: T | None = None) -> T:
    """The value of `key`; with `default` None it must be there."""
    value = entry.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int | float) and value < 0):
        raise WeightsError(
            "weights_config", f"{key} = {value!r}; a value of type {kind.__name__}, not below 0, is needed"
        )
    return value


def _read_tuple(entry: Mapping[str, object], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    values = entry.get(key, default)
    numbers = isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)
    if not isinstance(values, list | tuple) or not numbers or len(values) != len(default):
        raise WeightsError("weights_config", f"{key} = {values!r}; a list of {len(default)} numbers is needed")
    return tuple(float(value) for value in values)


def _official(name: str, width: int, layers: int, heads: int, **extra: object) -> dict[str, object]:
    shared = {"input_channels": 6, "output_channels": 12, "time_token_cond": True, "init_scale": 0.25}
    return {"name": name, "width": width, "layers": layers, "heads": heads, "n_ctx": 1024, **shared, **extra}


OFFICIAL_CLIP = {"grid_size": 16, "grid_feature_dim": 1024}  # OpenAI CLIP ViT-L/14 at 224 px
OFFICIAL: Mapping[str, Mapping[str, object]] = {  # by file name
    "base_40m.pt": _official(BASE, 512, 12, 8),
    "base_300m.pt": _official(BASE, 1024, 24, 16),
    "base_1b.pt": _official(BASE, 2048, 24, 32),
    "upsample_40m.pt": _official(UPSAMPLER, 512, 12, 8) | {"n_ctx": 3072, "cond_ctx": 1024},
}
