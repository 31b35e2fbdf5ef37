"""`anything3d ablate` on a corpus that the real networks make: what variants share runs once."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.jobs.conftest import OBJECTS, QUICK, ROOT, environment

pytestmark = pytest.mark.slow
VARIANTS = """
[[variant]]
name = "full"
settings = []

[[variant]]
name = "without SDS"
settings = ["reconstruct.sds.losses.sds=0"]
"""


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
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {stage: len(list((copy / "cells" / stage).iterdir())) for stage in before}
    again = {stage for stage in before if made[stage] > before[stage]}
    assert again == {"reconstruct", "mesh", "score"}  # the first variant was there, the second shares the rest
    full, bare = json.loads((tmp_path / "ablation.json").read_text())
    assert (full["name"], bare["name"]) == ("full", "without SDS")
    assert full["gain"]["reference_psnr_db"]["mean"] == 0
    expected = full["summary"]["reference_psnr_db"]["mean"] - bare["summary"]["reference_psnr_db"]["mean"]
    assert bare["gain"]["reference_psnr_db"]["mean"] == pytest.approx(expected)
    assert "| full minus without SDS |" in done.stdout
