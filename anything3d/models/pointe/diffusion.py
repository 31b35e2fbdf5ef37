"""Sampling of Point-E's diffusion: guidance and Karras' stochastic Heun solver.

Work is in model units and in the variance-exploding form x = x0 + sigma * eps; the network sees x / sqrt(1 + sigma^2).

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
    """Clouds in data units (rgb 0..255, not rounded) from unit normal `noise`.

    `guidance` 0 or 1 means none; with any other value each call runs twice the batch, half of it on zeroed conditions.
    `s_churn` adds fresh noise at every step from `generators`, each of which serves B / len(generators) rows in turn.
    `around_low_res` begins with the noise laid around the coarse points, over and over, not around 0.
    Official: 64 steps, sigma_min 0.001, rho 7; base: sigma_max 120, s_churn 3; upsampler: sigma_max 160, no churn.
    """
    assert s_churn == 0 or generators, "churn needs generators"
    denoise = _Denoise(network, schedule, guidance, embeddings, low_res)
    sigmas = karras_sigmas(steps, sigma_min, sigma_max, rho)
    gamma = min(s_churn / steps, math.sqrt(2) - 1)
    x = noise.float() * sigma_max
    if around_low_res:
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
        embeddings: Tensor | None,
        low_res: Tensor | None,
    ) -> None:
        self.network = network
        self.dtype = network.input_proj.weight.dtype
        self.alphas_bar: list[float] = alphas_cumprod(schedule).tolist()
        self.guidance = guidance
        self.guided = guidance not in (0, 1)
        self.embeddings = self._with_zeros(embeddings)
        self.low_res = self._with_zeros(low_res)

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

    def _with_zeros(self, condition: Tensor | None) -> Tensor | None:
        if condition is None:
            return None
        condition = condition.to(self.dtype)
        return torch.cat([condition, torch.zeros_like(condition)]) if self.guided else condition


def _to_data(cloud: Float[Tensor, "B C N"], network: PointDenoiser) -> Float[Tensor, "B C N"]:
    scales = torch.tensor(network.config.channel_scales, device=cloud.device)[:, None]
    biases = torch.tensor(network.config.channel_biases, device=cloud.device)[:, None]
    return (cloud - biases) / scales
