"""`anything3d evaluate` on a corpus that the real networks have made, and the table of `anything3d demo`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pyarrow.dataset as ds
import pytest

from jobs.scores import table
from tests.jobs.conftest import LONG_S, ROOT, environment

pytestmark = pytest.mark.slow
SHARED = ("mask_iou", "azimuth_error_deg", "novel_psnr_db", "novel_mask_iou", "reference_psnr_db")


def evaluate(corpus: Path, truth: Path, out: Path) -> dict:
    line = [sys.executable, "-m", "jobs.evaluate", str(corpus), "--truth", str(truth), "--json", str(out)]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def copy(corpus, tmp_path_factory) -> Path:
    return shutil.copytree(corpus.path, tmp_path_factory.mktemp("evaluated") / "corpus")


def test_the_summary_is_that_of_the_scores_in_the_corpus(shard, corpus, copy, tmp_path):
    found = evaluate(copy, shard.with_suffix(".truth"), tmp_path / "x.json")
    rows = ds.dataset(copy / "objects").to_table().to_pylist()
    assert (found["snapshot"], found["objects"]) == (1, len(rows))
    assert found["without_truth"] == sum(row["mask_iou"] is None for row in rows)
    for name in (*SHARED, "lift_chamfer", "chamfer", "fscore_5pct"):
        assert found["summary"][name]["mean"] == pytest.approx(mean(row[name] for row in rows if row[name] is not None))
    gains = [1 - row["loss_after"] / row["loss_before"] for row in rows]
    assert found["summary"]["inversion_gain"]["mean"] == pytest.approx(mean(gains))
    assert found["summary"]["seconds_per_object"]["mean"] > 0
    assert found["summary_unseen_pairs"] == {}  # the shard is of the training split


def test_another_file_of_the_same_truth_gives_the_same_numbers(shard, copy, tmp_path):
    """But for distances: the run drew 512 points, evaluate draws 4096."""
    other = shutil.copytree(shard.with_suffix(".truth"), tmp_path / "copy.truth")
    (other / "truth.json").write_text(json.dumps(json.loads((other / "truth.json").read_bytes()), indent=3))
    one = evaluate(copy, shard.with_suffix(".truth"), tmp_path / "one.json")["summary"]
    two = evaluate(copy, other, tmp_path / "two.json")["summary"]
    for name in SHARED:
        assert two[name]["mean"] == pytest.approx(one[name]["mean"], rel=1e-4)
    assert two["chamfer"]["mean"] < one["chamfer"]["mean"]


def test_the_table_has_a_line_for_every_object(copy):
    objects = ds.dataset(copy / "objects").to_table().column("object_id").to_pylist()
    lines = list(table(copy))
    assert [line.split()[0] for line in lines[1:-1]] == sorted(objects)
