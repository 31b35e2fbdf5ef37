"""The search for the reference camera: objects whose camera is known, and arithmetic by hand."""

import pytest
import torch

from anything3d.settings.reconstruct import POINT_E_FOV_DEG
from anything3d.space.camera import angles, orbit, project
from anything3d.space.cloud import Cloud, normalise
from anything3d.space.depth import splat
from anything3d.space.reference import (
    ReferenceCamera,
    agreement,
    camera_of,
    direction_grid,
    directions_near,
    frame,
    known_sides,
    mask_boxes,
    search,
    small_crops,
    stack,
)

INTRINSICS = (1.1, 1.1, 0.6, 0.45)  # a crop whose object is not in its middle
ALL_KNOWN = torch.ones(1, 4)


def chair(points=4000, seed=0):
    """Seat, back and one arm, each of its own colour: no two sides look alike."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor(
        [
            [[-0.4, -0.1, -0.4], [0.4, 0.1, 0.4]],
            [[-0.4, 0.1, -0.4], [0.4, 0.5, -0.3]],
            [[0.3, 0.1, -0.3], [0.4, 0.3, 0.4]],
        ]
    )
    part = torch.randint(3, (points,), generator=generator)
    low, high = boxes[part].unbind(1)
    colors = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.2, 0.2, 0.9]])[part]
    return normalise(Cloud((low + torch.rand(points, 3, generator=generator) * (high - low))[None], colors[None]))


def photograph(cloud, azimuth, elevation, size=96):
    camera = camera_of(
        torch.tensor([azimuth]), torch.tensor([elevation]), torch.tensor([2.0]), torch.tensor([INTRINSICS])
    )
    _, color, alpha = splat(cloud, camera, size, 0.012)
    return torch.cat([color + 0.3 * (1 - alpha[:, None]), alpha[:, None]], dim=1)


def angle_between(a, b):
    return abs((a - b + 180) % 360 - 180)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 10.0), (100.0, 25.0), (221.0, 40.0), (310.0, 0.0)])
def test_the_camera_of_a_known_photo_is_found(azimuth, elevation):
    crop = photograph(chair(), azimuth, elevation)
    sparse = chair(points=256, seed=1)
    grid = direction_grid(24, 7, -15.0, 75.0)[None]
    coarse = search(sparse, small_crops(crop, 32), grid, 2.0).best()
    assert angle_between(coarse.azimuth_deg.item(), azimuth) <= 15
    assert abs(coarse.elevation_deg.item() - elevation) <= 15
    near = directions_near(coarse.azimuth_deg[:, 0], coarse.elevation_deg[:, 0], (7.5, 7.5))
    fine = search(chair(points=1024, seed=2), small_crops(crop, 64), near, 2.0).best()
    assert angle_between(fine.azimuth_deg.item(), azimuth) <= 8
    assert abs(fine.elevation_deg.item() - elevation) <= 8
    torch.testing.assert_close(fine.intrinsics[0, 0], torch.tensor(INTRINSICS), rtol=0.04, atol=0.01)
    assert fine.match.item() > 0.7


def test_rows_are_searched_alone_and_together_alike():
    clouds = [chair(points=200, seed=seed) for seed in range(3)]
    crops = torch.cat([photograph(chair(), azimuth, 20.0) for azimuth in (0.0, 90.0, 200.0)])
    grid = direction_grid(8, 2, 0.0, 40.0)
    both = Cloud(torch.cat([c.points for c in clouds]), torch.cat([c.colors for c in clouds]))
    together = search(both, small_crops(crops, 32), grid.expand(3, -1, -1), 2.0)
    for b, cloud in enumerate(clouds):
        alone = search(cloud, small_crops(crops[b : b + 1], 32), grid[None], 2.0)
        assert torch.equal(together.match[b], alone.match[0])


def test_a_cloud_with_nan_matches_nothing():
    cloud = chair(points=50)
    broken = Cloud(torch.full_like(cloud.points, torch.nan), cloud.colors)
    views = search(broken, small_crops(photograph(chair(), 0.0, 0.0), 32), direction_grid(4, 1, 0.0, 0.0)[None], 2.0)
    assert views.match.tolist() == [[0.0] * 4]


def test_camera_of_is_orbit_with_other_intrinsics():
    azimuth, elevation, distance = torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([2.0])
    plain = orbit(azimuth, elevation, distance, torch.tensor([POINT_E_FOV_DEG]))
    camera = camera_of(azimuth, elevation, distance, torch.tensor([INTRINSICS]))
    assert torch.equal(camera.pose, plain.pose)
    assert camera.intrinsics.tolist() == torch.tensor([INTRINSICS]).tolist()


def test_framed_points_fill_their_box_up_to_the_margin():
    azimuth = torch.tensor([40.0])
    unit = torch.tensor([[1.0, 1.0, 0.5, 0.5]])
    camera = camera_of(azimuth, azimuth, torch.tensor([2.0]), unit)
    points = chair(points=300).points
    where = project(camera, points)[0]
    low, high = where.amin(1), where.amax(1)
    size = (high - low) * 1.3
    corner = torch.tensor([[0.05, 0.15]])
    box = torch.cat([corner, corner + size + 0.04], dim=1)
    framed = project(camera_of(azimuth, azimuth, torch.tensor([2.0]), frame(where, box, ALL_KNOWN, 0.02)), points)[0]
    torch.testing.assert_close(framed.amin(1) - 0.02, box[:, :2])
    torch.testing.assert_close(framed.amax(1) + 0.02, box[:, 2:])


@pytest.mark.parametrize(
    ("known", "low", "high"),
    [
        ((1, 1, 1, 1), (0.12, 0.26), (0.68, 0.54)),  # scale (0.4 * 0.6 + 0.2 * 0.2) / (0.4^2 + 0.2^2) = 1.4
        ((1, 1, 0, 1), (0.1, 0.3), (0.5, 0.5)),  # the height says the size, and the left side says the place
        ((0, 1, 1, 1), (0.3, 0.3), (0.7, 0.5)),
        ((1, 1, 1, 0), (0.1, 0.3), (0.7, 0.6)),  # the width says the size
        ((0, 1, 0, 1), (0.2, 0.3), (0.6, 0.5)),  # neither side says the place: the middle
        ((1, 0, 0, 1), (0.1, 0.22), (0.66, 0.5)),  # nobody knows the size: that of the box, in the known corner
        ((0, 0, 0, 0), (0.12, 0.26), (0.68, 0.54)),
    ],
)
def test_a_side_at_which_the_object_may_go_on_says_neither_size_nor_place(known, low, high):
    """Points 0.4 wide and 0.2 high go into a box 0.6 wide and 0.2 high."""
    where, box = torch.tensor([[[0.3, 0.4], [0.7, 0.6]]]), torch.tensor([[0.1, 0.3, 0.7, 0.5]])
    fx, fy, cx, cy = frame(where, box, torch.tensor([known], dtype=torch.float32), 0.0)[0]
    framed = (where[0] - 0.5) * torch.stack([fx, fy]) + torch.stack([cx, cy])
    torch.testing.assert_close(framed, torch.tensor([low, high]))


def test_a_side_is_unknown_where_the_mask_ends_at_what_cannot_show_the_object():
    alpha, unseen = torch.zeros(1, 50, 50), torch.zeros(1, 50, 50)
    alpha[:, 10:30, 10:40] = 1
    unseen[:, 30:, :] = 1  # touches all of the bottom
    unseen[:, 10:17, 40:] = 1  # and less than half of the right side
    unseen[:, :5] = 1  # and is far from the top
    assert known_sides(alpha, unseen, mask_boxes(alpha)).tolist() == [[1, 1, 1, 0]]
    unseen[:, 10:21, 40:] = 1
    assert known_sides(alpha, unseen, mask_boxes(alpha)).tolist() == [[1, 1, 0, 0]]


def test_an_object_behind_another_one_is_framed_as_if_it_were_whole():
    """Something hides the lower half of the chair's mask. Its size and its camera are still found."""
    crop = photograph(chair(), 100.0, 25.0)
    hidden = torch.zeros(1, 96, 96)
    hidden[:, 50:] = 1
    crop[:, 3] *= 1 - hidden
    views = direction_grid(24, 3, 15.0, 35.0)[None]
    blind, told = (
        search(chair(points=1024), small_crops(crop, 48, some), views, 2.0).best() for some in (None, hidden)
    )
    torch.testing.assert_close(told.intrinsics[0, 0], torch.tensor(INTRINSICS), rtol=0.05, atol=0.02)
    assert blind.intrinsics[0, 0, 0] < 0.9 * INTRINSICS[0]
    assert angle_between(told.azimuth_deg.item(), 100.0) <= 15
    assert told.match.item() > blind.match.item() + 0.05


