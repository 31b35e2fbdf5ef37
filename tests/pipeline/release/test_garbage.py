"""gc: what no kept snapshot names goes, and nothing else, whatever happens meanwhile."""

import os
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anything3d.errors import ConfigError, SourceError
from jobs.cli import app
from pipeline.disk import drafts
from pipeline.ledger import RUNS, Attempt
from pipeline.release.corpus import Corpus
from pipeline.release.finished import released_objects
from pipeline.release.garbage import HELD, OURS, collect, gc
from pipeline.release.partition import read_manifest
from pipeline.release.snapshot import MadeBy, append, newest, numbers, snapshot_of
from pipeline.release.view import tables
from pipeline.store import Store
from tests import s3
from tests.pipeline.conftest import made, publish

FOREIGN = (
    "objects/mine-0123456789abcdef.parquet",
    "shards/world/notes.txt",
    "assets/world/mine.tar",
    "snapshots/mine.json",
    "cells/score/notes.txt",
    "evaluation/mine.parquet",
    "mine.txt",
)
LEFT = "cells/score/0123456789ab/a+1-01234567-0123456789"  # of a killed attempt: a cell without a commit


def age(root, days=8.0, below="."):
    """Let the files of a corpus be as old as that."""
    then = time.time() - days * 86400
    for path in (Path(root) / below).rglob("*"):
        os.utime(path, (then, then))


def files(root):
    return {str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file()}


@pytest.fixture
def root(world, tmp_path):
    """A corpus whose second snapshot has a part of the shard alone, with what people and killed processes leave."""
    root = tmp_path / "corpus"
    shutil.copytree(world.corpus, root)
    store = Store(str(root))
    publish(store, made(world.unit, world.units[:1], {name: some[:1] for name, some in world.commits.items()}))
    for path in FOREIGN:
        store.write(path, b"mine")
    for name in (f"{'0' * 32}.json", f"{'1' * 32}.json"):
        store.write(f"{LEFT}/attempts/{name}", b"{}")
    store.write(f"{LEFT}/rows-{'0' * 32}.parquet", b"rows")
    store.write("evaluation/000001.parquet", b"old")
    store.write("evaluation/000002.parquet", b"new")
    (root / "shards" / "world" / "draft#17").write_bytes(b"half of a tab")
    age(root)
    return root


def assert_whole(root, number=2):
    """The snapshot is as whole as before: its files, its cells, its view."""
    store, snapshot = snapshot_of(str(root), number)
    (partition,) = snapshot.partitions.values()
    assert Corpus(store).is_whole(partition)
    assert len(list(released_objects(store, [partition], ()))) == partition.objects > 0
    for row in read_manifest(store, partition)[0]:
        assert row.what != "cell" or store.commit_at(row.path)
    if number == newest(store).number:
        assert tables(snapshot).keys() <= set(store.paths("objects")) | set(store.paths("rejects"))


def test_what_no_kept_snapshot_names_is_listed_and_then_goes(root):
    before = files(root)
    listed = gc(str(root), 7, 1, apply=False)
    assert files(root) == before
    done = gc(str(root), 7, 1, apply=True)
    assert done == listed
    gone = before - files(root)
    assert {folder: sum(path.startswith(f"{folder}/") for path in gone) for folder in OURS} == {
        folder: found.files for folder, found in done.folders.items()
    }
    assert {path for path in gone if path.split("/")[0] in ("snapshots", "evaluation")} == {
        "snapshots/000001.json",
        "evaluation/000001.parquet",
    }
    assert all(done.folders[folder].files for folder in ("shards", "assets", "cells"))
    assert set(FOREIGN) <= files(root)
    assert sum(found.foreign for found in done.folders.values()) == len(FOREIGN) - 1  # nobody looks at the root
    assert not list(drafts(root))
    assert not (root / LEFT).parent.exists()
    assert_whole(root)
    assert not any(found.files for found in gc(str(root), 7, 1, apply=True).folders.values())


@pytest.mark.parametrize(("older_than", "keep_last"), [(30, 1), (7, 2)])
def test_young_snapshots_and_the_last_ones_stay_whole(root, older_than, keep_last):
    done = gc(str(root), older_than, keep_last, apply=True)
    assert done.kept == [2, 1]
    assert_whole(root, 1)
    assert_whole(root, 2)
    assert (root / LEFT).exists() == (older_than == 30)


def test_a_cell_with_one_young_file_stays_as_a_whole(root):
    young = root / LEFT / "attempts" / f"{'0' * 32}.json"
    os.utime(young)
    before = files(root / LEFT)
    gc(str(root), 7, 1, apply=True)
    assert files(root / LEFT) == before


