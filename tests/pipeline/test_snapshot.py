"""The view of a corpus shows one snapshot and nothing else, wherever a run was stopped while it turned it."""

import json
import shutil
from contextlib import suppress

import duckdb
import pytest

from pipeline.snapshot import publish
from pipeline.store import Store
from tests.pipeline.conftest import quiet

FOLDERS = ("objects", "assets", "rejects")


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Mortal(Store):
    """The real store of a run that dies before its n-th change."""

    def __init__(self, root, changes):
        super().__init__(root)
        self._changes = changes

    def write(self, path, data):
        self._spend()
        super().write(path, data)

    def create(self, path, data):
        self._spend()
        return super().create(path, data)

    def delete(self, paths):
        self._spend()
        super().delete(paths)

    def _spend(self):
        if self._changes == 0:
            raise Killed
        self._changes -= 1


def publish_part(store, world):
    """A smaller release: the first unit of objects alone."""
    return publish(store, world.units[:1], {name: some[:1] for name, some in world.commits.items()}, [], "", quiet)


def publish_all(store, world):
    return publish(store, world.units, world.commits, [], "", quiet)


def shown(store):
    return {path for folder in FOLDERS for path in store.paths(folder)}


@pytest.mark.parametrize("then", [publish_part, publish_all])
def test_a_kill_at_any_change_leaves_no_file_that_the_next_snapshot_does_not_name(world, tmp_path, then):
    """The run that was killed turned the view from the whole to a part; `then` is what is asked for next."""
    for changes in range(20):
        root = str(shutil.copytree(world.corpus, tmp_path / str(changes)))
        survived = False
        with suppress(Killed):
            publish_part(Mortal(root, changes), world)
            survived = True
        store = Store(root)
        snapshot = then(store, world)
        assert {path.split("/")[0] for path in shown(store)} == set(FOLDERS)
        assert shown(store) == named(store, snapshot), changes
        ids = duckdb.sql(f"select object_id from '{root}/objects/*.parquet'").fetchall()
        assert len(ids) == len(set(ids)) == snapshot.objects
        if survived:
            assert changes == 7  # tar, table, rejects, snapshot, gallery, pointer, old files: each was tried
            return
    raise AssertionError("the run never ended")


def named(store, snapshot):
    return set(json.loads(store.read(f"snapshots/{snapshot.id}.json"))["files"])


def test_a_run_that_does_not_balance_leaves_the_view_as_it_was(world, tmp_path):
    root = shutil.copytree(world.corpus, tmp_path / "corpus")
    store = Store(str(root))
    before = shown(store)
    commits = {name: some[:-1] if name == "reconstruct" else some for name, some in world.commits.items()}
    found = publish(store, world.units, commits, [], "", quiet)
    assert found.lost == (world.fog,)
    assert shown(store) == before
