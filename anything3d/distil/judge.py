"""The verdict on distilled fields: whether each is an object, and whether it is better than its own cloud."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.distil.evidence import Evidence, Reconstructed
from anything3d.distil.guide import where_known
from anything3d.distil.losses import LossTerms
from anything3d.distil.state import State
from anything3d.errors import NumericsError
from anything3d.models.clip import Clip
from anything3d.models.diffusion import Denoiser
from anything3d.models.finite import check_network
from anything3d.quality.likeness import likeness
from anything3d.settings.reconstruct import ReconstructConfig
from anything3d.space.field import Field
from anything3d.space.reference import shrink
from anything3d.space.render import render


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges fields of the denoiser. Without a CLIP none is compared with its cloud, and every field is kept."""

    config: ReconstructConfig
    denoiser: Denoiser
    clip: Clip | None
    size: int  # px of the view from the reference camera
    max_points: int  # as `render` has it

    @torch.no_grad()
    def __call__(
        self, evidence: Evidence, field: Field, state: State, surface: Field | None = None
    ) -> list[Reconstructed | NumericsError]:
        """The fields of B objects, each judged from its reference camera, and beside the surface of its cloud.

        `field` is what `state`, the last one, has made, in RGB and on the denoiser's device. `surface` has the surfaces
        of the clouds, also there, if somebody has made them.

        The errors are NumericsError "denoiser_not_finite", "field_not_finite", "clip_not_finite", "field_empty" and
        "field_fog"; each concerns one object only.

        Raises: WeightsError as `check_network`.
        """
        config = self.config
        surface, rises = self._beside_clouds(evidence, field, surface)
        inside, outside = self._opacities(evidence, field)
        finite = field.density_grid.isfinite().flatten(1).all(1) & field.color_grid.isfinite().flatten(1).all(1)
        finite &= inside.isfinite() & outside.isfinite() & state.losses.isfinite().all(1).to(finite.device)
        dropped = (state.dropped / (config.views.count * max(state.step, 1))).tolist()
        self._check_networks(finite.tolist(), dropped, rises)
        rows = zip(
            finite.tolist(), dropped, inside.tolist(), outside.tolist(), state.losses.tolist(), rises, strict=True
        )
        outcomes: list[Reconstructed | NumericsError] = []
        for b, (sound, lost, opacity, fog, terms, rise) in enumerate(rows):
            worse = rise is not None and rise < -config.max_fall
            kept = (surface if worse else field).row(b).rounded().cpu()
            losses = dict(zip(LossTerms._fields, terms, strict=True))
            made = Reconstructed(kept, "cloud" if worse else "field", rise, losses, opacity, fog, lost)
            outcomes.append(_refusal(sound, lost, opacity, fog, rise, config) or made)
        return outcomes

    def _check_networks(self, finite: Sequence[bool], dropped: Sequence[float], rises: Sequence[float | None]) -> None:
        """Raises: WeightsError if denoiser or CLIP, and not the objects, must be the cause of NaN or Inf."""
        config, denoiser = self.config, self.denoiser
        lost = [
            share > config.max_dropped or (share > 0 and not sound)  # of a broken VAE, one ends the field
            for share, sound in zip(dropped, finite, strict=True)
        ]
        hint = bool(config.hint_scale)
        check_network(lost, lambda: denoiser.is_sound(hint), config.weights, denoiser.dtype)
        judged = [rise for rise, sound in zip(rises, finite, strict=True) if sound and rise is not None]
        if self.clip is not None:
            unlike = [not math.isfinite(rise) for rise in judged]
            check_network(unlike, self.clip.is_sound, config.clip_weights, self.clip.dtype)

    def _beside_clouds(
        self, evidence: Evidence, field: Field, surface: Field | None
    ) -> tuple[Field, list[float | None]]:
        """The clouds' surfaces, and by how much more the fields look like their photos than those do."""
        if self.clip is None:
            return field, [None] * len(field)
        device = self.denoiser.device
        _, camera = evidence.seen_cloud(device)
        surface = evidence.surface(field.config, device) if surface is None else surface
        after, before = (
            likeness(shown, camera, evidence.crops, self.clip, self.config.render, self.max_points)
            for shown in (field, surface)
        )
        return surface, (after - before).tolist()

    def _opacities(self, evidence: Evidence, field: Field) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Mean opacity inside the masks and, but for what may be hidden, outside, from the reference cameras."""
        config, device = self.config, self.denoiser.device
        cloud, camera = evidence.seen_cloud(device)
        mask = shrink(evidence.crops.to(device), self.size)[:, 3]
        clear = (1 - mask) * where_known(cloud, camera, mask, evidence.unseen_at(self.size, device), config.disc)
        alpha = render(field, camera, self.size, config.render, max_points=self.max_points).alpha
        inside, outside = ((alpha * share).sum((1, 2)) / share.sum((1, 2)).clamp_min(1e-6) for share in (mask, clear))
        return inside, outside


def _refusal(
    finite: bool, dropped: float, opacity: float, fog: float, rise: float | None, config: ReconstructConfig
) -> NumericsError | None:
    """Why a field is no object, if it is none."""
    if dropped > config.max_dropped:
        limit = f"at most {config.max_dropped:.0%} may be (reconstruct.max_dropped)"
        message = f"{dropped:.1%} of the denoiser's predictions are NaN or Inf, {limit}; try another dtype"
        return NumericsError("denoiser_not_finite", message)
    if not finite:
        message = f"the field has a NaN or Inf; lower the rates or cfg_scale of reconstruct.{config.backend}"
        return NumericsError("field_not_finite", message)
    if rise is not None and not math.isfinite(rise):
        return NumericsError("clip_not_finite", f"the CLIP similarity to the photo rises by {rise}; try another dtype")
    if opacity < config.min_opacity:
        message = (
            f"mean opacity inside the mask is {opacity:.3f}, at least {config.min_opacity} (reconstruct.min_opacity)"
        )
        return NumericsError("field_empty", message)
    if fog > config.max_fog:
        message = f"mean opacity outside the mask is {fog:.3f}, at most {config.max_fog} (reconstruct.max_fog)"
        return NumericsError("field_fog", message)
    return None
