"""Metrics of quality, as pure functions of tensors. Each one states its definition and its source.

Images are in [0, 1], and points are in canonical units. Row b of every result belongs to row b of the arguments.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d.errors import NumericsError

MAX_PSNR_DB = 100.0  # of equal images, instead of infinity; 8-bit rounding alone leaves 59
CHUNK = 1024  # points whose distances to all others are held at a time; 1024 x 8192 floats are 32 MiB


def psnr_db(a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
    """Peak signal-to-noise ratio of images with range 1: -10 log10(mean squared error over pixels and channels)."""
    error = (a - b).square().mean(dim=(1, 2, 3))
    return (-10 * error.log10()).clamp(max=MAX_PSNR_DB)


def mask_iou(a: Bool[Tensor, "B H W"], b: Bool[Tensor, "B H W"]) -> Float[Tensor, "B"]:
    """Intersection over union; 1 where both masks are empty."""
    union = (a | b).sum(dim=(1, 2))
    return torch.where(union > 0, (a & b).sum(dim=(1, 2)) / union.clamp(min=1), 1.0)


def nearest_distances(a: Float[Tensor, "B N 3"], b: Float[Tensor, "B M 3"]) -> Float[Tensor, "B N"]:
    """Distance of every point of `a` to the nearest point of `b`."""
    # cdist's default goes through |a|^2 - 2ab + |b|^2, which is off by 1e-3 where points almost coincide
    exact = "donot_use_mm_for_euclid_dist"
    chunks = [torch.cdist(rows, b, compute_mode=exact).amin(dim=-1) for rows in a.split(CHUNK, dim=1)]
    return torch.cat(chunks, dim=1)


def chamfer(a: Float[Tensor, "B N 3"], b: Float[Tensor, "B M 3"]) -> Float[Tensor, "B"]:
    """(mean_a min_b |a - b| + mean_b min_a |b - a|) / 2, unsquared, in the points' unit.

    Two samples of one surface are not at 0 but near 1 / (2 sqrt(points per area)).
    Source: SyncDreamer eval_mesh.py.
    """
    return (nearest_distances(a, b).mean(dim=-1) + nearest_distances(b, a).mean(dim=-1)) / 2


def fscore(a: Float[Tensor, "B N 3"], b: Float[Tensor, "B M 3"], tau: float) -> Float[Tensor, "B"]:
    """2PR / (P + R): P is the share of `a` within `tau` of `b`, R the share of `b` within `tau` of `a`.

    0 where nothing is within `tau`. Never compare across `tau` or across normalisations.
    Source: Tanks and Temples, Knapitsch et al. 2017, section 5.
    """
    precision = (nearest_distances(a, b) <= tau).float().mean(dim=-1)
    recall = (nearest_distances(b, a) <= tau).float().mean(dim=-1)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)


def normal_consistency(
    a: Float[Tensor, "N 3"], normals_a: Float[Tensor, "N 3"], b: Float[Tensor, "M 3"], normals_b: Float[Tensor, "M 3"]
) -> float:
    """Mean |cosine| between the normal of every point and that of the nearest point of the other surface, both ways.

    The normals are of length 1. Source: Occupancy Networks, Mescheder et al. 2019, section 4.
    """
    there = (normals_a * normals_b[_nearest(a, b)]).sum(-1).abs().mean()
    back = (normals_b * normals_a[_nearest(b, a)]).sum(-1).abs().mean()
    return float(there + back) / 2


def _nearest(a: Float[Tensor, "N 3"], b: Float[Tensor, "M 3"]) -> Int[Tensor, "N"]:
    """The number of the point of `b` that is nearest to each point of `a`."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(rows, b, compute_mode=exact).argmin(dim=1) for rows in a.split(CHUNK)])


def face_normals(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "F 3"]:
    """Unit vectors; 0 for triangles without area."""
    a, b, c = vertices[faces].unbind(1)
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-20)


def normalise_points(points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
    """Points moved and scaled so that their axis-aligned bounding box is centred at 0 and its longest side is 1.

    Raises: NumericsError if all points coincide or one is not finite.
    """
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    longest = (high - low).amax(dim=-1, keepdim=True)
    if not bool(((longest > 0) & longest.isfinite()).all()):
        raise NumericsError("points_without_extent", f"bounding boxes with sides {longest.flatten().tolist()}")
    return (points - (low + high) / 2) / longest


def sample_surface(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], n: int, generator: torch.Generator
) -> Float[Tensor, "n 3"]:
    """`n` points spread evenly over the triangles' area. Raises: NumericsError as `sample_faces`."""
    return sample_faces(vertices, faces, n, generator)[0]


def sample_faces(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], n: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n 3"], Int[Tensor, "n"]]:
    """`n` points spread evenly over the triangles' area, and the number of each point's triangle.

    Raises: NumericsError if the triangles have no area, or one is not finite.
    Source: Osada et al. 2002, section 4.1 (barycentric coordinates from the root of a uniform number).
    """
    corners = vertices[faces]  # F 3 3
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1) / 2
    total = float(areas.sum())
    if not 0 < total < float("inf"):
        raise NumericsError("empty_surface", f"{len(faces)} triangles with area {total}")
    chosen = torch.multinomial(areas.double().cpu(), n, replacement=True, generator=generator).to(vertices.device)
    u, v = torch.rand(2, n, 1, generator=generator).to(vertices)
    a, b, c = corners[chosen].unbind(dim=1)
    root = u.sqrt()
    return (1 - root) * a + root * (1 - v) * b + root * v * c, chosen


def angle_difference_deg(a: Float[Tensor, "B"], b: Float[Tensor, "B"], period_deg: float = 360.0) -> Float[Tensor, "B"]:
    """Size of the turn from one angle to the other, 0 to `period_deg` / 2 degrees.

    Angles that differ by `period_deg` are the same; with a period of 0 all are.
    """
    if period_deg == 0:
        return torch.zeros_like(a - b)
    half = period_deg / 2
    return ((a - b + half) % period_deg - half).abs()
