"""Fewer triangles: surfaces whose edges can be counted by hand, and thin walls that a plain simplification joins."""

import numpy as np
import pytest
import trimesh
from fast_simplification import simplify
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from anything3d.space.mesh import is_watertight, signed_volumes
from anything3d.space.simplify import HASTE, linked, simplified


def ring(count: int = 3) -> np.ndarray:
    """A closed tube of `count` squares along and three around: every vertex belongs to a ring of three."""
    faces = []
    for along in range(count):
        for around in range(3):
            a, b = 3 * along + around, 3 * along + (around + 1) % 3
            c, d = (number + 3 if along + 1 < count else number - 3 * along for number in (a, b))
            faces += [[a, b, d], [a, d, c]]
    return np.array(faces)


def rough_bowl(wall: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """The lower half of a shell of noise that is about one node thick."""
    z, y, x = np.mgrid[-0.6:0.6:48j, -0.6:0.6:48j, -0.6:0.6:48j]
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(x.shape), 1.5)
    signed = np.minimum(wall / 2 - np.abs(np.sqrt(x * x + y * y + z * z) - 0.45), 0.1 - y) + 0.05 * noise
    corners, faces, _, _ = marching_cubes(
        np.pad(signed, 1, constant_values=-1), 0, gradient_direction="descent", allow_degenerate=False
    )
    return (corners[:, ::-1] / 48 - 0.5).astype(np.float32), faces.astype(np.int64)


def test_thin_walls_stay_two():
    """A plain simplification gives edges of four triangles here. What is left out for this costs no shape."""
    vertices, faces = rough_bowl()
    wanted = len(faces) // 4
    plain = simplify(vertices, faces.astype(np.int32), target_count=wanted, agg=HASTE)
    assert is_watertight(faces)
    assert not is_watertight(plain[1])
    fewer, left = simplified(vertices, faces, wanted)
    assert is_watertight(left)
    assert wanted - 2 <= len(left) <= wanted
    assert len(fewer) == len(np.unique(left))
    assert cKDTree(vertices).query(fewer)[0].max() < 1 / 48  # a node
    assert signed_volumes(fewer, left).sum() == pytest.approx(signed_volumes(vertices, faces).sum(), rel=0.03)


def test_an_edge_of_a_ring_of_three_is_not_collapsed():
    """Vertices 0, 1 and 2 are a ring around a tube. After 0-1, the edge 0-2 would have four triangles."""
    faces = ring(4)
    assert is_watertight(faces)
    assert linked(faces, np.array([[0, 1]]), 0).tolist() == []
    assert linked(faces, np.array([[0, 3]]), 0).tolist() == [[0, 3]]  # along the tube
    assert linked(faces, np.array([[0, 3], [4, 7], [0, 1], [5, 8], [0, 2]]), 0).tolist() == [[0, 3], [4, 7], [5, 8]]
    assert linked(faces, np.array([[0, 3], [4, 7]]), len(faces) - 2).tolist() == [[0, 3]]  # no more than are wanted


def test_a_tetrahedron_stays():
    faces = np.array([[0, 1, 2], [0, 3, 1], [1, 3, 2], [0, 2, 3]])
    assert linked(faces, np.array([[0, 1], [2, 3]]), 0).tolist() == []


def test_an_open_surface_is_simplified_too():
    sphere = trimesh.creation.icosphere(4)
    faces = np.array(sphere.faces)[np.array(sphere.triangles_center)[:, 1] > 0]
    used, faces = np.unique(faces, return_inverse=True)
    _, left = simplified(np.array(sphere.vertices, np.float32)[used], faces.reshape(-1, 3), 600)
    assert len(left) <= 600
    assert not is_watertight(left)
