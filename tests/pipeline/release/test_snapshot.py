"""The log of a corpus: numbered snapshots, which lose no change, whoever writes at the same moment."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import duckdb
import pytest

from anything3d.errors import MachineError, SourceError
from pipeline.evaluate import evaluate
from pipeline.marker import check
from pipeline.release.corpus import Corpus
from pipeline.release.partition import Photos
from pipeline.release.snapshot import MadeBy, Snapshot, append, newest, numbers, snapshot_of
from pipeline.store import Store
from tests.pipeline.conftest import MADE_BY, made, publish, quiet


def test_a_snapshot_is_read_as_it_was_written(world):
    data = (world.corpus / "snapshots" / "000001.json").read_bytes()
    assert Snapshot.from_json(data).to_json() == data
    assert Snapshot.from_json(data) == world.snapshot
    assert len(data) < 8000  # of one shard with the settings


def add(root, partition, names):
    """Add the same partition under many names, one snapshot each."""
    for name in names:
        append(Store(root), MadeBy("run"), lambda before, name=name: {**before, name: replace(partition, shard=name)})


def test_processes_that_append_at_the_same_time_lose_nothing(world, tmp_path):
    (partition,) = world.snapshot.partitions.values()
    shards = [[f"{process}-{number}" for number in range(8)] for process in range(4)]
    with ProcessPoolExecutor(4, get_context("spawn")) as processes:
        for done in [processes.submit(add, str(tmp_path), partition, names) for names in shards]:
            done.result()
    store = Store(str(tmp_path))
    assert set(newest(store).partitions) == {name for names in shards for name in names}
    assert numbers(store) == list(range(32, 0, -1))
    for number in numbers(store):
        snapshot = snapshot_of(str(tmp_path), number)[1]
        assert (snapshot.parent, len(snapshot.partitions)) == (number - 1, number)


def test_a_change_that_changes_nothing_is_no_snapshot(world, tmp_path):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    assert publish(store, world.made) == world.snapshot
    assert numbers(store) == [1]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"number": 1}', b"\xff", "flipped"])
def test_a_damaged_snapshot_is_said_and_the_one_before_it_counts(world, tmp_path, damage, caplog):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    sound = store.read("snapshots/000001.json")
    flipped = sound.replace(b'"sha256": "', b'"sha256": "0', 1)
    store.write("snapshots/000002.json", flipped if damage == "flipped" else damage)
    assert newest(store) == world.snapshot
    assert "000002.json is damaged" in caplog.text
    again = publish(store, replace(world.made, note="new"))
    assert (again.number, again.parent) == (1, 0) or (again.number, again.parent) == (3, 1)
    assert store.read("snapshot.json") == newest(store).to_json()


@pytest.mark.parametrize("number", [None, 2])
def test_a_snapshot_that_is_not_there_is_one_line(tmp_path, number):
    check(Store(str(tmp_path)))
    with pytest.raises(SourceError, match=r"no_snapshot: .* has no snapshot"):
        snapshot_of(str(tmp_path), number)
    with pytest.raises(SourceError, match="no_snapshot"):
        snapshot_of(str(tmp_path / "nowhere"), number)
    assert not (tmp_path / "nowhere").exists()


def test_a_snapshot_without_a_stage_is_published_shown_and_evaluated(world, tmp_path):
    """As one is that was made before the stage existed, or with a backend that does not need it."""
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    absent = ("caption", "invert")
    units = [
        replace(unit, inputs={name: known for name, known in unit.inputs.items() if name not in absent})
        for unit in world.units
    ]
    commits = {name: some for name, some in world.commits.items() if name not in absent}
    published = publish(store, made(world.unit, units, commits))
    assert published.objects == world.snapshot.objects
    (partition,) = published.partitions.values()
    assert tuple(partition.stages) == ("index", "segment", "lift", "reconstruct", "mesh", "score")
    query = f"select caption, loss_before, invert_steps, points from '{store.root}/objects/*.parquet'"
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == published.objects
    assert {row[:3] for row in rows} == {(None, None, None)}
    assert all(row[3] for row in rows)
    found = evaluate(store.root, [str(world.truth)], quiet)
    whole = evaluate(str(world.corpus), [str(world.truth)], quiet)
    assert found.objects == published.objects
    assert whole.summary.keys() - found.summary.keys() == {
        *("caption_shape_accuracy", "caption_color_accuracy", "inversion_gain", "inversion_improved")
    }
    assert found.summary["chamfer"] == whole.summary["chamfer"]


def test_a_photo_belongs_to_the_shard_that_had_it_first(world, tmp_path):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    ids = store.read_column(world.commits["index"][0].rows, "image_id")
    digest = world.commits["index"][0].digest
    publish(store, made(world.unit, world.units, world.commits, photos=photos_of(ids, digest)))
    corpus = Corpus(store)
    assert corpus.claim("later", [*ids[1:], "sa_0"], "later") == dict.fromkeys(ids[1:], "world")
    assert corpus.claim("last", ["sa_0", "sa_00"], "last") == {"sa_0": "later"}
    assert corpus.claim("world", ids, digest) == {}
    assert corpus.claim("apart", ["z"], "apart") == {}


def test_a_shard_that_another_command_adds_meanwhile_with_the_same_photo_is_refused(world, tmp_path):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    ids = store.read_column(world.commits["index"][0].rows, "image_id")
    digest = world.commits["index"][0].digest
    mine = Corpus(store)
    partition = replace(world.snapshot.partitions["world"], shard="mine", photos=photos_of(ids, digest))
    publish(store, made(world.unit, world.units, world.commits, photos=photos_of(ids, digest)))
    with pytest.raises(MachineError, match=r"photo_twice: .*the shard world"):
        mine.publish(MADE_BY, {"mine": partition})


def photos_of(ids, digest):
    return Photos(min(ids), max(ids), digest)
