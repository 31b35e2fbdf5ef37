"""Solids as signed distance functions, and bodies, which are unions of solids in the canonical frame (camera.py).

Distances are negative inside. They are never larger than the true distance, so that sphere tracing cannot step through
a surface. Points are [3, N], with the coordinates first: each axis is contiguous, which is several times faster on a
CPU. The arithmetic of a point uses only operations that IEEE 754 rounds exactly.

Source: the distances of box, capsule and torus are the textbook ones (Hart, Sphere Tracing, 1996, appendix).
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

Vector = tuple[float, float, float]

NORMAL_STEP = 2e-3  # canonical units, of the differences that give normals; slightly bevels sharp edges


@dataclass(frozen=True, slots=True)
class Box:
    half: Vector  # half sides, rounding included
    rounding: float  # radius of the edges


@dataclass(frozen=True, slots=True)
class Lathe:
    """A solid of revolution about y. Its outline runs from the axis to the axis, or is closed (first point = last)."""

    outline: tuple[tuple[float, float], ...]  # (radius, height) of the corners
    rounding: float  # thickness laid around it; rounds the convex edges


@dataclass(frozen=True, slots=True)
class Torus:
    """Around y."""

    radius: float  # of the circle in the middle of the tube
    tube: float  # radius


@dataclass(frozen=True, slots=True)
class Handle:
    """Half a ring in the plane x = 0, open towards -z, its two quarters `stretch` apart from y = 0; round ends."""

    radius: float
    tube: float
    stretch: float


@dataclass(frozen=True, slots=True)
class Rod:
    """All points within `radius` of a segment along x; a ball if its half length is 0."""

    half_length: float
    radius: float


@dataclass(frozen=True, slots=True)
class Dome:
    """The upper half of an ellipsoid of revolution; flat side at y = 0."""

    radius: float
    height: float


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Rectangular base at y = 0."""

    half_x: float
    half_z: float
    height: float


Solid = Box | Lathe | Torus | Handle | Rod | Dome | Pyramid


@dataclass(frozen=True, slots=True)
class Piece:
    """A solid moved by `offset`. `mirrored` pieces also stand at -x, at -z and at both."""

    name: str
    solid: Solid
    offset: Vector = (0.0, 0.0, 0.0)
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A union of pieces. Canonical point p lies at p * `length` + `centre` in the pieces' own units."""

    pieces: tuple[Piece, ...]
    length: float  # longest side of the pieces' bounding box
    centre: Vector  # of that box
    half: Vector  # its half sides in canonical units; the largest is 1/2
    girth: float  # no point is farther from the y axis, canonical units


def assemble(*pieces: Piece) -> Body:
    """The body that the pieces make, centred and scaled to longest side 1."""
    boxes = [piece_box(piece) for piece in pieces]
    low = [min(box[0][axis] for box in boxes) for axis in range(3)]
    high = [max(box[1][axis] for box in boxes) for axis in range(3)]
    length = max(b - a for a, b in zip(low, high, strict=True))
    centre = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
    half = ((high[0] - low[0]) / 2 / length, (high[1] - low[1]) / 2 / length, (high[2] - low[2]) / 2 / length)
    girth = max(_piece_girth(piece, centre) for piece in pieces) / length
    return Body(pieces, length, centre, half, min(girth, math.hypot(half[0], half[2])))


def distance(body: Body, points: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    """Signed distance to the body's surface, canonical units."""
    x, y, z = _own_units(body, points)
    nearest = piece_distance(body.pieces[0], x, y, z)
    for piece in body.pieces[1:]:
        nearest = torch.minimum(nearest, piece_distance(piece, x, y, z))
    return nearest / body.length


def nearest_piece(body: Body, points: Float[Tensor, "3 N"]) -> Int[Tensor, "N"]:
    """Index of the piece that each point is on or nearest to."""
    x, y, z = _own_units(body, points)
    return torch.stack([piece_distance(piece, x, y, z) for piece in body.pieces]).argmin(0)


def gradient(body: Body, points: Float[Tensor, "3 N"]) -> Float[Tensor, "3 N"]:
    """Gradient of the distance, from differences at the corners of a tetrahedron; length 1 where it is exact."""
    total = torch.zeros_like(points)
    for corner in ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0)):
        direction = points.new_tensor(corner)[:, None]
        total += direction * distance(body, points + NORMAL_STEP * direction)
    return total / (4 * NORMAL_STEP)


def normals(body: Body, points: Float[Tensor, "3 N"]) -> Float[Tensor, "3 N"]:
    """Unit vectors out of the surface."""
    x, y, z = gradient(body, points)
    length = (x * x + y * y + z * z).sqrt().clamp(min=1e-6)
    return torch.stack([x / length, y / length, z / length])


def piece_box(piece: Piece) -> tuple[Vector, Vector]:
    """Lowest and highest corner of the bounding box, in the piece's own units; exact."""
    low, high = solid_box(piece.solid)
    ox, oy, oz = piece.offset
    (x0, y0, z0), (x1, y1, z1) = (low[0] + ox, low[1] + oy, low[2] + oz), (high[0] + ox, high[1] + oy, high[2] + oz)
    if piece.mirrored:
        x0, z0 = min(x0, -x1), min(z0, -z1)
        x1, z1 = -x0, -z0
    return (x0, y0, z0), (x1, y1, z1)


