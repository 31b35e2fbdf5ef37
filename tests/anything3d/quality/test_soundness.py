"""Faults of boxes whose shares are known by hand."""

import numpy as np
import pytest
import torch
import trimesh

from anything3d.errors import NumericsError
from anything3d.quality import soundness as module
from anything3d.quality.soundness import CAMERAS, self_intersections, soundness, sphere
from anything3d.space.camera import angles
from anything3d.space.mesh import Mesh


def mesh_of(*bodies: trimesh.Trimesh) -> Mesh:
    whole = trimesh.util.concatenate(bodies)
    vertices = np.asarray(whole.vertices, np.float32)
    return Mesh(vertices, np.asarray(whole.faces, np.int64), np.full_like(vertices, 0.5))


def box(*sides: float, at=(0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    body = trimesh.creation.box(sides)
    body.apply_translation(at)
    return body


def test_a_box_and_a_ball_have_no_fault():
    for body in (box(1, 1, 1), box(4, 1, 2), trimesh.creation.icosphere(subdivisions=3)):
        sound = soundness(mesh_of(body))
        assert (sound.self_intersections, sound.thin_share) == (0, 0)
        assert sound.hidden_share < 0.002


def test_size_and_place_do_not_count():
    one, two = mesh_of(box(1, 0.01, 1)), mesh_of(box(7, 0.07, 7, at=(3, -2, 5)))
    assert soundness(one) == soundness(two)


def test_two_boxes_that_overlap_cross_and_hide_what_lies_inside_the_other():
    """Each has a corner in the other: three of its sides, of two triangles, are crossed. A quarter is inside."""
    sound = soundness(mesh_of(box(1, 1, 1), box(1, 1, 1, at=(0.5, 0.5, 0.5))))
    assert 0 < sound.self_intersections <= 12
    assert sound.hidden_share == pytest.approx(6 * 0.25 / 12, abs=0.02)
    apart = soundness(mesh_of(box(1, 1, 1), box(1, 1, 1, at=(1.5, 0, 0))))
    assert (apart.self_intersections, apart.thin_share) == (0, 0)
    assert apart.hidden_share < 0.01


def test_one_spike_through_a_wall_is_three_faces_and_the_wall():
    """A tetrahedron whose tip goes through one triangle of a large one: its three sides and that triangle cross."""
    wall = trimesh.Trimesh([[-9, -9, 0], [9, -9, 0], [0, 9, 0]], [[0, 1, 2]], process=False)
    spike = trimesh.Trimesh(
        [[-1, -1, -1], [1, -1, -1], [0, 1, -1], [0, 0, 1]], [[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], process=False
    )
    assert self_intersections(mesh_of(wall, spike)) == 4


def test_a_seam_where_a_vertex_is_there_twice_is_no_crossing():
    corners = box(1, 1, 1).triangles.reshape(-1, 3)  # every triangle with its own vertices, as a file with a texture
    split = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
    assert self_intersections(mesh_of(split)) == 0


def test_a_wall_is_thin_below_two_per_cent_of_the_longest_side():
    """Of a slab's area, the large sides count, and not the rim."""
    rim = 4 * 0.015 / (2 + 4 * 0.015)
    assert soundness(mesh_of(box(1, 0.015, 1))).thin_share == pytest.approx(1 - rim, abs=0.01)
    assert soundness(mesh_of(box(1, 0.025, 1))).thin_share == 0


def test_a_hollow_body_hides_its_inner_wall():
    cavity = box(0.5, 0.5, 0.5)
    cavity.invert()
    sound = soundness(mesh_of(box(1, 1, 1), cavity))
    assert sound.hidden_share == pytest.approx(1.5 / 7.5, abs=0.02)
    assert (sound.self_intersections, sound.thin_share) == (0, 0)


def test_more_faces_than_the_limit_are_not_counted(monkeypatch):
    monkeypatch.setattr(module, "MAX_FACES", 11)
    assert self_intersections(mesh_of(box(1, 1, 1))) is None


def test_a_mesh_without_extent_is_an_error():
    point = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]]), np.zeros((3, 3), np.float32))
    with pytest.raises(NumericsError, match="points_without_extent"):
        soundness(point)


def test_the_cameras_are_spread_over_the_sphere():
    eyes = torch.nn.functional.normalize(sphere(CAMERAS, 2.7, 40.0).pose[:, :3, 3], dim=-1)
    assert eyes.mean(0).norm() < 0.05
    nearest = (eyes @ eyes.T - 2 * torch.eye(CAMERAS)).amax(1)
    assert torch.rad2deg(nearest.acos()).amin() > 20  # 32 equal caps have radii of 20 degrees
    assert angles(sphere(2, 1.0, 40.0))[1].tolist() == pytest.approx([30, -30], abs=1e-3)
