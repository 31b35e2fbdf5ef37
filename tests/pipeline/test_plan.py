"""Which items a run takes."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import Selection, batched, first_of

IMAGES = ["sa_1", "sa_2", "sa_3"]
OBJECTS = ["sa_1-0000", "sa_1-0004", "sa_2-0001"]


def test_without_ids_everything_is_wanted():
    assert Selection().images(IMAGES) == IMAGES
    assert Selection().objects(OBJECTS) == OBJECTS


def test_an_image_id_wants_all_its_objects_and_an_object_id_only_itself():
    selection = Selection(ids=frozenset({"sa_1-0004", "sa_2"}))
    assert selection.images(IMAGES) == ["sa_1", "sa_2"]
    assert selection.objects(OBJECTS) == ["sa_1-0004", "sa_2-0001"]


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
