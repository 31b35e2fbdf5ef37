"""Colours that no photo shows, moved to those that the object's photo shows."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from anything3d.space.paint import Sight
from anything3d.space.palette import BLACK, LEAST, recolor_of
from anything3d.space.viewpoint import ReferenceCamera

FRONT = ReferenceCamera(0.0, 0.0, 2.0, (1.0, 1.0, 0.5, 0.5))
SPREAD = 0.06
ORANGE, CREAM, BLUE = (200, 100, 20), (180, 170, 150), (20, 40, 200)
LEFT, ALL = (slice(None), slice(0, 16)), (slice(None), slice(None))


def sight(*painted, size=32, margin=0):
    """A mask that leaves a margin of the crop free, with these colours in these parts of it."""
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[margin : size - margin, margin : size - margin, 3] = 255
    for part, color in painted:
        rgba[(*part, slice(0, 3))] = color
    return Sight(rgba, FRONT)


def shares(color):
    lifted = np.asarray(color, np.float32) + BLACK
    return lifted / lifted.sum(-1, keepdims=True)


@pytest.mark.parametrize("distance", [0.0, 0.03, 0.06, 0.12, 0.2])
def test_a_colour_moves_by_its_kernel(distance):
    """One paint is all of the photo, so the kernel's mean is this paint, and its mass is the kernel itself."""
    goal = shares(np.divide(ORANGE, 255))
    start = goal + np.float32([-distance, distance, 0]) / np.sqrt(2)
    color = 1.2 * start - BLACK
    (moved,) = recolor_of(sight((ALL, ORANGE)), SPREAD)(color[None])
    mass = np.exp(-(distance**2) / (2 * SPREAD**2))
    expected = (mass * goal + LEAST * start) / (mass + LEAST)
    np.testing.assert_allclose(shares(moved), expected, atol=0.006)  # half a cell of the table is 0.004
    assert moved.sum() == pytest.approx(color.sum(), abs=1e-5)


def test_each_paint_takes_what_is_near_it_and_a_third_paint_stays():
    recolor = recolor_of(sight((ALL, ORANGE), (LEFT, CREAM)), SPREAD)
    stained = np.float32([[0.7, 0.45, 0.05], [0.5, 0.6, 0.5], np.divide(BLUE, 255)])
    orange, cream, blue = recolor(stained)
    np.testing.assert_allclose(shares(orange), shares(np.divide(ORANGE, 255)), atol=0.01)
    np.testing.assert_allclose(shares(cream), shares(np.divide(CREAM, 255)), atol=0.01)
    np.testing.assert_allclose(blue, stained[2], atol=1e-3)


def test_a_paint_in_a_shadow_counts_less_than_one_in_the_light():
    """Between two paints, each in half of the photo, the brighter one draws a colour to its side."""
    red, green = np.float32([0.8, 0.4, 0.4]), np.float32([0.4, 0.8, 0.4])
    middle = np.float32([[0.6, 0.6, 0.4]])
    light, dark = (255 * red).astype(int), (255 * green / 4).astype(int)
    even = recolor_of(sight((ALL, light), (LEFT, (255 * green).astype(int))), 0.2)(middle)[0]
    uneven = recolor_of(sight((ALL, light), (LEFT, dark)), 0.2)(middle)[0]
    assert even[0] == pytest.approx(even[1], abs=0.01)
    assert uneven[0] > uneven[1] + 0.1


def test_pixels_at_the_masks_edge_and_outside_do_not_count():
    inner = (slice(10, 22), slice(10, 22))
    blue_at_the_edge = sight((ALL, BLUE), (inner, ORANGE), margin=9)
    near_blue = np.float32([[0.1, 0.2, 0.8]])
    np.testing.assert_allclose(recolor_of(blue_at_the_edge, SPREAD)(near_blue), near_blue, atol=1e-3)
    one_more = recolor_of(sight((ALL, BLUE), (inner, ORANGE), margin=7), SPREAD)(near_blue)[0]
    np.testing.assert_allclose(shares(one_more), shares(np.divide(BLUE, 255)), atol=0.01)


def test_a_mask_that_is_all_edge_changes_nothing():
    color = np.float32([[0.1, 0.2, 0.8]])
    np.testing.assert_array_equal(recolor_of(sight((ALL, ORANGE), margin=15), SPREAD)(color), color)


@given(st.integers(0, 10**6), st.floats(0.01, 1))
@settings(max_examples=50)
def test_colours_stay_between_0_and_1_and_keep_their_brightness(seed, spread):
    random = np.random.default_rng(seed)
    photo = Sight(random.integers(0, 256, (16, 16, 4), np.uint8), FRONT)
    colors = random.random((100, 3), np.float32)
    moved = recolor_of(photo, spread)(colors)
    assert moved.min() >= 0
    assert moved.max() <= 1
    within = ((moved > 0) & (moved < 1)).all(axis=1)
    np.testing.assert_allclose(moved[within].sum(1), colors[within].sum(1), atol=1e-4)
