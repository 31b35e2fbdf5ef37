"""Faults of a mesh that need no ground truth: crossing faces, thin walls, and surface that nobody can see.

All lengths are shares of the longest side of the mesh's bounding box. The results are the same for the same mesh: the
surface samples come from a fixed seed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d.quality.metrics import sample_faces
from anything3d.space.camera import Camera, orbit, project
from anything3d.space.crossings import crossings
from anything3d.space.mesh import Mesh, unit_box
from anything3d.space.raster import rasterize

SAMPLES = 4096  # of the surface; a share of 10 % then has a standard error of 0.5 %
THIN = 0.02  # a wall is thin if its other side is nearer than this
START = 1e-4  # how far below its own face a ray begins
CAMERAS, DISTANCE, FOV_DEG, SIZE_PX = 32, 2.7, 39.6, 64  # of those that look for hidden surface, from a sphere
BEHIND = 0.02  # surface is hidden if it lies farther behind what a camera sees
MAX_FACES = 500_000  # of a mesh whose crossings are counted


@dataclass(frozen=True, slots=True)
class Soundness:
    """Faults of one mesh."""

    self_intersections: int | None  # faces; see `self_intersections`
    thin_share: float  # of the area, 0 to 1
    hidden_share: float  # of the area, 0 to 1


@torch.inference_mode()
def soundness(mesh: Mesh) -> Soundness:
    """All of them. Raises: NumericsError if the mesh has no area."""
    whole = unit_box(mesh)
    vertices, faces = torch.from_numpy(whole.vertices), torch.from_numpy(whole.faces)
    points, chosen = sample_faces(vertices, faces, SAMPLES, torch.Generator().manual_seed(0))
    return Soundness(
        self_intersections=self_intersections(whole),
        thin_share=thin_share(whole, points.numpy(), chosen.numpy()),
        hidden_share=hidden_share(whole, points),
    )


def self_intersections(mesh: Mesh) -> int | None:
    """How many faces are crossed by an edge of another face, or have an edge that crosses another face.

    Vertices at the same place count as one. A face and an edge that share a vertex are not compared, so that a fold
    between neighbours is not found. Faces that overlap in one plane are not found either. None beyond MAX_FACES.
    """
    if len(mesh.faces) > MAX_FACES:
        return None
    vertices, names = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = names.reshape(-1)[mesh.faces]
    sides = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, number = np.unique(sides, axis=0, return_inverse=True)
    crossing, crossed, _ = crossings(vertices[edges[:, 0]], vertices[edges[:, 1]], vertices[faces])
    apart = (edges[crossing][:, :, None] != faces[crossed][:, None, :]).all((1, 2))
    bad_edges, bad_faces = np.zeros(len(edges), bool), np.zeros(len(faces), bool)
    bad_edges[crossing[apart]] = True
    bad_faces[crossed[apart]] = True
    return int((bad_faces | bad_edges[number.reshape(-1, 3)].any(1)).sum())


def thin_share(mesh: Mesh, points: Float[np.ndarray, "N 3"], chosen: Int[np.ndarray, "N"]) -> float:
    """The share of `points` on the faces `chosen` below which, straight inwards, another wall is nearer than THIN.

    A sheet that is open at its edges has no wall behind it. It is not found.
    """
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[chosen]
    inwards = -normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
    probes, _, _ = crossings(points + START * inwards, points + THIN * inwards, corners)
    return float(len(np.unique(probes)) / len(points))


def hidden_share(mesh: Mesh, points: Float[Tensor, "N 3"]) -> float:
    """The share of `points` on the surface that no camera of a sphere sees.

    A camera sees a point if it sees nothing more than BEHIND in front of it. So a wall inside a shell that is thinner
    than BEHIND is not found.
    """
    cameras = sphere(CAMERAS, DISTANCE, FOV_DEG)
    depths = rasterize(mesh, cameras, SIZE_PX).depth
    where, away = project(cameras, points.expand(CAMERAS, -1, -1))
    column, row = (where * SIZE_PX).long().clamp(0, SIZE_PX - 1).unbind(-1)
    nearest = depths.flatten(1).gather(1, row * SIZE_PX + column)
    return 1 - float((away <= nearest + BEHIND).any(0).float().mean())


def sphere(count: int, distance: float, fov_deg: float) -> Camera:
    """Cameras spread evenly all round the origin, which they look at. Source: the Fibonacci lattice of a sphere."""
    steps = torch.arange(count)
    elevation = torch.rad2deg(torch.asin(1 - (2 * steps + 1) / count))
    azimuth = steps * 180 * (3 - 5**0.5)
    return orbit(azimuth, elevation, torch.full((count,), distance), torch.full((count,), fov_deg))
