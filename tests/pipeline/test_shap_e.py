"""The backend "shap-e" in the pipeline: what it does not start, and objects all the way to their scores."""

import pytest

from anything3d.mini.world import write_world
from anything3d.models.weights import licence
from jobs.command import read_preset
from pipeline.config import load
from pipeline.stages import needed, recipes, weights_of
from schemas.records import RejectRecord
from tests import shap_e as toy
from tests.pipeline.test_external import Run

# diffusers' sampler lets numpy copy a tensor in the way that numpy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
QUICK = [
    "reconstruct.backend=shap-e",
    "reconstruct.shap_e.steps=2",
    "reconstruct.shap_e.resolution=12",
    "score.size_px=32",
    "score.views=2",
    "score.points=256",
    "segment.crop_size=64",
    "segment.max_edges=4",
    "segment.min_area_px=64",
]


@pytest.mark.parametrize("preset", ["mini", "default", "paper"])
def test_neither_caption_nor_inversion_nor_cloud_is_wanted_and_none_of_their_weights(preset):
    config = load([read_preset(preset)], QUICK)
    assert [stage.name for stage in needed(config)] == ["index", "segment", "reconstruct", "mesh", "score"]
    of_score = {config.score.clip_weights, config.score.dino_weights}
    assert set(weights_of(config)) - {config.segment.weights} == {"shap-e-img2img", *of_score}


def test_objects_come_to_their_scores_and_say_what_made_them(tmp_path):
    write_world(tmp_path / "world.tar", scenes=3, seed=4, size=128)
    toy.write(tmp_path / "toy")
    config = load([], [*QUICK, "reconstruct.shap_e.weights=toy", f"resources.weights_root={tmp_path}"])
    run = Run(tmp_path / "world.tar", tmp_path, config)
    objects = run.finish()
    assert len(objects) == 3, list(run.store.read_part(run.commits["reconstruct"].rejects, RejectRecord))
    for rows in objects:
        assert (rows.caption, rows.invert, rows.lift) == (None, None, None)
        assert (rows.reconstruct.kept, rows.reconstruct.field) == ("mesh", None)
        assert 0 <= rows.score.mesh_mask_iou <= 1
        assert rows.mesh.faces > 0
        assert rows.origin.reconstruct_backend == "shap-e"
        assert rows.origin.licence == "Apache-2.0; unknown (toy)"


def test_the_licence_is_that_of_the_weights_which_are_with_the_settings_of_the_fingerprint(tmp_path):
    assert licence("shap-e-img2img") == "MIT"
    prints = set()
    for seed, more in ((0, []), (1, []), (0, ["reconstruct.shap_e.guidance=2.0"])):
        folder = tmp_path / str(len(prints))
        toy.write(folder / "toy", seed)
        settings = [*QUICK, *more, "reconstruct.shap_e.weights=toy", f"resources.weights_root={folder}"]
        recipe = recipes(load([], settings))["reconstruct"]
        prints.add(recipe.fingerprint)
    assert len(prints) == 3
