"""Shapes whose distance after ICP is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from anything3d.errors import NumericsError
from anything3d.quality.sa3dao import axis_rotations, sa3dao
from anything3d.space.mesh import Mesh

POINTS = 2**17


def mesh_of(body: trimesh.Trimesh) -> Mesh:
    vertices = np.asarray(body.vertices, np.float32)
    return Mesh(vertices, np.asarray(body.faces, np.int64), np.full_like(vertices, 0.5))


def turned(mesh: Mesh, degrees: float, axis: list[float]) -> Mesh:
    rotation = trimesh.transformations.rotation_matrix(np.deg2rad(degrees), axis)[:3, :3]
    return replace(mesh, vertices=(mesh.vertices @ rotation.T).astype(np.float32))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


BEAM = mesh_of(trimesh.creation.box((1, 0.2, 0.2)))
L = mesh_of(
    trimesh.util.concatenate(
        [
            trimesh.creation.box((1, 0.2, 0.1)),
            trimesh.creation.box((0.2, 0.6, 0.1)).apply_translation((0.4, 0.4, 0)),
        ]
    )
)


def test_size_and_place_do_not_count():
    moved = replace(BEAM, vertices=BEAM.vertices * 3 + np.float32([1, 2, 3]))
    scores = sa3dao(moved, BEAM, POINTS, generator())
    assert scores.f1 > 0.999
    assert scores.chamfer < 0.004


@pytest.mark.parametrize(("points", "f1"), [(262_144, 0.967), (1_000_000, 1.0)])
def test_two_samples_of_one_cube_differ_if_they_are_small(points, f1):
    """The figures of docs/corpus.md and of `score.sa3dao_points`."""
    cube = mesh_of(trimesh.creation.box())
    assert sa3dao(cube, cube, points, generator()).f1 == pytest.approx(f1, abs=0.003)


def test_a_side_that_is_missing_costs_recall():
    """One long side of four is missing: a share of 0.8 / 3.52 of the area. F = 2 r / (1 + r)."""
    open_beam = replace(BEAM, faces=BEAM.faces[~(BEAM.vertices[BEAM.faces][:, :, 1] > 0.05).all(1)])
    assert len(open_beam.faces) == 10
    recall = 1 - 0.8 / 3.52
    assert sa3dao(open_beam, BEAM, POINTS, generator()).f1 == pytest.approx(2 * recall / (1 + recall), abs=0.02)


def test_icp_turns_back_a_little_and_the_starts_turn_back_the_rest():
    assert sa3dao(turned(L, 180, [0, 0, 1]), L, POINTS, generator()).f1 < 0.6
    found = sa3dao(turned(L, 180, [0, 0, 1]), L, POINTS, generator(), axis_rotations())
    assert found.f1 > 0.99
    ball, bumpy = trimesh.creation.icosphere(subdivisions=3), trimesh.creation.icosphere(subdivisions=3)
    bumpy.vertices[:50] *= 0.5
    tilted = turned(mesh_of(bumpy), 8, [0, 1, 0])
    assert sa3dao(tilted, mesh_of(bumpy), POINTS, generator()).chamfer < 0.02
    assert sa3dao(mesh_of(ball), mesh_of(ball), POINTS, generator(), queries=None).f1 > 0.9


def test_the_starts_are_the_24_rotations_of_a_cube():
    found = axis_rotations()
    assert found.shape == (24, 3, 3)
    assert len({tuple(one.ravel().tolist()) for one in found}) == 24
    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (24, 3, 3)))


def test_a_shape_without_area_is_an_error():
    with pytest.raises(NumericsError):
        sa3dao(replace(BEAM, vertices=BEAM.vertices * 0), BEAM, 100, generator())
