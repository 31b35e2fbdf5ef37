"""The official `point-e` package as the golden twin of ours: its networks and its sampler on the same files.

It works in float32 whatever the dtype, and object by object where noise is added on the way.

Source: openai/point-e@fc8a607. The package is on no index; `pip install 'point-e @
git+https://github.com/openai/point-e@fc8a607c08a3ea804cc82bf1ef8628f88a3a5d2f'` installs it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from anything3d.models.finite import infinite_as_nan
from anything3d.models.pointe.config import ClipSizes, parse_clip
from anything3d.models.pointe.loading import described
from anything3d.models.pointe.schedule import Schedule
from anything3d.models.tensors import fill, read_tensors
from anything3d.models.weights import Place, directory
from anything3d.settings.lift import SamplerConfig


@dataclass(frozen=True, slots=True)
class _GivenEmbeddings(ClipSizes):
    """In the place of the CLIP that the package's networks would download: embeddings come from ours."""

    def __call__(self, batch_size: int, *, embeddings: Tensor, **none: None) -> Tensor:
        return embeddings


def load_network(name: str, place: Place) -> nn.Module:
    """The official network of the weights `name`, float32; files as for `pointe.load_point_denoiser`."""
    from point_e.models import configs, transformer

    entry, clip, path = described(directory(name, place))
    with mock.patch.object(transformer, "FrozenImageCLIP", return_value=_GivenEmbeddings(**asdict(parse_clip(clip)))):
        network = configs.model_from_config(dict(entry), torch.device("meta"))
    fill(network, read_tensors(path), path)
    network.register_forward_hook(lambda module, inputs, output: infinite_as_nan(output))  # the sampler clamps
    return network.to(place.device, torch.float32).eval().requires_grad_(False)


@torch.no_grad()
def sample(
    network: nn.Module,
    schedule: Schedule,
    noise: Tensor,
    embeddings: Tensor,
    config: SamplerConfig,
    low_res: Tensor | None = None,
    generators: Sequence[torch.Generator] = (),
) -> Tensor:
    """What `pointe.sample` does, by the package's sampler; there, too, is what the arguments mean."""
    from point_e.diffusion import configs, k_diffusion

    assert not config.around_low_res, "the official sampler begins around 0 only"
    assert config.s_churn == 0 or generators, "churn needs generators"
    diffusion = configs.diffusion_from_config(configs.DIFFUSION_CONFIGS["base40M" if schedule == "base" else schedule])
    denoiser = k_diffusion.GaussianToKarrasDenoiser(network, diffusion)
    sigmas = k_diffusion.get_sigmas_karras(
        config.steps, config.sigma_min, config.sigma_max, config.rho, device=noise.device
    )
    conditions = {"embeddings": embeddings, "low_res": low_res}
    owners = generators if config.s_churn else (None,)  # the package's noise is torch's global one: object by object
    rows = torch.arange(len(noise)).chunk(len(owners))
    clouds = []
    for own, owner in zip(rows, owners, strict=True):
        seen = {name: value[own].float() for name, value in conditions.items() if value is not None}
        denoise = _guided(denoiser, seen, config.guidance)
        with _global_noise_from(owner, noise.device):
            start = noise[own].float() * config.sigma_max
            *_, last = k_diffusion.sample_heun(denoise, start, sigmas, s_churn=config.s_churn)
        clouds.append(diffusion.unscale_channels(last["pred_xstart"]))
    return torch.cat(clouds)


def _guided(denoiser: Any, conditions: Mapping[str, Tensor], guidance: float) -> Callable[[Tensor, Tensor], Tensor]:
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
