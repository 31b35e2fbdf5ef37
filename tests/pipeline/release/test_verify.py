"""verify: a flipped bit is named, whatever file it is in, and the shard is made again."""

import shutil

import pytest

from anything3d.errors import SourceError
from pipeline.release.corpus import Corpus
from pipeline.release.partition import photos_of, read_manifest
from pipeline.release.snapshot import newest
from pipeline.release.verify import verify
from pipeline.release.view import tables
from pipeline.store import Store
from tests.pipeline.conftest import publish

FILES = {  # kind -> the path of one such file of a partition
    "manifest": lambda one, rows: one.manifest.path,
    "objects": lambda one, rows: one.tables["objects"].path,
    "rejects": lambda one, rows: one.tables["rejects"].path,
    "tar": lambda one, rows: one.tars[0].path,
    "gallery": lambda one, rows: one.gallery["objects"].path,
    "picture": lambda one, rows: next(row.path for row in rows if row.path.endswith(".webp")),
}
CELLS = {  # file of a cell -> the stage of the cell
    "rows": "index",
    "rejects": "segment",
    "commit": "score",
}


@pytest.fixture
def corpus(world, tmp_path):
    """A copy in which each table has two names, as in the corpus itself."""
    copy = shutil.copytree(world.corpus, tmp_path / "corpus")
    for path, table in tables(world.snapshot).items():
        (copy / path).unlink()
        (copy / path).hardlink_to(copy / table.path)
    return copy


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def published(root):
    folders = ("objects", "rejects", "shards", "assets", "gallery/world")  # the rest of the gallery is of the snapshot
    return {path: path.read_bytes() for name in folders for path in (root / name).rglob("*") if path.is_file()}


def partition_of(root):
    return newest(Store(str(root))).partitions["world"]


def finished(root, world):
    """Whether a run would take the shard for finished, or its files for those that it would write."""
    corpus, one = Corpus(Store(str(root))), world.snapshot.partitions["world"]
    return bool(corpus.finished("world", one.key) or corpus.same("world", one.digest))


def test_a_sound_corpus_is_as_it_was_written_and_keeps_its_snapshot(corpus, world):
    assert verify(str(corpus)) == ({}, 1)
    assert newest(Store(str(corpus))) == world.snapshot
    assert finished(corpus, world)
    with pytest.raises(SourceError, match="no_partition"):
        verify(str(corpus), ["other"])


@pytest.mark.parametrize("kind", FILES)
def test_a_bit_of_a_published_file_is_named_and_the_file_is_written_again(corpus, world, kind):
    before, one = published(corpus), partition_of(corpus)
    path = FILES[kind](one, read_manifest(Store(str(corpus)), one)[0])
    flip(corpus / path)
    assert finished(corpus, world)  # nobody has read it
    second = [other for other, table in tables(world.snapshot).items() if table.path == path]
    assert verify(str(corpus), ["world"]) == ({"world": [*second, path]}, 1)
    assert not any((corpus / other).exists() for other in second)
    assert not finished(corpus, world)
    assert partition_of(corpus).files == one.files
    publish(Store(str(corpus)), world.made)
    assert published(corpus) == before
    assert verify(str(corpus)) == ({}, 1)


def test_a_damaged_copy_of_a_table_is_named_and_copied_again(corpus, world):
    """In a bucket, a table and its copy are two files."""
    before, (path, table) = published(corpus), next(iter(tables(world.snapshot).items()))
    (corpus / path).unlink()
    shutil.copy(corpus / table.path, corpus / path)
    flip(corpus / path)
    assert verify(str(corpus)) == ({"world": [path]}, 1)
    publish(Store(str(corpus)), world.made)
    assert published(corpus) == before


@pytest.mark.parametrize("kind", CELLS)
def test_a_bit_of_a_cell_is_named_and_the_cell_is_computed_again(corpus, world, kind):
    store = Store(str(corpus))
    commit = world.commits[CELLS[kind]][0]
    parts = {"rows": commit.rows, "rejects": commit.rejects}
    flip(corpus / (parts[kind].path if kind in parts else f"{commit.folder}/commit.json"))
    assert verify(str(corpus)) == ({"world": [commit.folder]}, 1)
    assert not finished(corpus, world)
    assert store.commit_at(commit.folder) is None


def test_damage_that_is_found_again_makes_no_further_snapshot(corpus):
    (corpus / partition_of(corpus).tars[0].path).unlink()
    assert verify(str(corpus)) == verify(str(corpus))
    assert newest(Store(str(corpus))).number == 2


def test_a_damaged_shard_ends_the_run_of_another_one_with_its_name(corpus, world):
    """To begin the run again would not mend it."""
    flip(corpus / world.commits["index"][0].rows.path)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"damaged_corpus: .*The shard is world\. Give `anything3d verify`"):
            photos_of(Store(str(corpus)), partition_of(corpus))
