"""Which items a run takes, and how they are cut into units."""

import pytest

from anything3d.errors import MachineError, SourceError
from pipeline.config import Config
from pipeline.plan import Selection, batched
from pipeline.run import run
from pipeline.store import Store
from pipeline.unit import Input, Unit, slices

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


def test_slices_hold_every_item_once_in_order_and_are_named_by_what_they_hold():
    parent = Unit("shard", ("shard",), {"shard": Input("x.tar", "d")})
    ids = [f"sa_{n}" for n in range(10)]
    units = list(slices(parent, ids, 4))
    assert [item for unit in units for item in unit.ids] == ids
    assert [len(unit.ids) for unit in units] == [4, 4, 2]
    assert len({unit.name for unit in units}) == 3
    assert all(unit.inputs == parent.inputs for unit in units)
    assert next(slices(parent, ids[:4], 8)).name == units[0].name  # not by where the cut was
    assert list(slices(parent, [], 4)) == []


def test_a_unit_survives_json():
    unit = Unit("a+1-x", ("a",), {"shard": Input("x.tar", "d"), "index": Input("cells/x", "e")})
    assert Unit.from_json(unit.to_json()) == unit


def test_batches_are_in_order_and_the_last_is_shorter():
    assert list(batched(["a", "b", "c"], 2)) == [["a", "b"], ["c"]]
    assert list(batched([], 2)) == []


def test_shards_that_the_list_of_md5s_does_not_name_are_said_once(tmp_path):
    said = []
    shards = [f"{tmp_path}/sa_{n}.tar" for n in range(8)]
    md5 = {"sa_0.tar": "0" * 32, "sa_1.tar": "0" * 32}
    with pytest.raises(SourceError, match=r"no_shard: .*sa_0\.tar is not there"):
        run(Config(), shards, str(tmp_path / "corpus"), Selection(), md5=md5, say=said.append)
    assert said == [
        "The list of MD5s does not name 6 of 8 shards: sa_2.tar, sa_3.tar, sa_4.tar, sa_5.tar, sa_6.tar, ..."
    ]


@pytest.fixture
def blocked(tmp_path, monkeypatch):
    """A corpus whose folder of rejects is a file, so that nothing can be written in it; no shard, so no Ray."""
    monkeypatch.setattr("pipeline.run.WAITS_S", (0.0, 0.0))
    (tmp_path / "corpus").mkdir()
    Store(str(tmp_path / "corpus")).check()
    (tmp_path / "corpus" / "rejects").write_text("")
    return tmp_path / "corpus"


def test_a_run_goes_on_when_a_fault_of_the_machine_has_passed(blocked):
    said = []

    def say(line):
        said.append(line)
        (blocked / "rejects").unlink(missing_ok=True)  # what somebody does while the run waits

    report = run(Config(), [], str(blocked), Selection(), say=say)
    assert report.snapshot.objects == 0
    assert sum("the run goes on" in line for line in said) == 1


def test_a_run_gives_up_when_a_fault_of_the_machine_does_not_pass(blocked):
    said = []
    with pytest.raises(MachineError, match="rejects"):
        run(Config(), [], str(blocked), Selection(), say=said.append)
    assert sum("the run goes on" in line for line in said) == 2
