"""Stages on a shard full of defects: each costs its own item, under its own reason, and the counts balance."""

import io
import json
import tarfile
from dataclasses import replace
from functools import partial

import pytest
import torch

from anything3d import lift_image
from anything3d.errors import NumericsError
from anything3d.mini.world import write_world
from anything3d.photo.image import decode_png, encode_png
from anything3d.reconstruct import FinishedMesh
from anything3d.space.mesh import Mesh
from anything3d.space.viewpoint import ReferenceCamera
from pipeline import cell
from pipeline.batch import NoCheckpoint
from pipeline.config import Config, load
from pipeline.input.source import digest
from pipeline.nothing import least_row
from pipeline.photo import method_config, object_rows
from pipeline.stages import STAGES, needed, recipes
from pipeline.stages import load as load_stage
from pipeline.stages.mesh import MeshStage
from pipeline.stages.reconstruct import ReconstructStage
from pipeline.store import Store
from pipeline.unit import SOURCES, Input, Unit, slices
from schemas.records import CloudRecord, FieldRecord, ImageRecord, ObjectRecord, RejectRecord

CONFIG = load(
    [],
    ["segment.crop_size=64", "resources.segment.images_per_batch=2", "segment.max_edges=4", "segment.min_area_px=64"],
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Six photos of the mini world; five of them are spoiled, each in another way."""
    folder = tmp_path_factory.mktemp("hostile")
    write_world(folder / "clean.tar", scenes=6, seed=9, size=128)
    with tarfile.open(folder / "clean.tar") as tar:
        members = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
    stems = sorted({name.removeprefix("./").split(".")[0] for name in members})

    jpg, json_name = "./{}.jpg".format, "./{}.json".format
    members[jpg(stems[1])] = members[jpg(stems[1])][:-400]
    members[json_name(stems[2])] = members[json_name(stems[2])][:-1]
    record = json.loads(members[json_name(stems[3])])
    record["annotations"][0]["segmentation"]["counts"] = record["annotations"][0]["segmentation"]["counts"][:-1]
    record["annotations"][1]["predicted_iou"] = float("nan")
    members[json_name(stems[3])] = json.dumps(record).encode()
    record = json.loads(members[json_name(stems[4])])
    members[json_name(stems[4])] = json.dumps({**record, "annotations": []}).encode()
    picture = torch.zeros(64, 64, 3, dtype=torch.uint8)
    members[jpg(stems[5])] = encode_png(picture)  # another size than its annotations say

    path = folder / "hostile.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path, stems


def run(stage: str, unit: Unit, store: Store, config: Config = CONFIG):
    recipe = recipes(config)[stage]
    commit, _ = cell.run(recipe, unit, store, partial(load_stage, stage, config.to_json(), "cpu"))
    return commit, cell.as_input(recipe, unit, commit)


def segmented(path, store: Store):
    shard = Unit(path.stem, (path.stem,), {"shard": Input(str(path), digest(str(path))), "md5": Input("", "")})
    commit, shard = run("index", shard, store)
    assert commit.counts["rows"] == 6
    (images,) = slices(shard, [row.image_id for row in store.read_part(commit.rows, ImageRecord)], 64)
    return run("segment", images, store)[0]


def test_each_defect_has_its_reason_and_the_rest_is_processed(hostile, tmp_path):
    path, stems = hostile
    store = Store(str(tmp_path))
    commit = segmented(path, store)
    rows = store.read_part(commit.rows, ObjectRecord)
    reasons = {row.item_id: row.reason for row in store.read_part(commit.rejects, RejectRecord)}
    assert reasons[stems[1]] == "image_truncated"
    assert reasons[stems[2]] == "json_syntax"
    assert reasons[f"{stems[3]}-0000"].startswith("rle_")
    assert reasons[f"{stems[3]}-0001"] == "json_number"
    assert reasons[stems[4]] == "no_mask"
    assert reasons[stems[5]] == "size_mismatch"
    assert stems[0] in {row.image_id for row in rows}
    assert commit.counts["inputs"] == 6
    assert commit.counts["failed"] == 5
    # every annotation of the sound photo is an object or a reject
    with tarfile.open(path) as tar:
        total = len(json.loads(tar.extractfile(f"./{stems[0]}.json").read())["annotations"])
    found = [row.object_id for row in rows] + list(reasons)
    assert len([item for item in found if item.startswith(f"{stems[0]}-")]) == total


def test_crops_have_the_configured_size_and_boxes_count_pixels_to_the_last(hostile, tmp_path):
    store = Store(str(tmp_path))
    commit = segmented(hostile[0], store)
    rows = store.read_part(commit.rows, ObjectRecord)
    assert rows
    for row in rows:
        crop = decode_png(row.crop_png)
        assert tuple(crop.shape) == (64, 64, 4)
        assert int((crop[..., 3] > 127).sum()) > 0
        assert row.crop_x <= row.box_x
        assert row.crop_x + row.crop_side >= row.box_x + row.box_width


def test_a_field_without_a_surface_is_a_reject(tmp_path):
    from anything3d.settings.reconstruct import FieldConfig
    from anything3d.space.field import Field

    empty = Field(torch.full((1, 1, 8, 8, 8), -20.0), torch.zeros(1, 3, 8, 8, 8), FieldConfig(resolution=8))
    record = FieldRecord("sa_1-0000", empty.to_bytes(0), 1, 1, "field", None, 0.0, 0.0, 0.0, 0.0, 0.0)
    item = (least_row(ObjectRecord), record, least_row(CloudRecord))
    (outcome,) = MeshStage(CONFIG, CONFIG.place())([item], Unit("u", ("sa_1-0000",)), NoCheckpoint())
    assert isinstance(outcome, NumericsError)
    assert outcome.reason == "empty_surface"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """What reconstruct reads of one object, under six ids: six seeds."""
    folder = tmp_path_factory.mktemp("evidence")
    write_world(folder / "world.tar", scenes=1, seed=2, size=256)
    with tarfile.open(folder / "world.tar") as tar:
        (jpg,) = (tar.extractfile(entry).read() for entry in tar if entry.name.endswith(".jpg"))
    (folder / "photo.jpg").write_bytes(jpg)
    quick = ["invert.steps=0", "lift.candidates=1", "lift.steps=3", "lift.upsampler_steps=2", "reconstruct.steps=1"]
    limits = ["reconstruct.min_opacity=0.0", "reconstruct.max_fog=1.0", "score.points=256"]
    config = method_config(load([], [*quick, *limits]))
    rows = object_rows(lift_image(folder / "photo.jpg", point=(128, 160), config=config), "photo.jpg", 1)
    read = (rows.segment, rows.invert, rows.lift)
    return [tuple(replace(row, object_id=f"o-{name}") for row in read) for name in range(6)]


def reconstruct(items, min_opacity):
    config = load([], ["reconstruct.steps=3", f"reconstruct.min_opacity={min_opacity}", "reconstruct.max_fog=1.0"])
    stage = ReconstructStage(config, config.place())
    return stage(items, Unit("u", tuple(item[0].object_id for item in items)), NoCheckpoint())


def test_a_field_that_collapses_is_tried_once_more_with_another_seed(evidence):
    kept = [row for (row,) in reconstruct(evidence, 0.0)]
    refused = reconstruct(evidence, 1.0)  # wholly opaque: every attempt collapses
    assert {row.attempts for row in kept} == {1}
    assert {error.reason for error in refused} == {"field_empty"}
    assert all("twice, with two seeds; mean opacity" in error.message for error in refused)

    limit = sorted(row.opacity for row in kept)[2]  # two of the six first attempts lie below
    outcomes = reconstruct(evidence, limit)
    for before, after in zip(kept, outcomes, strict=True):
        if before.opacity >= limit:
            assert after == [before]
        elif isinstance(after, NumericsError):
            assert after.reason == "field_empty"
        else:
            assert (after[0].attempts, after[0].opacity >= limit) == (2, True)
    assert any(not isinstance(after, NumericsError) and after[0].attempts == 2 for after in outcomes)


class Saved:
    """A checkpoint that holds this, and all that is saved and told."""

    def __init__(self, state):
        self.states, self.steps = [state], []

    def load(self):
        return self.states[0]

    def save(self, state):
        self.states.append(state)

    def at(self, step, steps):
        self.steps.append((step, steps))


class Tetrahedra:
    """A backend that gives every object a tetrahedron of the canonical frame, in a colour of its own."""

    def __init__(self, *colors):
        self._colors = colors

    def __call__(self, evidence, generators, again, saved=None, save=None, at=None):
        corners = torch.tensor([[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) / 2
        faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        meshes = [Mesh(corners.numpy(), faces.numpy(), torch.full((4, 3), color).numpy()) for color in self._colors]
        return [FinishedMesh(mesh, ReferenceCamera(0.0, 0.0, 3.5, (3.5, 3.5, 0.5, 0.5))) for mesh in meshes]


def test_a_broken_mesh_of_a_backend_is_rejected_before_its_file_hides_what_is_wrong(evidence):
    config = load([])
    stage = ReconstructStage(config, config.place())
    stage._reconstructor = Tetrahedra(0.5, float("nan"), 2.0)
    sound, nan, bright = stage(evidence[:3], Unit("u", ("o-0", "o-1", "o-2")), NoCheckpoint())
    assert (sound[0].kept, sound[0].field) == ("mesh", None)
    assert [error.reason for error in (nan, bright)] == ["mesh_broken", "mesh_broken"]
    ((mesh,),) = MeshStage(config, config.place())([(evidence[0][0], sound[0])], Unit("u", ("o-0",)), NoCheckpoint())
    assert (mesh.vertices, mesh.faces, mesh.watertight) == (4, 4, True)


def test_a_checkpoint_of_an_older_layout_is_started_again_and_the_log_says_so(evidence, caplog):
    from safetensors.torch import load as load_tensors
    from safetensors.torch import save

    config = load([], ["reconstruct.steps=2", "reconstruct.min_opacity=0.0", "reconstruct.max_fog=1.0"])
    stage, unit = ReconstructStage(config, config.place()), Unit("u", ("o-0",))
    fresh = Saved(None)
    (made,) = stage(evidence[:1], unit, fresh)
    assert fresh.steps == [(1, 2), (2, 2)]
    tensors = load_tensors(fresh.states[-1])
    older = save({name: value for name, value in tensors.items() if name != "dropped"})
    for state in (older, b"no state at all"):
        caplog.clear()
        assert stage(evidence[:1], unit, Saved(state)) == [made]
        assert "starting again" in caplog.text
    caplog.clear()
    assert stage(evidence[:1], unit, Saved(fresh.states[-1])) == [made]
    assert not caplog.text
    assert made[0].dropped == 0


def test_every_stage_reads_only_what_earlier_ones_write():
    known = set(SOURCES)
    for stage in STAGES:
        assert set(stage.reads(CONFIG)) <= known
        known.add(stage.name)


@pytest.mark.parametrize(
    ("last", "runs"),
    [
        (("lift",), ["index", "segment", "lift"]),
        (("invert",), ["index", "segment", "caption", "invert"]),
        (("score",), [stage.name for stage in STAGES]),
    ],
)
def test_a_stage_runs_only_if_it_is_wanted_or_one_that_runs_reads_it(monkeypatch, last, runs):
    monkeypatch.setattr("pipeline.stages.LAST", last)
    assert [stage.name for stage in needed(CONFIG)] == list(recipes(CONFIG)) == runs
