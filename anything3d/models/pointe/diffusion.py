"""Sampling of Point-E's diffusion: guidance and Karras' stochastic Heun solver.

The sampler works in model units, and in the variance-exploding form x = x0 + sigma * eps. The network sees
x / sqrt(1 + sigma^2).

Source: openai/point-e@fc8a607 (k_diffusion.py); Karras et al. 2022 (arXiv 2206.00364), alg. 2.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d import seed
from anything3d.models.finite import infinite_as_nan
from anything3d.models.pointe.networks import PointDenoiser
from anything3d.models.pointe.schedule import Schedule, alphas_cumprod, discrete_time
from anything3d.settings.lift import SamplerConfig


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Noise levels from `sigma_max` down to `sigma_min`, evenly spaced in sigma^(1/rho), then 0: steps + 1 values."""
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    share = (i / max(steps - 1, 1) for i in range(steps))
    return [(high + s * (low - high)) ** rho for s in share] + [0.0]


@torch.inference_mode()
def sample(
    network: PointDenoiser,
    schedule: Schedule,
    noise: Float[Tensor, "B C N"],
    embeddings: Float[Tensor, "B D G"],
    config: SamplerConfig,
    low_res: Float[Tensor, "B C M"] | None = None,
    generators: Sequence[torch.Generator] = (),
) -> Float[Tensor, "B C N"]:
    """Clouds in data units (rgb 0..255, not rounded) from unit normal `noise`.

    `embeddings` are CLIP's grids of the images. `low_res` are the coarse clouds that an upsampler needs, in data units.
    The noise of `config.s_churn` comes from `generators`; each of them serves B / len(generators) rows in turn.
    """
    assert config.s_churn == 0 or generators, "churn needs generators"
    denoise = _Denoise(network, schedule, config.guidance, embeddings, low_res)
    sigmas = karras_sigmas(config.steps, config.sigma_min, config.sigma_max, config.rho)
    gamma = min(config.s_churn / config.steps, math.sqrt(2) - 1)
    x = noise.float() * config.sigma_max
    if config.around_low_res:
        assert low_res is not None, "there is no coarse cloud to begin around"
        times = -(-x.shape[2] // low_res.shape[2])
        x = x + network.model_units(low_res).float().repeat(1, 1, times)[..., : x.shape[2]]
    clean = x
    for sigma, lower in pairwise(sigmas):
        if gamma > 0:
            fresh = seed.randn((len(x) // len(generators), *x.shape[1:]), generators, x.device).flatten(0, 1)
            x = x + fresh * math.sqrt((sigma * (1 + gamma)) ** 2 - sigma**2)
        raised = sigma * (1 + gamma)
        clean = denoise(x, raised)
        slope = (x - clean) / raised
        trial = x + slope * (lower - raised)
        if lower > 0:  # Heun: the mean of the slopes at both ends
            slope = (slope + (trial - denoise(trial, lower)) / lower) / 2
        x = x + slope * (lower - raised)
    return _to_data(clean, network)


class _Denoise:
    """The clean cloud (model units) expected behind x at noise level sigma."""

    def __init__(
        self,
        network: PointDenoiser,
        schedule: Schedule,
        guidance: float,
        embeddings: Tensor,
        low_res: Tensor | None,
    ) -> None:
        self.network = network
        self.dtype = network.input_proj.weight.dtype
        self.alphas_bar = alphas_cumprod(schedule)
        self.guidance = guidance
        self.guided = guidance not in (0, 1)
        self.embeddings = self._with_zeros(embeddings)
        self.low_res = None if low_res is None else self._with_zeros(low_res)

    def __call__(self, x: Float[Tensor, "B C N"], sigma: float) -> Float[Tensor, "B C N"]:
        seen = x / math.sqrt(1 + sigma**2)
        t = discrete_time(sigma, self.alphas_bar)
        rows = torch.cat([seen, seen]) if self.guided else seen
        times = torch.full((len(rows),), t, device=x.device)
        out = self.network(rows.to(self.dtype), times, embeddings=self.embeddings, low_res=self.low_res)
        prediction = out[:, : x.shape[1]].float()
        match self.network.config.prediction:
            case "eps":
                alpha_bar = self.alphas_bar[t]
                clean = rows / math.sqrt(alpha_bar) - math.sqrt(1 / alpha_bar - 1) * prediction
            case "x0":
                clean = prediction
            case unknown:
                assert_never(unknown)
        clean = infinite_as_nan(clean).clamp(-1, 1)
        if not self.guided:
            return clean
        conditional, unconditional = clean.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)

    def _with_zeros(self, condition: Tensor) -> Tensor:
        condition = condition.to(self.dtype)
        return torch.cat([condition, torch.zeros_like(condition)]) if self.guided else condition


def _to_data(cloud: Float[Tensor, "B C N"], network: PointDenoiser) -> Float[Tensor, "B C N"]:
    scales = torch.tensor(network.config.channel_scales, device=cloud.device)[:, None]
    biases = torch.tensor(network.config.channel_biases, device=cloud.device)[:, None]
    return (cloud - biases) / scales
