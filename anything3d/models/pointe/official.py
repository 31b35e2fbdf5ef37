"""The official `point-e` package as a second backend: its networks and its sampler on the same files.

For whoever wants clouds from the code of Point-E's owners, or doubts ours: both make the same clouds of the same noise
(tests/anything3d/test_official.py). It is slower: float32 whatever the dtype, attention through its whole matrix,
object by object where noise is added on the way.

Source: openai/point-e@fc8a607, installed by `pip install '.[point-e]'`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from unittest import mock

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anything3d.errors import ConfigError, WeightsError
from anything3d.models.finite import infinite_as_nan
from anything3d.models.pointe.config import ClipSizes, NetworkConfig, SdfConfig, parse_clip, parse_network
from anything3d.models.pointe.loading import described
from anything3d.models.pointe.schedule import Schedule
from anything3d.models.stored import fill, read_tensors
from anything3d.models.weights import Place, directory

if TYPE_CHECKING:
    from point_e.diffusion.k_diffusion import GaussianToKarrasDenoiser


@dataclass(frozen=True, slots=True)
class OfficialDenoiser:
    network: nn.Module
    config: NetworkConfig
    clip: ClipSizes


@dataclass(frozen=True, slots=True)
class _GivenEmbeddings(ClipSizes):
    """In the place of the CLIP that the package's networks would download: embeddings come from ours."""

    def __call__(self, batch_size: int, *, embeddings: Tensor, **none: None) -> Tensor:
        return embeddings


def load_denoiser(name: str, place: Place) -> OfficialDenoiser:
    """The official network of the weights `name`, float32; files as for `pointe.load_denoiser`.

    Raises: ConfigError if the package is not installed; WeightsError as `pointe.load_denoiser`, also for networks that
    only we have (the mini ones).
    """
    try:
        from point_e.models import configs, transformer
    except ImportError as error:
        raise ConfigError(
            "package_missing", f"lift.backend = point-e: {error}; pip install '.[point-e]' in the checkout"
        ) from error
    entry, clip_entry, path = described(directory(name, place))
    config, clip = parse_network(entry), parse_clip(clip_entry)
    if isinstance(config, SdfConfig):
        raise WeightsError("weights_config", f"{name} is {config.name}; a point denoiser is needed")
    try:
        with mock.patch.object(transformer, "FrozenImageCLIP", return_value=_GivenEmbeddings(**asdict(clip))):
            network = configs.model_from_config(dict(entry), torch.device("meta"))
    except TypeError as error:  # entries that they do not know
        raise WeightsError("weights_mismatch", f"{name} is no network of the point-e package: {error}") from error
    fill(network, read_tensors(path), path)
    network.register_forward_hook(lambda module, inputs, output: infinite_as_nan(output))  # the sampler clamps
    return OfficialDenoiser(network.to(place.device, torch.float32).eval().requires_grad_(False), config, clip)


@torch.no_grad()
def sample(
    network: OfficialDenoiser,
    schedule: Schedule,
    noise: Float[Tensor, "B C N"],
    *,
    steps: int = 64,
    sigma_min: float = 1e-3,
    sigma_max: float = 120.0,
    rho: float = 7.0,
    s_churn: float = 0.0,
    guidance: float = 3.0,
    embeddings: Float[Tensor, "B D *G"] | None = None,
    low_res: Float[Tensor, "B C M"] | None = None,
    around_low_res: bool = False,
    generators: Sequence[torch.Generator] = (),
) -> Float[Tensor, "B C N"]:
    """What `pointe.sample` does, by the package's sampler; there, too, is what the arguments mean."""
    from point_e.diffusion import configs, k_diffusion

    assert not around_low_res, "the official sampler begins around 0 only"
    assert s_churn == 0 or generators, "churn needs generators"
    diffusion = configs.diffusion_from_config(configs.DIFFUSION_CONFIGS["base40M" if schedule == "base" else schedule])
    denoiser = k_diffusion.GaussianToKarrasDenoiser(network.network, diffusion)
    sigmas = k_diffusion.get_sigmas_karras(steps, sigma_min, sigma_max, rho, device=noise.device)
    conditions = {"embeddings": embeddings, "low_res": low_res}
    owners = generators if s_churn else (None,)  # the package's noise is torch's global one: object by object
    rows = torch.arange(len(noise)).chunk(len(owners))
    clouds = []
    for own, owner in zip(rows, owners, strict=True):
        seen = {name: value[own].float() for name, value in conditions.items() if value is not None}
        denoise = _guided(denoiser, seen, guidance)
        with _global_noise_from(owner, noise.device):
            *_, last = k_diffusion.sample_heun(denoise, noise[own].float() * sigma_max, sigmas, s_churn=s_churn)
        clouds.append(diffusion.unscale_channels(last["pred_xstart"]))
    return torch.cat(clouds)


def _guided(
    denoiser: "GaussianToKarrasDenoiser", conditions: Mapping[str, Tensor], guidance: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """x and its noise level [B] to the clean cloud expected behind it."""
    if guidance in (0, 1):
        return lambda x, sigma: denoiser.denoise(x, sigma, model_kwargs=conditions)[1]
    both = {name: torch.cat([value, torch.zeros_like(value)]) for name, value in conditions.items()}

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        clean = denoiser.denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), model_kwargs=both)[1]
        conditional, unconditional = clean.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return denoise


@contextmanager
def _global_noise_from(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """torch's global noise is `generator`'s for a while; on a GPU, whose numbers differ, only its seed is."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        if generator is not None:
            torch.set_rng_state(generator.get_state())
            if gpus:
                torch.cuda.manual_seed(generator.initial_seed())
        yield
        if generator is not None:
            generator.set_state(torch.get_rng_state())