@pytest.mark.parametrize("folder", [f"{LEFT[:-1]}a", RUNS])
def test_a_run_at_work_keeps_its_cells_and_forbids_the_age_of_zero(root, folder):
    store = Store(str(root))
    before = held(store)
    with Attempt(store, folder):
        with pytest.raises(ConfigError, match="at_work"):
            gc(str(root), 0, 1, apply=True)
        assert numbers(store) == [2, 1]
        done = gc(str(root), 7, 1, apply=True)
        assert before <= held(store)
    assert done.at_work
    assert numbers(store) == [2]
    found = gc(str(root), 0, 1, apply=True).folders
    assert all(found[name].files > 0 for name in ("cells", "shards", "assets"))
    assert_whole(root)


class Begun(Store):
    """The real store of a gc during which a run begins."""

    run = None

    def listing(self, prefix):
        if prefix == "snapshots" and self.run is None and self.listed:
            self.run = Attempt(Store(self.root), RUNS).__enter__()
        self.listed = self.listed or prefix == "cells"
        return super().listing(prefix)

    listed = False


def test_a_run_that_begins_meanwhile_keeps_its_cells_and_the_files_of_its_shards(root):
    """A run publishes at its end what it has written before, and the files may be old by then."""
    store = Begun(str(root))
    before = held(store)
    try:
        done = collect(store, 7, 1, apply=True)
        assert store.run is not None
        assert before <= held(store)
        assert done.at_work
        assert numbers(store) == [2]
    finally:
        store.run.__exit__(None)
    gc(str(root), 7, 1, apply=True)
    assert {path.split("/")[0] for path in before - held(store)} >= {"cells", "shards", "assets"}


def held(store):
    return {path for name in HELD for path in store.paths(name)}


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Mortal(Store):
    """The real store of a gc that dies before its n-th deletion."""

    deletions = 0

    def delete(self, paths):
        self.deletions -= bool(paths)
        if self.deletions < 0:
            raise Killed
        super().delete(paths)


def test_after_a_kill_at_any_deletion_the_same_command_ends_it(root, tmp_path):
    whole = shutil.copytree(root, tmp_path / "whole")
    gc(str(whole), 7, 1, apply=True)
    for deletions in range(20):
        copy = shutil.copytree(root, tmp_path / str(deletions))
        store, survived = Mortal(str(copy)), False
        store.deletions = deletions
        with suppress(Killed):
            collect(store, 7, 1, apply=True)
            survived = True
        assert_whole(copy)
        gc(str(copy), 7, 1, apply=True)
        assert files(copy) == files(whole)
        if survived:
            assert deletions > 4
            return
    raise AssertionError("gc never ended")


class Watched(Store):
    """The real store of a gc during which another command publishes the first snapshot's partitions again."""

    partitions = None
    listings = 0

    def listing(self, prefix):
        self.listings += prefix == "shards"
        if prefix == "shards" and self.listings == 2:  # the first was for the list, this one is for deleting
            append(Store(self.root), MadeBy("run"), lambda before: self.partitions)
        return super().listing(prefix)


def test_what_another_command_publishes_meanwhile_stays(root):
    store = Watched(str(root))
    store.partitions = {
        shard: replace(partition, key="again") for shard, partition in snapshot_of(str(root), 1)[1].partitions.items()
    }
    done = collect(store, 7, 1, apply=True)
    assert done.kept == [3]
    assert_whole(root, 3)


def test_without_knowing_what_the_newest_snapshot_names_nothing_goes(root):
    (root / "snapshots" / "000002.json").write_bytes(b"{}")
    before = files(root)
    with pytest.raises(SourceError, match=r"damaged_corpus: .*000002.json"):
        gc(str(root), 7, 1, apply=True)
    assert files(root) == before


def test_a_bucket_is_cleaned_like_a_folder(root):
    with s3.serve() as server:
        there = {name: (root / name).read_bytes() for name in files(root) if "draft#" not in name}
        server.objects.update({f"corpus/{name}": data for name, data in there.items()})
        server.written = {key: datetime(2026, 1, 1, tzinfo=UTC) for key in server.objects}  # old
        listed = gc("s3://b/corpus", 7, 1, apply=False)
        assert len(server.objects) == len(there)
        assert gc("s3://b/corpus", 7, 1, apply=True) == listed
        left = {name.removeprefix("corpus/") for name in server.objects}
        gc(str(root), 7, 1, apply=True)
        assert left == files(root)


def test_the_command_says_what_it_found(root):
    said = CliRunner().invoke(app, ["gc", str(root)])
    assert said.exit_code == 0, said.output
    assert "kept snapshots: 2\n" in said.output
    assert "nothing was deleted, give --apply" in said.output
    assert numbers(Store(str(root))) == [2, 1]
    assert "deleted" in CliRunner().invoke(app, ["gc", str(root), "--apply"]).output
    assert numbers(Store(str(root))) == [2]
