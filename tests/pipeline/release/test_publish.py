"""The files of a shard, and the view, which shows the newest snapshot and nothing else, wherever a command stopped."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from importlib.metadata import version

import duckdb
import pytest

from anything3d.models.weights import Place, digest
from pipeline.cell import as_input, run
from pipeline.config import Config
from pipeline.release import publish as publishing
from pipeline.release.finished import origin_of
from pipeline.release.partition import Photos, photos_of, read_manifest
from pipeline.release.publish import publish_here
from pipeline.release.snapshot import newest
from pipeline.release.view import tables
from pipeline.stages import load as load_stage
from pipeline.stages import recipes, weights_of
from pipeline.store import Store
from pipeline.unit import Input, slices
from schemas.records import ImageRecord
from tests.pipeline.conftest import CONFIG, MADE_BY, made, publish

FOLDERS = ("objects", "rejects")


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Mortal(Store):
    """The real store of a command that dies before its n-th change."""

    def __init__(self, root, changes):
        super().__init__(root)
        self._changes = changes

    def write(self, path, data):
        self._spend()
        super().write(path, data)

    def write_file(self, path, file):
        self._spend()
        super().write_file(path, file)

    def copy(self, path, other):
        self._spend()
        super().copy(path, other)

    def create(self, path, data):
        self._spend()
        return super().create(path, data)

    def delete(self, paths):
        if paths:
            self._spend()
        super().delete(paths)

    def _spend(self):
        if self._changes == 0:
            raise Killed
        self._changes -= 1


def part(world):
    """A smaller version of the shard: the first unit of objects alone."""
    return made(world.unit, world.units[:1], {name: some[:1] for name, some in world.commits.items()})


def other(world):
    """Another shard, which has no photo in common with the first."""
    inputs = {**world.unit.inputs, "shard": Input(f"{world.shard.parent}/other.tar", "")}
    shard = replace(world.unit, name="other", inputs=inputs)
    return replace(part(world), shard=shard, photos=Photos("x", "y", "other"))


def shown(store):
    return {path for folder in FOLDERS for path in store.paths(folder)}


def copied(world, folder):
    return Store(str(shutil.copytree(world.corpus, folder / "corpus")))


def test_a_kill_at_any_change_leaves_a_view_that_the_next_command_turns(world, tmp_path):
    """The command that was killed replaced the whole shard by a part of it; then either of them is asked for."""
    for changes in range(26):
        root = shutil.copytree(world.corpus, tmp_path / str(changes))
        survived = False
        with suppress(Killed):
            publish(Mortal(str(root), changes), part(world))
            survived = True
        copy = shutil.copytree(root, tmp_path / f"{changes}-all")
        for store, then in ((Store(str(root)), part(world)), (Store(str(copy)), world.made)):
            snapshot = publish(store, then)
            assert shown(store) == set(tables(snapshot))
            assert store.read("snapshot.json") == store.read(snapshot.path) == snapshot.to_json()
            ids = duckdb.sql(f"select object_id from '{store.root}/objects/*.parquet'").fetchall()
            assert len(ids) == len(set(ids)) == snapshot.objects
            first = newest(Store(str(world.corpus)))
            assert all(store.size(file.path) == file.bytes for file in first.files)  # until gc
        if survived:
            return
        assert (
            changes < 20
        )  # sheets, tar, page, index, examples, 3 tables, snapshot, 2 copies, 4 pages, pointer, old files
    raise AssertionError("the command never ended")


def test_a_shard_that_does_not_balance_is_not_published(world, tmp_path):
    commits = {name: some[:-1] if name == "reconstruct" else some for name, some in world.commits.items()}
    store = copied(world, tmp_path)
    before = store.paths("shards")
    assert publish_here(store, made(world.unit, world.units, commits)) == (world.fog,)
    assert store.paths("shards") == before


FOREIGN = ("objects/mine.parquet", "objects/a-b.parquet", "assets/logo.svg", "assets/img/a.png", "rejects/notes.md")


def test_what_we_did_not_write_is_never_deleted(world, tmp_path):
    store = copied(world, tmp_path)
    for path in FOREIGN:
        store.write(path, b"mine")
    for then in (part(world), world.made, world.made):
        snapshot = publish(store, then)
        assert all(store.find(path) == b"mine" for path in FOREIGN)
    assert shown(store) - set(FOREIGN) == set(tables(snapshot))


@pytest.mark.parametrize("damage", [None, b""])
@pytest.mark.parametrize(
    "folder",
    [
        *FOLDERS,
        "shards",
        "assets",
        "gallery/catalogue.js",
        "gallery/three.js",
        "index.html",
        "README.md",
        "LICENSE",
        "snapshot.json",
    ],
)
def test_a_published_file_that_is_gone_or_empty_is_written_again(world, tmp_path, damage, folder):
    store = copied(world, tmp_path)
    sound = {path: store.read(path) for path in store.paths(folder) or [folder]}
    assert sound
    for path in sound:
        store.delete([path])
        if damage is not None and folder != "index.html":
            store.write(path, damage)
    publish(store, world.made)
    assert {path: store.read(path) for path in sound} == sound


def test_a_shard_that_was_touched_or_moved_keeps_its_files(world, tmp_path):
    """The digests of shard and truth, which hold time stamps or paths, name no file."""
    store = copied(world, tmp_path)
    folders = ("shards", "assets", *FOLDERS)
    before = {path: entry.modified for path, entry in store.entries("").items() if path.split("/")[0] in folders}
    del before["assets/index.json"]
    inputs = {**world.unit.inputs, "shard": Input("/moved/world.tar", "touched")}
    units = [replace(unit, inputs=unit.inputs | inputs) for unit in world.units]
    publish(store, made(replace(world.unit, inputs=inputs), units, world.commits))
    assert {path: store.entries("")[path].modified for path in before} == before


def test_every_object_says_what_made_it_and_under_which_terms_it_stands(world, tmp_path):
    store = copied(world, tmp_path)
    rows = objects_of(store)
    assert {row["licence"] for row in rows} == {"Apache-2.0"}  # the mini world's photos and the packaged weights
    assert {row["lift_backend"] for row in rows} == {"point-e"}
    assert {row["seed"] for row in rows} == {0}
    weights = json.loads(rows[0]["weights"])
    assert weights["blip"] == digest("blip", Place())
    assert set(weights) == set(weights_of(Config()))
    assert {row["code_version"] for row in rows} == {version("anything3d")}
    shard = world.shard.read_bytes()
    for row in rows:
        photo = shard[row["photo_offset"] : row["photo_offset"] + row["photo_size"]]
        assert (row["photo_name"], row["photo_sha256"]) == ("", sha256(photo).hexdigest())

    licence = {"licence": Input("", "CC BY 4.0")}
    units = [replace(unit, inputs=unit.inputs | licence) for unit in world.units]
    shard = replace(world.unit, inputs=world.unit.inputs | licence)
    assert publish(store, made(shard, units, world.commits)).digest != world.snapshot.digest
    assert {row["licence"] for row in objects_of(store)} == {"Apache-2.0; CC BY 4.0"}


@pytest.mark.parametrize(("photo_in", "offset"), [("shard", 512), ("file", None), ("row", None)])
def test_a_photo_that_is_no_part_of_a_tar_has_a_name_and_no_offset(world, photo_in, offset):
    photo = ImageRecord("days__cup", "days", 512, 9, "ab", 0, 0, "", photo_in, "cup.jpg")
    commits = {name: some[0] for name, some in world.commits.items()}
    origin = origin_of("days__cup-0000", commits, "MIT", 3, photo)
    assert (origin.photo_name, origin.photo_offset, origin.photo_size) == ("cup.jpg", offset, 9)
    assert (origin.seed, origin.photo_sha256) == (3, "ab")


def objects_of(store):
    return [row for path in store.paths("objects") for row in store.read_table(path).to_pylist()]


def test_an_object_is_read_by_its_byte_range(world):
    for row in objects_of(world.store):
        tar = world.store.read(row["asset_tar"])
        glb = tar[row["glb_offset"] : row["glb_offset"] + row["glb_size"]]
        assert glb.startswith(b"glTF")
        assert int.from_bytes(glb[8:12], "little") == row["glb_size"]


def test_a_full_tar_is_followed_by_another_and_no_object_is_cut(world, tmp_path, monkeypatch):
    whole = objects_of(world.store)
    monkeypatch.setattr(publishing, "TAR_BYTES", 1)
    store = copied(world, tmp_path)
    assert len(list(world.made.groups())) == len(world.units) > 1
    (partition,) = publish(store, replace(world.made, key="again", note="again")).partitions.values()
    rows = objects_of(store)
    assert [row["object_id"] for row in rows] == [row["object_id"] for row in whole]
    assert len({row["asset_tar"] for row in rows}) == len(partition.tars)
    assert sum(tar.rows for tar in partition.tars) == len(rows)


def test_a_manifest_has_every_cell_and_every_file_of_its_shard(world):
    (partition,) = world.snapshot.partitions.values()
    rows, origin = read_manifest(world.store, partition)
    cells = {(row.stage, row.unit): (row.path, row.digest, row.inputs) for row in rows if row.what == "cell"}
    commits = [commit for some in world.commits.values() for commit in some]
    assert cells == {(one.stage, one.unit): (one.folder, one.digest, one.counts["inputs"]) for one in commits}
    files = {row.path: (row.bytes, row.digest) for row in rows if row.what != "cell"}
    of_gallery = {row.path for row in rows if row.what == "gallery"} - {
        part.path for part in partition.gallery.values()
    }
    assert sorted(path.rpartition(".")[2] for path in of_gallery) == ["js", "webp", "webp"]  # one sheet is of rejects
    assert {path: world.store.size(path) for path in of_gallery} == {path: files.pop(path)[0] for path in of_gallery}
    assert files == {one.path: (one.bytes, one.sha256) for one in partition.files if one != partition.manifest}
    assert origin["preset"] == "mini"
    assert sum(entry.inputs + entry.parts for entry in partition.rejected) == partition.rejects


def test_a_shard_has_the_photos_that_its_run_has_taken_and_no_others(world, tmp_path):
    """Photos that nobody wanted, and those after the last one that was needed, are left to other shards."""
    store = copied(world, tmp_path)
    (index,) = world.commits["index"]
    ids = store.read_column(index.rows, "image_id")
    indexed = as_input(recipes(CONFIG)["index"], world.unit, index)
    (unit, *_) = slices(indexed, ids, 1)
    load = partial(load_stage, "segment", CONFIG.to_json(), "cpu")
    segmented, _ = run(recipes(CONFIG)["segment"], unit, store, load)
    commits = {"index": [index], "segment": [segmented]}

    def has(**wanted):
        made_by = replace(MADE_BY, **wanted)
        return photos_of(store, publish_here(store, replace(made(world.unit, [], commits), made_by=made_by)))

    assert len(ids) == 3
    assert has() == set(ids)
    assert has(max_objects=1) == {ids[0]}
    assert has(ids=(ids[0], f"{ids[2]}-0001")) == {ids[0], ids[2]}
    some = {item for item in ids if int.from_bytes(sha256(item.encode()).digest()[:8]) < 2**63}
    assert has(sample_rate=0.5) == some
    assert has(sample_rate=0.0) == set()


def test_damaged_cells_of_one_shard_do_not_keep_another_one_out(world, tmp_path):
    store = copied(world, tmp_path)
    for commit in world.commits["score"]:
        store.delete([f"{commit.folder}/commit.json"])
    inputs = {**world.unit.inputs, "shard": Input(f"{world.shard.parent}/other.tar", "")}
    empty = made(replace(world.unit, name="other", inputs=inputs), [], {"index": world.commits["index"]})
    assert set(publish(store, empty).partitions) == {"world", "other"}
    assert b"of 2\nshards," in store.read("index.html")


class Rival(Store):
    """The real store of a command in the middle of which another one publishes."""

    def __init__(self, root, before, act):
        super().__init__(root)
        self._before, self._act = before, act

    def write(self, path, data):
        self._interrupt(path)
        super().write(path, data)

    def create(self, path, data):
        self._interrupt(path)
        return super().create(path, data)

    def copy(self, path, other):
        self._interrupt(other)
        super().copy(path, other)

    def _interrupt(self, path):
        if path.startswith(self._before) and self._act:
            act, self._act = self._act, None
            act(Store(self.root))


@pytest.mark.parametrize("before", ["shards/", "objects/", "rejects/", "snapshots/", "index.html", "snapshot.json"])
def test_two_commands_that_end_at_once_lose_nothing(world, tmp_path, before):
    """Both shards are in the corpus and in the view, whoever was first."""
    root = str(tmp_path / "corpus")
    shutil.copytree(world.corpus / "cells", f"{root}/cells")
    rivals = []
    publish(Rival(root, before, lambda store: rivals.append(publish(store, other(world)))), world.made)
    assert rivals
    store = Store(root)
    last = newest(store)
    assert set(last.partitions) == {"world", "other"}
    assert store.read("snapshot.json") == last.to_json()
    assert shown(store) == set(tables(last))
