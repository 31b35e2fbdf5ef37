"""Segments through triangles: by hand, and against a second implementation that tests all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anything3d.space import crossings as module
from anything3d.space.crossings import crossings

FLAT = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])


def through(start, end, corners=FLAT):
    return crossings(np.array([start], float), np.array([end], float), corners)


def test_a_segment_passes_through_a_triangle_where_the_arithmetic_says():
    segments, triangles, along = through([0.25, 0.25, -1], [0.25, 0.25, 3])
    assert (segments.tolist(), triangles.tolist()) == ([0], [0])
    assert along[0] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ([0.75, 0.75, -1], [0.75, 0.75, 1]),  # beside it
        ([0.25, 0.25, 1], [0.25, 0.25, 2]),  # above it
        ([0.25, 0.25, 0], [0.25, 0.25, 1]),  # begins on it
        ([0.1, 0.1, 0], [0.4, 0.4, 0]),  # lies in its plane
    ],
)
def test_what_passes_by_or_only_touches_is_no_crossing(start, end):
    assert len(through(start, end)[0]) == 0


def test_a_segment_through_the_seam_of_two_triangles_meets_at_least_one():
    square = np.array([[[0.0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]])
    assert len(through([0.5, 0.5, -1], [0.5, 0.5, 1], square)[0]) >= 1


def test_nothing_meets_nothing():
    none = np.zeros((0, 3))
    assert [len(values) for values in crossings(none, none, FLAT)] == [0, 0, 0]
    assert [len(values) for values in crossings(none, none, np.zeros((0, 3, 3)))] == [0, 0, 0]


def all_pairs(starts, ends, corners):
    """Signs of volumes: the ends are on two sides of the plane, and the line is on one side of all three edges."""

    def volume(a, b, c, d):
        return np.linalg.det(np.stack([b - a, c - a, d - a]))

    found = set()
    for s, (p, q) in enumerate(zip(starts, ends, strict=True)):
        for f, (a, b, c) in enumerate(corners):
            sides = [volume(p, q, a, b), volume(p, q, b, c), volume(p, q, c, a)]
            if volume(p, a, b, c) * volume(q, a, b, c) < 0 and (min(sides) > 0 or max(sides) < 0):
                found.add((s, f))
    return found


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.3, 2.0]))
def test_the_grid_finds_what_all_pairs_find_each_pair_once(seed, size):
    """Boxes of all sizes, also outside of what the triangles fill, and few pairs and entries at a time."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(size=(30, 1, 3)) + rng.normal(size=(30, 3, 3)) * size
    starts = rng.uniform(-0.5, 1.5, size=(40, 3))
    ends = starts + rng.normal(size=(40, 3)) * rng.choice([0.1, 1.0], size=(40, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PAIRS", 50)
        patch.setattr(module, "MAX_ENTRIES", 500)
        segments, triangles, _ = crossings(starts, ends, corners)
    found = list(zip(segments.tolist(), triangles.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == all_pairs(starts, ends, corners)
