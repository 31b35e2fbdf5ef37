"""Which items a run takes."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anything3d.errors import ConfigError
from jobs.command import read_settings
from jobs.run import read_ids, request
from pipeline.config import load
from pipeline.marker import check
from pipeline.plan import Selection, batched, first_of
from pipeline.release.snapshot import MadeBy, Snapshot
from pipeline.store import Store

IMAGES = ["sa_1", "sa_2", "sa_3"]
OBJECTS = ["sa_1-0000", "sa_1-0004", "sa_2-0001"]


def test_without_ids_everything_is_wanted():
    assert Selection().images(IMAGES) == IMAGES
    assert Selection().objects(OBJECTS) == OBJECTS


def test_an_image_id_wants_all_its_objects_and_an_object_id_only_itself():
    selection = Selection(ids=frozenset({"sa_1-0004", "sa_2"}))
    assert selection.images(IMAGES) == ["sa_1", "sa_2"]
    assert selection.objects(OBJECTS) == ["sa_1-0004", "sa_2-0001"]


def test_the_ids_of_some_images_are_in_order_and_all_are_looked_through_once():
    selection = Selection(ids=frozenset({"sa_2-0001", "sa_1-0004", "sa_2", "sa_10"}))
    assert selection.within({"sa_2", "sa_1", "sa_3"}) == ("sa_1-0004", "sa_2", "sa_2-0001")
    assert selection.by_image is selection.by_image
    assert selection.digest == Selection(ids=frozenset(sorted(selection.ids))).digest
    assert selection.digest != Selection(ids=selection.ids - {"sa_2"}).digest


def test_no_ids_at_all_want_nothing_and_ids_of_no_image_are_named():
    assert Selection(ids=frozenset()).images(IMAGES) == []
    assert Selection(ids=frozenset({"sa_9-0001", "sa_1-0004", "sa_2", "sa_8"})).unknown(IMAGES) == ["sa_8", "sa_9-0001"]
    assert Selection().unknown([]) == []


def test_a_sample_is_a_share_of_the_images_and_that_of_a_higher_rate_has_it():
    images = [f"sa_{number}" for number in range(10_000)]
    few, more = (Selection(sample_rate=rate).images(images) for rate in (0.05, 0.2))
    assert 440 < len(few) < 560  # three standard deviations
    assert set(few) < set(more)
    assert Selection(sample_rate=1.0).images(images) == images
    assert few == Selection(sample_rate=0.05).images(images)
    # sha256 of "sa_0" begins with 07777148, which is 0.02917 of the way to the end
    assert [Selection(sample_rate=rate).images(["sa_0"]) for rate in (0.0291, 0.0292)] == [[], ["sa_0"]]


def test_batches_are_in_order_and_the_last_is_shorter():
    assert list(batched(["a", "b", "c"], 2)) == [["a", "b"], ["c"]]
    assert list(batched([], 2)) == []


def test_a_few_objects_come_from_many_photos():
    ids = ["sa_1-0000", "sa_1-0001", "sa_1-0002", "sa_2-0000", "sa_2-0001", "sa_3-0000"]
    assert first_of(ids, 3, 8) == ["sa_1-0000", "sa_2-0000", "sa_3-0000"]
    assert first_of(ids, 4, 8) == ["sa_1-0000", "sa_1-0001", "sa_2-0000", "sa_3-0000"]
    # A unit of two in order; then photos of which less has been taken come first.
    assert first_of(ids, 3, 2) == ["sa_1-0000", "sa_1-0001", "sa_2-0000"]


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 14), st.integers(1, 5))
def test_whole_units_are_those_of_a_run_that_wants_all(photos, count, size):
    ids = [f"sa_{photo}-{place:04}" for place, photo in enumerate(sorted(photos))]
    taken, whole = first_of(ids, count, size), count // size * size
    assert len(taken) == min(count, len(ids))
    assert taken == sorted(set(taken))
    assert set(taken) <= set(ids)
    assert taken[:whole] == ids[:whole]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_ids_is_read_as_editors_and_shells_write_it(tmp_path, encoding):
    (tmp_path / "ids.txt").write_bytes("sa_1\r\nsa_2-0001\r\n".encode(encoding))
    assert read_ids(tmp_path / "ids.txt") == {"sa_1", "sa_2-0001"}
    (tmp_path / "config.toml").write_bytes("[caption]\nbeams = 2\n".encode(encoding))
    assert read_settings("mini", tmp_path / "config.toml", []).caption.beams == 2


def test_ids_and_a_sample_stand_for_those_of_the_snapshot_that_is_repeated(tmp_path):
    store, shard, ids = Store(str(tmp_path / "corpus")), tmp_path / "sa_0.tar", tmp_path / "ids.txt"
    shard.write_bytes(b"")
    ids.write_text("sa_1")
    check(store)
    made_by = MadeBy("run", "mini", json.loads(load([]).to_json()), shards={"sa_0": str(shard)})
    for number, wanted in enumerate(({"sample_rate": 0.5}, {"ids": ("sa_2",)}), 1):
        snapshot = Snapshot(number, number - 1, "", replace(made_by, **wanted), {})
        store.create(snapshot.path, snapshot.to_json())

    def selection(like, ids=None, rate=None):
        return request(store.root, None, "mini", None, None, like, None, ids, rate).selection

    assert selection(1, ids) == Selection(ids=frozenset({"sa_1"}))
    assert selection(2, rate=0.2) == Selection(sample_rate=0.2)
    assert (selection(1).sample_rate, selection(2).ids) == (0.5, {"sa_2"})
    with pytest.raises(ConfigError, match="sample_rate"):
        selection(1, ids, 0.2)
