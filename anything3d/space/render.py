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
from anything3d.space.camera import Camera, rays_through
from anything3d.space.field import Field, Solid

NEAR = 1e-3  # canonical length; nothing closer to the eye is seen
VISIBLE = 1e-3  # opacity below which a pixel has no depth


@dataclass(frozen=True, slots=True)
class Rendering:
    """What each camera sees. `weights` are the shares of the samples, from near to far, in their pixel's `alpha`."""

    color: Float[Tensor, "BV C H W"]  # premultiplied by alpha
    alpha: Float[Tensor, "BV H W"]  # opacity, 0..1
    depth: Float[Tensor, "BV H W"]  # expected distance along -z of the camera of what stops the light; inf where clear
    weights: Float[Tensor, "BV H W S"] | None = None  # None where nobody has asked for them

    def __getitem__(self, rows: slice | Tensor) -> "Rendering":
        weights = None if self.weights is None else self.weights[rows]
        return Rendering(self.color[rows], self.alpha[rows], self.depth[rows], weights)

    def to(self, device: torch.device | str) -> "Rendering":
        weights = None if self.weights is None else self.weights.to(device)
        return Rendering(self.color.to(device), self.alpha.to(device), self.depth.to(device), weights)


def render(
    field: Field,
    camera: Camera,
    size: int,
    config: RenderConfig,
    generators: Sequence[torch.Generator] | None = None,
    max_points: int = MAX_POINTS,
    *,
    weights: bool = False,
) -> Rendering:
    """Square images of `size` pixels; differentiable with respect to the field.

    `camera` has V rows for each object, object by object. Samples lie in the middle of their steps; with `generators`
    (one per object) each ray's samples are shifted together by up to half a step, against banding. `max_points` samples
    of all objects are looked up at a time; it changes memory and pace only. Without gradients, and without `weights`,
    more views take no more memory, but for their images. On a device that is not the CPU, the host waits for nothing.
    """
    n_objects, n_views = len(field), len(camera) // len(field)
    if n_views * n_objects != len(camera) or n_views == 0:
        raise ValueError(f"{len(camera)} cameras cannot be shared out evenly among {n_objects} fields")
    n_rays = n_views * size * size  # of each object
    shift = None if generators is None else seed.rand((n_rays,), generators, camera.pose.device)
    solid = field.solid(config.empty)
    step = max(1, max_points // (n_objects * config.samples))  # rays of each object at a time
    pictures, kept = [], []
    for start in range(0, n_rays, step):
        rays = _rays(camera, n_objects, size, start, min(start + step, n_rays))
        part = 0.5 if shift is None else shift[:, start : start + step, None]
        *picture, shares = _march(solid, rays, part, config.samples)
        pictures.append(picture)
        if weights:
            kept.append(shares)
    color, alpha, depth = (torch.cat(parts, dim=1) for parts in zip(*pictures, strict=True))
    image = (len(camera), size, size)
    return Rendering(
        color.reshape(*image, -1).permute(0, 3, 1, 2),
        alpha.reshape(image),
        depth.reshape(image),
        torch.cat(kept, dim=1).reshape(*image, -1) if weights else None,
    )


def composite(rendering: Rendering, background: Float[Tensor, "BV C"] | float) -> Float[Tensor, "BV C H W"]:
    """The rendering over one colour per image, or over one grey for all."""
    if isinstance(background, Tensor):
        background = background[:, :, None, None]
    return rendering.color + (1 - rendering.alpha[:, None]) * background


@dataclass(frozen=True, slots=True)
class _Rays:
    """N rays of each of B objects: where they start and where they go."""

    origins: Float[Tensor, "B N 3"]
    directions: Float[Tensor, "B N 3"]
    cosines: Float[Tensor, "B N"]  # of the angle to the camera's axis


def _rays(camera: Camera, n_objects: int, size: int, start: int, stop: int) -> _Rays:
    """The rays number `start` to `stop` of each object: view by view, and in each view row by row."""
    device = camera.pose.device
    number = torch.arange(start, stop, device=device)
    per_object = len(camera) // n_objects
    first = torch.arange(n_objects, device=device)[:, None] * per_object
    view = (first + number // size**2).flatten()
    pixel = number % size**2
    where = (torch.stack([pixel % size, pixel // size], dim=-1) + 0.5) / size
    origins, directions = rays_through(camera, view, where.to(camera.pose.dtype).repeat(n_objects, 1))
    cosines = -(directions * camera.pose[view, :3, 2]).sum(-1)
    return _Rays(*(value.unflatten(0, (n_objects, -1)) for value in (origins, directions, cosines)))


def _march(
    solid: Solid, rays: _Rays, shift: Float[Tensor, "B N 1"] | float, samples: int
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N S"]]:
    """Colour, opacity, depth, and sample weights of each ray."""
    near, far = _cube_interval(rays.origins, rays.directions, solid.field.config.half)
    stride = ((far - near) / samples)[..., None]
    lengths = near[..., None] + (torch.arange(samples, device=near.device) + shift) * stride  # S along each ray
    points = (rays.origins[:, :, None] + lengths[..., None] * rays.directions[:, :, None]).flatten(1, 2)
    sum_up = _sum_some if near.device.type == "cpu" else _sum_every
    color, alpha, length, weights = sum_up(solid, points, lengths, stride)
    depth = torch.where(alpha >= VISIBLE, length * rays.cosines / alpha.clamp_min(VISIBLE), torch.inf)
    return color, alpha, depth, weights


def _sum_some(
    solid: Solid, points: Float[Tensor, "B NS 3"], lengths: Float[Tensor, "B N S"], stride: Float[Tensor, "B N 1"]
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N S"]]:
    """Colour, opacity, expected ray length times opacity, and weights, from the samples that are not empty."""
    hit, some_density, some_color = solid.some(points)
    density = some_density.new_zeros(lengths.numel()).index_copy(0, hit, some_density).view_as(lengths)
    weights = _weights(density, stride)
    values = torch.cat([some_color, lengths.flatten()[hit, None], torch.ones_like(some_color[:, :1])], dim=1)
    n_rays, samples = stride.numel(), lengths.shape[-1]
    summed = _load_nerfacc().accumulate_along_rays(weights.flatten()[hit], values, hit // samples, n_rays)
    color, length, alpha = summed.reshape(*stride.shape[:2], -1).split([some_color.shape[1], 1, 1], dim=-1)
    return color, alpha[..., 0], length[..., 0], weights


def _sum_every(
    solid: Solid, points: Float[Tensor, "B NS 3"], lengths: Float[Tensor, "B N S"], stride: Float[Tensor, "B N 1"]
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N S"]]:
    """The same from all samples, without a look at how many are empty."""
    density, color = solid.every(points)
    weights = _weights(density.view_as(lengths), stride)
    summed = (weights[:, None] * color.unflatten(2, lengths.shape[1:])).sum(-1)
    return summed.mT, weights.sum(-1), (weights * lengths).sum(-1), weights


def _weights(density: Float[Tensor, "B N S"], stride: Float[Tensor, "B N 1"]) -> Float[Tensor, "B N S"]:
    """The share of each sample in what a ray sees."""
    start = torch.zeros_like(stride)  # nerfacc asks where a step begins and ends, and takes the difference alone
    weights, _, _ = _load_nerfacc().render_weight_from_density(start, stride, density)
    return weights


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
