"""What the steps of both methods have in common: objects are seen, the denoiser is asked, and losses are measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.distil import losses
from anything3d.distil.gradient import Prompt, sds_gradient
from anything3d.distil.guide import Guide
from anything3d.distil.losses import LossTerms
from anything3d.distil.views import NamedViews, Spread, sample_views
from anything3d.models.diffusion import Denoiser
from anything3d.settings.reconstruct import ReconstructConfig, Weighting
from anything3d.space.camera import Camera
from anything3d.space.depth import depth_hint, splat
from anything3d.space.field import Field
from anything3d.space.render import Rendering, composite, render


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step sees of B objects: V random views of each, and the view of its photo."""

    views: NamedViews  # the random ones
    random: Rendering
    reference: Rendering
    silhouette: Float[Tensor, "BV s s"]  # of the cloud in the random views
    hint: Float[Tensor, "BV 3 H W"]  # the cloud's depth there, as the denoiser reads it


@dataclass(frozen=True, slots=True)
class Step:
    """The parts of a step. It has the networks and settings, and nothing of the objects."""

    config: ReconstructConfig
    denoiser: Denoiser
    max_points: int  # as `render` has it

    def see(
        self,
        field: Field,
        guide: Guide,
        spread: Spread,
        generators: Sequence[torch.Generator],
        *,
        jitter: bool,
        weights: bool,
    ) -> Seen:
        """Every object from random views and from the photo's. With `jitter`, the samples of a ray are shifted.

        With `weights`, the renderings have the weights of their samples, for the loss `emptiness`.
        """
        config, n_objects, size = self.config, len(field), guide.target.shape[-1]
        views = sample_views(config.views, spread, generators, guide.target.device)
        cameras = _interleave(views.camera, guide.camera, n_objects)
        shifts = generators if jitter else None
        rendering = render(field, cameras, size, config.render, shifts, self.max_points, weights=weights)
        random, reference = _separate(rendering, n_objects)

        radius = config.disc / guide.cloud.points.shape[1] ** 0.5
        depth, _, silhouette = splat(guide.cloud, views.camera, size, radius)
        if self.denoiser.image_size != size:  # a hint is as sharp as the denoiser can read it
            depth, _, _ = splat(guide.cloud, views.camera, self.denoiser.image_size, radius)
        return Seen(views, random, reference, silhouette, depth_hint(depth))

    def over_greys(
        self, rendering: Rendering, limits: tuple[float, float], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "BV C s s"]:
        """The random views, each over a grey (or over latents that are all equal) of its own between the limits."""
        low, high = limits
        shares = seed.rand((self.config.views.count, 1), generators, rendering.color.device)
        grey = low + (high - low) * shares.flatten(0, 1)
        return composite(rendering, grey.expand(-1, rendering.color.shape[1]))

    def prompt(self, guide: Guide, seen: Seen, cfg_scale: float) -> Prompt:
        """What the denoiser is told of the random views: the object's words behind those of the view, and the hint."""
        rows = torch.arange(len(guide.no_text), device=guide.no_text.device)
        return Prompt(
            guide.texts[seen.views.prefix, rows],
            guide.no_text,
            cfg_scale,
            seen.hint if self.config.hint_scale else None,
            self.config.hint_scale,
            guide.adapter,
        )

    def pull(
        self,
        latents: Float[Tensor, "BV C h w"],
        prompt: Prompt,
        t: Int[Tensor, "BV"],
        weighting: Weighting,
        generators: Sequence[torch.Generator],
    ) -> tuple[Float[Tensor, "B"], Int[Tensor, "BV"]]:
        """Half the mean square distance of each object's latents to where the denoiser would move them.

        Its gradient is the score-distillation gradient, over the number of latents. The second says of which views the
        prediction was dropped (1, else 0).
        """
        noise = seed.randn((self.config.views.count, *latents.shape[1:]), generators, latents.device).flatten(0, 1)
        gradient, lost = sds_gradient(latents.detach(), self.denoiser, prompt, t, noise, weighting)
        goal = (latents - gradient).detach()
        return (latents - goal).square().reshape(len(generators), -1).mean(1) / 2, lost.long()

    def count_lost(self, lost: Int[Tensor, "BV"], image: Float[Tensor, "BV C s s"], n_objects: int) -> Int[Tensor, "B"]:
        """How many predictions of finite views were dropped. Those of a field that is not finite are its own fault."""
        return (lost * image.detach().isfinite().flatten(1).all(1)).view(n_objects, -1).sum(1)

    def measure(
        self,
        field: Field,
        seen: Seen,
        guide: Guide,
        sds: Float[Tensor, "B"],
        generators: Sequence[torch.Generator],
    ) -> LossTerms:
        """What each object lacks.

        Latents have no colour to compare with the photo's: their `reference_rgb` is 0. Views without weights have no
        `emptiness`: it is 0, too.
        """
        background = seed.rand((3,), generators, guide.target.device)
        return LossTerms(
            sds=sds,
            reference_rgb=torch.zeros_like(sds)
            if field.latent
            else losses.reference_rgb(seen.reference, guide.target, guide.known, background),
            reference_mask=losses.reference_mask(seen.reference, guide.target, guide.known),
            silhouette=losses.opacity(seen.random, seen.silhouette, len(field)),
            tv=losses.total_variation(field),
            emptiness=torch.zeros_like(sds)
            if seen.random.weights is None
            else losses.emptiness(seen.random.weights, len(field)),
        )


def _interleave(random: Camera, reference: Camera, n_objects: int) -> Camera:
    """Each object's random cameras and then its reference camera."""
    pairs = ((random.pose, reference.pose), (random.intrinsics, reference.intrinsics))
    pose, intrinsics = (
        torch.cat([several.unflatten(0, (n_objects, -1)), one[:, None]], dim=1).flatten(0, 1) for several, one in pairs
    )
    return Camera(pose, intrinsics)


def _separate(rendering: Rendering, n_objects: int) -> tuple[Rendering, Rendering]:
    """The random views and the reference views of `_interleave`."""
    each = len(rendering.alpha) // n_objects
    rows = torch.arange(len(rendering.alpha), device=rendering.alpha.device).view(n_objects, each)
    return rendering[rows[:, :-1].flatten()], rendering[rows[:, -1]]
