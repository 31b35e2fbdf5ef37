"""Metrics against values worked out by hand."""

import math

import pytest
import torch

from anything3d.errors import NumericsError
from anything3d.quality.metrics import (
    MAX_PSNR_DB,
    angle_difference_deg,
    chamfer,
    face_normals,
    fscore,
    mask_iou,
    nearest_distances,
    normal_consistency,
    normalise_points,
    psnr_db,
    sample_surface,
)

CORNERS = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
CUBE = torch.tensor(  # two triangles on each face of the unit cube, indices into CORNERS
    [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
        [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
    ]
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_psnr_of_an_error_of_a_tenth_is_twenty_decibels():
    black = torch.zeros(2, 3, 4, 4)
    grey = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 1.0)])
    torch.testing.assert_close(psnr_db(black, grey), torch.tensor([20.0, 0.0]))
    assert psnr_db(black, black).tolist() == [MAX_PSNR_DB] * 2


def test_iou_of_two_rows_that_share_one_is_a_third():
    a, b = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    a[0, 0:2], b[0, 1:3] = True, True
    a[1, 0] = True
    torch.testing.assert_close(mask_iou(a, b), torch.tensor([1 / 3, 0.0, 1.0]))


def test_chamfer_of_a_cloud_with_itself_is_zero_and_its_fscore_one():
    points = torch.rand(2, 300, 3, generator=generator())
    assert chamfer(points, points.flip(1)).tolist() == [0.0, 0.0]
    assert fscore(points, points.flip(1), 0.0).tolist() == [1.0, 1.0]


def test_chamfer_averages_both_directions_and_is_not_squared():
    a = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0]]])
    b = torch.tensor([[[0.0, 0.3, 0]]])
    there = (0.3 + math.hypot(1, 0.3)) / 2
    assert float(chamfer(a, b)) == pytest.approx((there + 0.3) / 2)
    assert float(chamfer(b, a)) == pytest.approx((there + 0.3) / 2)
    assert float(fscore(a, b, 0.5)) == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert float(fscore(a, b, 0.2)) == 0


def test_a_cubes_corners_shifted_by_a_twentieth_have_that_chamfer():
    shifted = CORNERS + torch.tensor([0.05, 0, 0])
    assert float(chamfer(CORNERS[None], shifted[None])) == pytest.approx(0.05)
    assert float(fscore(CORNERS[None], shifted[None], 0.0501)) == 1
    assert float(fscore(CORNERS[None], shifted[None], 0.0499)) == 0


def test_nearest_distances_in_chunks_equal_the_naive_ones_even_between_almost_equal_points():
    a = torch.rand(1, 2500, 3, generator=generator()) + 10
    b = a[:, ::5] + 1e-4
    naive = (a[0, :, None].double() - b[0, None].double()).norm(dim=-1).amin(dim=-1)
    torch.testing.assert_close(nearest_distances(a, b)[0].double(), naive, rtol=1e-3, atol=1e-6)


def test_two_samples_of_a_cube_are_as_far_apart_as_a_poisson_process_says():
    """Mean distance to the nearest of n points on area A is sqrt(A / n) / 2 in the plane; the share within tau is
    1 - exp(-n pi tau^2 / A). Edges disturb both a little: 6 % is four times what was seen over ten seeds."""
    n, tau = 4096, 0.02
    a, b = (sample_surface(CORNERS, CUBE, n, generator(seed))[None] for seed in (1, 2))
    assert float(chamfer(a, b)) == pytest.approx(math.sqrt(6 / n) / 2, rel=0.06)
    assert float(fscore(a, b, tau)) == pytest.approx(1 - math.exp(-n * math.pi * tau**2 / 6), rel=0.06)


def test_samples_spread_by_area_and_lie_on_the_surface():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 1], [0, 1, 1]])
    points = sample_surface(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]), 8000, generator())  # areas 1/2 and 3/2
    upper = points[:, 2] > 0.5
    assert float(upper.float().mean()) == pytest.approx(0.75, abs=0.02)  # 4 standard deviations
    lower = points[~upper]
    assert bool((lower[:, :2].sum(dim=-1) <= 1 + 1e-6).all())
    torch.testing.assert_close(lower[:, :2].mean(dim=0), torch.tensor([1 / 3, 1 / 3]), rtol=0, atol=0.02)
    assert torch.equal(points, sample_surface(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]), 8000, generator()))


def test_a_surface_without_area_has_no_samples():
    with pytest.raises(NumericsError, match="empty_surface"):
        sample_surface(CORNERS, torch.tensor([[0, 0, 1]]), 10, generator())


def test_normalised_points_fill_a_unit_box_whatever_their_place_and_scale():
    normalised = normalise_points(CORNERS[None] * torch.tensor([4.0, 2.0, 1.0]) + 7)
    torch.testing.assert_close(normalised[0], CORNERS * torch.tensor([1.0, 0.5, 0.25]))
    with pytest.raises(NumericsError, match="points_without_extent"):
        normalise_points(torch.ones(1, 5, 3))


def test_angles_differ_by_the_shorter_way_round():
    a, b = torch.tensor([350.0, 0.0, 90.0]), torch.tensor([10.0, 180.0, 90.0])
    torch.testing.assert_close(angle_difference_deg(a, b), torch.tensor([20.0, 180.0, 0.0]))


def test_angles_a_period_apart_are_the_same():
    a, b = torch.tensor([350.0, 0.0, 100.0, 45.0]), torch.tensor([10.0, 180.0, 0.0, 315.0])
    torch.testing.assert_close(angle_difference_deg(a, b, 180.0), torch.tensor([20.0, 0.0, 80.0, 90.0]))
    torch.testing.assert_close(angle_difference_deg(a, b, 90.0), torch.tensor([20.0, 0.0, 10.0, 0.0]))
    assert angle_difference_deg(a, b, 0.0).tolist() == [0.0] * 4


def test_normals_of_planes_agree_by_the_cosine_of_their_angle_whichever_way_they_look():
    points = torch.rand(50, 3, generator=generator())
    up, slanted = torch.tensor([0.0, 0, 1]).expand(50, 3), torch.tensor([0.0, 0.75**0.5, -0.5]).expand(50, 3)
    assert normal_consistency(points, up, points.flip(0), up) == pytest.approx(1)
    assert normal_consistency(points, up, points.flip(0), slanted) == pytest.approx(0.5)


def test_the_normals_of_a_cube_look_outwards_and_a_triangle_without_area_has_none():
    normals = face_normals(CORNERS, CUBE)
    centres = CORNERS[CUBE].mean(1)
    torch.testing.assert_close((normals * centres).sum(-1), torch.full((12,), 0.5))
    assert face_normals(CORNERS, torch.tensor([[0, 0, 1]])).tolist() == [[0, 0, 0]]
