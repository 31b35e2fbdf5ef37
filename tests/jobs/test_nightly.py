"""A night with the real command: nothing to do, a gate that refuses, and the same night with another gate."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.jobs.conftest import LONG_S, OBJECTS, QUICK, ROOT, environment

pytestmark = pytest.mark.slow


def night(folder, out, shard, settings=(), gates=""):
    """The command, with its file written anew."""
    truth = shard.with_suffix(".truth")
    lines = [
        f'out = "{out}"',
        f'shards = ["{shard}"]',
        f"max_objects = {OBJECTS}",
        f"settings = {json.dumps([*QUICK, *settings])}",
        f'truth = ["{truth}"]',
        gates,
    ]
    (folder / "night.toml").write_text("\n".join(lines))
    line = [sys.executable, "-m", "jobs.cli", "nightly", "--config", "night.toml", "--json", "told.json"]
    done = subprocess.run(
        line, cwd=folder, env={**environment(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=LONG_S
    )
    return done, json.loads((folder / "told.json").read_text())


def files(corpus):
    """What people see of a corpus."""
    seen = ("objects/*", "rejects/*", "snapshots/*", "snapshot.json", "index.html")
    return {path: path.read_bytes() for pattern in seen for path in corpus.glob(pattern)}


def test_a_night_publishes_only_what_its_gates_let_through(shard, corpus, tmp_path):
    out = shutil.copytree(corpus.path, tmp_path / "corpus")
    before = files(out)
    idle, told = night(tmp_path, out, shard)
    assert idle.returncode == 0, idle.stdout + idle.stderr
    assert (told["comparison"]["added"], told["comparison"]["changed"]) == (0, 0)
    assert told["comparison"]["same"] == json.loads((out / "snapshot.json").read_text())["objects"] > 0
    assert files(out) == before

    changed = ["score.views=3"]
    refused, told = night(tmp_path, out, shard, changed, "[gates]\nmin_mean = {reference_psnr_db = 99}")
    assert refused.returncode == 6, refused.stdout + refused.stderr
    assert "gate_refused: reference_psnr_db has a mean of" in refused.stderr
    assert "nothing was published" in refused.stdout
    assert not (out / "evaluation" / "000002.parquet").exists()
    assert files(out) == before

    passed, told = night(tmp_path, out, shard, changed, "keep_last = 1\nkeep_days = 0")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "snapshot 2 (" in passed.stdout
    assert (out / "evaluation" / "000002.parquet").exists()
    assert ", 0 cells run," in passed.stdout  # they are those of the night that was refused
    assert told["comparison"]["changed"] > 0
    assert json.loads((out / "snapshot.json").read_text())["number"] == 2
    assert [path.name for path in (out / "snapshots").iterdir()] == ["000002.json"]
    assert len(list(out.glob("assets/*/*.tar"))) == 1  # that of the first snapshot has gone
