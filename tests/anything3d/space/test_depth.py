"""Splats and the depth hint, against arithmetic and a plain rasteriser."""

import math

import pytest
import torch

from anything3d.settings.reconstruct import POINT_E_FOV_DEG
from anything3d.space.camera import Camera, orbit, project
from anything3d.space.cloud import Cloud
from anything3d.space.depth import depth_hint, splat


def cameras(azimuth, elevation=0.0, distance=2.0):
    azimuths = torch.tensor(azimuth)
    same = torch.ones_like(azimuths)
    return orbit(azimuths, elevation * same, distance * same, POINT_E_FOV_DEG * same)


def random_clouds(rows, points, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Cloud(
        torch.rand(rows, points, 3, generator=generator) - 0.5, torch.rand(rows, points, 3, generator=generator)
    )


def rasterise(cloud, camera, size, radius):
    """Pixel by pixel, point by point."""
    where, depth = project(camera, cloud.points)
    depths = torch.full((len(cloud), size, size), math.inf)
    colors = torch.zeros(len(cloud), 3, size, size)
    for b in range(len(cloud)):
        for n in range(cloud.points.shape[1]):
            u, v = (where[b, n] * size).tolist()
            z = depth[b, n].item()
            for row in range(size):
                for column in range(size):
                    inside = (column + 0.5 - u) ** 2 + (row + 0.5 - v) ** 2 < (radius * size) ** 2
                    if inside and 0 < z < depths[b, row, column]:
                        depths[b, row, column] = z
                        colors[b, :, row, column] = cloud.colors[b, n]
    return depths, colors


def cube_face(side=1.0, n=60):
    """The front face (z = side / 2) of a cube."""
    across = torch.linspace(-side / 2, side / 2, n)
    x, y = torch.meshgrid(across, across, indexing="xy")
    return torch.stack([x, y, torch.full_like(x, side / 2)], dim=-1).reshape(1, -1, 3)


def test_depth_of_a_cube_face_is_its_distance():
    points = torch.cat([cube_face(), cube_face() - torch.tensor([0.0, 0.0, 1.0])], dim=1)  # and the face behind it
    depth, _, alpha = splat(Cloud(points, torch.ones_like(points)), cameras([0.0]), 64, 0.02)
    half_px = 64 * 0.5 / 1.5 * 0.5 / math.tan(math.radians(POINT_E_FOV_DEG / 2))  # of the face at distance 1.5
    inside = slice(32 - int(half_px), 32 + int(half_px))
    torch.testing.assert_close(depth[0, inside, inside], torch.full_like(depth[0, inside, inside], 1.5))
    assert alpha[0, inside, inside].min() == 1
    assert alpha[0, 0].max() == 0
    assert depth[0, 0].isinf().all()


@pytest.mark.parametrize("radius", [0.0, 0.03, 0.11])
def test_splats_equal_a_plain_rasteriser(radius):
    cloud, camera = random_clouds(2, 60), cameras([20.0, 250.0], elevation=30.0, distance=1.2)
    depth, color, alpha = splat(cloud, camera, 16, radius)
    expected_depth, expected_color = rasterise(cloud, camera, 16, radius)
    torch.testing.assert_close(depth, expected_depth)
    torch.testing.assert_close(color, expected_color)
    assert torch.equal(alpha, expected_depth.isfinite().float())


def test_permuting_points_changes_nothing():
    cloud, camera = random_clouds(1, 500), cameras([75.0])
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    shuffled = Cloud(cloud.points[:, order], cloud.colors[:, order])
    for one, other in zip(splat(cloud, camera, 32, 0.03), splat(shuffled, camera, 32, 0.03), strict=True):
        assert torch.equal(one, other)


def test_rows_of_a_batch_do_not_touch_each_other():
    cloud, camera = random_clouds(3, 100), cameras([0.0, 90.0, 200.0])
    whole = splat(cloud, camera, 24, 0.03)
    for b in range(3):
        alone = splat(cloud[b : b + 1], camera[b : b + 1], 24, 0.03)
        assert all(torch.equal(part[b], single[0]) for part, single in zip(whole, alone, strict=True))


def test_points_behind_the_camera_and_nan_leave_no_trace():
    points = torch.tensor([[[0.0, 0.0, 5.0], [torch.nan, 0.0, 0.0], [0.0, torch.inf, 0.0]]])
    depth, color, alpha = splat(Cloud(points, torch.full_like(points, torch.nan)), cameras([0.0]), 16, 0.1)
    assert depth.isinf().all()
    assert color.abs().max() == 0
    assert alpha.max() == 0


def test_a_disc_over_the_border_is_cut_there():
    points = torch.zeros(1, 1, 3)
    centre = cameras([0.0])
    shifted = Camera(centre.pose, centre.intrinsics * torch.tensor([1.0, 1.0, 0.0, 1.0]))  # projects to u = 0
    _, _, alpha = splat(Cloud(points, points), shifted, 20, 0.2)
    assert alpha[0, :, :4].sum() > 0
    assert alpha[0, :, 4:].sum() == 0
    whole = splat(Cloud(points, points), centre, 20, 0.2)[2]
    assert alpha.sum() == whole.sum() / 2


def test_hint_is_inverse_depth_from_near_1_to_far_0():
    inf = math.inf
    depth = torch.tensor([[[1.0, 2.0], [4.0, inf]], [[3.0, inf], [3.0, 3.0]], [[inf, inf], [inf, inf]]])
    hint = depth_hint(depth)
    assert hint.shape == (3, 3, 2, 2)
    torch.testing.assert_close(hint[0, 0], torch.tensor([[1.0, 1 / 3], [0.0, 0.0]]))  # (1/2 - 1/4) / (1 - 1/4)
    assert hint[1, 1].tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert hint[2].abs().max() == 0
    assert torch.equal(hint[0, 0], hint[0, 2])
