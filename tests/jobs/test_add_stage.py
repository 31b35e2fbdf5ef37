"""CONTRIBUTING's steps for a new stage, done to the letter in a copy of the tree, and run on a finished corpus."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.jobs.conftest import ROOT, environment, run

BLOCK = re.compile(r"^ *```(python|diff)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`([\w/]+/\w+\.py)`")
PACKAGES = ("schemas", "anything3d", "pipeline", "jobs")


def steps() -> list[tuple[str, str, str]]:
    """(file, kind, text) of every block of code of the section, in order. A block is of the file named last before."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a stage\n")[1].split("\n## ")[0]
    section = section[section.index("\n1. ") :]
    return [
        (PATH.findall(section[: block.start()])[-1], block[1], re.sub(r"^   ", "", block[2], flags=re.MULTILINE))
        for block in BLOCK.finditer(section)
    ]


def follow(tree: Path) -> None:
    """Do what the section says."""
    for name, kind, text in steps():
        path = tree / name
        if kind == "python":
            assert not path.exists(), name
            path.write_text(text)
            continue
        lines = text.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        assert path.read_text().count(before) == 1, f"{name} does not have once:\n{before}"
        path.write_text(path.read_text().replace(before, after))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the product with the new stage."""
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    follow(folder)
    return folder


def test_the_steps_of_the_section_fit_the_files_and_the_linter_has_nothing_to_say(tree):
    assert len(steps()) == 11
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, str(tree)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_new_stage_alone_runs_on_a_finished_corpus_and_older_snapshots_are_read(tree, shard, corpus, tmp_path):
    out = Path(shutil.copytree(corpus.path, tmp_path / "corpus"))
    truth = f"{shard.with_suffix('')}.truth"
    read = [sys.executable, "-m", "jobs.cli", "evaluate", str(out), "--truth", truth]
    older = subprocess.run(read, cwd=tree, env=environment(), capture_output=True, text=True)
    assert older.returncode == 0, older.stderr
    assert f"snapshot {corpus.snapshot}: " in older.stdout

    found = run(shard, out, tree=tree)
    cells = found.cells_now()
    assert cells.pop("tint") > 0
    assert set(cells.values()) == {0}
    assert len(cells) == 8
    before, after = (ds.dataset(root / "objects").to_table() for root in (corpus.path, out))
    assert after.num_rows == before.num_rows > 0
    assert set(after.schema.names) - set(before.schema.names) == {"red", "green", "blue"}
    assert all(0 < value <= 1 for value in after.column("red").to_pylist())
    assert after.select(before.schema.names).drop(["asset_tar"]).equals(before.drop(["asset_tar"]))
