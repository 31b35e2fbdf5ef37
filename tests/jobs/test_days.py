"""A corpus over several days, all of it in a bucket: two shards on two days, a changed setting, a gate, gc."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from anything3d.mini.world import write_world
from tests.jobs.conftest import LONG_S, QUICK, ROOT
from tests.s3 import serve

pytestmark = pytest.mark.slow
CORPUS = "s3://b/corpus"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket with two shards."""
    folder = tmp_path_factory.mktemp("shards")
    with serve() as server:
        for seed, name in enumerate("ab"):
            write_world(folder / f"{name}.tar", scenes=1, seed=20 + seed, size=128)
            server.objects[f"{name}.tar"] = (folder / f"{name}.tar").read_bytes()
        yield server


def call(*arguments: str, code: int = 0) -> str:
    """A command; what it says."""
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONG_S,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def run(*shards: str, settings: tuple[str, ...] = ()) -> str:
    sets = [part for setting in (*QUICK, "segment.min_area_px=64", *settings) for part in ("--set", setting)]
    return call("run", *(f"s3://b/{shard}.tar" for shard in shards), "--out", CORPUS, "--max-objects", "4", *sets)


def objects(bucket) -> dict[str, dict]:
    """Object id -> row, of the view."""
    tables = [
        pq.read_table(io.BytesIO(data)) for path, data in bucket.objects.items() if path.startswith("corpus/objects/")
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["object_id"] for row in rows}) == len(rows)
    return {row["object_id"]: row for row in rows}


def snapshot(bucket) -> dict:
    return json.loads(bucket.objects["corpus/snapshot.json"])


def test_a_corpus_grows_changes_and_is_cleaned(bucket, tmp_path: Path):
    run("a")
    first = objects(bucket)
    assert {row["shard"] for row in first.values()} == {"a"}

    said = run("b")
    second = objects(bucket)
    assert {row["shard"] for row in second.values()} == {"a", "b"}
    assert {name: second[name] for name in first} == first
    assert "of 2 shards in all" in said

    changed = ("score.views=3",)
    run("a", settings=changed)
    third = objects(bucket)
    assert set(third) == set(second)
    assert snapshot(bucket)["made_by"]["settings"]["score"]["views"] == 3

    night = [f'out = "{CORPUS}"', 'shards = ["s3://b/*.tar"]', "max_objects = 4", "[gates]", "min_objects = 1000"]
    settings = f"settings = {json.dumps([*QUICK, 'segment.min_area_px=64', *changed])}"
    bucket.objects["night.toml"] = "\n".join([settings, *night]).encode()
    before = snapshot(bucket)
    assert "gate_refused" in call("nightly", "--config", "s3://b/night.toml", code=6)
    assert snapshot(bucket) == before

    call("drop", CORPUS, "b")
    assert {row["shard"] for row in objects(bucket).values()} == {"a"}
    files = len(bucket.objects)
    call("gc", CORPUS, "--older-than", "0", "--apply")
    assert len(bucket.objects) < files
    assert set(objects(bucket)) == set(first)
    row = next(iter(objects(bucket).values()))
    glb = bucket.objects[f"corpus/{row['asset_tar']}"][row["glb_offset"] : row["glb_offset"] + row["glb_size"]]
    assert glb.startswith(b"glTF")
    assert "0 cells run" in run("a", settings=changed)
