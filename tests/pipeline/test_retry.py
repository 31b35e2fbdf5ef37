"""Rejected items run again, and nothing else does: real cells, whose rows are told, and real runs that find them."""

import shutil
from copy import copy
from dataclasses import replace
from functools import partial

import pyarrow.parquet as pq
import pytest

from anything3d.errors import ConfigError, NumericsError, SourceError
from pipeline import cell
from pipeline.plan import Selection, image_ids, object_ids, photo_units, shard_unit
from pipeline.release.finished import released_cells, released_objects
from pipeline.release.partition import read_manifest
from pipeline.release.retries import Retry, add, cut, numbers_of, read_retries
from pipeline.release.snapshot import newest
from pipeline.retry import Wanted, rejected_cells, retry
from pipeline.run import run
from pipeline.stages import load as load_stage
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.unit import slices
from tests.pipeline.conftest import CONFIG, LICENCE, Told

STAGES = list(recipes(CONFIG))
LATER = STAGES[2:]
SHARD = "world"


class Corpus:
    """A corpus of three objects, one of which was fog in reconstruct."""

    config = replace(CONFIG, licence=LICENCE)

    def __init__(self, world, folder):
        self.world, self.root = world, str(folder / "corpus")
        self.store = Store(self.root)
        self.fog, self.sound = world.fog, world.known[:2]
        self.selection = Selection(ids=frozenset([*self.sound, self.fog]))
        index = self.through(shard_unit(str(world.shard), licence=LICENCE), ["index"])
        (images,) = photo_units(index, self.selection.images(image_ids(index, self.store)), self.store, 64)
        images = self.through(images, ["segment"])
        (unit,) = slices(images, self.selection.objects(object_ids(images, self.store)), CONFIG.units.objects)
        self.unit = self.through(unit, LATER)
        self.run()

    def through(self, unit, stages, clear=()):
        """A unit after these stages. Objects that are `clear` are no fog any more."""
        for name in stages:
            recipe, told = recipes(self.config)[name], getattr(self.world, f"_{name}", None)
            if name == "reconstruct":
                told = partial(self._reconstruct, clear)
            stage = Told(name, told) if told else None
            load = (lambda stage=stage: stage) if stage else partial(load_stage, name, self.config.to_json(), "cpu")
            commit, _ = cell.run(recipe, unit, self.store, load)
            unit = cell.as_input(recipe, unit, commit)
        return unit

    def _reconstruct(self, clear, object_id):
        if object_id == self.fog and object_id not in clear:
            return NumericsError("field_fog", "told")
        told = self.world._reconstruct(self.sound[0])
        return replace(told, object_id=object_id)

    def run(self):
        report = run(self.config, [str(self.world.shard)], self.root, self.selection, preset="mini")
        assert report.cells_run == 0
        return report

    @property
    def partition(self):
        return newest(self.store).partitions[SHARD]

    @property
    def rejects(self):
        """Of the objects: (item, whether it is history)."""
        rows = pq.read_table(f"{self.root}/{self.partition.tables['rejects'].path}").to_pylist()
        return [(row["item_id"], row["retried"]) for row in rows if row["stage"] in LATER]

    def ask(self, unit):
        """Write a retry down, as the command does before it runs; the unit of the rejected items."""
        found = rejected_cells(self.store, self.partition, Wanted(stages=["reconstruct"]))
        (_, own) = cut(unit, add(self.store, {SHARD: found})[-1], SHARD, LATER)
        return own["reconstruct"]


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    return Corpus(world, tmp_path_factory.mktemp("retry"))


@pytest.fixture
def corpus(made, tmp_path):
    root = str(shutil.copytree(made.root, tmp_path / "corpus"))
    mine = copy(made)
    mine.root, mine.store = root, Store(root)
    return mine


def test_a_retried_item_that_succeeds_is_an_object_and_its_reject_is_history(corpus):
    before = corpus.partition
    assert (before.objects, corpus.rejects) == (2, [(corpus.fog, False)])
    own = corpus.ask(corpus.unit)
    assert own.ids == (corpus.fog,)
    corpus.through(own, LATER[LATER.index("reconstruct") :], clear=[corpus.fog])
    done = retry(corpus.root, Wanted())
    after = corpus.partition
    assert (len(done.reports), done.reports[0].cells_run, done.rejected) == (1, 0, set())
    assert (after.objects, after.wanted, after.retries) == (3, 3, (1,))
    assert corpus.rejects == [(corpus.fog, True)]
    assert after.rejects == before.rejects - 1
    tally = after.stages["reconstruct"]
    assert (tally.cells, tally.inputs, tally.rows, tally.failed) == (2, 3, 3, 0)
    assert after.stages["caption"] == before.stages["caption"]
    assert {rows.object_id for rows in released_objects(corpus.store, [after], ())} == {*corpus.sound, corpus.fog}


def test_the_sound_items_keep_their_cells_and_a_later_run_keeps_the_retry(corpus):
    old = {row.path for row in read_manifest(corpus.store, corpus.partition)[0] if row.what == "cell"}
    corpus.through(corpus.ask(corpus.unit), LATER[LATER.index("reconstruct") :], clear=[corpus.fog])
    retry(corpus.root, Wanted())
    rows = [row for row in read_manifest(corpus.store, corpus.partition)[0] if row.what == "cell"]
    assert old < {row.path for row in rows}
    assert {row.stage for row in rows if row.path not in old} == {"reconstruct", "mesh", "score"}
    shared = [row for row in rows if row.unit and row.unit.endswith(".r1") and row.path in old]
    assert {row.stage for row in shared} == {"caption", "invert", "lift"}
    assert not any(row.inputs or row.rows or row.seconds for row in shared)
    snapshot = newest(corpus.store)
    assert corpus.run().snapshot == snapshot  # nothing has changed
    shutil.rmtree(f"{corpus.root}/snapshots")  # as if nothing had ever been published
    assert corpus.run().snapshot.partitions[SHARD].digest == snapshot.partitions[SHARD].digest


