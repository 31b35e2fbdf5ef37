"""What docs/corpus.md says on reading a corpus is what people can do: each of its examples runs on a real corpus."""

import re
import shutil
import tarfile
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from tests import s3

PAGE = (Path(__file__).parents[3] / "docs/corpus.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TOOLS = {"datasets", "duckdb", "obstore", "pandas", "polars", "pyarrow", "webdataset", "wids"}


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """The folder in which `corpus` lies."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(world.corpus, folder / "corpus")
    return folder


@pytest.fixture
def bucket(folder):
    """The bucket in which the same corpus lies."""
    with s3.serve() as server:
        for path in (folder / "corpus").rglob("*"):
            if path.is_file():
                server.objects[str(path.relative_to(folder))] = path.read_bytes()
        yield server


def some_glb(folder):
    """The mesh of one object, out of a tar."""
    for path in folder.rglob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".glb"):
                    return tar.extractfile(member).read()
    raise AssertionError("no tar has a mesh")


def test_the_page_shows_each_tool():
    imported = {name for example in EXAMPLES for name in re.findall(r"^import (\w+)", example, re.MULTILINE)}
    assert imported >= TOOLS


@pytest.mark.filterwarnings("ignore")  # those of the tools
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.splitlines()[0])
def test_the_examples_of_the_page_run(example, world, folder, bucket, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    said: dict = {}
    if '"object.glb"' in example:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "object.glb").write_bytes(some_glb(folder))
    exec(example.replace("s3://bucket/", f"s3://{s3.BUCKET}/"), said)
    assert said.keys() & {"objects", "glb", "colors"} or "print(" in example
    if "print(" in example:
        assert "object_id" in capsys.readouterr().out
    if "objects" in said:
        assert len(said["objects"]) == world.snapshot.objects
    if "colors" in said:
        assert len(said["colors"]) == len(said["mesh"].vertices) > 0
        assert len({tuple(color) for color in said["colors"]}) > 1  # it is not grey
    if "glb" in said:
        assert said["glb"][:4] == b"glTF"
        assert int.from_bytes(said["glb"][8:12], "little") == len(said["glb"])  # the length that a GLB says of itself


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("option", ["union_by_name", "missing_columns"])
@pytest.mark.parametrize("place", ["objects/a.parquet", "objects/z.parquet"])
def test_shards_of_an_older_version_are_read_as_the_page_says(option, place, world, tmp_path, monkeypatch):
    """The older table is the first or the last one of the folder."""
    shutil.copytree(world.corpus / "objects", tmp_path / "corpus/objects")
    (table,) = (tmp_path / "corpus/objects").iterdir()
    pq.write_table(pq.read_table(table).drop(["photo_name"]), tmp_path / "corpus" / place)
    (example,) = (example for example in EXAMPLES if option in example)
    monkeypatch.chdir(tmp_path)
    said: dict = {}
    exec(example, said)
    assert len(said["objects"]) == 2 * world.snapshot.objects
