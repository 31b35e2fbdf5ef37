import numpy as np
import pytest

from anything3d.space.solid import LINES, optical_depth, solidity


def test_thirteen_lines_go_through_the_neighbours_of_a_node():
    both = {*LINES, *(tuple(-number for number in step) for step in LINES)}
    assert (len(LINES), len(both), (0, 0, 0) in both) == (13, 26, False)


def test_optical_depth_is_density_times_the_way_through_it():
    """The first trapezoid begins one step before the first node, where the density is 0."""
    filled = np.full((5, 5, 5), 3.0, np.float32)
    along_x = optical_depth(filled, (0, 0, 1), 0.5)
    np.testing.assert_allclose(along_x, np.broadcast_to([0.75, 2.25, 3.75, 5.25, 6.75], (5, 5, 5)), rtol=1e-6)
    diagonal = optical_depth(filled, (1, -1, 0), 0.5)
    assert diagonal[2, 2, 0] == pytest.approx(3 * 2.5 * 0.5 * 2**0.5)  # through (0, 4) and (1, 3)
    assert diagonal[3, 4, 1] == pytest.approx(3 * 0.5 * 0.5 * 2**0.5)  # on the face where the ray enters


@pytest.mark.parametrize("step", LINES)
def test_there_and_back_are_the_whole_line(step):
    """Every node of a line has the same sum, and single nodes have no neighbour to leak into."""
    density = np.random.default_rng(0).random((6, 6, 6)).astype(np.float32)
    back = optical_depth(density[::-1, ::-1, ::-1], step, 1.0)[::-1, ::-1, ::-1]
    total = optical_depth(density, step, 1.0) + back
    after = tuple(slice(max(s, 0), 6 + min(s, 0)) for s in step)
    before = tuple(slice(max(-s, 0), 6 - max(s, 0)) for s in step)
    np.testing.assert_allclose(total[after], total[before], rtol=1e-5)


def test_what_no_ray_reaches_is_solid_and_what_hides_nothing_is_open():
    density = np.zeros((11, 11, 11), np.float32)
    density[3:8, 3:8, 3:8] = 100.0
    density[4:7, 4:7, 4:7] = 0.0  # a cavity
    density[0, 0, :] = 0.05  # 11 nodes of it stop 4 % of the light
    solid = solidity(density, 0.1, surface=0.25, silhouette=0.5) > 0
    expected = np.zeros_like(solid)
    expected[3:8, 3:8, 3:8] = True
    np.testing.assert_array_equal(solid, expected)
