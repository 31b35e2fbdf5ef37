"""The view of a corpus shows one snapshot and nothing else, wherever a run was stopped while it turned it."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version

import duckdb
import pytest

from anything3d.models.weights import Place, digest
from pipeline.config import Config
from pipeline.release.publish import publish
from pipeline.stages import weights_of
from pipeline.store import Store
from pipeline.unit import Input
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


def test_a_kill_at_any_change_leaves_no_file_that_the_next_snapshot_does_not_name(world, tmp_path):
    """The run that was killed turned the view from the whole to a part; then either of them is asked for."""
    for changes in range(20):
        root = shutil.copytree(world.corpus, tmp_path / str(changes))
        survived = False
        with suppress(Killed):
            publish_part(Mortal(str(root), changes), world)
            survived = True
        for path in root.glob("publishing/attempts/*.json"):  # its process has ended, unlike this one
            path.write_text(json.dumps({**json.loads(path.read_text()), "process_started": "1"}))
        copy = shutil.copytree(root, tmp_path / f"{changes}-all")
        for store, then in ((Store(str(root)), publish_part), (Store(str(copy)), publish_all)):
            snapshot = then(store, world)
            assert {path.split("/")[0] for path in shown(store)} == set(FOLDERS)
            assert shown(store) == named(store, snapshot), changes
            assert store.paths("publishing") == []
            ids = duckdb.sql(f"select object_id from '{store.root}/objects/*.parquet'").fetchall()
            assert len(ids) == len(set(ids)) == snapshot.objects
        if survived:
            return
        assert changes < 13  # its own file 5 times, tar, table, rejects, snapshot, gallery, pointer, old files
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


FOREIGN = ("objects/mine.parquet", "assets/logo.svg", "assets/img/a.png", "rejects/notes.md")


def test_what_no_snapshot_has_named_is_never_deleted(world, tmp_path):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    for path in FOREIGN:
        store.write(path, b"mine")
    for then in (publish_part, publish_all, publish_all):
        then(store, world)
        assert all(store.find(path) == b"mine" for path in FOREIGN)
    assert shown(store) - set(FOREIGN) == named(store, publish_all(store, world))


@pytest.mark.parametrize("damage", [None, b""])
def test_a_file_of_the_view_that_is_gone_or_empty_is_written_again(world, tmp_path, damage):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    sound = {path: store.read(path) for path in shown(store)}
    for path in [*sound, "index.html"]:
        store.delete([path])
        if damage is not None and path != "index.html":
            store.write(path, damage)
    publish_all(store, world)
    assert {path: store.read(path) for path in shown(store)} == sound
    assert b"Corpus, snapshot" in store.read("index.html")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"id": 1}', b"\xff", "flipped"])
def test_a_damaged_snapshot_is_written_again(world, tmp_path, damage):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    sound = store.read("snapshot.json")
    (path,) = store.paths("snapshots")
    for damaged in ("snapshot.json", path):
        flipped = sound.replace(b'"sha256": "', b'"sha256": "0', 1)
        store.write(damaged, flipped if damage == "flipped" else damage)
        publish_all(store, world)
        assert (store.read("snapshot.json"), store.read(path)) == (sound, sound)
        assert store.paths("publishing") == []


def test_a_snapshot_of_the_same_content_has_the_same_files_whatever_was_touched(world, tmp_path):
    """The digests of shard and truth, which hold time stamps or paths, name no file."""
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    before = shown(store)
    touched = [
        replace(unit, inputs={**unit.inputs, "shard": Input(unit.inputs["shard"].path, "touched")})
        for unit in world.units
    ]
    publish_part(store, world)
    publish(store, touched, world.commits, [], "", quiet)
    assert shown(store) == before


def test_every_object_says_what_made_it_and_under_which_terms_it_stands(world, tmp_path):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    rows = objects_of(store)
    assert {row["licence"] for row in rows} == {"Apache-2.0"}  # the mini world's photos and the packaged weights
    assert {row["lift_backend"] for row in rows} == {"point-e"}
    weights = json.loads(rows[0]["weights"])
    assert weights["blip"] == digest("blip", Place())
    assert set(weights) == set(weights_of(Config()))
    assert {row["code_version"] for row in rows} == {version("anything3d")}

    other = [replace(unit, inputs={**unit.inputs, "licence": Input("", "CC BY 4.0")}) for unit in world.units]
    assert publish(store, other, world.commits, [], "", quiet).id != world.snapshot.id
    assert {row["licence"] for row in objects_of(store)} == {"Apache-2.0; CC BY 4.0"}


def objects_of(store):
    return [row for path in store.paths("objects") for row in store.read_table(path).to_pylist()]


class Rival(Store):
    """The real store of a run in the middle of which another one publishes."""

    def __init__(self, root, before, act):
        super().__init__(root)
        self._before, self._act = before, act

    def write(self, path, data):
        if path.startswith(self._before) and self._act:
            act, self._act = self._act, None
            act(Store(self.root))
        super().write(path, data)


@pytest.mark.parametrize("before", ["publishing/", "objects/", "snapshots/", "index.html", "snapshot.json"])
@pytest.mark.parametrize("mine", [publish_part, publish_all])
def test_two_runs_that_end_at_once_lose_nothing(world, tmp_path, before, mine):
    """Whoever reports success finds its files there; at the end the view shows one of the two, and all of it."""
    other = publish_all if mine is publish_part else publish_part
    root = str(tmp_path / "corpus")
    shutil.copytree(world.corpus / "cells", f"{root}/cells")
    rivals = []
    snapshot = mine(Rival(root, before, lambda store: rivals.append(other(store, world))), world)
    assert rivals
    store = Store(root)
    body = json.loads(store.read("snapshot.json"))
    assert body["id"] == snapshot.id  # the later one
    assert set(body["files"]) <= shown(store)
    mine(store, world)  # what was left for the other's sake goes with the next run
    assert shown(store) == set(body["files"])


def test_what_a_rival_has_just_removed_is_no_error(world, tmp_path):
    root = tmp_path / "corpus"
    shutil.copytree(world.corpus, root)

    class Racing(Store):
        def delete(self, paths):
            for path in paths[::2]:
                (root / path).unlink()
            super().delete(paths)

    snapshot = publish_part(Racing(str(root)), world)
    assert shown(Store(str(root))) == named(Store(str(root)), snapshot)
