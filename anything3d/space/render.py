"""Volume rendering: what cameras see of fields. Equal steps through the cube sum up emission and absorption.

Source: NeRF, Mildenhall et al. 2020, equation 3; the quadrature is nerfacc's.
"""

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d import seed
from anything3d.settings.reconstruct import MAX_POINTS, RenderConfig
from anything3d.space.camera import Camera, rays
from anything3d.space.field import Field, Solid

NEAR = 1e-3  # canonical length; nothing closer to the eye is seen
VISIBLE = 1e-3  # opacity below which a pixel has no depth


@dataclass(frozen=True, slots=True)
class Rendering:
    """What each camera sees. `weights` are the shares of the samples, from near to far, in their pixel's `alpha`."""

    color: Float[Tensor, "BV C H W"]  # premultiplied by alpha
    alpha: Float[Tensor, "BV H W"]  # opacity, 0..1
    depth: Float[Tensor, "BV H W"]  # expected distance along -z of the camera of what stops the light; inf where clear
    weights: Float[Tensor, "BV H W S"]


def render(
    field: Field,
    camera: Camera,
    size: int,
    config: RenderConfig,
    generators: Sequence[torch.Generator] | None = None,
    max_points: int = MAX_POINTS,
) -> Rendering:
    """Square images of `size` pixels; differentiable with respect to the field.

    `camera` has V rows for each object, object by object. Samples lie in the middle of their steps; with `generators`
    (one per object) each ray's samples are shifted together by up to half a step, against banding. `max_points` samples
    of all objects are looked up at a time; it changes memory and pace only.
    """
    V = len(camera) // len(field)
    if V * len(field) != len(camera) or V == 0:
        raise ValueError(f"{len(camera)} cameras cannot be shared out evenly among {len(field)} fields")
    origins, directions = (value.reshape(len(field), -1, 3) for value in rays(camera, size, size))
    shift = torch.full_like(origins[..., 0], 0.5)
    if generators is not None:
        shift = seed.rand(origins.shape[1:2], generators, device=origins.device)

    step = max(1, max_points // (len(field) * config.samples))  # rays of each object at a time
    pieces = zip(origins.split(step, 1), directions.split(step, 1), shift.split(step, 1), strict=True)
    solid = field.solid(config.empty)
    marched = [_march(solid, *piece, config.samples) for piece in pieces]
    color, alpha, length, weights = (torch.cat(parts, dim=1) for parts in zip(*marched, strict=True))

    image = (len(camera), size, size)
    alpha, weights = alpha.reshape(image), weights.reshape(*image, -1)
    forward = -camera.pose[:, None, None, :3, 2]
    along = (directions.reshape(*image, 3) * forward).sum(-1)  # cosine between a ray and the axis
    depth = length.reshape(image) * along / alpha.clamp_min(VISIBLE)
    depth = torch.where(alpha >= VISIBLE, depth, torch.inf)
    return Rendering(color.reshape(*image, -1).permute(0, 3, 1, 2), alpha, depth, weights)


def composite(rendering: Rendering, background: Float[Tensor, "BV C"] | float) -> Float[Tensor, "BV C H W"]:
    """The rendering over one colour per image, or over one grey for all."""
    if isinstance(background, Tensor):
        background = background[:, :, None, None]
    return rendering.color + (1 - rendering.alpha[:, None]) * background


def _march(
    solid: Solid,
    origins: Float[Tensor, "B N 3"],
    directions: Float[Tensor, "B N 3"],
    shift: Float[Tensor, "B N"],
    samples: int,
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N S"]]:
    """Colour, opacity, expected ray length times opacity, and sample weights of each ray."""
    nerfacc = _load_nerfacc()
    near, far = _cube_interval(origins, directions, solid.field.config.half)
    stride = ((far - near) / samples)[..., None]
    starts = near[..., None] + torch.arange(samples, device=near.device) * stride
    lengths = starts + shift[..., None] * stride  # S along each ray
    points = origins[:, :, None] + lengths[..., None] * directions[:, :, None]
    hit, some_density, some_color = solid.density_color(points.flatten(1, 2))

    rows = (-1, samples)
    density = some_density.new_zeros(starts.numel()).index_copy(0, hit, some_density)
    weights, _, _ = nerfacc.render_weight_from_density(
        starts.reshape(rows), (starts + stride).reshape(rows), density.reshape(rows)
    )
    values = torch.cat([some_color, lengths.flatten()[hit, None], torch.ones_like(some_color[:, :1])], dim=1)
    summed = nerfacc.accumulate_along_rays(weights.flatten()[hit], values, hit // samples, near.numel())
    color, length, alpha = summed.reshape(*near.shape, -1).split([some_color.shape[1], 1, 1], dim=-1)
    return color, alpha[..., 0], length[..., 0], weights.reshape(*near.shape, samples)


@cache
def _load_nerfacc() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in its docstrings, when Python compiles them
        return importlib.import_module("nerfacc")


def _cube_interval(
    origins: Float[Tensor, "B N 3"], directions: Float[Tensor, "B N 3"], half: float
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Where rays enter and leave the cube (slab method); an empty interval, near == far, where they miss it."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    first, second = (-half - origins) / safe, (half - origins) / safe
    near = torch.minimum(first, second).amax(-1).clamp_min(NEAR)
    far = torch.maximum(first, second).amin(-1)
    return near, torch.maximum(near, far)
