"""Scores of reconstructions whose quality is known: the truth itself, turned, moved, scaled, or spoilt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anything3d.errors import ConfigError, NumericsError, WeightsError
from anything3d.mesh import extract
from anything3d.mini import clip as mini
from anything3d.mini import dino as mini_dino
from anything3d.models.weights import Place
from anything3d.quality.accuracy import (
    NORMALIZATION,
    against_truth,
    azimuth_error_deg,
    cameras_around,
    frame_turn,
)
from anything3d.quality.duplicates import from_bytes
from anything3d.quality.looks import Reconstruction
from anything3d.quality.metrics import sample_surface
from anything3d.quality.truth import Target
from anything3d.score import Scored, Scorer, load_scorer
from anything3d.settings.mesh import MeshConfig
from anything3d.settings.reconstruct import FieldConfig, RenderConfig
from anything3d.settings.score import ScoreConfig
from anything3d.space.camera import Camera, orbit, project
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from anything3d.space.mesh import Mesh
from anything3d.space.render import composite, render

SIZE = 48
AZIMUTH, ELEVATION = 40.0, 25.0  # of the photo in the true frame


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("weights")
    mini.save(mini.build(0), folder / "clip")
    mini_dino.save(mini_dino.build(0), folder / "dino")
    names = {"clip_weights": str(folder / "clip"), "dino_weights": str(folder / "dino")}
    config = ScoreConfig(**names, size_px=SIZE, views=4, points=2048, samples=48)
    return load_scorer(config, Place())


def camera(azimuth: float, elevation: float = ELEVATION) -> Camera:
    return orbit(*(torch.tensor([value]) for value in (azimuth, elevation, 2.7, 39.6)))


def turn_about_y(degrees: float) -> torch.Tensor:
    """Rotation that adds `degrees` to an azimuth."""
    return orbit(*(torch.tensor([value]) for value in (degrees, 0.0, 1.0, 40.0))).pose[0, :3, :3]


def slab(turn_deg: float, seed: int = 0) -> Cloud:
    """Surface of a slab 1 x 0.4 x 0.6, red in front and blue behind, turned about the vertical."""
    corners = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.2, 0.2) for z in (-0.3, 0.3)])
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces = torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    points = sample_surface(corners, faces, 6000, torch.Generator().manual_seed(seed))
    red = (points[:, 2:] > 0).float()
    colors = torch.cat([red, torch.full_like(red, 0.1), 1 - red], dim=1)
    return Cloud((points @ turn_about_y(turn_deg).T)[None], colors[None])


def rgba(field: Field, cameras: Camera) -> torch.Tensor:
    with torch.inference_mode():
        seen = render(field, cameras, SIZE, RenderConfig())
    return torch.cat([(seen.color / seen.alpha[:, None].clamp(min=1e-6)).clamp(0, 1), seen.alpha[:, None]], dim=1)


def reconstruction(turn_deg: float) -> Reconstruction:
    """The slab in a canonical frame turned by `turn_deg` from the true one, with its reference camera turned along."""
    cloud = slab(turn_deg)
    field = Field.from_cloud(cloud, FieldConfig(resolution=40, half=0.7))
    mesh = extract(field.grids(0), MeshConfig())
    assert isinstance(mesh, Mesh)
    reference = camera(AZIMUTH + turn_deg)
    crop = rgba(field, reference)[0]
    return Reconstruction(crop, torch.zeros_like(crop[3]), reference, cloud, field, mesh)


@pytest.fixture(scope="module")
def made() -> Reconstruction:
    return reconstruction(0.0)


@pytest.fixture(scope="module")
def target(made: Reconstruction) -> Target:
    angles = torch.tensor([0.0, 90.0, 180.0, 270.0]) + AZIMUTH
    cameras = orbit(angles, *(torch.full((4,), value) for value in (20.0, 2.7, 39.6)))
    seen = cameras_around(
        torch.from_numpy(made.mesh.vertices), cameras, torch.eye(3)
    )  # of a truth whose box is that of the mesh
    return Target(slab(0.0, seed=1).points[0], rgba(made.field, seen), cameras, AZIMUTH, ELEVATION, 360.0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def score(scorer: Scorer, made: Reconstruction, target: Target | None) -> Scored:
    (scored,) = scorer([made], [target], [generator()])
    assert isinstance(scored, Scored)
    return scored


def test_what_the_photo_cannot_show_is_not_held_against_the_object(scorer: Scorer, made: Reconstruction):
    """Something hides the right half of the slab, so that its mask ends there."""
    hidden = torch.zeros_like(made.unseen)
    hidden[:, SIZE // 2 :] = 1
    cut = made.crop * (1 - hidden)
    told, blind = (score(scorer, replace(made, crop=cut, unseen=some), None) for some in (hidden, 0 * hidden))
    whole = score(scorer, made, None)
    assert told.mesh.mask_iou > 0.85 > 0.6 > blind.mesh.mask_iou
    assert told.field.psnr_db > whole.field.psnr_db - 1
    assert told.mesh.psnr_db > blind.mesh.psnr_db + 10
    assert np.array_equal(told.reference, whole.reference)  # the picture shows all of the object


def test_the_truth_itself_scores_the_best_there_is(scorer: Scorer, made: Reconstruction, target: Target):
    scored = score(scorer, made, target)
    assert scored.field.psnr_db > 50
    assert scored.field.mask_iou > 0.99
    assert scored.truth is not None
    assert scored.truth.azimuth_error_deg == pytest.approx(0, abs=1e-3)
    assert scored.truth.novel_psnr_db > 40
    assert scored.truth.novel_mask_iou > 0.98
    assert scored.field.psnr_db - 15 > scored.mesh.psnr_db > 20  # the surface has no soft edge
    assert scored.truth.novel_psnr_db - 10 > scored.truth.mesh_novel_psnr_db > 20
    assert scored.truth.mesh_novel_mask_iou > 0.8
    floor = (2.48 / 2048) ** 0.5 / 2  # two samples of the slab's surface, area 2.48: sqrt(area / points) / 2 = 0.017
    assert scored.truth.lift_chamfer == pytest.approx(floor, rel=0.1)
    assert scored.truth.chamfer < floor + 0.02  # the grid's voxels are 0.036 wide
    assert scored.truth.fscore_5pct > 0.97
    assert scored.truth.fscore_1pct < scored.truth.fscore_2pct < scored.truth.fscore_5pct
    assert scored.normalization == NORMALIZATION


def test_a_mesh_that_is_spoilt_costs_in_its_own_numbers_alone(scorer: Scorer, made: Reconstruction, target: Target):
    blue = replace(made.mesh, colors=np.float32([[0, 0, 1]] * len(made.mesh.vertices)), texture=None)
    spoilt, whole = score(scorer, replace(made, mesh=blue), target), score(scorer, made, target)
    assert spoilt.field == whole.field
    assert spoilt.truth is not None
    assert whole.truth is not None
    assert spoilt.truth.novel_psnr_db == whole.truth.novel_psnr_db
    assert spoilt.mesh.psnr_db < whole.mesh.psnr_db - 5
    assert spoilt.truth.mesh_novel_psnr_db < whole.truth.mesh_novel_psnr_db - 3
    assert spoilt.reference[SIZE // 2, SIZE // 2].tolist() == [0, 0, 255, 255]  # the pictures show the mesh


def test_the_letter_is_that_of_the_worse_one_of_mesh_and_field(scorer: Scorer, made: Reconstruction):
    blue = np.float32([[0, 0, 1]] * len(made.mesh.vertices))
    of_blue_mesh = score(scorer, replace(made, mesh=replace(made.mesh, colors=blue, texture=None)), None)
    assert of_blue_mesh.field.psnr_db > 22
    assert of_blue_mesh.mesh.psnr_db < 22
    assert of_blue_mesh.quality == "C"
    fog = made.field.row(0)
    fog.density_grid.data -= 20.0
    of_clear_field = score(scorer, replace(made, field=fog), None)
    assert of_clear_field.field.psnr_db < 22 < of_clear_field.mesh.psnr_db
    assert of_clear_field.quality == "C"
    assert score(scorer, made, None).quality != "C"


@pytest.mark.parametrize("turn_deg", [30.0, -120.0])
def test_a_turned_canonical_frame_costs_only_in_the_azimuth(scorer: Scorer, made, target: Target, turn_deg: float):
    straight = score(scorer, made, target).truth
    turned = score(scorer, reconstruction(turn_deg), target).truth
    assert straight is not None
    assert turned is not None
    assert turned.azimuth_error_deg == pytest.approx(abs(turn_deg), abs=1e-3)
    assert turned.lift_chamfer == pytest.approx(straight.lift_chamfer, rel=0.05)
    assert turned.chamfer == pytest.approx(straight.chamfer, abs=0.01)
    assert turned.novel_psnr_db > 20  # another voxel grid of the same slab
    assert turned.novel_mask_iou > 0.9


def test_a_wrong_reference_camera_costs_in_every_number(scorer: Scorer, made: Reconstruction, target: Target):
    right = score(scorer, made, target)
    wrong = score(scorer, replace(made, reference=camera(AZIMUTH + 90)), target)
    assert wrong.field.psnr_db < right.field.psnr_db - 10
    assert wrong.field.mask_iou < right.field.mask_iou - 0.1
    assert wrong.truth is not None
    assert right.truth is not None
    assert wrong.truth.azimuth_error_deg == pytest.approx(90, abs=1e-3)
    assert wrong.truth.chamfer > 2 * right.truth.chamfer
    assert wrong.truth.fscore_5pct < 0.8
    assert wrong.truth.novel_psnr_db < 15


@pytest.mark.parametrize(("symmetry_deg", "error"), [(360.0, 170.0), (180.0, 10.0), (90.0, 10.0), (0.0, 0.0)])
def test_the_azimuth_counts_up_to_the_true_shapes_symmetry(target: Target, symmetry_deg: float, error: float):
    found = azimuth_error_deg(camera(AZIMUTH + 170), replace(target, symmetry_deg=symmetry_deg))
    assert found == pytest.approx(error, abs=1e-3)


def test_the_truths_numbers_alone_are_those_of_the_whole_score(scorer: Scorer, made: Reconstruction, target: Target):
    assert against_truth(made, target, scorer.config, generator()) == score(scorer, made, target).truth


def test_size_and_place_of_the_mesh_do_not_count(scorer: Scorer, made: Reconstruction, target: Target):
    mesh = replace(made.mesh, vertices=made.mesh.vertices * 3 + np.float32([1.0, -2.0, 0.5]))
    one, two = (score(scorer, item, target).truth for item in (made, replace(made, mesh=mesh)))
    assert one is not None
    assert two is not None
    assert two.chamfer == pytest.approx(one.chamfer, abs=1e-4)
    assert two.fscore_5pct == pytest.approx(one.fscore_5pct, abs=1e-3)


def test_a_true_mesh_gives_the_numbers_that_need_one(scorer: Scorer, made: Reconstruction, target: Target):
    names = ("normal_consistency", "volume_iou", "sa3dao_chamfer", "sa3dao_f1")
    points_only = score(scorer, made, target).truth
    assert [getattr(points_only, name) for name in names] == [None] * 4
    same = score(scorer, made, replace(target, solid=made.mesh)).truth
    assert same is not None
    assert same.volume_iou == 1
    assert same.sa3dao_f1 > 0.98
    assert same.sa3dao_chamfer < 0.006
    assert same.normal_consistency > 0.9
    assert same.chamfer == points_only.chamfer  # the samples of the older numbers are the same
    half = replace(made.mesh, vertices=made.mesh.vertices * np.float32([1, 0.5, 1]))
    flat = score(scorer, made, replace(target, solid=half)).truth
    assert flat.volume_iou == pytest.approx(0.5, abs=0.06)
    wrong = score(scorer, replace(made, reference=camera(AZIMUTH + 90)), replace(target, solid=made.mesh)).truth
    assert wrong.volume_iou < 0.6


def test_without_truth_the_photo_is_all_there_is(scorer: Scorer, made: Reconstruction):
    scored = score(scorer, made, None)
    assert scored.truth is None
    assert "no ground truth" in scored.normalization
    assert scored.turntable.shape == (4, SIZE, SIZE, 3)
    assert scored.reference.shape == (SIZE, SIZE, 4)
    assert scored.reference[0, 0, 3] == 0
    assert scored.reference[SIZE // 2, SIZE // 2, 3] > 200


def test_a_mesh_without_field_and_cloud_is_what_is_rendered(scorer: Scorer, made: Reconstruction, target: Target):
    whole, alone = score(scorer, made, target), score(scorer, replace(made, field=None, cloud=None), target)
    assert whole.truth is not None
    assert alone.truth is not None
    assert (alone.mesh, whole.mesh) == (alone.field, alone.field)
    assert (alone.truth.lift_chamfer, alone.truth.chamfer) == (None, whole.truth.chamfer)
    assert alone.field.psnr_db > 20  # an opaque surface is close to the field that it was cut from, not equal
    assert alone.truth.novel_psnr_db > 20
    assert alone.field.mask_iou > 0.8  # the surface lies within the soft edge of a field of 40 voxels
    assert alone.field.clip_similarity > 0.9 * whole.field.clip_similarity
    blue = replace(
        made,
        field=None,
        mesh=replace(made.mesh, colors=np.float32([[0, 0, 1]] * len(made.mesh.vertices)), texture=None),
    )
    assert score(scorer, blue, target).field.psnr_db < alone.field.psnr_db - 5


def test_clip_similarity_is_the_mean_cosine_of_the_turntable(scorer: Scorer, made: Reconstruction):
    scored = score(scorer, made, None)
    views = scored.turntable.permute(0, 3, 1, 2).float() / 255
    crop = made.crop[None, :3] * made.crop[None, 3:] + 1 - made.crop[None, 3:]
    cosines = scorer.clip.image_embeddings(views) @ scorer.clip.image_embeddings(crop)[0]
    assert scored.mesh.clip_similarity == pytest.approx(
        float(cosines.mean()), abs=2e-3
    )  # the turntable is rounded to 8 bits
    self_similarity = scorer.clip.image_embeddings(crop) @ scorer.clip.image_embeddings(crop)[0]
    assert scored.mesh.clip_similarity < float(self_similarity)


def test_the_dino_numbers_are_cosines_of_the_mesh_and_the_crop(scorer: Scorer, made: Reconstruction):
    scored = score(scorer, made, None)
    views = scored.turntable.permute(0, 3, 1, 2).float() / 255
    reference = scored.reference.permute(2, 0, 1)[None].float() / 255
    crop, seen = (rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:] for rgba in (made.crop[None], reference))
    photo, front, *around = (scorer.dino.image_embeddings(picture[None])[0] for picture in (*crop, *seen, *views))
    assert scored.dino.reference == pytest.approx(float(photo @ front), abs=2e-3)  # the pictures are of 8 bits
    assert scored.dino.turntable == pytest.approx(sum(float(photo @ view) for view in around) / 4, abs=2e-3)
    assert from_bytes([scored.dino.crop])[0].float() @ photo == pytest.approx(1, abs=1e-3)
    assert scored.dino.reference - scored.dino.turntable > 0.005  # the slab is red in front and blue behind


def test_a_score_asks_dino_once_and_for_the_mesh_alone(scorer: Scorer, made: Reconstruction):
    calls = []
    with_hook = scorer.dino.network.register_forward_hook(lambda network, inputs, output: calls.append(output))
    scored = score(scorer, made, None)
    with_hook.remove()
    assert [len(output.pooler_output) for output in calls] == [1 + 1 + 4]  # the crop, the reference view, the turntable
    assert score(scorer, replace(made, field=None, cloud=None), None).dino == scored.dino


def test_a_mesh_that_has_its_front_again_behind_looks_more_alike_from_there(scorer: Scorer, made: Reconstruction):
    """The slab is red in front and blue behind. The views of the turntable are those that are compared."""
    scored = score(scorer, made, None)
    views = scorer.clip.image_embeddings(scored.turntable.permute(0, 3, 1, 2).float() / 255)
    assert scored.mesh.front_back == pytest.approx(float(views[0] @ views[2]), abs=2e-3)
    both = np.float32([[0.9, 0.1, 0.1]] * len(made.mesh.vertices))
    two_faced = score(scorer, replace(made, mesh=replace(made.mesh, colors=both, texture=None)), None)
    assert 1 - two_faced.mesh.front_back < (1 - scored.mesh.front_back) / 10


def test_a_mesh_from_a_sound_field_is_sound(scorer: Scorer, made: Reconstruction):
    sound = score(scorer, made, None).sound
    assert (sound.self_intersections, sound.thin_share) == (0, 0)
    assert sound.hidden_share < 0.01


def test_a_crop_of_another_size_gives_nearly_the_same_scores(scorer: Scorer, made: Reconstruction):
    crop = torch.nn.functional.interpolate(made.crop[None], scale_factor=4.0, mode="nearest")[0]
    bigger = replace(made, crop=crop, unseen=torch.zeros_like(crop[3]))
    one, two = score(scorer, made, None), score(scorer, bigger, None)
    assert two.field.psnr_db > 35
    assert two.field.mask_iou == pytest.approx(one.field.mask_iou, abs=0.02)


def test_the_turn_between_frames_takes_one_azimuth_to_the_other_and_keeps_what_is_upright(target: Target):
    turn = frame_turn(camera(200.0, -10.0), target)
    torch.testing.assert_close(turn @ turn.T, torch.eye(3))
    torch.testing.assert_close(turn @ torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    eye = turn @ camera(200.0, -10.0).pose[0, :3, 3]
    torch.testing.assert_close(eye, camera(AZIMUTH, -10.0).pose[0, :3, 3], rtol=0, atol=1e-5)


def test_a_small_prediction_off_the_centre_is_seen_as_the_truth_is(target: Target):
    corners = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.2, 0.2) for z in (-0.3, 0.3)])
    turn = turn_about_y(-30.0)
    predicted = (0.8 * corners + torch.tensor([0.1, -0.05, 0.2])) @ turn  # the turn takes it to the true frame
    around = cameras_around(predicted, target.cameras, turn)
    for view in range(4):
        seen = project(Camera(around.pose[view, None], around.intrinsics[view, None]), predicted[None])
        true = project(Camera(target.cameras.pose[view, None], target.cameras.intrinsics[view, None]), corners[None])
        torch.testing.assert_close(seen[0], true[0], atol=1e-4, rtol=0)


def test_a_field_with_a_nan_is_an_error(scorer: Scorer, made: Reconstruction):
    field = made.field.row(0)
    with torch.no_grad():
        field.color_grid.fill_(float("nan"))
    broken, sound = scorer([replace(made, field=field), made], [None, None], [generator(), generator()])
    assert isinstance(broken, NumericsError)
    assert broken.reason == "field_not_finite"
    assert isinstance(sound, Scored)


def test_a_nan_that_only_the_turntable_sees_is_an_error(scorer: Scorer, made: Reconstruction):
    """Numbers of 8 bits have no NaN, silhouettes neither."""
    field = made.field.row(0)
    away = made.reference.pose[0, :3, 3] < 0
    with torch.no_grad():
        corner = [slice(0, 2) if behind else slice(-2, None) for behind in away.logical_not().tolist()]
        field.color_grid[..., corner[2], corner[1], corner[0]] = float("nan")
        field.density_grid[..., corner[2], corner[1], corner[0]] = 3.0
    broken, sound = scorer([replace(made, field=field), made], [None, None], [generator(), generator()])
    assert isinstance(broken, NumericsError)
    assert broken.reason == "field_not_finite"
    assert isinstance(sound, Scored)


def test_a_clip_that_says_nan_ends_the_run(scorer: Scorer, made: Reconstruction):
    width = scorer.clip.visual_projection.in_features
    projection = torch.nn.Linear(width, 8, bias=False)
    torch.nn.init.constant_(projection.weight, torch.nan)
    broken = replace(scorer, clip=replace(scorer.clip, visual_projection=projection))
    with pytest.raises(WeightsError, match="weights_not_finite"):
        score(broken, made, None)


def test_a_dino_that_says_nan_ends_the_run(scorer: Scorer, made: Reconstruction):
    network = mini_dino.build(0)
    torch.nn.init.constant_(network.layernorm.weight, torch.nan)
    broken = replace(scorer, dino=replace(scorer.dino, network=network.eval()))
    with pytest.raises(WeightsError, match=r"weights_not_finite.*dino in float32"):
        score(broken, made, None)


def test_settings_out_of_range_stop_the_run(scorer: Scorer):
    for wrong in ({"views": 0}, {"size_px": 4}, {"points": 1}, {"turntable_elevation_deg": 90.0}):
        with pytest.raises(ConfigError):
            load_scorer(replace(scorer.config, **wrong), Place())


def test_what_is_seen_on_white_is_the_composite(made: Reconstruction):
    with torch.inference_mode():
        seen = render(made.field, camera(0.0), 16, RenderConfig())
    torch.testing.assert_close(composite(seen, 1.0), seen.color + (1 - seen.alpha[:, None]))
