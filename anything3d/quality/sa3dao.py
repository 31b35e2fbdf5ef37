"""Two shapes compared by the protocol of SA-3DAO (SAM 3D, Chen et al. 2025): free pose, fixed size.

Each shape is centred and scaled to a bounding box with longest side 2. ICP moves one onto the other. Then come the mean
distance of both directions (unsquared), and the F-score within 0.01.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from anything3d.quality.metrics import normalise_points, sample_surface
from anything3d.space.mesh import Mesh

TAU = 0.01  # of the F-score, where the longest side is 2
SEARCH_POINTS, ICP_POINTS = 512, 4096  # of ours, which ICP moves: from every start, then from the best of their ends
ICP_STEPS, ICP_LEAST = 50, 1e-7  # ICP stops after so many steps, or when the mean squared distance falls by less
QUERIES = 1 << 14  # points of each shape whose distances to the other are measured; errors of 0.4 % at most


@dataclass(frozen=True, slots=True)
class Sa3daoScores:
    """How far two shapes are apart after ICP, in halves of the longest side."""

    chamfer: float
    f1: float  # 0..1


def sa3dao(
    made: Mesh,
    true: Mesh,
    points: int,
    generator: torch.Generator,
    starts: Float[np.ndarray, "T 3 3"] | None = None,
    queries: int | None = QUERIES,
) -> Sa3daoScores:
    """The scores of `made`, with `points` on each surface, of which `queries` are measured (None: all).

    ICP begins at each of the rotations `starts`, or where the shapes are. The best end counts.

    Raises: NumericsError if a mesh has no extent.
    """
    ours, theirs = (samples(mesh, points, generator) for mesh in (made, true))
    ours = moved(ours, aligned(ours, theirs, starts))
    return apart(ours, theirs, queries)


def aligned(
    ours: Float[np.ndarray, "N 3"], theirs: Float[np.ndarray, "N 3"], starts: Float[np.ndarray, "T 3 3"] | None
) -> Float[np.ndarray, "4 4"]:
    """The pose in which ours lie best on theirs: ICP from every start, and the best end once more with more points."""
    rotations = np.eye(3)[None] if starts is None else starts
    ends = [_icp(ours, theirs, SEARCH_POINTS, _pose(rotation)) for rotation in rotations]
    pose, _ = min(ends, key=lambda end: end[1])
    return _icp(ours, theirs, ICP_POINTS, pose)[0]


def moved(points: Float[np.ndarray, "*N 3"], pose: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "*N 3"]:
    """The points in this pose."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def apart(ours: Float[np.ndarray, "N 3"], theirs: Float[np.ndarray, "N 3"], queries: int | None) -> Sa3daoScores:
    """The scores of two sets of points, of which `queries` each are measured (None: all)."""
    from scipy.spatial import cKDTree

    quick = {"balanced_tree": False, "compact_nodes": False}  # made in half the time; the distances are the same
    there, _ = cKDTree(theirs, **quick).query(ours[:queries])
    back, _ = cKDTree(ours, **quick).query(theirs[:queries])
    precision, recall = float((there <= TAU).mean()), float((back <= TAU).mean())
    both = precision + recall
    return Sa3daoScores((float(there.mean()) + float(back.mean())) / 2, 2 * precision * recall / both if both else 0.0)


def _pose(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4 4"]:
    pose = np.eye(4)
    pose[:3, :3] = rotation
    return pose


def _icp(
    ours: Float[np.ndarray, "N 3"], theirs: Float[np.ndarray, "N 3"], points: int, pose: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "4 4"], float]:
    """The pose in which `points` of ours lie best on 16 times as many of theirs, and the mean squared distance."""
    from trimesh.registration import icp

    matrix, _, cost = icp(
        ours[:points], theirs[: 16 * points], pose, ICP_LEAST, ICP_STEPS, reflection=False, scale=False
    )
    return matrix, float(cost)


def axis_rotations() -> Float[np.ndarray, "24 3 3"]:
    """The 24 rotations that take the axes to axes."""
    signs = (-1.0, 1.0)
    made = [
        np.eye(3)[list(order)] * np.array([a, b, c])[:, None]
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        for a in signs
        for b in signs
        for c in signs
    ]
    return np.stack([one for one in made if np.linalg.det(one) > 0])


def samples(mesh: Mesh, points: int, generator: torch.Generator) -> Float[np.ndarray, "N 3"]:
    """Points of the surface, centred, with longest side 2, in random order."""
    surface = sample_surface(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces), points, generator)
    return 2 * normalise_points(surface[None])[0].numpy().astype(np.float64)
