"""RGB of a field of latents: what a Score Jacobian Chaining field of Stable Diffusion's latents looks like."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anything3d.models.diffusion import Denoiser
from anything3d.settings.reconstruct import MAX_POINTS, POINT_E_DISTANCE, POINT_E_FOV_DEG, RenderConfig
from anything3d.space.camera import orbit
from anything3d.space.field import Field
from anything3d.space.render import composite, render

VIEWS = 8  # all round
ELEVATION_DEG = 20.0
RGB_RANGE = (0.005, 0.995)  # of nodes, so that their raw values stay finite


@torch.no_grad()
def to_rgb(
    field: Field, denoiser: Denoiser, background: float, config: RenderConfig, max_points: int = MAX_POINTS
) -> Field:
    """The RGB field that comes nearest to the decoded views of a latent one: one affine map of colour per object.

    The map is a least-squares fit over the pixels of views all round, weighted by opacity; views are as large as the
    denoiser's latents, over latents of `background`, and the decoded ones are averaged down to that. As far as the
    decoder is affine in a latent, nothing is lost but sharpness.
    """
    device, count = field.density_grid.device, VIEWS * len(field)
    azimuth = torch.arange(count, device=device) * (360 / VIEWS)
    elevation, distance, fov = (
        azimuth.new_full((count,), value) for value in (ELEVATION_DEG, POINT_E_DISTANCE, POINT_E_FOV_DEG)
    )
    size = denoiser.image_size // denoiser.latent_scale
    seen = render(field, orbit(azimuth, elevation, distance, fov), size, config, max_points=max_points)
    latents = composite(seen, background)
    decoded = torch.cat([denoiser.decode_latents(views).float() for views in latents.split(VIEWS)])
    rgb = nn.functional.interpolate(decoded, (size, size), mode="area")

    x, y, opacity = (_pixels(value, len(field)) for value in (_with_one(latents), rgb, seen.alpha[:, None]))
    ridge = 1e-6 * torch.eye(x.shape[-1], device=device)  # decides where hardly anything is seen
    affine = torch.linalg.solve(x.mT @ (opacity * x) + ridge, x.mT @ (opacity * y))
    nodes = affine.mT @ _with_one(field.color_grid).flatten(2)
    color = nodes.clamp(*RGB_RANGE).logit().unflatten(2, field.color_grid.shape[2:])
    return Field(field.density_grid.detach(), color, field.config)


def _with_one(value: Float[Tensor, "B C *space"]) -> Float[Tensor, "B D *space"]:
    """One more channel, of ones."""
    return torch.cat([value, torch.ones_like(value[:, :1])], dim=1)


def _pixels(views: Float[Tensor, "BV C H W"], n_objects: int) -> Float[Tensor, "B N C"]:
    """All pixels of each object's views."""
    return views.unflatten(0, (n_objects, -1)).movedim(2, -1).flatten(1, 3)