def solid_box(solid: Solid) -> tuple[Vector, Vector]:
    """Lowest and highest corner of the bounding box; exact."""
    match solid:
        case Box((x, y, z), _):
            return (-x, -y, -z), (x, y, z)
        case Lathe(outline, rounding):
            r = max(radius for radius, _ in outline) + rounding
            heights = [height for _, height in outline]
            return (-r, min(heights) - rounding, -r), (r, max(heights) + rounding, r)
        case Torus(radius, tube):
            r = radius + tube
            return (-r, -tube, -r), (r, tube, r)
        case Handle(radius, tube, stretch):
            y = stretch + radius + tube
            return (-tube, -y, -tube), (tube, y, radius + tube)
        case Rod(half_length, radius):
            return (-half_length - radius, -radius, -radius), (half_length + radius, radius, radius)
        case Dome(radius, height):
            return (-radius, 0.0, -radius), (radius, height, radius)
        case Pyramid(half_x, half_z, height):
            return (-half_x, 0.0, -half_z), (half_x, height, half_z)
        case _:
            assert_never(solid)


def _piece_girth(piece: Piece, centre: Vector) -> float:
    """No point of the piece is farther from the vertical line through `centre`, the piece's own units."""
    x, z = piece.offset[0] - centre[0], piece.offset[2] - centre[2]
    away = math.hypot(abs(x) + 2 * abs(centre[0]), abs(z) + 2 * abs(centre[2])) if piece.mirrored else math.hypot(x, z)
    (x0, _, z0), (x1, _, z1) = solid_box(piece.solid)
    match piece.solid:
        case Lathe() | Torus() | Dome():
            return away + x1
        case Rod(half_length, radius):
            return away + half_length + radius
        case _:
            return away + math.hypot(max(-x0, x1), max(-z0, z1))


def piece_distance(
    piece: Piece, x: Float[Tensor, "N"], y: Float[Tensor, "N"], z: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Signed distance to a piece, in its own units."""
    if piece.mirrored:
        x, z = x.abs(), z.abs()
    x, y, z = x - piece.offset[0], y - piece.offset[1], z - piece.offset[2]
    match piece.solid:
        case Box(half, rounding):
            return _box(half, rounding, x, y, z)
        case Lathe(outline, rounding):
            return _outline(outline, (x * x + z * z).sqrt(), y) - rounding
        case Torus(radius, tube):
            ring = (x * x + z * z).sqrt() - radius
            return (ring * ring + y * y).sqrt() - tube
        case Handle(radius, tube, stretch):
            y = (y.abs() - stretch).clamp(min=0)
            ahead = (y * y + z * z).sqrt() - radius
            behind = (y - radius) * (y - radius) + z * z  # squared, from the nearer end
            return (torch.where(z > 0, ahead * ahead, behind) + x * x).sqrt() - tube
        case Rod(half_length, radius):
            x = (x.abs() - half_length).clamp(min=0)
            return (x * x + y * y + z * z).sqrt() - radius
        case Dome(radius, height):
            scaled = ((x * x + z * z) / radius**2 + y * y / height**2).sqrt()
            return torch.maximum((scaled - 1) * min(radius, height), -y)
        case Pyramid(half_x, half_z, height):
            slant_x, slant_z = (height**2 + half_x**2) ** 0.5, (height**2 + half_z**2) ** 0.5
            side_x = ((x.abs() - half_x) * height + y * half_x) / slant_x
            side_z = ((z.abs() - half_z) * height + y * half_z) / slant_z
            return torch.maximum(torch.maximum(side_x, side_z), -y)
        case unknown:
            assert_never(unknown)


def _own_units(body: Body, points: Float[Tensor, "3 N"]) -> list[Float[Tensor, "N"]]:
    return [axis * body.length + middle for axis, middle in zip(points, body.centre, strict=True)]


def _box(
    half: Vector, rounding: float, x: Float[Tensor, "N"], y: Float[Tensor, "N"], z: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    x, y, z = (axis.abs() - (side - rounding) for axis, side in zip((x, y, z), half, strict=True))
    inside = torch.maximum(torch.maximum(x, y), z).clamp(max=0)
    x, y, z = x.clamp(min=0), y.clamp(min=0), z.clamp(min=0)
    return (x * x + y * y + z * z).sqrt() + inside - rounding


def _outline(
    outline: tuple[tuple[float, float], ...], radius: Float[Tensor, "N"], height: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Signed distance in the half plane (radius, height) to the area between an outline and the axis.

    The sign is the parity of the crossings of a ray that leaves the axis behind.
    """
    nearest = torch.full_like(radius, torch.inf)
    inside = torch.zeros_like(radius, dtype=torch.bool)
    for (r0, h0), (r1, h1) in pairwise(outline):
        dr, dh = r1 - r0, h1 - h0
        r, h = radius - r0, height - h0
        along = ((r * dr + h * dh) / (dr * dr + dh * dh)).clamp(0, 1)
        r_off, h_off = r - along * dr, h - along * dh
        nearest = torch.minimum(nearest, r_off * r_off + h_off * h_off)
        if dh:
            inside ^= ((h < 0) != (h < dh)) & (r < h * (dr / dh))
    nearest = nearest.sqrt()
    return torch.where(inside, -nearest, nearest)
