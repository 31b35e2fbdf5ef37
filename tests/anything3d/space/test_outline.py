"""A ball in front of a camera, and masks that are nearly its outline."""

import math
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from anything3d.space.outline import FAR, fit_outline
from anything3d.space.paint import Sight
from anything3d.space.viewpoint import ReferenceCamera

SIZE = 256
RADIUS = 0.4
FRONT = ReferenceCamera(0.0, 0.0, 3.0, (2.5, 2.5, 0.5, 0.5))
SEEN = 2.5 * RADIUS / math.sqrt(9 - RADIUS**2)  # radius of the outline, in fractions of the crop's side
BALL = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
VERTICES, FACES = np.float32(BALL.vertices), np.int64(BALL.faces)


def ellipse(wide: float, high: float, right: float = 1.0) -> Sight:
    """A crop whose mask is an ellipse with these half axes, without what lies beyond `right`; fractions of its side."""
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    mask = (np.hypot((x - 0.5) / wide, (y - 0.5) / high) < 1) & (x < right)
    return Sight(np.concatenate([np.zeros((SIZE, SIZE, 3), np.uint8), np.uint8(255 * mask)[..., None]], axis=2), FRONT)


def fitted(sight: Sight, share: float = 1.0) -> np.ndarray:
    fit = fit_outline(VERTICES, FACES, sight, share, 0.9)
    assert fit is not None
    return fit(VERTICES)


def half_axes(points: np.ndarray) -> np.ndarray:
    """Of the outline in the crop: across and along; fractions of its side."""
    return np.abs(FRONT.project(points) - 0.5).max(0)


@pytest.mark.parametrize("factor", [0.93, 1.0, 1.08])
def test_a_mask_of_another_size_scales_the_ball_in_depth_too(factor):
    moved = fitted(ellipse(factor * SEEN, factor * SEEN))
    np.testing.assert_allclose(half_axes(moved), factor * SEEN, atol=0.5 / SIZE)
    radii = np.linalg.norm(moved, axis=1)
    np.testing.assert_allclose(radii.mean(), factor * RADIUS, rtol=0.01)
    np.testing.assert_allclose(radii, factor * RADIUS, rtol=0.02)


def test_a_mask_of_another_shape_is_reached_and_half_the_way_is_half_of_it():
    """The ellipse is wider by 6 % and lower by 6 %: no scale helps."""
    wide, high = 1.06 * SEEN, 0.94 * SEEN
    all_the_way, half = (half_axes(fitted(ellipse(wide, high), share)) for share in (1.0, 0.5))
    np.testing.assert_allclose(all_the_way, [wide, high], atol=1 / SIZE)
    np.testing.assert_allclose(half, (all_the_way + SEEN) / 2, atol=0.5 / SIZE)


def test_nothing_moves_with_a_share_of_nothing():
    np.testing.assert_array_equal(fitted(ellipse(SEEN * 1.05, SEEN), 0.0), VERTICES)


def test_what_something_hides_does_not_become_smaller():
    """Something stands in front of the right third, so that the mask ends there."""
    moved = FRONT.project(fitted(ellipse(SEEN, SEEN, 0.5 + SEEN / 3)))
    np.testing.assert_allclose(moved[:, 0].min(), 0.5 - SEEN, atol=0.01)
    np.testing.assert_allclose(moved[:, 0].max(), 0.5 + SEEN, atol=0.01)


def test_where_something_may_hide_the_ball_its_outline_stays_although_it_is_near_the_masks():
    """The mask ends two thirds of FAR before the ball does, at something else. Nothing but that side may tell."""
    right = 0.5 + SEEN - FAR * 2 / 3
    sight = ellipse(SEEN, SEEN, right)
    hidden = np.uint8(255) * np.tile((np.arange(SIZE) + 0.5) / SIZE > right, (SIZE, 1))
    cut, whole = (FRONT.project(fitted(one))[:, 0].max() for one in (sight, replace(sight, unseen=hidden)))
    assert cut < 0.5 + SEEN - FAR / 3
    np.testing.assert_allclose(whole, 0.5 + SEEN, atol=1 / SIZE)


def test_the_shift_is_that_of_the_scale_which_is_allowed():
    """The mask shows the left end of a ball that is 11 % larger. Scale and shift can replace each other there."""
    fit = fit_outline(VERTICES, FACES, ellipse(1.11 * SEEN, 1.11 * SEEN, 0.5 - 0.7 * SEEN), 0.0001, 0.0)
    assert fit is not None
    np.testing.assert_allclose(FRONT.project(fit(VERTICES))[:, 0].min(), 0.5 - 1.11 * SEEN, atol=1.5 / SIZE)


def test_a_mask_of_something_larger_fits_nothing():
    much_larger = SEEN + 2 * FAR
    assert fit_outline(VERTICES, FACES, ellipse(much_larger, much_larger), 1.0, 0.9) is None
    fit = fit_outline(VERTICES, FACES, ellipse(much_larger, much_larger), 1.0, 0.0)
    assert fit is not None
    np.testing.assert_array_equal(fit(VERTICES), VERTICES)


def test_without_a_mask_there_is_no_fit():
    assert fit_outline(VERTICES, FACES, ellipse(1e-6, 1e-6), 1.0, 0.0) is None


def test_an_object_at_the_edge_of_the_crop_keeps_what_lies_beyond():
    """Half of the ball lies to the right of the crop; mask and outline end there."""
    camera = ReferenceCamera(0.0, 0.0, 3.0, (2.5, 2.5, 1.0, 0.5))
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    mask = np.hypot(x - 1, y - 0.5) < SEEN
    rgba = np.concatenate([np.zeros((SIZE, SIZE, 3), np.uint8), np.uint8(255 * mask)[..., None]], axis=2)
    fit = fit_outline(VERTICES, FACES, Sight(rgba, camera), 1.0, 0.9)
    assert fit is not None
    np.testing.assert_allclose(fit(VERTICES), VERTICES, atol=0.01)
