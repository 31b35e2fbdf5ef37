"""What a Point-E network is made of, read from the entries of a config.json, and the eight official ones.

Source: openai/point-e@fc8a607 (configs.py). `prediction`, `pooled_...`, `shape_cells`, `known_reach` and
`wave_bands` are ours, for networks of toy size; the official entries lack them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from anything3d.errors import WeightsError

Image = Literal["none", "vector", "grid"]
Prediction = Literal["eps", "x0"]
T = TypeVar("T", int, float, str)

IMAGES: Mapping[str, Image] = {
    "PointDiffusionTransformer": "none",
    "CLIPImagePointDiffusionTransformer": "vector",
    "CLIPImageGridPointDiffusionTransformer": "grid",
    "CLIPImageGridUpsamplePointDiffusionTransformer": "grid",
}
UPSAMPLER = "CLIPImageGridUpsamplePointDiffusionTransformer"
SDF = "CrossAttentionPointCloudSDFModel"

CHANNEL_SCALES = (2.0, 2.0, 2.0, 0.007843137255, 0.007843137255, 0.007843137255)  # model units per data unit; 2 / 255
CHANNEL_BIASES = (0.0, 0.0, 0.0, -1.0, -1.0, -1.0)  # model units


@dataclass(frozen=True, slots=True)
class ClipSizes:
    """Sizes of the CLIP image encoder that a network was made for."""

    feature_dim: int  # of an image's (or a text's) vector
    grid_size: int  # tokens on a side
    grid_feature_dim: int  # of a grid token, before CLIP's last norm and projection


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A point denoiser. The time is always a token of its own, as in all official ones."""

    name: str
    image: Image
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


@dataclass(frozen=True, slots=True)
class SdfConfig:
    name: str
    width: int
    n_ctx: int
    encoder_layers: int
    encoder_heads: int
    decoder_layers: int
    decoder_heads: int
    init_scale: float


def parse_clip(entry: Mapping[str, object]) -> ClipSizes:
    return ClipSizes(
        feature_dim=_read(entry, "feature_dim", int),
        grid_size=_read(entry, "grid_size", int),
        grid_feature_dim=_read(entry, "grid_feature_dim", int),
    )


def parse_network(entry: Mapping[str, object]) -> NetworkConfig | SdfConfig:
    """Raises: WeightsError("weights_config") if the network is unknown, or a value missing or of another type."""
    name = _read(entry, "name", str)
    if name == SDF:
        return _parse_sdf(entry)
    _check_heads(entry)
    if name not in IMAGES:
        raise WeightsError("weights_config", f"network {name!r} is unknown; known are {', '.join([*IMAGES, SDF])}")
    if entry.get("time_token_cond") is not True or (IMAGES[name] == "vector" and entry.get("token_cond") is not True):
        raise WeightsError(
            "weights_config", f"{name}: only conditions as tokens are built (time_token_cond, token_cond)"
        )
    prediction = _read(entry, "prediction", str, "eps")
    if prediction not in ("eps", "x0"):
        raise WeightsError("weights_config", f"prediction {prediction!r}; known are eps, x0")
    pooled_channels = _read(entry, "pooled_channels", int, 0)
    if pooled_channels and IMAGES[name] != "grid":
        raise WeightsError("weights_config", f"{name} has no grid of image tokens to pool")
    shape_cells, known_reach = _read(entry, "shape_cells", int, 0), _read(entry, "known_reach", float, 0.0)
    if shape_cells and not (pooled_channels and known_reach and name != UPSAMPLER):
        raise WeightsError("weights_config", f"{name} reads shape_cells from pooled tokens, for known_reach")
    if known_reach and not (prediction == "x0" and (shape_cells or name == UPSAMPLER)):
        raise WeightsError("weights_config", f"{name}: known_reach is for prediction x0, and needs something known")
    return NetworkConfig(
        name=name,
        image=IMAGES[name],
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


def _check_heads(entry: Mapping[str, object], part: str = "") -> None:
    """Raises: WeightsError("weights_config") if the width cannot be shared out over the heads."""
    width, heads = _read(entry, "width", int), _read(entry, f"{part}heads", int)
    if width < 1 or heads < 1 or width % heads:
        raise WeightsError("weights_config", f"width = {width} cannot be shared out over {part}heads = {heads}")


def _parse_sdf(entry: Mapping[str, object]) -> SdfConfig:
    for part in ("encoder_", "decoder_"):
        _check_heads(entry, part)
    return SdfConfig(
        name=SDF,
        width=_read(entry, "width", int),
        n_ctx=_read(entry, "n_ctx", int),
        encoder_layers=_read(entry, "encoder_layers", int),
        encoder_heads=_read(entry, "encoder_heads", int),
        decoder_layers=_read(entry, "decoder_layers", int),
        decoder_heads=_read(entry, "decoder_heads", int),
        init_scale=_read(entry, "init_scale", float, 0.25),
    )


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


OFFICIAL_CLIP = {"feature_dim": 768, "grid_size": 16, "grid_feature_dim": 1024}  # OpenAI CLIP ViT-L/14 at 224 px
OFFICIAL: Mapping[str, Mapping[str, object]] = {  # by file name
    "base_40m_imagevec.pt": _official("CLIPImagePointDiffusionTransformer", 512, 12, 8, token_cond=True),
    "base_40m_textvec.pt": _official("CLIPImagePointDiffusionTransformer", 512, 12, 8, token_cond=True),
    "base_40m_uncond.pt": _official("PointDiffusionTransformer", 512, 12, 8),
    "base_40m.pt": _official("CLIPImageGridPointDiffusionTransformer", 512, 12, 8),
    "base_300m.pt": _official("CLIPImageGridPointDiffusionTransformer", 1024, 24, 16),
    "base_1b.pt": _official("CLIPImageGridPointDiffusionTransformer", 2048, 24, 32),
    "upsample_40m.pt": _official(UPSAMPLER, 512, 12, 8) | {"n_ctx": 3072, "cond_ctx": 1024},
    "sdf.pt": {
        "name": SDF,
        "width": 256,
        "n_ctx": 4096,
        "encoder_layers": 8,
        "encoder_heads": 4,
        "decoder_layers": 4,
        "decoder_heads": 4,
        "init_scale": 0.25,
    },
}
