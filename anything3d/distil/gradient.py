"""Score distillation: how latents should change so that the denoiser finds them more likely.

Source: DreamFusion, Poole et al. 2022, equation 3; weightings as in threestudio stable_diffusion_guidance.py @28d9d80
("sds"), SJC and 3DFuse ("uniform"), Fantasia3D ("fantasia3d").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.models.adapter import Adapter
from anything3d.models.diffusion import Denoiser
from anything3d.settings.reconstruct import Weighting


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the denoiser is told of each of B views, and how strongly it follows."""

    text: Float[Tensor, "B L D"]
    no_text: Float[Tensor, "B L D"]  # the same without words, for guidance
    cfg_scale: float  # of classifier-free guidance
    hint: Float[Tensor, "B 3 H W"] | None = None  # None: no depth
    hint_scale: float = 1.0
    adapter: Adapter | None = None


def sample_timesteps(
    limits: tuple[float, float],
    n_steps: int,
    generators: Sequence[torch.Generator],
    views: int = 1,
    device: torch.device | str = "cpu",
) -> Int[Tensor, "BV"]:
    """Timesteps of `views` views of each object, uniform between the limits, which are shares of all timesteps."""
    low, high = (round(limit * (n_steps - 1)) for limit in limits)
    span = max(high - low, 0) + 1
    return low + (seed.rand((views,), generators, device).flatten() * span).long().clamp(max=span - 1)


def weight(weighting: Weighting, alpha_bar: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """w(t)."""
    match weighting:
        case "sds":
            return 1 - alpha_bar
        case "uniform":
            return torch.ones_like(alpha_bar)
        case "fantasia3d":
            return alpha_bar.sqrt() * (1 - alpha_bar)
        case _:
            assert_never(weighting)


@torch.no_grad()
def sds_gradient(
    latents: Float[Tensor, "B C h w"],
    denoiser: Denoiser,
    prompt: Prompt,
    t: Int[Tensor, "B"],
    noise: Float[Tensor, "B C h w"],
    weighting: Weighting,
) -> tuple[Float[Tensor, "B C h w"], Bool[Tensor, "B"]]:
    """Gradient of the score-distillation loss with respect to the clean latents, float32, and which rows were dropped.

    w(t) (eps_guided - eps); the network's Jacobian is left out. A prediction that is not finite is dropped: its row is
    0, so that one bad step does not end an object; no other row is touched. Nothing here waits for the device.
    """
    texts, noisy = (prompt.text, prompt.no_text), denoiser.add_noise(latents, noise, t)
    predicted = denoiser.guided_noise(noisy, t, texts, prompt.hint, prompt.cfg_scale, prompt.hint_scale, prompt.adapter)
    w = weight(weighting, denoiser.alphas_cumprod[t]).view(-1, 1, 1, 1)
    gradient = w * (predicted - noise)
    dropped = ~gradient.isfinite().flatten(1).all(1)
    return torch.where(dropped.view(-1, 1, 1, 1), 0.0, gradient), dropped
