"""Which cells of a grid a mesh fills, and how much of two meshes is the same."""

import numpy as np
from jaxtyping import Bool, Float

from anything3d.space.crossings import ranges

NUDGE = np.array([1.3e-4, 2.9e-4])  # cells by which lines pass beside centres: along a seam both triangles would count


def volume_iou(a: Bool[np.ndarray, "N N N"], b: Bool[np.ndarray, "N N N"]) -> float:
    """Intersection over union; 0 if neither fills anything."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def occupancy(corners: Float[np.ndarray, "F 3 3"], n: int) -> Bool[np.ndarray, "N N N"]:
    """The cells of the cube from -0.5 to 0.5, cut into n^3, whose centres are inside of these triangles; [x, y, z].

    A line through a centre counts how often it leaves the surface behind it less how often it enters. If that is not 0,
    the centre is inside along this line. Two of the lines along x, y and z decide, so that a hole does less harm.
    Triangles of parts that overlap count once, and the walls of a cavity leave it empty.
    Source: Jacobson et al. 2013 (winding numbers).
    """
    cells = (corners.astype(np.float64) + 0.5) * n - 0.5  # a centre has whole numbers
    votes = np.zeros((n, n, n), np.int8)
    for axis in range(3):
        order = [(axis + 1) % 3, (axis + 2) % 3, axis]
        votes += _inside_along(cells[:, :, order], n).transpose(np.argsort(order))
    return votes >= 2


def _inside_along(cells: Float[np.ndarray, "F 3 3"], n: int) -> Bool[np.ndarray, "N N N"]:
    """Inside along the third axis."""
    flat = cells[:, :, :2] + NUDGE
    first = np.ceil(flat.min(1)).astype(np.int64).clip(0, n)
    extent = (np.floor(flat.max(1)).astype(np.int64).clip(-1, n - 1) - first + 1).clip(0)
    counts = extent.prod(1)
    face = np.arange(len(cells)).repeat(counts)
    within = ranges(np.zeros(len(cells), np.int64), counts)
    line = first[face] + np.stack([within // extent[face, 1].clip(1), within % extent[face, 1].clip(1)], 1)
    a, b, c = (flat[:, k][face] - line for k in range(3))
    shares = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], 1)
    area = shares.sum(1)
    hit = ((shares >= 0).all(1) | (shares <= 0).all(1)) & (area != 0)
    height = (shares[hit] * cells[face[hit], :, 2]).sum(1) / area[hit]
    below = np.ceil(height).clip(0, n).astype(np.int64)  # centres below the crossing
    leaves = np.zeros((n, n, n + 1), np.int64)
    np.add.at(leaves, (*line[hit].T, below), np.sign(area[hit]).astype(np.int64))
    return np.flip(np.flip(leaves, 2).cumsum(2), 2)[:, :, 1:] != 0


def _cross(a: Float[np.ndarray, "P 2"], b: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
