"""What stands in for the VAE's encoder in the first steps of a distillation: views to latents at less cost.

The gradient of score distillation passes back through it. At the size of Stable Diffusion 1.5, the VAE's encoder takes
half of all operations of a step. "taesd" is a small network that was trained to give the same latents. "linear" is
an affine map of the mean colours around each latent.

Source: TAESD, https://github.com/madebyollin/taesd; its latents are the VAE's after scaling. That four latents of
Stable Diffusion are nearly an affine map of colours is known from previews of latents.
"""

from collections.abc import Callable
from typing import Any, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anything3d.errors import WeightsError
from anything3d.models.diffusion import Denoiser
from anything3d.models.layout import check_taesd
from anything3d.models.pretrained import load_network
from anything3d.models.weights import Place, directory
from anything3d.settings.reconstruct import SdsConfig

Encode = Callable[[Tensor], Tensor]  # "B 3 H W" in [-1, 1] to scaled latents "B C h w"

REACH = 3  # latents along one side of the square whose colours a latent of the linear map depends on
PICTURES, LATENTS = 32, 16  # how many pictures an encoder is compared on, and latents along one side of each
LEAST_EXPLAINED = 0.5  # share of the latents' variance; an encoder of another family of models has a share below 0


def load_encoder(config: SdsConfig, denoiser: Denoiser, place: Place) -> Encode:
    """The encoder that `config.encoder` names.

    Raises: WeightsError if the weights of a TAESD are missing, damaged, or no encoder of this denoiser's latents.
    """
    match config.encoder:
        case "vae":
            return denoiser.encode
        case "taesd":
            return load_taesd(config.encoder_weights, denoiser, place)
        case "linear":
            return fit_linear(denoiser)
        case _:
            assert_never(config.encoder)


def load_taesd(name: str, denoiser: Denoiser, place: Place) -> Encode:
    """The encoder of a diffusers AutoencoderTiny, frozen. Both halves of it are read.

    Raises: WeightsError as `load_encoder`.
    """
    from diffusers import AutoencoderTiny

    folder = directory(name, place)
    check_taesd(folder)
    network = load_network(AutoencoderTiny.from_pretrained, folder, place, "diffusers")
    encode = of_taesd(network)
    advice = (
        "reconstruct.sds.encoder_weights must name a TAESD that was made for this denoiser: taesd for the mini one, "
        "taesd-sd for Stable Diffusion 1 and 2"
    )
    pixels = judged_pictures(denoiser)
    with torch.no_grad():
        expected, found = denoiser.encode(pixels).float(), encode(pixels).float()
    if found.shape != expected.shape:
        raise WeightsError(
            "weights_mismatch",
            f"{folder} makes latents of {_shape(found)} where the denoiser has {_shape(expected)}; {advice}",
        )
    share = explained(found, expected)
    if not share >= LEAST_EXPLAINED:
        raise WeightsError(
            "weights_mismatch",
            f"{folder} explains {share:.2f} of the variance of the denoiser's latents, at least {LEAST_EXPLAINED} is "
            f"needed; {advice}",
        )
    return encode


def of_taesd(network: Any) -> Encode:  # noqa: ANN401 - diffusers comes without types
    """The encoder of an AutoencoderTiny."""
    scaling = network.config.scaling_factor
    return lambda pixels: network.encode(pixels).latents * scaling


@torch.no_grad()
def fit_linear(denoiser: Denoiser) -> Encode:
    """The affine map from mean colours to latents that is nearest to the VAE's encoder on `pictures`: least squares.

    Each latent is a sum of the mean colours below it and below its 8 neighbours. The fit is in float64 on the CPU, so
    that one VAE always gets the same map, up to rounding.
    """
    scale, pixels = denoiser.latent_scale, judged_pictures(denoiser)
    latents = denoiser.encode(pixels).double().cpu().flatten(2)
    colors = F.unfold(_around(F.avg_pool2d(pixels.double().cpu(), scale)), REACH)
    known, wanted = (values.movedim(1, 2).flatten(0, 1) for values in (colors, latents))
    solution = torch.linalg.lstsq(F.pad(known, (0, 1), value=1.0), wanted).solution
    kernel, offset = solution[:-1].T.unflatten(1, (3, REACH, REACH)), solution[-1]
    kernel, offset = (values.to(denoiser.device, denoiser.dtype).contiguous() for values in (kernel, offset))
    return of_colors(kernel, offset, scale)


def of_colors(kernel: Float[Tensor, "C 3 k k"], offset: Float[Tensor, "C"], scale: int) -> Encode:
    """The affine map of the mean colours of squares of `scale` pixels."""
    return lambda pixels: F.conv2d(_around(F.avg_pool2d(pixels, scale)), kernel, offset)


def judged_pictures(denoiser: Denoiser) -> Float[Tensor, "N 3 S S"]:
    """The pictures on which an encoder is compared with the denoiser's own, in [-1, 1]; always the same."""
    drawn = pictures(PICTURES, LATENTS * denoiser.latent_scale, torch.Generator().manual_seed(0))
    return (drawn * 2 - 1).to(denoiser.device, denoiser.dtype)


def pictures(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "N 3 S S"]:
    """Things of two shaded parts on white or on some grey, in [0, 1]: what an encoder sees in a distillation."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    def smooth(channels: int, cells: int) -> Float[Tensor, "N c S S"]:
        return F.interpolate(rand(channels, cells, cells), (side, side), mode="bilinear", align_corners=True)

    axis = torch.linspace(-1, 1, side)
    picture = torch.where(rand(1, 1, 1) < 0.5, 1.0, rand(1, 1, 1)).expand(count, 3, side, side)
    for _ in range(2):
        x, y = (rand(2, 1, 1) * 0.6 - 0.3).unbind(1)
        distance = ((axis - x).square() + (axis[:, None] - y).square()).sqrt() / (0.4 + 0.6 * rand(1, 1))
        inside = 0.2 + 0.8 * smooth(1, 4)[:, 0] > 0.8 * distance
        picture = torch.where(inside[:, None], rand(3, 1, 1) * (0.4 + 0.6 * smooth(1, 3)), picture)
    return picture


def _around(colors: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 H W"]:
    """With the outermost cells repeated, so that every cell has 8 neighbours."""
    return F.pad(colors, (REACH // 2,) * 4, mode="replicate")


def explained(found: Float[Tensor, "N C h w"], expected: Float[Tensor, "N C h w"]) -> float:
    """Which share of the variance of the expected latents the found ones explain: 1 at best; it may be below 0."""
    unexplained = (found - expected).square().sum()
    return float(1 - unexplained / (expected - expected.mean((0, 2, 3), keepdim=True)).square().sum())


def _shape(latents: Tensor) -> str:
    channels, height, width = latents.shape[1:]
    return f"{channels} x {height} x {width}"
