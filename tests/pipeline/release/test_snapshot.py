"""What a snapshot says is read as it was written, whatever stages there are today."""

import shutil
from dataclasses import replace

import duckdb

from pipeline.evaluate import evaluate
from pipeline.release.publish import publish
from pipeline.release.snapshot import Snapshot, newest
from pipeline.store import Store
from tests.pipeline.conftest import quiet


def test_a_snapshot_is_read_as_it_was_written(world):
    data = (world.corpus / "snapshot.json").read_bytes()
    assert Snapshot.from_json(data).to_json() == data
    assert Snapshot.from_json(data).objects == world.snapshot.objects


def test_a_snapshot_without_a_stage_is_published_shown_and_evaluated(world, tmp_path):
    """As one is that was made before the stage existed, or with a backend that does not need it."""
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    absent = ("caption", "invert")
    units = [
        replace(unit, inputs={name: known for name, known in unit.inputs.items() if name not in absent})
        for unit in world.units
    ]
    commits = {name: some for name, some in world.commits.items() if name not in absent}
    published = publish(store, units, commits, [], "", quiet)
    assert (published.objects, published.lost) == (world.snapshot.objects, ())
    assert newest(store.root).stages == ("index", "segment", "lift", "reconstruct", "mesh", "score")
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
