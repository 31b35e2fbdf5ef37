"""One step of a distillation: all objects are seen, the denoiser is asked, and each object's field is updated."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.distil import losses
from anything3d.distil.config import ReconstructConfig
from anything3d.distil.evidence import Guide
from anything3d.distil.losses import LossTerms
from anything3d.distil.sds import sample_timesteps, sds_gradient
from anything3d.distil.state import Optimizer
from anything3d.distil.views import NamedViews, sample_views
from anything3d.models.diffusion import Denoiser
from anything3d.space.camera import Camera
from anything3d.space.cloud import Cloud
from anything3d.space.depth import depth_hint, splat
from anything3d.space.field import Field
from anything3d.space.render import Rendering, composite, render


@dataclass(frozen=True, slots=True)
class Step:
    """What every step needs of the networks and settings; holds nothing of the objects."""

    config: ReconstructConfig
    denoiser: Denoiser
    max_points: int  # as `render` has it

    def __call__(
        self,
        guide: Guide,
        field: Field,
        optimizer: Optimizer,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> tuple[Float[Tensor, "B L"], Int[Tensor, "B"]]:
        """One update of all objects; their unweighted losses, and how many predictions were dropped.

        `progress` runs from 0 to 1.
        """
        config, n_objects, size = self.config, len(field), guide.target.shape[-1]

        # See every object from random views and from the photo's
        views = sample_views(config.views, generators, guide.target.device)
        cameras = _interleave(views.camera, guide.camera, n_objects)
        rendering = render(field, cameras, size, config.render, generators if config.jitter else None, self.max_points)
        random, reference = _separate(rendering, n_objects)

        # Ask the denoiser about the random views, under the cloud's depth
        n_views = config.views.count
        cloud = Cloud(*(value.repeat_interleave(n_views, 0) for value in (guide.cloud.points, guide.cloud.colors)))
        radius = config.disc / cloud.points.shape[1] ** 0.5
        depth, _, silhouette = splat(cloud, views.camera, size, radius)
        if self.denoiser.image_size != size:  # a hint is as sharp as the denoiser can read it
            depth, _, _ = splat(cloud, views.camera, self.denoiser.image_size, radius)
        sds, lost = self._distil(guide, random, views, depth_hint(depth), progress, generators)

        # Add up what each object lacks
        background = seed.rand((3,), generators, guide.target.device)
        terms = LossTerms(
            sds=sds,
            reference_rgb=torch.zeros_like(sds)
            if config.field.latent
            else losses.reference_rgb(reference, guide.target, guide.known, background),
            reference_mask=losses.reference_mask(reference, guide.target, guide.known),
            silhouette=losses.opacity(random, silhouette, n_objects),
            tv=losses.total_variation(field),
            emptiness=losses.emptiness(random, n_objects),
        )

        # Update
        _set_rates(optimizer, config, progress)
        optimizer.zero_grad(set_to_none=True)
        terms.weigh(config.losses, progress).sum().backward()
        optimizer.step()
        return torch.stack(terms, dim=1).detach(), lost

    def _distil(
        self,
        guide: Guide,
        rendering: Rendering,
        views: NamedViews,
        hint: Float[Tensor, "BV 3 H W"],
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> tuple[Float[Tensor, "B"], Int[Tensor, "B"]]:
        """Half the mean square distance of each object's latents to where the denoiser would move them.

        Its gradient is the score-distillation gradient, over the number of latents. The second is how many predictions
        were dropped: the denoiser's of finite pictures; those of a field that is not finite are the field's fault.
        """
        config, denoiser, n_objects = self.config, self.denoiser, len(generators)
        if config.losses.sds == 0:
            zeros = hint.new_zeros(n_objects)
            return zeros, zeros.long()  # the baseline without a denoiser: cloud and photo alone
        low, high = config.background
        grey = low + (high - low) * seed.rand((config.views.count, 1), generators, hint.device).flatten(0, 1)
        image = composite(rendering, grey.expand(-1, rendering.color.shape[1]))
        latents = image if config.field.latent else denoiser.encode_image(image).float()
        shape = (config.views.count, *latents.shape[1:])
        t = sample_timesteps(config.sds, progress, len(denoiser.alphas_cumprod), generators, config.views.count)
        noise = seed.randn(shape, generators, latents.device).flatten(0, 1)
        owner = torch.arange(n_objects, device=latents.device).repeat_interleave(config.views.count)
        texts = guide.texts[views.prefix, owner], guide.no_text[owner]
        seen_hint = hint if config.sds.hint_scale else None
        t = t.to(latents.device)
        gradient, lost = sds_gradient(latents.detach(), denoiser, texts, seen_hint, t, noise, config.sds, guide.adapter)
        lost &= image.detach().isfinite().flatten(1).all(1)
        goal = (latents - gradient).detach()
        return (latents - goal).square().reshape(n_objects, -1).mean(1) / 2, lost.view(n_objects, -1).sum(1)


def _interleave(random: Camera, reference: Camera, n_objects: int) -> Camera:
    """Each object's random cameras and then its reference camera."""
    pairs = ((random.pose, reference.pose), (random.intrinsics, reference.intrinsics))
    pose, intrinsics = (
        torch.cat([several.unflatten(0, (n_objects, -1)), one[:, None]], dim=1).flatten(0, 1) for several, one in pairs
    )
    return Camera(pose, intrinsics)


def _separate(rendering: Rendering, n_objects: int) -> tuple[Rendering, Rendering]:
    """The random views and the reference views of `_interleave`."""
    values = (rendering.color, rendering.alpha, rendering.depth, rendering.weights)
    grouped = [value.unflatten(0, (n_objects, -1)) for value in values]
    return Rendering(*(value[:, :-1].flatten(0, 1) for value in grouped)), Rendering(
        *(value[:, -1] for value in grouped)
    )


def _set_rates(optimizer: Optimizer, config: ReconstructConfig, progress: float) -> None:
    decay = config.lr_decay**progress
    for group, rate in zip(optimizer.param_groups, (config.lr_density, config.lr_color), strict=True):
        group["lr"] = rate * decay
