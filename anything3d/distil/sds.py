"""Score distillation: which way to change latents so that the denoiser finds them likelier.

Source: DreamFusion, Poole et al. 2022, equation 3; weightings as in threestudio stable_diffusion_guidance.py @28d9d80
("sds"), SJC and 3DFuse ("uniform"), Fantasia3D ("fantasia3d").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.errors import ConfigError
from anything3d.models.adapter import Adapter
from anything3d.models.diffusion import Denoiser
from anything3d.models.finite import MAX_DROPPED
from anything3d.settings import Share, check_ranges

Weighting = Literal["sds", "uniform", "fantasia3d"]


@dataclass(frozen=True, slots=True)
class SdsConfig:
    """How hard, and at which noise, the denoiser pulls."""

    # Classifier-free guidance. DreamFusion and 3DFuse take 100.
    cfg_scale: Annotated[float, Interval(ge=0, le=1000)] = 2.5
    t_min: Share = 0.02  # Earliest timestep, as a share of all timesteps, in every step.
    t_max: Share = 0.60  # Latest timestep, as a share of all timesteps, in the first step.
    t_max_end: Share = 0.25  # The same in the last step; linear between.
    weighting: Weighting = "sds"  # w(t): 1 - alpha_bar as in DreamFusion ("sds"), 1 ("uniform"), or Fantasia3D's.
    hint_scale: Annotated[float, Interval(ge=0, le=100)] = 1.0  # Scale of the ControlNet's residuals; 0 gives no depth.
    # An object is rejected if a larger share of the denoiser's predictions is NaN or Inf. They are left out.
    max_dropped: Annotated[float, Interval(ge=0, lt=1)] = MAX_DROPPED

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.t_min > min(self.t_max, self.t_max_end):
            raise ConfigError(
                "setting",
                f"sds.t_min is {self.t_min}; at most t_max and t_max_end, {self.t_max} and {self.t_max_end}",
            )


def sample_timesteps(
    config: SdsConfig, progress: float, n_steps: int, generators: Sequence[torch.Generator], views: int = 1
) -> Int[Tensor, "BV"]:
    """Timesteps of `views` views of each object, uniform between the limits at `progress`, which runs from 0 to 1."""
    low = round(config.t_min * (n_steps - 1))
    high = round((config.t_max + (config.t_max_end - config.t_max) * progress) * (n_steps - 1))
    span = max(high - low, 0) + 1
    return low + (seed.rand((views,), generators).flatten() * span).long().clamp(max=span - 1)


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
    texts: tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"]],
    hint: Float[Tensor, "B 3 H W"] | None,
    t: Int[Tensor, "B"],
    noise: Float[Tensor, "B C h w"],
    config: SdsConfig,
    adapter: Adapter | None = None,
) -> tuple[Float[Tensor, "B C h w"], Bool[Tensor, "B"]]:
    """Gradient of the score-distillation loss with respect to the clean latents, float32, and which rows were dropped.

    w(t) (eps_guided - eps); the network's Jacobian is left out. `texts` is (prompt, no prompt). A prediction that is
    not finite is dropped: its row is 0, so that one bad step does not end an object; no other row is touched. Nothing
    here waits for the device.
    """
    predicted = denoiser.guided_noise(
        denoiser.add_noise(latents, noise, t), t, texts, hint, config.cfg_scale, config.hint_scale, adapter
    )
    w = weight(config.weighting, denoiser.alphas_cumprod[t]).view(-1, 1, 1, 1)
    gradient = w * (predicted - noise)
    dropped = ~gradient.isfinite().flatten(1).all(1)
    return torch.where(dropped.view(-1, 1, 1, 1), 0.0, gradient), dropped
