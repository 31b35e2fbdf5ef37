"""`anything3d ablate` on a corpus that the real networks make: what variants share runs once.

The second variant changes the captioning: the corpus then holds both, and `run` finds the first one's snapshot again.
"""

import json
import shutil
import subprocess
import sys

import pytest

from tests.jobs.conftest import LONG_S, OBJECTS, QUICK, ROOT, environment, run

pytestmark = pytest.mark.slow
VARIANTS = """
[[variant]]
name = "full"
settings = []

[[variant]]
name = "two tokens"
settings = ["caption.min_tokens=1", "caption.max_tokens=2"]
"""


def snapshot_now(corpus):
    return json.loads((corpus / "snapshot.json").read_text())["digest"]


def test_variants_share_what_they_can_and_are_compared_object_by_object(shard, corpus, tmp_path):
    copy = shutil.copytree(corpus.path, tmp_path / "corpus")
    before = {folder.name: len(list(folder.iterdir())) for folder in (copy / "cells").iterdir()}
    (tmp_path / "variants.toml").write_text(VARIANTS)
    sets = [part for setting in QUICK for part in ("--set", setting)]
    line = [
        sys.executable, "-m", "jobs.ablate", str(shard), "--out", str(copy), "--max-objects", str(OBJECTS),
        "--truth", str(shard.with_suffix(".truth")), "--variants", str(tmp_path / "variants.toml"), "--seeds", "1",
        "--json", str(tmp_path / "ablation.json"), *sets,
    ]  # fmt: skip
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {stage: len(list((copy / "cells" / stage).iterdir())) for stage in before}
    again = {stage for stage in before if made[stage] > before[stage]}
    # The first variant was there. Of the second one, what does not read captions is shared.
    assert again == {"caption", "invert", "reconstruct", "mesh", "score"}
    full, short = json.loads((tmp_path / "ablation.json").read_text())
    assert (full["name"], short["name"]) == ("full", "two tokens")
    assert full["gain"]["reference_psnr_db"]["mean"] == 0
    expected = full["summary"]["reference_psnr_db"]["mean"] - short["summary"]["reference_psnr_db"]["mean"]
    assert short["gain"]["reference_psnr_db"]["mean"] == pytest.approx(expected)
    assert "| full minus two tokens |" in done.stdout
    assert snapshot_now(copy) != corpus.snapshot
    back = run(shard, copy)
    assert (back.cells_run, back.snapshot, snapshot_now(copy)) == (0, corpus.snapshot, corpus.snapshot)
