"""A run without shards: what it says, and how it goes on after faults of the machine."""

import pytest

from anything3d.errors import MachineError, SourceError
from pipeline.config import Config
from pipeline.place import check
from pipeline.plan import Selection
from pipeline.run import run
from pipeline.store import Store


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
    """A corpus whose folder of snapshots is a file, so that nothing can be written in it; no shard, so no Ray."""
    monkeypatch.setattr("pipeline.run.WAITS_S", (0.0, 0.0))
    (tmp_path / "corpus").mkdir()
    check(Store(str(tmp_path / "corpus")))
    (tmp_path / "corpus" / "snapshots").write_text("")
    return tmp_path / "corpus"


def test_a_run_goes_on_when_a_fault_of_the_machine_has_passed(blocked):
    said = []

    def say(line):
        said.append(line)
        (blocked / "snapshots").unlink(missing_ok=True)  # what somebody does while the run waits

    report = run(Config(), [], str(blocked), Selection(), say=say)
    assert report.snapshot.objects == 0
    assert sum("the run goes on" in line for line in said) == 1


def test_a_run_gives_up_when_a_fault_of_the_machine_does_not_pass(blocked):
    said = []
    with pytest.raises(MachineError, match="snapshots"):
        run(Config(), [], str(blocked), Selection(), say=said.append)
    assert sum("the run goes on" in line for line in said) == 2
