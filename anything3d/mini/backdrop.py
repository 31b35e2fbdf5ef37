"""What stands behind the objects: textured planes, and the sky above the horizon.

Patterns are filtered. An edge is as wide as the footprint of a pixel, and a pattern finer than a pixel becomes its
mean.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.mini.draw import pick, uniform
from anything3d.mini.solids import Vector

Pattern = Literal["plain", "checker", "stripes", "tiles", "noise"]
GROUND_PATTERNS: tuple[Pattern, ...] = ("checker", "stripes", "tiles", "noise")
WALL_PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "tiles", "noise")
LATTICE = 32  # cells after which the noise repeats
GRAIN = 0.05  # largest brightness change by the fine noise that every texture has
JOINT = 0.06  # of a tile's side
OCTAVES = 3


@dataclass(frozen=True, slots=True)
class Texture:
    """A pattern of two colours over a plane with coordinates (u, v) in world units."""

    pattern: Pattern
    colors: tuple[Vector, Vector]
    period: float  # world units
    direction: tuple[float, float]  # unit vector in (u, v) along which stripes change
    lattice: Float[Tensor, "L L"]  # random numbers in [0, 1)


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane through `point`; `across` and `along` are its unit vectors, u and v of its texture."""

    point: Vector
    normal: Vector  # unit length, towards the camera's side
    across: Vector
    along: Vector
    texture: Texture


@dataclass(frozen=True, slots=True)
class Sky:
    """A gradient; the far ground fades into the colour of the horizon."""

    horizon: Vector
    zenith: Vector
    haze: float  # world units from the camera at which the ground has faded by half


def sample_texture(generator: torch.Generator, patterns: tuple[Pattern, ...], brightness: float) -> Texture:
    """Soft colours: of `brightness` on the whole (0 to 1) and little saturation."""
    lattice = torch.rand(LATTICE, LATTICE, generator=generator)
    contrast = uniform(generator, 0.06, 0.16)
    first, second = (soft_color(generator, brightness + sign * contrast) for sign in (1, -1))
    turn = torch.randn(2, generator=generator, dtype=torch.float64)
    x, y = (turn / (turn * turn).sum().sqrt()).tolist()
    return Texture(pick(generator, patterns), (first, second), uniform(generator, 0.5, 1.4), (x, y), lattice)


def soft_color(generator: torch.Generator, brightness: float) -> Vector:
    """Grey of that brightness with a slight tint."""
    red, green, blue = (min(1.0, max(0.0, brightness + uniform(generator, -0.06, 0.06))) for _ in range(3))
    return red, green, blue


def meet_plane(plane: Plane, origins: Float[Tensor, "3 N"], directions: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    """Distance along each ray to the plane, infinite if it comes from behind or runs away."""
    (px, py, pz), (nx, ny, nz) = plane.point, plane.normal
    height = (origins[0] - px) * nx + (origins[1] - py) * ny + (origins[2] - pz) * nz
    sinking = -(directions[0] * nx + directions[1] * ny + directions[2] * nz)
    ahead = (sinking > 1e-6) & (height > 0)
    return torch.where(ahead, height / sinking.clamp(min=1e-6), torch.inf)


def paint(plane: Plane, points: Float[Tensor, "3 N"], footprint: Float[Tensor, "N"]) -> Float[Tensor, "3 N"]:
    """The plane's colour at points on it; `footprint` is a pixel's length on the plane in world units."""
    texture = plane.texture
    (ax, ay, az), (bx, by, bz) = plane.across, plane.along
    s = points[0] * ax + points[1] * ay + points[2] * az
    t = points[0] * bx + points[1] * by + points[2] * bz
    du, dv = texture.direction
    u, v = (s * du + t * dv) / texture.period, (t * du - s * dv) / texture.period
    blend = _pattern(texture, u, v, footprint / texture.period)
    fine = _noise(texture.lattice, u * 24, v * 24, footprint * (24 / texture.period)) - 0.5
    shade = 1 + 2 * GRAIN * fine
    first, second = texture.colors
    return torch.stack([(b + (a - b) * blend) * shade for a, b in zip(first, second, strict=True)])


def _pattern(
    texture: Texture, u: Float[Tensor, "N"], v: Float[Tensor, "N"], width: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Share of the first colour; `width` is the footprint in periods."""
    match texture.pattern:
        case "plain":
            return 0.35 + 0.3 * _noise(texture.lattice, u / 2, v / 2, width / 2)
        case "checker":
            return 0.5 + 0.5 * _square(u, width) * _square(v, width)
        case "stripes":
            return 0.5 + 0.5 * _square(u, width)
        case "tiles":
            joint = torch.maximum(_joint(u, width), _joint(v, width))
            return (1 - joint) * (0.6 + 0.4 * _cell(texture.lattice, u.floor(), v.floor()))
        case "noise":
            total = torch.full_like(u, 0.5)
            for octave in range(OCTAVES):
                scale = 2.0 * 2**octave
                total = total + (_noise(texture.lattice, u * scale, v * scale, width * scale) - 0.5) / 2**octave
            return total.clamp(0, 1)
        case _:
            assert_never(texture.pattern)


def _wave(x: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Triangle wave of period 1: 1 at whole numbers, -1 between."""
    return 4 * (x - x.floor() - 0.5).abs() - 1


def _square(x: Float[Tensor, "N"], width: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Square wave in [-1, 1], its edges as wide as the footprint."""
    return (_wave(x) / (2 * width).clamp(min=1e-3)).clamp(-1, 1)


def _joint(x: Float[Tensor, "N"], width: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """1 near whole numbers, 0 elsewhere."""
    width = width.clamp(min=1e-3)
    line = ((_wave(x) - (1 - 2 * JOINT)) / (4 * width) + 0.5).clamp(0, 1)
    return line + (JOINT - line) * ((width - 0.1) * 4).clamp(0, 1)


def _cell(lattice: Float[Tensor, "L L"], u: Float[Tensor, "N"], v: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """The random number of the cell with whole coordinates (u, v)."""
    return lattice.to(u.device)[u.long() % LATTICE, v.long() % LATTICE]


def _noise(
    lattice: Float[Tensor, "L L"], u: Float[Tensor, "N"], v: Float[Tensor, "N"], width: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Smooth noise in [0, 1) with cells of side 1; fades to 1/2 where the footprint is as large as a cell."""
    u0, v0 = u.floor(), v.floor()
    a, b = u - u0, v - v0
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    low = _cell(lattice, u0, v0) * (1 - a) + _cell(lattice, u0 + 1, v0) * a
    high = _cell(lattice, u0, v0 + 1) * (1 - a) + _cell(lattice, u0 + 1, v0 + 1) * a
    return 0.5 + (low * (1 - b) + high * b - 0.5) * (1 - width).clamp(0, 1)