def test_a_retry_that_was_stopped_is_finished_by_the_next_command_and_asked_for_once(corpus):
    own = corpus.ask(corpus.unit)  # and then the command was killed
    assert corpus.ask(corpus.unit) == own
    assert [one.number for one in read_retries(corpus.store)] == [1]
    corpus.through(own, LATER[LATER.index("reconstruct") :], clear=[corpus.fog])
    assert corpus.run().partitions[SHARD].objects == 3  # whatever command comes next
    assert retry(corpus.root, Wanted()).reports == []


def test_an_item_that_is_rejected_again_can_be_retried_again(corpus):
    first = corpus.through(corpus.ask(corpus.unit), LATER[LATER.index("reconstruct") :])
    done = retry(corpus.root, Wanted(reasons=["field_fog"]))
    assert done.rejected == {corpus.fog}
    assert (corpus.partition.objects, corpus.rejects) == (2, [(corpus.fog, True), (corpus.fog, False)])
    assert rejected_cells(
        corpus.store, corpus.partition, Wanted(reasons=["field_fog"]), read_retries(corpus.store)
    ) == {
        first.inputs["reconstruct"].path: [corpus.fog]  # its reject in the first cell is history
    }
    second = corpus.ask(first)
    assert (first.name[-3:], second.name) == (".r1", f"{first.name[:-3]}.r2")
    corpus.through(second, LATER[LATER.index("reconstruct") :], clear=[corpus.fog])
    retry(corpus.root, Wanted())
    assert (corpus.partition.objects, corpus.partition.retries) == (3, (1, 2))
    assert corpus.rejects == [(corpus.fog, True), (corpus.fog, True)]
    cells = released_cells(corpus.store, [corpus.partition])
    assert sorted(commits["score"].counts["rows"] for commits in cells) == [0, 1, 2]


@pytest.mark.parametrize(
    "wanted",
    [Wanted(reasons=["field_empty"]), Wanted(stages=["caption"]), Wanted(shards=[SHARD], stages=["segment"])],
)
def test_what_nobody_asks_for_and_what_a_setting_excludes_does_not_run(corpus, wanted):
    assert any(entry.kind == "skipped" for entry in corpus.partition.rejected)
    before = newest(corpus.store)
    assert retry(corpus.root, wanted).reports == []
    assert read_retries(corpus.store) == []
    assert newest(corpus.store) == before


@pytest.mark.parametrize("setting", ["lift.steps=3", "units.objects=2", "licence='mine'", "seed=7"])
def test_other_settings_than_resources_and_prices_are_refused_before_anything_is_written(corpus, setting):
    """Other units are other cells, and another licence is another column: neither is in a fingerprint."""
    with pytest.raises(ConfigError, match=r"retry_changed: .*`resources` and `price` only"):
        retry(corpus.root, Wanted(), ["resources.lift.threads=2", setting])
    assert read_retries(corpus.store) == []


def test_a_retry_of_what_is_not_there_is_refused_before_anything_is_written(corpus):
    with pytest.raises(ConfigError, match="retry_stage"):
        Wanted(stages=["index"])
    with pytest.raises(SourceError, match="no_partition"):
        retry(corpus.root, Wanted(shards=["other"]))
    assert read_retries(corpus.store) == []


def test_a_damaged_retry_is_one_line_and_loses_no_object(corpus):
    corpus.through(corpus.ask(corpus.unit), LATER[LATER.index("reconstruct") :], clear=[corpus.fog])
    corpus.run()
    corpus.store.write("retries/000001.json", b"{}")
    with pytest.raises(SourceError, match=r"damaged_corpus: .*retries/000001\.json"):
        corpus.run()
    assert corpus.partition.objects == 3


def test_items_of_several_stages_become_units_of_their_own_with_the_cells_before_them(made):
    first, second, third = made.unit.ids
    folder = {stage: made.unit.inputs[stage].path for stage in LATER}
    asked = Retry(7, {SHARD: {folder["caption"]: [third], folder["mesh"]: [first, "unknown"]}})
    rest, own = cut(made.unit, asked, SHARD, LATER)
    assert (rest.ids, rest.inputs) == ((second,), made.unit.inputs)
    assert {stage: unit.ids for stage, unit in own.items()} == {"caption": (third,), "mesh": (first,)}
    assert set(own["caption"].inputs) == set(made.unit.inputs) - set(LATER)
    assert own["mesh"].inputs["reconstruct"] == made.unit.inputs["reconstruct"]
    assert not {"mesh", "score"} & set(own["mesh"].inputs)
    assert cut(made.unit, asked, "another", LATER) == (made.unit, {})
    assert (numbers_of([asked], SHARD), numbers_of([asked], "another")) == ((7,), ())


def test_two_retries_at_once_ask_for_an_item_once(corpus):
    class Slow(Store):
        """The store of a command that another one overtakes."""

        def create(self, path, data):
            if not self.paths("retries"):
                add(Store(self.root), {SHARD: {"cells/a": ["x", "y"]}})
            return super().create(path, data)

    both = add(Slow(corpus.root), {SHARD: {"cells/a": ["y", "z"]}})
    assert [one.shards for one in both] == [{SHARD: {"cells/a": ["x", "y"]}}, {SHARD: {"cells/a": ["z"]}}]
    assert read_retries(corpus.store) == both
