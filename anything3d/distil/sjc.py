"""The method "sjc": score Jacobian chaining as the authors of Anything-3D run it, with the code of 3DFuse.

The colours of a field are latents of the denoiser. The field starts as fog, and neither the cloud's colours nor the
photo are compared with it. At the end it is told in RGB.
Source: Score Jacobian Chaining, Wang et al. 2023; 3DFuse, Seo et al. 2023, run_3DFuse.py @571c3ae.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d.distil.evidence import Evidence
from anything3d.distil.gradient import sample_timesteps
from anything3d.distil.guide import Guide
from anything3d.distil.latents import to_rgb
from anything3d.distil.losses import LossTerms
from anything3d.distil.state import Optimizer, State
from anything3d.distil.step import Step
from anything3d.space.field import Field

BACKGROUND = 1.0  # the latents behind all views; 3DFuse calls them white, they decode to a grey green


@dataclass(frozen=True, slots=True)
class Sjc:
    """Score Jacobian chaining of latent fields."""

    shared: Step

    @property
    def size(self) -> int:
        """Side of the views, in latents."""
        return self.shared.denoiser.image_size // self.shared.denoiser.latent_scale

    def first_field(
        self, evidence: Evidence, generators: Sequence[torch.Generator], surface: Field | None = None
    ) -> Field:
        """Fog."""
        del evidence, surface
        return Field.fog(self.shared.config.field, generators, self.shared.denoiser.latent_channels)

    def field(self, state: State) -> Field:
        """The field in a state."""
        return state.field(self.shared.config.field, latent=True)

    def in_rgb(self, field: Field) -> Field:
        """The field as it leaves the method."""
        return to_rgb(field, self.shared.denoiser, BACKGROUND, self.shared.config.render, self.shared.max_points)

    def optimizer(self, field: Field) -> Optimizer:
        """Adamax, of one rate all along."""
        grids = (field.density_grid, field.color_grid)
        return torch.optim.Adamax([{"params": grid} for grid in grids], lr=self.shared.config.sjc.lr)

    def update(
        self,
        guide: Guide,
        field: Field,
        optimizer: Optimizer,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> tuple[Float[Tensor, "B L"], Int[Tensor, "B"]]:
        """One step of all objects; their unweighted losses, and how many predictions were dropped.

        `progress` runs from 0 to 1.
        """
        loss, terms, lost = self.loss(guide, field, progress, generators)
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimizer.step()
        return torch.stack(terms, dim=1).detach(), lost

    def loss(
        self, guide: Guide, field: Field, progress: float, generators: Sequence[torch.Generator]
    ) -> tuple[Float[Tensor, "B"], LossTerms, Int[Tensor, "B"]]:
        """What a step makes smaller, its unweighted terms, and how many predictions were dropped."""
        shared, config, denoiser = self.shared, self.shared.config.sjc, self.shared.denoiser
        seen = shared.see(field, guide, "area", generators, jitter=False, weights=True)
        latents = shared.over_greys(seen.random, (BACKGROUND, BACKGROUND), generators)
        n_steps, n_views = len(denoiser.alphas_cumprod), shared.config.views.count
        t = sample_timesteps((config.t_min, config.t_max), n_steps, generators, n_views, denoiser.device)
        prompt = shared.prompt(guide, seen, config.cfg_scale)
        sds, lost = shared.pull(latents, prompt, t, "uniform", generators)
        terms = shared.measure(field, seen, guide, sds, generators)

        # 3DFuse sums over the latents of a view, where `sds` is a mean
        emptiness = config.emptiness if progress < 0.5 else config.emptiness_late
        loss = latents[0].numel() * terms.sds + emptiness * terms.emptiness
        return loss, terms, shared.count_lost(lost, latents, len(field))
