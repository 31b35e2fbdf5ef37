"""Filled cells of boxes, counted by hand."""

import numpy as np
import pytest
import trimesh

from anything3d.quality.occupancy import occupancy, volume_iou


def box(sides, at=(0.0, 0.0, 0.0)) -> np.ndarray:
    body = trimesh.creation.box(sides)
    body.apply_translation(at)
    return np.asarray(body.triangles)


def test_a_box_fills_the_cells_whose_centres_it_contains():
    filled = occupancy(box([0.5, 0.25, 1.0]), 8)  # half, a quarter and all of the cube's side
    expected = np.zeros((8, 8, 8), bool)
    expected[2:6, 3:5, :] = True
    assert np.array_equal(filled, expected)


def test_parts_that_overlap_count_once_and_a_cavity_is_empty():
    one, other = box([0.5, 0.5, 0.5], at=(-0.125, 0, 0)), box([0.5, 0.5, 0.5], at=(0.125, 0, 0))
    assert np.array_equal(occupancy(np.concatenate([one, other]), 16), occupancy(box([0.75, 0.5, 0.5]), 16))
    cavity = box([0.5, 0.5, 0.5])[:, ::-1]
    assert occupancy(np.concatenate([box([1, 1, 1]), cavity]), 16).mean() == pytest.approx(1 - 0.125)


def test_a_body_that_is_inside_out_fills_the_same_cells():
    assert np.array_equal(occupancy(box([0.5, 0.25, 1.0])[:, ::-1], 8), occupancy(box([0.5, 0.25, 1.0]), 8))


def test_a_hole_in_one_side_is_outvoted():
    whole = box([0.5, 0.5, 0.5])
    top = (whole[:, :, 2] == 0.25).all(1)
    assert top.sum() == 2
    assert np.array_equal(occupancy(whole[~top], 16), occupancy(whole, 16))


def test_a_turned_ball_has_the_volume_of_a_ball():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    ball.apply_transform(trimesh.transformations.rotation_matrix(0.7, [1, 2, 3]))
    assert occupancy(np.asarray(ball.triangles), 64).mean() == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)


def test_the_iou_of_two_boxes_is_that_of_their_volumes():
    one, other = occupancy(box([0.5, 0.5, 0.5]), 16), occupancy(box([0.5, 0.5, 0.5], at=(0.25, 0, 0)), 16)
    assert volume_iou(one, other) == pytest.approx(1 / 3)
    assert volume_iou(one, one) == 1
    assert volume_iou(one & ~one, one & ~one) == 0
