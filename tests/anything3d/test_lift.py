"""Lift, with small networks of random weights: the same code as with trained ones."""

import dataclasses

import pytest
import torch

from anything3d.backend import load_lifter
from anything3d.errors import ConfigError, InputError, NumericsError, WeightsError
from anything3d.lift import Lifted, canonical, is_shape
from anything3d.mini import clip as mini_clip
from anything3d.mini import pointe as mini
from anything3d.models.weights import Place
from anything3d.settings.lift import LiftConfig
from anything3d.space.cloud import Cloud
from anything3d.space.reference import camera_of

torch.set_num_threads(1)  # two would wait for each other where other tests run beside these

CONFIG = LiftConfig(candidates=2, steps=8, upsampler_steps=1, azimuths=6, elevations=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights under other names than the packaged ones."""
    root = tmp_path_factory.mktemp("weights")
    mini.save(mini.build(1), root)
    for name in ("pointe", "pointe-upsampler"):
        (root / name).rename(root / f"random-{name}")
    mini_clip.save(mini_clip.build(1), root / "random-clip")
    return root


@pytest.fixture(scope="module")
def lifter(folder):
    return dataclasses.replace(load_lifter(renamed(CONFIG), Place(weights_root=str(folder))), batch_clouds=4)


def renamed(config):
    return dataclasses.replace(
        config, weights="random-pointe", upsampler_weights="random-pointe-upsampler", clip_weights="random-clip"
    )


def random_crops(rows=3, side=64):
    crops = torch.rand(rows, 4, side, side, generator=torch.Generator().manual_seed(0))
    crops[:, 3] = 0
    for b in range(rows):
        crops[b, 3, 10 : 30 + 8 * b, 12 : 50 - 4 * b] = 1
    return crops


def generators(rows=3):
    return [torch.Generator().manual_seed(b) for b in range(rows)]


def test_every_crop_gets_a_cloud_a_camera_and_a_candidate(lifter):
    for lifted in lifter(random_crops(), generators()):
        assert isinstance(lifted, Lifted)
        assert lifted.cloud.points.shape == (1, 1024, 3)
        span = lifted.cloud.points.amax(1) - lifted.cloud.points.amin(1)
        torch.testing.assert_close(span.max(), torch.tensor(1.0))
        assert 0 <= lifted.cloud.colors.min() <= lifted.cloud.colors.max() <= 1
        assert 0 < lifted.match <= 1
        assert lifted.candidate in range(2)
        assert 0 <= lifted.reference.azimuth_deg < 360
        assert -89 <= lifted.reference.elevation_deg <= 89
        assert lifted.reference.distance == CONFIG.distance


def test_objects_do_not_depend_on_their_batch(lifter):
    crops = random_crops()
    together = lifter(crops, generators())
    for b, whole in enumerate(together):
        (alone,) = lifter(crops[b : b + 1], generators()[b : b + 1])
        assert alone.candidate == whole.candidate
        assert alone.reference.azimuth_deg == whole.reference.azimuth_deg
        torch.testing.assert_close(alone.cloud.points, whole.cloud.points, rtol=0, atol=2e-3)


def test_the_reference_camera_frames_the_cloud_as_the_crop_frames_the_mask(lifter):
    from anything3d.space.camera import project

    (lifted, *_) = lifter(random_crops(), generators())
    reference = lifted.reference
    camera = camera_of(
        *(torch.tensor([value]) for value in (reference.azimuth_deg, reference.elevation_deg, reference.distance)),
        torch.tensor([reference.intrinsics]),
    )
    where, depth = project(camera, lifted.cloud.points)
    centre = (where.amin(1) + where.amax(1)) / 2
    torch.testing.assert_close(centre, torch.tensor([[(12 + 50) / 2 / 64, (10 + 30) / 2 / 64]]), atol=1e-3, rtol=0)
    assert depth.min() > 0


def test_a_single_azimuth_and_height_assume_the_front(lifter):
    front = dataclasses.replace(lifter.config, azimuths=1, elevations=1, lowest_deg=5.0, highest_deg=5.0)
    for lifted in dataclasses.replace(lifter, config=front)(random_crops(), generators()):
        assert (lifted.reference.azimuth_deg, lifted.reference.elevation_deg) == (0.0, 5.0)


def test_a_crop_without_mask_fails_alone(lifter):
    crops = random_crops()
    crops[1, 3] = 0
    first, second, third = lifter(crops, generators())
    assert isinstance(first, Lifted)
    assert isinstance(third, Lifted)
    assert isinstance(second, InputError)
    assert second.reason == "empty_mask"


@pytest.mark.parametrize(("value", "count"), [(torch.nan, 2), (torch.inf, 1)])
@pytest.mark.parametrize("which", ["base", "upsampler", "clip"])
def test_a_network_that_says_nan_or_inf_of_all_objects_ends_the_run(lifter, which, value, count):
    base, upsampler = mini.build(1).base, mini.build(1).upsampler
    for network in (base, upsampler):
        torch.nn.init.constant_(network.output_proj.bias, value)
    broken = dataclasses.replace(
        lifter,
        base=base.eval() if which == "base" else lifter.base,
        upsampler=upsampler.eval() if which == "upsampler" else lifter.upsampler,
    )
    if which == "clip":
        vision = BrokenVision(lifter.clip.vision, value)
        broken = dataclasses.replace(lifter, clip=dataclasses.replace(lifter.clip, vision=vision))
    name = {"base": "weights", "upsampler": "upsampler_weights", "clip": "clip_weights"}[which]
    with pytest.raises(WeightsError, match=rf"{getattr(lifter.config, name)} in float32 says NaN or Inf"):
        broken(random_crops(count), generators(count))


class BrokenVision(torch.nn.Module):
    """CLIP's eye, with this value in all that it says."""

    def __init__(self, vision, value):
        super().__init__()
        self.vision, self.value = vision, value

    def forward(self, **inputs):
        seen = self.vision(**inputs)
        seen.last_hidden_state = seen.last_hidden_state + self.value
        seen.pooler_output = seen.pooler_output + self.value
        return seen


def test_a_draft_that_is_not_finite_rejects_its_object_only(lifter):
    def spoil(network, inputs, out):
        out[0, :, 3] = torch.nan  # the first draft of the first object

    base = mini.build(1).base
    base.register_forward_hook(spoil)
    lost, sound = dataclasses.replace(lifter, base=base)(random_crops(2), generators(2))
    assert isinstance(sound, Lifted)
    assert isinstance(lost, NumericsError)
    assert lost.reason == "cloud_not_finite"


def test_clouds_without_shape_are_numerics_errors(lifter):
    networks = mini.build(1)
    for network in (networks.base, networks.upsampler):
        network.register_forward_hook(lambda network, inputs, out: torch.zeros_like(out))
    flat = dataclasses.replace(lifter, base=networks.base, upsampler=networks.upsampler)
    for outcome in flat(random_crops(2), generators(2)):
        assert isinstance(outcome, NumericsError)
        assert outcome.reason == "degenerate_cloud"


def test_point_e_axes_and_units_become_canonical():
    channels = torch.zeros(1, 6, 2)
    channels[0, :3, 0] = torch.tensor([0.0, -0.5, 0.0])  # front
    channels[0, :3, 1] = torch.tensor([0.25, 0.5, 0.25])  # back, right, up
    channels[0, 3:, 0] = torch.tensor([255.0, 0.0, 51.0])
    cloud, _ = canonical(channels)
    torch.testing.assert_close(cloud.points[0], torch.tensor([[-0.125, -0.125, 0.5], [0.125, 0.125, -0.5]]))
    torch.testing.assert_close(cloud.colors[0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_eight_distinct_points_make_a_shape():
    points = torch.zeros(2, 20, 3)
    points[0, :8, 0] = torch.arange(8.0)
    points[1, :7, 0] = torch.arange(7.0)
    assert is_shape(Cloud(points, torch.zeros_like(points))).tolist() == [True, False]


def test_weights_that_do_not_belong_together_are_refused(folder):
    place = Place(weights_root=str(folder))
    swapped = dataclasses.replace(renamed(CONFIG), weights="random-pointe-upsampler")
    with pytest.raises(WeightsError, match="must be a base network"):
        load_lifter(swapped, place)


@pytest.mark.parametrize(
    "setting",
    [
        {"candidates": 0},
        {"steps": 0},
        {"sigma_min": 0.0},
        {"sigma_min": 30.0},
        {"highest_deg": 90.0},
        {"distance": 0.5},
    ],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match="must"):
        LiftConfig(**setting)
