"""Point-E's two noise schedules: what share of a cloud is left at each discrete time.

Source: openai/point-e@fc8a607 (gaussian_diffusion.py).
"""

import math
from collections.abc import Sequence
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Literal["base", "upsample"]

TRAIN_STEPS = 1024  # discrete times of both schedules
COSINE_OFFSET = 0.008  # s of Nichol & Dhariwal 2021, eq. 17
MAX_BETA = 0.999  # of the cosine schedule


def alphas_cumprod(schedule: Schedule) -> Float[Tensor, "T"]:
    """Share of signal variance left at each discrete time, float64: cosine for the base, linear for the upsampler."""
    match schedule:
        case "base":
            angle = (torch.arange(TRAIN_STEPS + 1, dtype=torch.float64) / TRAIN_STEPS + COSINE_OFFSET) / (
                1 + COSINE_OFFSET
            )
            signal = torch.cos(angle * math.pi / 2) ** 2
            betas = (1 - signal[1:] / signal[:-1]).clamp(max=MAX_BETA)
        case "upsample":
            scale = 1000 / TRAIN_STEPS  # the linear schedule was made for 1000 steps
            betas = torch.linspace(1e-4 * scale, 0.02 * scale, TRAIN_STEPS, dtype=torch.float64)
        case _:
            assert_never(schedule)
    return (1 - betas).cumprod(0)


def discrete_time(sigma: float, alphas_bar: Sequence[float]) -> int:
    """The discrete time with the noise level `sigma`: interpolated linearly in alpha_bar, then cut to an integer."""
    alpha_bar = 1 / (1 + sigma**2)
    if alpha_bar >= alphas_bar[0]:
        return 0
    after = next((t for t, value in enumerate(alphas_bar) if value <= alpha_bar), None)
    if after is None:
        return len(alphas_bar) - 1
    return after if alphas_bar[after] == alpha_bar else after - 1
