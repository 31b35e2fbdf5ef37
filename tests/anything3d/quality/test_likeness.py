"""Likeness of fields to their photos, with the packaged CLIP."""

import pytest
import torch

from anything3d.models.clip import Clip, load_clip
from anything3d.models.weights import Place
from anything3d.quality.likeness import likeness, similarity, turntable
from anything3d.settings.reconstruct import FieldConfig, RenderConfig
from anything3d.space.camera import angles, orbit
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field

COLORS = torch.tensor([[0.85, 0.1, 0.1], [0.1, 0.3, 0.85]])


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.set_num_threads(1)
    return load_clip("clip", Place())


def discs(size: int = 128) -> torch.Tensor:
    """Two crops, a red and a blue disc, "2 4 S S"."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    alpha = (u.square() + v.square() < 0.3).float().expand(2, 1, -1, -1)
    return torch.cat([COLORS[:, :, None, None].expand(-1, -1, size, size), alpha], dim=1)


def balls(colors: torch.Tensor) -> Field:
    points = torch.randn(2, 512, 3, generator=torch.Generator().manual_seed(0))
    points = points / points.norm(dim=-1, keepdim=True) * 0.5
    return Field.from_cloud(Cloud(points, colors[:, None].expand(-1, 512, -1).contiguous()), FieldConfig(resolution=16))


def test_views_that_show_the_crop_are_entirely_alike(clip):
    crops = discs()
    white = crops[:, :3] * crops[:, 3:] + 1 - crops[:, 3:]
    seen = clip.image_embeddings(white)
    alike = similarity(clip, seen.repeat_interleave(3, 0), crops)
    torch.testing.assert_close(alike, torch.ones(2))
    other = similarity(clip, seen.flip(0), crops)
    torch.testing.assert_close(other, other.flip(0))  # red beside blue is as blue beside red
    assert (other < 0.95).all()


def test_a_ball_in_its_own_colour_is_more_like_its_photo_and_each_object_has_its_number(clip):
    reference = orbit(*(torch.full((2,), value) for value in (30.0, 10.0, 2.0, 40.0)))
    config = RenderConfig(samples=24)
    right = likeness(balls(COLORS), reference, discs(), clip, config)
    wrong = likeness(balls(COLORS.flip(0)), reference, discs(), clip, config)
    assert (right > wrong + 0.05).all()
    mixed = likeness(balls(COLORS[[0, 0]]), reference, discs(), clip, config)
    torch.testing.assert_close(mixed, torch.stack([right[0], wrong[1]]), rtol=0, atol=1e-4)


def test_a_turntable_begins_at_its_own_reference_and_goes_round_in_equal_steps():
    reference = orbit(torch.tensor([30.0, 100.0]), torch.tensor([50.0, 0.0]), torch.ones(2), torch.full((2,), 40.0))
    azimuth, elevation = angles(turntable(reference, 4, 15.0))
    expected = torch.tensor([30.0, 120, 210, 300, 100, 190, 280, 10])
    torch.testing.assert_close(azimuth % 360, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(elevation, torch.full((8,), 15.0), rtol=0, atol=1e-3)
