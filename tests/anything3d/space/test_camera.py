"""Cameras by hand arithmetic: axes, handedness, units."""

import math

import pytest
import torch

from anything3d.space.camera import Camera, angles, orbit, project, rays, rays_through


def one(azimuth: float, elevation: float, distance: float = 2.0, fov: float = 90.0) -> Camera:
    return orbit(*(torch.tensor([float(value)]) for value in (azimuth, elevation, distance, fov)))


def test_azimuth_0_stands_in_front_and_90_at_plus_x():
    assert one(0, 0).pose[0, :3, 3].tolist() == pytest.approx([0, 0, 2], abs=1e-6)
    assert one(90, 0).pose[0, :3, 3].tolist() == pytest.approx([2, 0, 0], abs=1e-6)
    assert one(0, 30).pose[0, :3, 3].tolist() == pytest.approx([0, 1, math.sqrt(3)], abs=1e-6)


def test_the_pose_is_right_handed_and_looks_along_minus_z_at_the_origin():
    rotation = one(37, 21).pose[0, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    eye = one(37, 21).pose[0, :3, 3]
    assert torch.allclose(-rotation[:, 2], -eye / eye.norm(), atol=1e-6)


def test_u_grows_to_the_right_v_downwards_and_depth_is_along_the_axis():
    # 90 degrees at distance 2: the image spans 4 by 4 at the origin's depth
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    where, depth = project(one(0, 0), points)
    assert where[0].flatten().tolist() == pytest.approx([0.5, 0.5, 0.75, 0.5, 0.5, 0.25, 0.5, 0.5])
    assert depth[0].tolist() == pytest.approx([2, 2, 2, 1])


def test_a_ray_through_a_pixel_meets_the_points_that_project_there():
    camera = one(-70, 33, 3.0, 40.0)
    origins, directions = rays(camera, 6, 8)
    where, _ = project(camera, (origins + 2.5 * directions).reshape(1, -1, 3))
    u, v = torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(6) + 0.5) / 6, indexing="xy")
    assert torch.allclose(where[0], torch.stack([u, v], dim=-1).reshape(-1, 2), atol=1e-5)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(1, 6, 8))


def test_single_rays_are_those_of_the_whole_images():
    camera = orbit(*(torch.tensor(values) for values in ([10.0, 200.0], [5.0, 40.0], [2.0, 3.0], [30.0, 60.0])))
    origins, directions = rays(camera, 6, 8)
    view, row, column = torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0]), torch.tensor([7, 3, 1])
    single = rays_through(camera, view, torch.stack([(column + 0.5) / 8, (row + 0.5) / 6], dim=-1))
    torch.testing.assert_close(single[0], origins[view, row, column])
    torch.testing.assert_close(single[1], directions[view, row, column])


def test_angles_undo_orbit():
    azimuth, elevation = angles(one(305, -12))
    assert float(azimuth) == pytest.approx(305, abs=1e-3)
    assert float(elevation) == pytest.approx(-12, abs=1e-3)


@pytest.mark.parametrize("azimuth", [0.0, 90.0, 205.0])
@pytest.mark.parametrize("elevation", [-6.0, 26.0, 80.0])
def test_3dfuses_two_radii_are_one_camera_at_2_3(azimuth, elevation):
    """3DFuse (pose.py, voxnerf) splats the cloud from 2.3 and renders its field from 1.5, along other axes.

    Its field point (1.5 / 2.3) (y, z, x) of the Point-E cloud then has the pixel that `orbit` at 2.3 gives the
    canonical point (x, z, -y), and 1.5 / 2.3 of its depth.
    """
    cloud = torch.rand(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    x, y, z = cloud.unbind(-1)

    ours = orbit(*(torch.tensor([value], dtype=torch.float64) for value in (azimuth, elevation, 2.3, 55.0)))
    where, depth = project(ours, torch.stack([x, z, -y], dim=-1)[None])

    along, polar = math.radians(azimuth), math.radians(90 - elevation)
    direction = [-math.sin(polar) * math.cos(along), math.cos(polar), math.sin(polar) * math.sin(along)]
    backward = torch.tensor(direction, dtype=torch.float64)
    right = torch.linalg.cross(torch.tensor([0.0, 1, 0], dtype=torch.float64), backward)
    right = right / right.norm()
    offset = 1.5 / 2.3 * torch.stack([y, z, x], dim=-1) - 1.5 * backward
    far = -offset @ backward
    focal = 0.5 / math.tan(math.radians(55.0) / 2)
    u = 0.5 + focal * (offset @ right) / far
    v = 0.5 - focal * (offset @ torch.linalg.cross(backward, right)) / far
    torch.testing.assert_close(where[0], torch.stack([u, v], dim=-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(depth[0] * 1.5 / 2.3, far, rtol=0, atol=1e-12)
