"""index and segment on real shards: what names a cell, what a changed shard does, and the list of MD5s."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path

import pytest

from anything3d.errors import InputError, MachineError
from anything3d.mini.world import write_world
from anything3d.quality.world import MINI
from pipeline import cell
from pipeline.config import load
from pipeline.plan import shard_unit
from pipeline.stages import load as load_stage
from pipeline.stages import recipes
from pipeline.stages.index import IndexStage
from pipeline.store import Store
from pipeline.unit import slices
from schemas.records import ImageRecord, RejectRecord

CONFIG = load([], ["segment.crop_size=32", "segment.max_edges=4", "segment.min_area_px=64"])


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("world") / "world.tar"
    write_world(path, scenes=2, seed=0, size=96)
    return path


@pytest.fixture
def shard(world, tmp_path) -> Path:
    shutil.copytree(world.parent, tmp_path / "data")
    return tmp_path / "data" / world.name


def indexed(unit):
    """The rows and rejects of the index stage, or why there are none."""
    (outcome,) = IndexStage(CONFIG, CONFIG.place())(unit.ids, unit, None)
    return outcome


def cells(shard, store: Store) -> tuple[list[str], list[bool]]:
    """The folders of the index cell and the segment cell of a shard, and whether each was made by this call."""
    unit, folders, made = shard_unit(str(shard)), [], []
    for stage in ("index", "segment"):
        recipe = recipes(CONFIG)[stage]
        folders.append(cell.folder_of(recipe, unit))
        commit, new = cell.run(recipe, unit, store, partial(load_stage, stage, CONFIG.to_json(), "cpu"))
        made.append(new)
        unit = cell.as_input(recipe, unit, commit)
        if stage == "index":
            (unit,) = slices(unit, store.read_column(commit.rows, "image_id"), 64)
    return folders, made


def test_a_shard_that_is_touched_copied_or_moved_costs_its_index_and_nothing_else(shard, tmp_path):
    store = Store(str(tmp_path / "corpus"))
    folders, made = cells(shard, store)
    assert made == [True, True]
    os.utime(shard, (0, 0))
    again, made = cells(shard, store)
    assert made == [True, False]
    assert (again[0] != folders[0], again[1]) == (True, folders[1])
    moved = shutil.move(shard.parent, tmp_path / "elsewhere")
    again, made = cells(f"{moved}/{shard.name}", store)
    assert made[1] is False
    assert again[1] == folders[1]


def test_a_shard_with_other_bytes_costs_all(shard, tmp_path):
    store = Store(str(tmp_path / "corpus"))
    cells(shard, store)
    with tarfile.open(shard) as file:
        members = [(member, file.extractfile(member).read()) for member in file if member.isfile()]
    with tarfile.open(shard, "w") as file:
        for member, data in members:
            member.size = len(data) + 1
            file.addfile(member, io.BytesIO(data + b" "))
    assert cells(shard, store)[1] == [True, True]


def test_a_row_has_the_digests_of_the_bytes_that_it_names(shard):
    data = shard.read_bytes()
    rows = indexed(shard_unit(str(shard)))
    assert [type(row) for row in rows] == [ImageRecord, ImageRecord]
    for row in rows:
        for offset, size, digest in (
            (row.jpg_offset, row.jpg_size, row.jpg_sha256),
            (row.json_offset, row.json_size, row.json_sha256),
        ):
            assert hashlib.sha256(data[offset : offset + size]).hexdigest() == digest


def test_bytes_that_changed_since_they_were_indexed_end_the_run_and_are_no_verdict_on_the_photo(shard):
    unit = shard_unit(str(shard))
    rows = indexed(unit)
    stage = load_stage("segment", CONFIG.to_json(), "cpu")
    data = bytearray(shard.read_bytes())
    data[rows[1].json_offset + 1] ^= 1
    shard.write_bytes(data)
    assert len(stage([(rows[0],)], unit, None)) == 1
    with pytest.raises(MachineError, match=f"shard_changed: .*{shard.name}: the bytes of {rows[1].image_id} are not"):
        stage([(rows[1],)], unit, None)


def test_a_shard_that_has_gone_is_no_verdict_on_it(shard):
    unit = shard_unit(str(shard))
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        indexed(unit)


def test_an_md5_is_checked_over_the_whole_shard_and_one_that_is_wrong_rejects_it(shard):
    right = hashlib.md5(shard.read_bytes(), usedforsecurity=False).hexdigest()
    plain = indexed(shard_unit(str(shard)))
    assert indexed(shard_unit(str(shard), {shard.name: right})) == plain
    assert indexed(shard_unit(str(shard), {"other.tar": "0" * 32})) == plain
    with shard.open("r+b") as file:  # the last byte, which no photo has
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    outcome = indexed(shard_unit(str(shard), {shard.name: right}))
    assert isinstance(outcome, InputError)
    assert outcome.reason == "md5_mismatch"
    assert f"the list says MD5 {right}, the shard has " in outcome.message
    assert outcome.message.count("download it again") == 1


def test_an_md5_that_is_wrong_says_what_the_shard_is(shard):
    shard.write_bytes(b"<html>Sign in</html>")
    outcome = indexed(shard_unit(str(shard), {shard.name: "0" * 32}))
    assert outcome.reason == "md5_mismatch"
    assert "an HTML page" in outcome.message


def test_the_truth_is_known_by_what_it_says(shard):
    truth = shard.with_suffix(".truth") / "truth.json"
    before = shard_unit(str(shard)).inputs["truth"]
    assert before.digest == hashlib.sha256(truth.read_bytes()).hexdigest()
    os.utime(truth, (0, 0))
    assert shard_unit(str(shard)).inputs["truth"] == before
    truth.unlink()
    assert shard_unit(str(shard)).inputs["truth"].digest == ""


def test_truth_of_photographs_is_not_taken_for_the_mini_worlds(shard):
    """Only what says so is: results of the packaged networks mean nothing elsewhere, and a run has to say it."""
    truth = shard.with_suffix(".truth") / "truth.json"
    assert shard_unit(str(shard)).inputs["world"].digest == MINI
    known = json.loads(truth.read_bytes())
    del known["world"]
    for said in (json.dumps(known), json.dumps(known | {"world": "scans"}), "[]", "{", "[" * 100_000, ""):
        truth.write_text(said)
        inputs = shard_unit(str(shard)).inputs
        assert (bool(inputs["truth"].digest), inputs["world"].digest) == (True, "")
    truth.unlink()
    assert shard_unit(str(shard)).inputs["world"].digest == ""


def test_a_shard_of_directories_only_is_empty(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        entry = tarfile.TarInfo("./")
        entry.type = tarfile.DIRTYPE
        file.addfile(entry)
    (row,) = indexed(shard_unit(str(path)))
    assert isinstance(row, RejectRecord)
    assert (row.reason, row.kind) == ("empty_shard", "skipped")
