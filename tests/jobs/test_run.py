"""`anything3d run` end to end: the corpus as other people's tools see it, resume, and running only what changed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pytest
import webdataset
from typer.testing import CliRunner

from anything3d.models.weights import PACKAGED
from jobs.cli import app
from tests.jobs.conftest import LONG_S, OBJECTS, QUICK, ROOT, command, environment, run, unfinished

pytestmark = pytest.mark.slow


def test_duckdb_and_pyarrow_read_one_row_per_object_with_units_in_the_schema(corpus):
    rows = duckdb.sql(f"select object_id, caption, reference_psnr_db from '{corpus.path}/objects/*.parquet'").fetchall()
    table = ds.dataset(corpus.path / "objects").to_table()
    assert len(rows) == len({row[0] for row in rows}) == table.num_rows > 0
    assert table.schema.field("reference_psnr_db").metadata[b"about"].startswith(b"dB")
    assert not any(str(column.type) == "binary" for column in table.schema)


def test_every_object_is_a_row_or_a_reject_and_every_reject_has_a_reason(corpus):
    objects = ds.dataset(corpus.path / "objects").to_table().column("object_id").to_pylist()
    rejects = ds.dataset(corpus.path / "rejects").to_table().to_pylist()
    later = {row["item_id"] for row in rejects if row["stage"] not in ("index", "segment")}
    assert len(set(objects) | later) == OBJECTS
    assert set(rejects[0]) == {"item_id", "stage", "kind", "reason", "message", "attempts", "retried"}
    assert all(row["reason"] and row["kind"] in ("skipped", "failed", "crashed") for row in rejects)


@pytest.mark.filterwarnings("ignore")
def test_webdataset_reads_the_files_of_every_object(corpus):
    tars = sorted(str(path) for path in (corpus.path / "assets").glob("*/*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    table = ds.dataset(corpus.path / "objects").to_table()
    assert sorted(sample["__key__"] for sample in samples) == sorted(table.column("object_id").to_pylist())
    for sample in samples:
        assert sample["png"].startswith(b"\x89PNG")
        assert sample["mask.png"].startswith(b"\x89PNG")
        assert sample["cloud.ply"].startswith(b"ply")
        assert sample["glb"].startswith(b"glTF")
        assert sample["turntable.webp"][8:12] == b"WEBP"
        assert json.loads(sample["json"])["object_id"] == sample["__key__"]


def test_the_truth_beside_the_shard_is_scored(corpus):
    rows = ds.dataset(corpus.path / "objects").to_table().to_pylist()
    known = [row for row in rows if row["chamfer"] is not None]
    assert known
    assert all(0 <= row["fscore_5pct"] <= 1 and row["chamfer"] > 0 and row["normalization"] for row in known)


def test_the_snapshot_names_its_files_and_the_gallery_shows_the_objects(corpus):
    body = json.loads((corpus.path / "snapshots" / "000001.json").read_text())
    assert json.loads((corpus.path / "snapshot.json").read_text()) == body
    (partition,) = body["partitions"].values()
    files = [partition["manifest"], *partition["tables"].values(), *partition["tars"], *partition["gallery"].values()]
    assert all((corpus.path / file["path"]).stat().st_size == file["bytes"] for file in files)
    assert body["made_by"]["settings"]["invert"]["steps"] == 3
    html = (corpus.path / "index.html").read_text()
    assert corpus.snapshot in html
    index = (corpus.path / partition["gallery"]["objects"]["path"]).read_text()
    shown = json.loads(index.removeprefix("anything3d(").removesuffix(");\n"))
    assert len(shown["ids"]) == body["objects"] == partition["gallery"]["objects"]["rows"]


def test_the_log_file_has_one_line_for_every_commit(corpus):
    log = (corpus.path.parent / "run.log").read_text()
    told = re.findall(r"INFO pipeline\.cell: commit: stage=(\w+) unit=(\S+) in=\d+ out=\d+ rejects=\d+ seconds=", log)
    made = [json.loads(path.read_text()) for path in corpus.path.glob("cells/*/*/*/commit.json")]
    assert sorted(told) == sorted((body["stage"], body["unit"]) for body in made)
    assert "INFO" not in corpus.output  # that is what --verbose is for


def test_a_finished_run_given_again_runs_no_cell_and_changes_nothing(shard, corpus):
    before = {path: path.stat().st_mtime_ns for path in corpus.path.rglob("*") if path.is_file()}
    again = run(shard, corpus.path)
    assert again.cells_run == 0
    assert again.snapshot == corpus.snapshot
    assert {path: path.stat().st_mtime_ns for path in corpus.path.rglob("*") if path.is_file()} == before


def test_a_damaged_cell_is_named_and_computed_again_and_the_snapshot_stays(shard, corpus, tmp_path):
    """A bit of a mesh and one of a tar flipped: `verify` names both, and then the same command mends them."""
    copy = Path(shutil.copytree(corpus.path, tmp_path / "corpus"))
    mesh = next(copy.glob("cells/mesh/*/*/rows-*.parquet"))
    sound = bytearray(mesh.read_bytes())
    sound[len(sound) // 2] ^= 0x10
    mesh.write_bytes(sound)
    tar = next(copy.glob("assets/*/*.tar"))
    tar.write_bytes(bytes([tar.read_bytes()[0] ^ 1]) + tar.read_bytes()[1:])
    said = CliRunner().invoke(app, ["verify", str(copy)])
    assert said.exit_code == 2
    named = [line.removeprefix("damaged or gone: ") for line in said.stdout.splitlines()]
    assert named == [str(path.relative_to(copy)) for path in (mesh.parent, tar)]
    again = run(shard, copy)
    assert (again.snapshot, again.cells_run) == (corpus.snapshot, 1)
    files = [{path.name: path.read_bytes() for path in root.glob("assets/*/*.tar")} for root in (copy, corpus.path)]
    assert files[0] == files[1]
    assert CliRunner().invoke(app, ["verify", str(copy)]).exit_code == 0


def test_ids_that_nothing_has_make_an_empty_corpus_that_balances_and_exit_code_7(shard, corpus, tmp_path):
    copy = shutil.copytree(corpus.path, tmp_path / "corpus")
    ids = tmp_path / "ids.txt"
    ids.write_text("sa_5-0000\nsa_6\n")
    empty = run(shard, copy, flags=["--ids", str(ids)], code=7)
    assert empty.cells_run == 0
    assert "0 objects in" in empty.output
    assert "anything3d: no_objects: the run made no object: nothing was chosen" in empty.output
    assert "2 of the ids are of no sound photo in the shards: sa_5-0000, sa_6" in empty.output
    assert ds.dataset(copy / "objects").count_rows() == 0
    assert json.loads((copy / "snapshot.json").read_text())["objects"] == 0


def test_a_photo_that_two_shards_have_is_taken_once_and_said(shard, corpus, tmp_path):
    copy = shutil.copytree(corpus.path, tmp_path / "corpus")
    again = shutil.copy(shard, tmp_path / "again.tar")
    both = run(shard, copy, flags=[str(again), "--max-objects", str(OBJECTS + 10)])  # more than there are
    assert both.cells_now()["index"] == 1  # of the second shard
    objects = [ds.dataset(path / "objects").to_table().column("object_id").to_pylist() for path in (copy, corpus.path)]
    assert len(objects[0]) == len(set(objects[0]))
    assert set(objects[0]) > set(objects[1])
    rejects = ds.dataset(copy / "rejects").to_table().to_pylist()
    assert sum(row["reason"] == "duplicate_id" for row in rejects) == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [(["caption.beems=3"], "did you mean 'caption.beams'"), (["caption.weights=nowhere"], "no weights 'nowhere'")],
)
def test_a_wrong_setting_ends_in_one_line_before_anything_starts(shard, tmp_path, settings, says):
    done = subprocess.run(
        command(shard, tmp_path / "corpus", settings), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def refused(shard, out, settings=(), flags=()):
    done = subprocess.run(
        [*command(shard, out, settings), *flags], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("anything3d: ")]
    return line


def test_an_empty_list_of_ids_is_not_all_of_them(shard, tmp_path):
    (tmp_path / "ids.txt").write_text("\n")
    line = refused(shard, tmp_path / "corpus", flags=["--ids", str(tmp_path / "ids.txt")])
    assert "no_ids" in line
    assert not (tmp_path / "corpus" / "cells").exists()


def test_a_plan_measures_a_stage_of_which_no_time_is_known(shard, corpus, tmp_path):
    """The cells before score are those of another run, so that only one actor has to start."""
    out = tmp_path / "corpus"
    unfinished(corpus, out, ["score"])
    sets = [part for setting in QUICK for part in ("--set", setting)]
    line = [sys.executable, "-m", "jobs.cli", "plan", str(shard), "--out", str(out), "--max-objects", str(OBJECTS)]
    planned = {}
    for measure in ("0", "2"):
        done = subprocess.run(
            [*line, *sets, "--measure", measure, "--json", str(tmp_path / "plan.json")],
            cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LONG_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        planned[measure] = json.loads((tmp_path / "plan.json").read_text())
    assert planned["0"]["unmeasured"] == ["score"]
    assert (planned["0"]["stages"]["score"]["reuse"], planned["0"]["stages"]["score"]["run"]) == (0, OBJECTS)
    assert planned["2"]["unmeasured"] == []
    assert (planned["2"]["stages"]["score"]["reuse"], planned["2"]["stages"]["score"]["run"]) == (2, OBJECTS - 2)
    assert planned["2"]["stages"]["score"]["seconds_per_item"] > 0
    assert not list(out.glob("snapshots/*"))


def test_networks_that_an_actor_cannot_load_end_the_run_in_one_line(shard, corpus, tmp_path):
    """The cells before score are those of another run, so that only one actor has to start."""
    unfinished(corpus, tmp_path / "corpus", ["score"])
    shutil.copytree(PACKAGED / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"cut")
    line = refused(shard, tmp_path / "corpus", [f"score.clip_weights={tmp_path / 'clip'}"])
    assert "weights_broken" in line
    assert str(tmp_path / "clip") in line


def test_a_run_stops_at_its_limit_with_exit_code_5_and_the_same_command_continues(shard, corpus, tmp_path):
    """One cell of the two that mesh lacks costs more than is allowed; nothing else is begun."""
    out = tmp_path / "corpus"
    unfinished(corpus, out, ["mesh", "score"])
    shutil.copy(corpus.path / "corpus.json", out)
    alone = [
        "price.cpu_hour=3600",
        "price.currency=EUR",
        "resources.mesh.workers=1",
    ]  # as many begin as actors are there
    limited = run(shard, out, alone, ["--max-cost", "0.000001"], code=5)
    assert limited.cells_run == len(list(out.glob("cells/mesh/*/*/commit.json"))) == 1
    assert not (out / "cells" / "score").exists()
    assert "0 objects and 0 rejects of 0 shards of this run" in limited.output
    last = limited.output.splitlines()[-1]
    assert re.match(r"anything3d: limit_reached: The run used \d+\.\d\d EUR; --max-cost allows 1e-06\. ", last)
    assert last.endswith("The same command continues.")
    rest = run(shard, out)
    assert rest.cells_run == 3
    assert rest.snapshot == corpus.snapshot
