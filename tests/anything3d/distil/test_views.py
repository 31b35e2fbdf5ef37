import math

import pytest
import torch

from anything3d import seed
from anything3d.distil.views import BACK, FRONT, OVERHEAD, SIDE, name_views, sample_views
from anything3d.settings.reconstruct import ViewConfig
from anything3d.space.camera import angles


def test_names_follow_the_quarter_of_the_circle_and_the_height():
    azimuth = torch.tensor([0.0, 44.0, 46.0, 90.0, 134.0, 136.0, 180.0, 270.0, 316.0, 359.0, 0.0, 180.0])
    elevation = torch.tensor([*[20.0] * 10, 61.0, 89.0])
    expected = [FRONT, FRONT, SIDE, SIDE, SIDE, BACK, BACK, SIDE, FRONT, FRONT, OVERHEAD, OVERHEAD]
    assert name_views(azimuth, elevation, 60.0).tolist() == expected


def test_prefixes_stand_in_the_order_of_the_numbers():
    prefixes = ViewConfig(front="f", side="s", back="b", overhead="o").prefixes
    assert [prefixes[number] for number in (FRONT, SIDE, BACK, OVERHEAD)] == ["f", "s", "b", "o"]


def test_cameras_stay_within_their_ranges():
    config = ViewConfig(count=200, elevation_deg=(-10.0, 45.0), distance=(1.5, 2.5), fov_deg=(30.0, 60.0))
    views = sample_views(config, "angle", seed.generators(0, "views", ["a", "b"]), "cpu")
    azimuth, elevation = angles(views.camera)
    distance = views.camera.pose[:, :3, 3].norm(dim=-1)
    assert len(views.camera) == 400
    assert -10.01 < elevation.min() < -7 < 42 < elevation.max() < 45.01
    assert azimuth.min() < 10 < 350 < azimuth.max()
    assert 1.499 < distance.min() < 1.55 < 2.45 < distance.max() < 2.501
    assert views.camera.intrinsics[:, 0].max().item() == pytest.approx(0.5 / math.tan(math.radians(15)), rel=0.02)


def test_area_spread_has_uniform_sines_and_angle_spread_uniform_angles():
    generators = seed.generators(0, "views", ["a"])
    limits = (0.0, 89.99)
    config = ViewConfig(count=4000, elevation_deg=limits)
    below_30 = [
        (angles(sample_views(config, spread, generators, "cpu").camera)[1] < 30).float().mean().item()
        for spread in ("area", "angle")
    ]
    assert below_30 == pytest.approx([0.5, 1 / 3], abs=0.03)  # sin 30 = 1 / 2


def test_views_of_an_object_do_not_depend_on_its_neighbours():
    config = ViewConfig(count=2)
    together = sample_views(config, "angle", seed.generators(0, "views", ["a", "b"]), "cpu")
    alone = sample_views(config, "angle", seed.generators(0, "views", ["b"]), "cpu")
    assert torch.equal(together.camera.pose[2:], alone.camera.pose)
    assert torch.equal(together.prefix[2:], alone.prefix)
