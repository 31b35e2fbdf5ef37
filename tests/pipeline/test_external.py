"""The backend "external" in the pipeline: what it does not start, and objects all the way to their scores."""

import shlex
import sys
from functools import partial
from pathlib import Path

import pytest

from anything3d.errors import ConfigError
from anything3d.mini.world import write_world
from jobs.command import read_preset
from pipeline import cell
from pipeline.config import load
from pipeline.plan import shard_unit
from pipeline.release.finished import finished_objects
from pipeline.stages import load as load_stage
from pipeline.stages import needed, recipes, weights_of
from pipeline.store import Store
from pipeline.unit import slices
from schemas.records import ImageRecord, ObjectRecord, RejectRecord
from tests import hull

HULL = Path(hull.__file__)


def external(*arguments, version=hull.VERSION, licence=hull.LICENCE):
    command = shlex.join([sys.executable, str(HULL), *map(str, arguments)])
    return [
        "reconstruct.backend=external",
        f"reconstruct.external.command={command}",
        f"reconstruct.external.version={version}",
        f"reconstruct.external.licence={licence}",
        "score.size_px=32",
        "score.views=2",
        "score.points=256",
        "segment.crop_size=64",
        "segment.max_edges=4",
        "segment.min_area_px=64",
    ]


@pytest.mark.parametrize("preset", ["mini", "default", "paper"])
def test_neither_caption_nor_inversion_nor_cloud_is_wanted_and_none_of_their_weights(preset):
    # the file that weights are read from is not there; only their names are asked for
    config = load([read_preset(preset)], external())
    assert [stage.name for stage in needed(config)] == ["index", "segment", "reconstruct", "mesh", "score"]
    assert weights_of(config) == [config.score.clip_weights, config.score.dino_weights] + (
        [config.segment.weights] if config.segment.source != "annotations" else []
    )


def test_the_version_and_the_command_are_part_of_the_fingerprint_and_the_licence_is_known_before():
    first = recipes(load([], external()))
    again, other = recipes(load([], external())), recipes(load([], external(version="hull 1.3")))
    assert first["reconstruct"].fingerprint == again["reconstruct"].fingerprint
    assert first["segment"].fingerprint == other["segment"].fingerprint
    for stage in ("reconstruct", "mesh", "score"):
        assert first[stage].fingerprint != other[stage].fingerprint
    assert first["reconstruct"].backend == "external (hull 1.2)"
    both = recipes(load([], external(licence="MIT; CC-BY-NC-4.0")))
    assert both["reconstruct"].licences == ("CC-BY-NC-4.0", "MIT")
    assert first["reconstruct"].max_seconds_per_item == 0  # the backend ends itself what hangs
    assert recipes(load([]))["reconstruct"].max_seconds_per_item == 1800


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["reconstruct.backend=external"], "needs reconstruct.external.command, reconstruct.external.version, rec"),
        ([*external(), "reconstruct.external.version="], 'needs reconstruct.external.version, too'),
        ([*external(), "reconstruct.external.command=sh -c 'x"], "No closing quotation"),
        (external()[1:], 'reconstruct.external has settings, but reconstruct.backend is "sds"'),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(ConfigError) as error:
        load([], settings)
    assert said in error.value.message


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "world.tar"
    write_world(path, scenes=3, seed=4, size=128)
    return path


class Run:
    """The objects of a mini world through all stages that run."""

    def __init__(self, shard, folder, config):
        self.store, self.config, self.commits = Store(str(folder / "corpus")), config, {}
        unit = self.through("index", shard_unit(str(shard), licence="Photos"))
        photos = [row.image_id for row in self.rows("index", ImageRecord)]
        (unit,) = slices(unit, photos, 64)
        unit = self.through("segment", unit)
        by_left = {row.box_x: row for row in self.rows("segment", ObjectRecord)}  # each can be told by its box
        self.objects = sorted(by_left.values(), key=lambda row: row.object_id)[:3]
        (self.unit,) = slices(unit, [row.object_id for row in self.objects], 8)

    def through(self, stage, unit):
        recipe = recipes(self.config)[stage]
        made = partial(load_stage, stage, self.config.to_json(), "cpu")
        self.commits[stage], _ = cell.run(recipe, unit, self.store, made)
        return cell.as_input(recipe, unit, self.commits[stage])

    def rows(self, stage, record):
        return self.store.read_part(self.commits[stage].rows, record)

    def finish(self):
        for stage in ("reconstruct", "mesh", "score"):
            self.unit = self.through(stage, self.unit)
        return list(finished_objects(self.store, [self.unit], 0))


@pytest.mark.parametrize("kind", ["ply", "textured"])
def test_objects_come_to_their_scores_and_say_what_made_them(world, tmp_path, kind):
    settings = external("--kind", kind, "--camera")
    run = Run(world, tmp_path, load([], [*settings, "mesh.max_faces=500", "mesh.texture_px=128"]))
    objects = run.finish()
    assert len(objects) == 3
    for rows in objects:
        assert (rows.caption, rows.invert, rows.lift) == (None, None, None)
        assert (rows.reconstruct.kept, rows.reconstruct.field) == ("mesh", None)
        assert rows.score.mesh_mask_iou > 0.7
        assert rows.score.mesh_psnr_db > 15
        assert rows.origin.reconstruct_backend == "external (hull 1.2)"
        assert rows.origin.licence == "Apache-2.0; CC0-1.0"
        assert rows.mesh.given_faces > 500 >= rows.mesh.faces
        assert rows.mesh.repainted
        assert b"TEXCOORD_0" in rows.mesh.glb
    assert any(rows.score.chamfer is not None for rows in objects)


def test_an_object_that_kills_the_command_is_a_reject_and_the_others_are_finished(world, tmp_path):
    run = Run(world, tmp_path, load([], external()))
    victim = run.objects[1]
    run.config = load([], external("--camera", "--break", "crash", "--on", victim.box_x))
    objects = run.finish()
    assert {rows.object_id for rows in objects} == {row.object_id for row in run.objects} - {victim.object_id}
    (reject,) = run.store.read_part(run.commits["reconstruct"].rejects, RejectRecord)
    assert (reject.item_id, reject.reason, reject.kind) == (victim.object_id, "external_died", "crashed")
    assert run.commits["reconstruct"].counts == {"inputs": 3, "rows": 2, "skipped": 0, "failed": 0, "crashed": 1}


def test_what_the_command_says_goes_to_the_log(caplog):
    caplog.set_level("INFO", logger="pipeline")
    config = load([], external("--camera"))
    stage = load_stage.__wrapped__("reconstruct", config.to_json(), "cpu")
    assert "reconstruct.external.command: hull: ready" in caplog.messages
    stage._reconstructor.close()
