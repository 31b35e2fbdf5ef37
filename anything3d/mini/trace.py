"""Sphere tracing of one body in its canonical frame: where rays meet it, its shadow, and points on its surface.

Rays are [3, N], as in solids.py. Only rays that meet the bounding box are marched, and a ray is no longer marched when
it is known whether it meets the body. Rays of one call do not influence each other.

Source: Hart, Sphere Tracing, 1996. The penumbra from the closest approach of a shadow ray is a known approximation.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from skimage.measure import marching_cubes
from torch import Tensor

from anything3d.mini.solids import Body, Vector, distance, gradient
from anything3d.space.mesh import Mesh

HIT = 5e-4  # canonical units; a ray this near has arrived
STRIDE = 4  # steps between two looks at which rays are finished
STRIDES = 32  # after which a ray that has not arrived (it grazes the surface) counts as missed
SHADOW_START = 0.02  # canonical units, so that a surface does not shade itself
SHADOW_STEP = (0.01, 0.15)  # shortest and longest step of a shadow ray, canonical units
SHADOW_SHARPNESS = 14.0  # distance from the caster / width of the penumbra
SHADOW_MARGIN = 0.08  # canonical units around the bounding box, so that penumbras are not cut
SHELL = 0.02  # canonical units; surface points are drawn this near to the surface, then moved onto it
DRAWS = 2**16  # points drawn at once
NODES, MARGIN = 56, 0.02  # along each axis of the grid of `closed_surface`; canonical units around the unit cube
NEWTON_STEPS = 4


def trace(body: Body, origins: Float[Tensor, "3 N"], directions: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    """Distance along each ray to the surface, infinite where it is missed; directions have length 1."""
    near, far = box_span(body, origins, directions, 2 * HIT)
    met = torch.full_like(near, torch.inf)
    rows = (far > near).nonzero()[:, 0]
    o, d, t, end = origins[:, rows], directions[:, rows], near[rows], far[rows]
    for _ in range(STRIDES):
        if len(rows) == 0:
            break
        for _ in range(STRIDE):
            gap = distance(body, o + t * d)
            t = t + gap
        arrived = gap < HIT
        met[rows[arrived]] = t[arrived]
        going = (~arrived & (t < end)).nonzero()[:, 0]
        rows, o, d, t, end = rows[going], o[:, going], d[:, going], t[going], end[going]
    return met


def light_share(body: Body, points: Float[Tensor, "3 N"], towards_light: Vector) -> Float[Tensor, "N"]:
    """How much of a distant light reaches each point past the body: 0 in its shadow, 1 outside, between in penumbra."""
    direction = points.new_tensor(towards_light)[:, None]
    near, far = box_span(body, points, direction.expand_as(points), SHADOW_MARGIN)
    share = torch.ones_like(near)
    rows = (far > near).nonzero()[:, 0]
    o, t, end = points[:, rows], near[rows].clamp(min=SHADOW_START), far[rows]
    least = torch.ones_like(t)
    for _ in range(STRIDES):
        if len(rows) == 0:
            break
        for _ in range(STRIDE):
            gap = distance(body, o + t * direction)
            least = torch.minimum(least, SHADOW_SHARPNESS * gap / t)
            t = t + gap.clamp(*SHADOW_STEP)
        share[rows] = least
        going = ((least > 0) & (t < end)).nonzero()[:, 0]
        rows, o, t, end, least = rows[going], o[:, going], t[going], end[going], least[going]
    share = share.clamp(0, 1)
    return share * share * (3 - 2 * share)


def box_span(
    body: Body, origins: Float[Tensor, "3 N"], directions: Float[Tensor, "3 N"], margin: float
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Where each ray (t >= 0) enters and leaves the bounding box widened by `margin`; far < near if it misses."""
    near = torch.zeros_like(origins[0])
    far = torch.full_like(near, torch.inf)
    for origin, direction, half in zip(origins, directions, body.half, strict=True):
        inverse = 1 / torch.where(direction.abs() < 1e-8, 1e-8, direction)
        one, other = (-half - margin - origin) * inverse, (half + margin - origin) * inverse
        near = torch.maximum(near, torch.minimum(one, other))
        far = torch.minimum(far, torch.maximum(one, other))
    return near, far


def sample_surface(body: Body, count: int, generator: torch.Generator) -> Float[Tensor, "3 N"]:
    """`count` points on the surface, uniform by area but for a few per cent near edges.

    Points uniform in the volume, those within a thin shell of the surface moved onto it.
    """
    half = torch.tensor(body.half)[:, None]
    on_surface: list[Tensor] = []
    missing = count
    while missing > 0:
        points = (2 * torch.rand(3, DRAWS, generator=generator) - 1) * (half + SHELL)
        points = points[:, distance(body, points).abs() < SHELL]
        kept = project_to_surface(body, points[:, _in_shell(body, points)])[:, :missing]
        on_surface.append(kept)
        missing -= kept.shape[1]
    return torch.cat(on_surface, dim=1)


def closed_surface(body: Body) -> Mesh:
    """The surface as a closed grey mesh, by marching cubes at NODES^3 points. Sharp edges are bevelled."""
    line = torch.linspace(-0.5 - MARGIN, 0.5 + MARGIN, NODES)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij")).flatten(1)
    distances = torch.cat([distance(body, some) for some in points.split(DRAWS, dim=1)]).reshape(NODES, NODES, NODES)
    step = 2 * (0.5 + MARGIN) / (NODES - 1)
    vertices, faces, _, _ = marching_cubes(distances.numpy(), 0, gradient_direction="ascent", allow_degenerate=False)
    vertices = (vertices * step - 0.5 - MARGIN).astype(np.float32)
    return Mesh(vertices, faces.astype(np.int64), np.full_like(vertices, 0.5))


def project_to_surface(body: Body, points: Float[Tensor, "3 N"]) -> Float[Tensor, "3 n"]:
    """Newton's steps along the gradient; the few points that do not arrive (at ridges inside) are left out."""
    for _ in range(NEWTON_STEPS):
        slope = gradient(body, points)
        points = points - slope * (distance(body, points) / _squared(slope))
    return points[:, distance(body, points).abs() < HIT]


def _in_shell(body: Body, points: Float[Tensor, "3 N"]) -> Bool[Tensor, "N"]:
    """Nearer than SHELL to first order; the distance alone is too small where it is only a bound."""
    return distance(body, points).abs() < SHELL * _squared(gradient(body, points)).sqrt()


def _squared(vector: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    x, y, z = vector
    return (x * x + y * y + z * z).clamp(min=1e-2)
