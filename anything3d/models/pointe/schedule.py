"""Point-E's two noise schedules: what share of a cloud is left at each discrete time.

Source: openai/point-e@fc8a607 (gaussian_diffusion.py).
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise
from operator import mul
from typing import Literal, assert_never

Schedule = Literal["base", "upsample"]

TRAIN_STEPS = 1024  # discrete times of both schedules
COSINE_OFFSET = 0.008  # s of Nichol & Dhariwal 2021, eq. 17
MAX_BETA = 0.999  # of the cosine schedule


@cache
def alphas_cumprod(schedule: Schedule) -> tuple[float, ...]:
    """Share of signal variance left at each discrete time: cosine for the base, linear for the upsampler."""
    match schedule:
        case "base":
            signal = [
                math.cos((t / TRAIN_STEPS + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
                for t in range(TRAIN_STEPS + 1)
            ]
            betas = [min(1 - after / before, MAX_BETA) for before, after in pairwise(signal)]
        case "upsample":
            scale = 1000 / TRAIN_STEPS  # the linear schedule was made for 1000 steps
            low, high = 1e-4 * scale, 0.02 * scale
            betas = [low + (high - low) * t / (TRAIN_STEPS - 1) for t in range(TRAIN_STEPS)]
        case _:
            assert_never(schedule)
    return tuple(accumulate((1 - beta for beta in betas), mul))


def discrete_time(sigma: float, alphas_bar: Sequence[float]) -> int:
    """The discrete time with the noise level `sigma`: interpolated linearly in alpha_bar, then cut to an integer."""
    alpha_bar = 1 / (1 + sigma**2)
    if alpha_bar >= alphas_bar[0]:
        return 0
    after = next((t for t, value in enumerate(alphas_bar) if value <= alpha_bar), None)
    if after is None:
        return len(alphas_bar) - 1
    return after if alphas_bar[after] == alpha_bar else after - 1
