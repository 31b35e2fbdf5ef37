"""`anything3d retry` end to end: a rejected item becomes what it is in an undisturbed corpus."""

import subprocess
import sys

import pyarrow.dataset as ds
import pytest

from anything3d.errors import NumericsError
from pipeline import cell
from pipeline.config import load
from pipeline.release.partition import read_manifest, sound_commit
from pipeline.release.snapshot import newest
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.unit import Input, Unit
from schemas.records import FieldRecord
from tests.jobs.conftest import LONG_S, ROOT, environment, run, unfinished

pytestmark = pytest.mark.slow


class OneRejected:
    """The stage reconstruct of a machine that loses the first object of the unit."""

    def __init__(self, rows):
        self._rows = rows

    def __call__(self, items, unit, checkpoint):
        first, *others = [item[0].object_id for item in items]
        return [NumericsError("field_fog", f"{first}: told"), *([self._rows[item]] for item in others)]


def reject_one(corpus, out):
    """Commit a cell of reconstruct in `out` that rejects an object which `corpus` has; the id of the object."""
    store, own = Store(str(corpus.path)), Store(str(out))
    snapshot = newest(store)
    recipe = recipes(load([], [], snapshot.made_by.settings))["reconstruct"]
    cells = [row for row in read_manifest(store, snapshot.partitions["world"])[0] if row.what == "cell"]
    paths = {(row.stage, row.digest): row.path for row in cells}
    made = sound_commit(store, next(row.path for row in cells if row.stage == "reconstruct" and row.rows > 1))
    rows = {row.object_id: row for row in store.read_part(made.rows, FieldRecord)}
    inputs = {name: Input(paths[name, digest], digest) for name, digest in made.inputs.items()}
    cell.run(recipe, Unit(made.unit, tuple(rows), inputs), own, lambda: OneRejected(rows))
    assert own.commit_at(made.folder).counts["failed"] == 1  # it lies where a run looks for it
    return next(iter(rows))


def rows_of(path):
    """Object -> its row, without the places of its files."""
    rows = ds.dataset(path / "objects").to_table().to_pylist()
    places = ("asset_tar", "_offset", "_size")
    return {row["object_id"]: {key: row[key] for key in row if not key.endswith(places)} for row in rows}


def test_a_retried_object_is_what_it_is_in_an_undisturbed_corpus_but_for_rounding(shard, corpus, tmp_path):
    out = tmp_path / "corpus"
    unfinished(corpus, out, ["reconstruct", "mesh", "score"])
    lost = reject_one(corpus, out)
    run(shard, out, flags=["--max-failed", "1"])
    whole = rows_of(corpus.path)
    assert rows_of(out) == {item: row for item, row in whole.items() if item != lost}

    again = [sys.executable, "-m", "jobs.cli", "retry", str(out), "--stage", "reconstruct"]
    done = subprocess.run(again, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "3 cells run" in done.stdout
    assert done.stdout.endswith("1 rejected item ran again, 0 of them were rejected again\n")
    made = rows_of(out)
    assert made.keys() == whole.keys()
    assert [item for item in whole if made[item] != whole[item]] in ([], [lost])  # another batch: rounding
    same = ("caption", "azimuth_deg", "focal_x", "mask_rle", "kept", "weights", "licence", "normalization")
    assert all(made[lost][name] == whole[lost][name] for name in same if name in whole[lost])
    assert made[lost]["reference_psnr_db"] == pytest.approx(whole[lost]["reference_psnr_db"], rel=0.1)
    rejects = ds.dataset(out / "rejects").to_table().to_pylist()
    assert [row["item_id"] for row in rejects if row["retried"]] == [lost]

    before = (out / "snapshot.json").read_bytes()
    assert run(shard, out).cells_run == 0
    assert (out / "snapshot.json").read_bytes() == before
