"""CONTRIBUTING's steps for a new stage and a new backend, done to the letter in a copy of the tree, and run there."""

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import trimesh

from schemas.corpus import ASSETS, span_names
from tests.jobs.conftest import OBJECTS, ROOT, environment, run

BLOCK = re.compile(r"^ *```(python|diff)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`([\w/]+/\w+\.py)`")
PACKAGES = ("schemas", "anything3d", "pipeline", "jobs")


SECTIONS = {"Add a stage": 12, "Add a backend": 4}  # heading -> blocks of code in its steps


def steps(heading: str) -> list[tuple[str, str, str]]:
    """(file, kind, text) of every block of code of the section, in order. A block is of the file named last before."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    section = section[section.index("\n1. ") :]
    return [
        (PATH.findall(section[: block.start()])[-1], block[1], re.sub(r"^   ", "", block[2], flags=re.MULTILINE))
        for block in BLOCK.finditer(section)
    ]


def follow(tree: Path) -> None:
    """Do what the sections say."""
    for name, kind, text in [step for heading in SECTIONS for step in steps(heading)]:
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
    """A copy of the product with the new stage and the new backend."""
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    follow(folder)
    return folder


def test_the_steps_of_the_section_fit_the_files_and_the_linter_has_nothing_to_say(tree):
    assert {heading: len(steps(heading)) for heading in SECTIONS} == SECTIONS
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
    assert "snapshot 1: " in older.stdout

    found = run(shard, out, tree=tree)
    cells = found.cells_now()
    assert cells.pop("tint") > 0
    assert set(cells.values()) == {0}
    assert len(cells) == 8
    before, after = (ds.dataset(root / "objects").to_table() for root in (corpus.path, out))
    assert after.num_rows == before.num_rows > 0
    assert set(after.schema.names) - set(before.schema.names) == {"red", "green", "blue"}
    assert all(0 < value <= 1 for value in after.column("red").to_pylist())
    places = ["asset_tar", *(name for suffix in ASSETS for name in span_names(suffix))]  # the .json has grown
    assert after.select(before.schema.names).drop(places).equals(before.drop(places))


@pytest.mark.slow
def test_a_backend_that_needs_the_crop_alone_starts_no_stage_that_it_does_not_need(tree, shard, tmp_path):
    made = run(shard, tmp_path / "boxes", ["reconstruct.backend=box"], tree=tree)
    assert set(made.cells_now()) == {"index", "segment", "reconstruct", "mesh", "score", "tint"}
    rows = ds.dataset(made.path / "objects").to_table().to_pylist()
    assert len(rows) == OBJECTS
    for row in rows:
        assert (row["reconstruct_backend"], row["lift_backend"], row["kept"]) == ("box", None, "mesh")
        assert (row["caption"], row["azimuth_deg"], row["sds_loss"]) == (None, None, None)
        assert json.loads(row["own_camera"])["azimuth_deg"] == 0
        assert set(json.loads(row["weights"])) == {"clip", "dino"}  # of score
        assert (row["vertices"], row["faces"], row["watertight"]) == (8, 12, True)
        assert row["reference_mask_iou"] > 0.4  # a box that is as wide and as high as the mask
    (tar,) = (made.path / "assets").glob("*/*.tar")
    with tarfile.open(tar) as files:
        suffixes = {name.split(".", 1)[1] for name in files.getnames()}
        glb = next(files.extractfile(member).read() for member in files if member.name.endswith(".glb"))
    assert suffixes == {"json", "png", "mask.png", "glb", "turntable.webp"}
    assert trimesh.load_scene(io.BytesIO(glb), file_type="glb").extents.max() == pytest.approx(1)