def test_mask_boxes_are_edges_of_pixels():
    alpha = torch.zeros(2, 10, 10)
    alpha[0, 2:5, 3:9] = 1
    torch.testing.assert_close(mask_boxes(alpha), torch.tensor([[0.3, 0.2, 0.9, 0.5], [0.0, 0.0, 1.0, 1.0]]))


def test_agreement_by_hand():
    color = torch.zeros(1, 3, 2, 2)
    color[0, :, 0, 0] = 0.5
    alpha = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    target = torch.zeros(1, 4, 2, 2)
    target[0, :, 0, 0] = torch.tensor([0.7, 0.5, 0.5, 1.0])
    target[0, :, 1, 0] = torch.tensor([0.7, 0.5, 0.5, 1.0])
    expected = (1 / 3) * (1 - 0.2 / 3)  # one pixel of three in both; one channel of three differs by 0.2
    torch.testing.assert_close(agreement(color, alpha, target, torch.zeros(1, 2, 2)), torch.tensor([expected]))
    unseen = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    expected = (1 / 2) * (1 - 0.2 / 3)  # the pixel in which the object may go on is no difference
    torch.testing.assert_close(agreement(color, alpha, target, unseen), torch.tensor([expected]))


def test_stacked_reference_cameras_keep_their_order():
    first = ReferenceCamera(30.0, 20.0, 2.0, INTRINSICS)
    second = ReferenceCamera(200.0, -10.0, 3.0, (1.0, 1.0, 0.5, 0.5))
    cameras = stack([first, second])
    azimuth, elevation = angles(cameras)
    torch.testing.assert_close(azimuth, torch.tensor([30.0, 200.0]))
    torch.testing.assert_close(elevation, torch.tensor([20.0, -10.0]))
    torch.testing.assert_close(cameras.pose[:, :3, 3].norm(dim=1), torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(cameras.intrinsics, torch.tensor([INTRINSICS, (1.0, 1.0, 0.5, 0.5)]))
