"""The method "sds": RGB fields that start as the surface of their cloud, and are compared with cloud and photo.

Source: DreamFusion, Poole et al. 2022, for score distillation; Magic123, Qian et al. 2023, for the reference losses;
Points-to-3D, Yu et al. 2023, for the cloud as the first field and as a guide.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d.distil.evidence import Evidence
from anything3d.distil.gradient import sample_timesteps
from anything3d.distil.guide import Guide
from anything3d.distil.losses import LossTerms
from anything3d.distil.state import Optimizer, State
from anything3d.distil.step import Seen, Step
from anything3d.models.encoder import Encode
from anything3d.space.field import Field


@dataclass(frozen=True, slots=True)
class Sds:
    """Score distillation of RGB fields."""

    shared: Step
    encode: Encode  # what makes latents of views until `encoder_until`; then the denoiser's own encoder does

    @property
    def size(self) -> int:
        """Side of the views in pixels."""
        return self.shared.config.sds.render_size

    def first_field(
        self, evidence: Evidence, generators: Sequence[torch.Generator], surface: Field | None = None
    ) -> Field:
        """The surfaces of the clouds: `surface`, if somebody has made them."""
        del generators
        return evidence.surface(self.shared.config.field, self.shared.denoiser.device) if surface is None else surface

    def field(self, state: State) -> Field:
        """The field in a state."""
        return state.field(self.shared.config.field)

    def in_rgb(self, field: Field) -> Field:
        """The field as it leaves the method."""
        return field

    def optimizer(self, field: Field) -> Optimizer:
        """Density and colour have rates of their own."""
        config = self.shared.config.sds
        rates = ((field.density_grid, config.lr_density), (field.color_grid, config.lr_color))
        groups = [{"params": grid, "lr": rate} for grid, rate in rates]
        return torch.optim.Adam(groups, fused=field.density_grid.is_cuda)  # the CPU's is left as it rounds

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
        config = self.shared.config.sds
        loss, terms, lost = self.loss(guide, field, progress, generators)
        decay = config.lr_decay**progress
        for group, rate in zip(optimizer.param_groups, (config.lr_density, config.lr_color), strict=True):
            group["lr"] = rate * decay
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimizer.step()
        return torch.stack(terms, dim=1).detach(), lost

    def loss(
        self, guide: Guide, field: Field, progress: float, generators: Sequence[torch.Generator]
    ) -> tuple[Float[Tensor, "B"], LossTerms, Int[Tensor, "B"]]:
        """What a step makes smaller, its unweighted terms, and how many predictions were dropped."""
        config, shared = self.shared.config.sds, self._shared_at(progress)
        if progress < config.coarse_until:
            guide = guide.halved()
        seen = shared.see(field, guide, "angle", generators, jitter=True, weights=False)
        sds, lost = self._distil(shared, seen, guide, progress, generators)
        terms = shared.measure(field, seen, guide, sds, generators)
        return terms.weigh(config.losses, progress), terms, lost

    def _shared_at(self, progress: float) -> Step:
        """The parts of a step, with the denoiser's encoder and image size of this moment."""
        config, denoiser = self.shared.config.sds, self.shared.denoiser
        if progress < config.encoder_until:
            denoiser = dataclasses.replace(denoiser, encode=self.encode)
        if progress < config.denoiser_coarse_until:
            denoiser = denoiser.halved()
        return dataclasses.replace(self.shared, denoiser=denoiser)

    def _distil(
        self, shared: Step, seen: Seen, guide: Guide, progress: float, generators: Sequence[torch.Generator]
    ) -> tuple[Float[Tensor, "B"], Int[Tensor, "B"]]:
        """The loss `sds` of each object, and how many of its predictions were dropped."""
        config, denoiser = shared.config.sds, shared.denoiser
        if config.losses.sds == 0:
            zeros = seen.hint.new_zeros(len(generators))
            return zeros, zeros.long()  # the baseline without a denoiser: cloud and photo alone
        image = shared.over_greys(seen.random, config.background, generators)
        latents = denoiser.encode_image(image).float()
        n_steps, n_views = len(denoiser.alphas_cumprod), shared.config.views.count
        t = sample_timesteps(config.t_limits(progress), n_steps, generators, n_views, denoiser.device)
        prompt = shared.prompt(guide, seen, config.cfg_scale)
        sds, lost = shared.pull(latents, prompt, t, config.weighting, generators)
        return sds, shared.count_lost(lost, image, len(generators))
