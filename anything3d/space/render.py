"""Volume rendering: what cameras see of fields. Equal steps through the cube sum up emission and absorption.

Source: NeRF, Mildenhall et al. 2020, equation 3; the quadrature is nerfacc's.
"""

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from operator import itemgetter
from types import ModuleType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anything3d import seed
from anything3d.settings.reconstruct import MAX_POINTS, RenderConfig
from anything3d.space.camera import Camera, rays_through
from anything3d.space.field import Field, Solid

NEAR = 1e-3  # canonical length; nothing closer to the eye is seen
VISIBLE = 1e-3  # opacity below which a pixel has no depth
OPAQUE = 1e3  # optical depth, through which no light comes that float64 can tell from none
DARK = 14.0  # optical depth, through which 8e-7 of the light comes: nothing is looked up behind it


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

    def at_most(self, alpha: Float[Tensor, "BV H W"]) -> "Rendering":
        """The same with opacities of `alpha` or less. The colours behind the opacity stay; `weights` are left out."""
        limited = torch.minimum(self.alpha, alpha)
        color = self.color * (limited / self.alpha.clamp_min(1e-6))[:, None]
        return Rendering(color, limited, self.depth)


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
    (one per object) each ray's samples are shifted together by up to half a step, against banding. A sample in empty
    space, or behind what stops nearly all light (`DARK`), is not looked up. `max_points` samples of all objects are
    looked at together; it changes memory and pace only. Without gradients, and without `weights`, more views take no
    more memory, but for their images. On a device that is not the CPU, the host waits for nothing.
    """
    n_objects, n_views = len(field), len(camera) // len(field)
    if n_views * n_objects != len(camera) or n_views == 0:
        raise ValueError(f"{len(camera)} cameras cannot be shared out evenly among {n_objects} fields")
    device, n_rays = camera.pose.device, n_views * size * size  # of each object
    middle = torch.full((n_objects, n_rays), 0.5, dtype=camera.pose.dtype, device=device)
    shift = middle if generators is None else seed.rand((n_rays,), generators, device)
    solid = field.solid(config.empty)
    few = max(1, max_points // (n_objects * config.samples))  # rays of each object at a time
    # A look-up's backward pass fills the gradients of whole grids. So there is one, if all is kept for it anyway.
    step = n_rays if device.type == "cpu" and torch.is_grad_enabled() else few
    pictures, kept = [], []
    for start in range(0, n_rays, step):
        rays = _rays(camera, shift, field.config.half, size, config.samples, start, min(start + step, n_rays))
        *picture, shares = _march(solid, rays, config.samples, few, weights)
        pictures.append(picture)
        if shares is not None:
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
    """Rays of B objects: where they go, and where their samples lie. "N" is the rays, or the rays and a 1."""

    origins: Float[Tensor, "3 B *N"]
    directions: Float[Tensor, "3 B *N"]
    cosines: Float[Tensor, "B *N"]  # of the angle to the camera's axis
    near: Float[Tensor, "B *N"]  # length from the origin to the cube
    stride: Float[Tensor, "B *N"]  # length of a step through the cube; 0 where the ray misses it
    shift: Float[Tensor, "B *N"]  # where in its step a sample lies, 0..1

    def map(self, change: Callable[[Tensor], Tensor]) -> "_Rays":
        """All tensors changed alike."""
        return replace(self, **{one.name: change(getattr(self, one.name)) for one in fields(self)})

    def lengths(self, sample: Int[Tensor, "*S"]) -> Float[Tensor, "B *N"]:
        """How far along its ray each sample lies."""
        return self.near + (sample + self.shift) * self.stride

    def points(self, lengths: Float[Tensor, "B *N"]) -> Float[Tensor, "B *N 3"]:
        """Where that is."""
        return torch.addcmul(self.origins, lengths, self.directions).movedim(0, -1)


def _rays(
    camera: Camera, shift: Float[Tensor, "B N"], half: float, size: int, samples: int, start: int, stop: int
) -> _Rays:
    """The rays number `start` to `stop` of each object: view by view, and in each view row by row."""
    device, n_objects = camera.pose.device, len(shift)
    number = torch.arange(start, stop, device=device)
    per_object = len(camera) // n_objects
    first = torch.arange(n_objects, device=device)[:, None] * per_object
    view = (first + number // size**2).flatten()
    pixel = number % size**2
    where = (torch.stack([pixel % size, pixel // size], dim=-1) + 0.5) / size
    origins, directions = rays_through(camera, view, where.to(camera.pose.dtype).repeat(n_objects, 1))
    cosines = -(directions * camera.pose[view, :3, 2]).sum(-1)
    near, far = (value[0] for value in _cube_interval(origins[None], directions[None], half))
    origins, directions = (value.mT.contiguous().unflatten(1, (n_objects, -1)) for value in (origins, directions))
    cosines, near, far = (value.unflatten(0, (n_objects, -1)) for value in (cosines, near, far))
    return _Rays(origins, directions, cosines, near, (far - near) / samples, shift[:, start:stop])


def _march(
    solid: Solid, rays: _Rays, samples: int, few: int, keep: bool
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N S"] | None]:
    """Colour, opacity, depth, and, to be kept, the weights of the samples of each ray."""
    march = _march_some if rays.near.device.type == "cpu" else _march_all
    color, alpha, length, weights = march(solid, rays, samples, few, keep)
    depth = torch.where(alpha >= VISIBLE, length * rays.cosines / alpha.clamp_min(VISIBLE), torch.inf)
    return color, alpha, depth, weights


def _march_some(
    solid: Solid, rays: _Rays, samples: int, few: int, keep: bool
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N S"] | None]:
    """Colour, opacity, expected length times opacity, and weights, from the samples that are seen alone.

    The host has to know how many they are. `few` rays of each object are looked through for them at a time.
    """
    n_objects, n_rays = rays.near.shape
    parts = (rays.map(itemgetter((..., slice(start, start + few)))) for start in range(0, n_rays, few))
    seen = torch.cat([_seen(solid, part, samples) for part in parts], dim=1)
    ray, sample = nn.utils.rnn.pad_sequence([one.nonzero() for one in seen], batch_first=True).unbind(-1)
    counts = seen.sum(-1)  # of each ray
    exists = torch.arange(ray.shape[1]) < counts.sum(1, keepdim=True)
    own = rays.map(lambda value: value.gather(-1, ray.expand(*value.shape[:-1], -1)))
    lengths = own.lengths(sample)
    density, color = solid.look_up(own.points(lengths), exists)
    stopped = (density * own.stride).clamp_max(OPAQUE)  # the sum of all rays stays exact
    through = stopped.double().cumsum(1) - stopped  # of all rays of the object
    first = (counts.cumsum(1) - counts).gather(1, ray)
    before = through - through.gather(1, first.clamp_max(ray.shape[1] - 1))
    weights = (-before.to(stopped.dtype)).exp() * -torch.expm1(-stopped)
    values = torch.cat([color.mT, lengths[..., None], torch.ones_like(lengths)[..., None]], dim=-1)
    row = ray + torch.arange(n_objects)[:, None] * n_rays
    summed = _load_nerfacc().accumulate_along_rays(
        weights.flatten(), values.flatten(0, 1), row.flatten(), n_objects * n_rays
    )
    summed, length, alpha = summed.view(n_objects, n_rays, -1).split([color.shape[1], 1, 1], dim=-1)
    if not keep:
        return summed, alpha[..., 0], length[..., 0], None
    every = weights.new_zeros(n_objects, n_rays * samples).scatter_add(1, ray * samples + sample, weights)
    return summed, alpha[..., 0], length[..., 0], every.view_as(seen)


def _march_all(
    solid: Solid, rays: _Rays, samples: int, few: int, keep: bool
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N S"] | None]:
    """The same from all samples, without a look at how many are seen."""
    del few
    seen = _seen(solid, rays, samples)
    along = rays.map(lambda value: value[..., None])
    lengths = along.lengths(torch.arange(samples, device=seen.device))
    density, color = solid.look_up(along.points(lengths).flatten(1, 2), seen.flatten(1))
    start = torch.zeros_like(along.stride)  # nerfacc asks where a step begins and ends, and takes the difference alone
    weights, _, _ = _load_nerfacc().render_weight_from_density(start, along.stride, density.view_as(lengths))
    summed = (weights[:, None] * color.unflatten(2, lengths.shape[1:])).sum(-1)
    return summed.mT, weights.sum(-1), (weights * lengths).sum(-1), weights if keep else None


@torch.no_grad()
def _seen(solid: Solid, rays: _Rays, samples: int) -> Bool[Tensor, "B N S"]:
    """Which samples lie in cells that are not empty, and are not behind an optical depth of DARK."""
    along = rays.map(lambda value: value[..., None])
    lengths = along.lengths(torch.arange(samples, device=rays.near.device))
    least = solid.least_along(along.origins, along.directions, lengths)
    seen = least != 0  # a NaN is to be seen
    seen[..., 1:] &= ~(least.cumsum(-1) > DARK / along.stride)[..., :-1]
    return seen


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
