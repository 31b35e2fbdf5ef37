import numpy as np
import pytest
import torch

from anything3d.space.camera import project
from anything3d.space.reference import stack
from anything3d.space.viewpoint import ReferenceCamera


@pytest.mark.parametrize("azimuth", [0.0, 37.0, 200.0])
@pytest.mark.parametrize("elevation", [-20.0, 0.0, 65.0])
def test_numpy_sees_points_where_torch_sees_them(azimuth, elevation):
    camera = ReferenceCamera(azimuth, elevation, 2.3, (1.4, 1.5, 0.45, 0.55))
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    stacked = stack([camera])
    where, _ = project(stacked, points[None])
    np.testing.assert_allclose(camera.project(points.numpy()), where[0], atol=2e-6)
    np.testing.assert_allclose(camera.eye, stacked.pose[0, :3, 3], atol=1e-6)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 0.0), (37.0, -20.0), (200.0, 65.0)])
def test_shifted_points_are_seen_where_they_were_shifted_to_and_as_far_away(azimuth, elevation):
    camera = ReferenceCamera(azimuth, elevation, 2.3, (1.4, 1.5, 0.45, 0.55))
    random = np.random.default_rng(0)
    points, by = random.random((50, 3)) - 0.5, 0.1 * random.random((50, 2))
    moved = camera.shifted(points, by)
    np.testing.assert_allclose(camera.project(moved), camera.project(points) + by, atol=1e-6)
    np.testing.assert_allclose((moved - points) @ camera.eye, 0, atol=1e-6)
