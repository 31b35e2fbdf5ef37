"""A photo that segment rejected as a whole runs again, with a budget and without one."""

from functools import partial

import pytest

from anything3d.errors import InputError
from pipeline import cell
from pipeline.plan import Selection, first_of, image_ids, object_ids, photo_units, shard_unit
from pipeline.release.retries import add, cut
from pipeline.release.snapshot import newest
from pipeline.retry import Wanted, rejected_cells, retry
from pipeline.run import run
from pipeline.stages import load as load_stage
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.unit import slices
from tests.pipeline.conftest import Told
from tests.pipeline.test_retry import LATER, Corpus


class Blind:
    """Segment that cannot read one photo."""

    def __init__(self, photo, config):
        self._photo, self._real = photo, load_stage("segment", config.to_json(), "cpu")

    def __call__(self, items, unit, checkpoint):
        seen = self._real(items, unit, checkpoint)
        return [
            InputError("damaged_photo", "told") if item[0].image_id == self._photo else one
            for item, one in zip(items, seen, strict=True)
        ]


@pytest.mark.parametrize("budget", [None, 3])
def test_a_photo_that_segment_rejected_runs_again_and_fills_what_the_budget_leaves(world, tmp_path, budget):
    config, store = Corpus.config, Store(str(tmp_path / "corpus"))

    def through(unit, stages, segment=None):
        for name in stages:
            recipe, told = recipes(config)[name], getattr(world, f"_{name}", None)
            stage = segment if name == "segment" and segment else Told(name, told) if told else None
            load = (lambda stage=stage: stage) if stage else partial(load_stage, name, config.to_json(), "cpu")
            commit, _ = cell.run(recipe, unit, store, load)
            unit = cell.as_input(recipe, unit, commit)
        return unit

    def objects(unit, budget):
        ids = object_ids(unit, store)
        ids = ids if budget is None else first_of(ids, budget, config.units.objects)
        for some in slices(unit, ids, config.units.objects):
            through(some, LATER)
        return len(ids)

    def go():
        report = run(config, [str(world.shard)], store.root, Selection(budget), preset="mini")
        assert report.cells_run == 0
        return report.partitions["world"]

    index = through(shard_unit(str(world.shard), licence=config.licence), ["index"])
    photos = image_ids(index, store)
    (images,) = photo_units(index, photos, store, 64)
    images = through(images, ["segment"], Blind(photos[0], config))
    first = objects(images, budget)
    before = go()
    cells = rejected_cells(store, before, Wanted(stages=["segment"]))
    assert list(cells.values()) == [[photos[0]]]
    (asked,) = add(store, {"world": cells})
    again = through(cut(images, asked, "world", ["segment"])[1]["segment"], ["segment"])
    more = objects(again, None if budget is None else budget - first)
    retry(store.root, Wanted(stages=["segment"]))
    after = newest(store).partitions["world"]
    assert (after.wanted, after.retries) == (first + more, (1,))
    assert (more > 0) == (budget is None)
    assert [entry for entry in after.rejected if entry.reason == "damaged_photo"] == []
    tally = after.stages["segment"]
    assert (tally.inputs, tally.failed) == (len(photos), before.stages["segment"].failed - 1)
    assert go() == after
