"""Runs without Ray: what they say, how they go on after faults of the machine, and where they stop at a limit."""

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import ANY

import pytest

from anything3d.errors import MachineError, SourceError
from pipeline import cell
from pipeline.config import Config, load
from pipeline.faults import WAITS_S, Faults
from pipeline.marker import check
from pipeline.plan import Selection, shard_unit
from pipeline.release.corpus import Corpus, drop
from pipeline.release.partition import Photos
from pipeline.release.snapshot import MadeBy, append
from pipeline.run import run
from pipeline.run_report import RunReport
from pipeline.stages import load as load_stage
from pipeline.stages import recipes
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
    monkeypatch.setattr("pipeline.faults.WAITS_S", (0.0, 0.0))
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


def no_tars(folder, count):
    """Shards of which nothing is to be done but their index."""
    shards = [folder / f"sa_{n}.tar" for n in range(count)]
    for number, shard in enumerate(shards):
        shard.write_bytes(bytes([number]) * 2000)
    return list(map(str, shards))


def index(config, store, shards):
    check(store)
    for shard in shards:
        unit = shard_unit(shard, licence=config.licence)
        cell.run(recipes(config)["index"], unit, store, partial(load_stage, "index", config.to_json(), "cpu"))


def test_at_a_limit_those_shards_are_published_that_come_before_the_first_unfinished_one(tmp_path):
    """Of three shards, the second one has no index."""
    config, store = load([], ["price.cpu_hour=1"]), Store(str(tmp_path / "corpus"))
    names = no_tars(tmp_path, 3)
    index(config, store, [names[0], names[2]])
    report = run(config, names, store.root, Selection(), max_cost=0, only=True)
    assert list(report.partitions) == list(report.snapshot.partitions) == ["sa_0"]
    assert report.limit.reason == "limit_reached"
    assert "The same command continues." in str(report.limit)
    assert report.cells_run == 0
    whole = run(config, [names[0], names[2]], store.root, Selection(), max_cost=0)
    assert whole.limit is None  # nothing was left to be done
    assert list(whole.snapshot.partitions) == ["sa_0", "sa_2"]
    again = run(config, names[1:2], store.root, Selection(), max_cost=0, only=True)
    assert list(again.snapshot.partitions) == ["sa_0", "sa_2"]  # the others stay until all is done


def test_a_shard_that_is_not_finished_in_its_turn_needs_no_permit_of_those_that_wait_for_it(tmp_path):
    """sa_1 has left photos to sa_0, which has changed. When sa_1 sees that, sa_2 has the only permit, and waits."""
    config, store, shards = load([], ["units.shards=1"]), Store(str(tmp_path / "corpus")), no_tars(tmp_path, 3)
    index(config, store, shards)
    known = run(config, shards[:2], store.root, Selection()).snapshot.partitions
    left = replace(known["sa_1"], elsewhere={"sa_0": known["sa_0"].photos.digest})
    append(store, MadeBy("run"), lambda before: {**before, "sa_1": left})
    Path(shards[0]).write_bytes(b"9" * 2000)
    index(config, store, shards[:1])
    reports = []

    def whole():
        reports.append(run(config, shards, store.root, Selection()))

    thread = threading.Thread(target=whole, daemon=True)
    thread.start()
    thread.join(60)
    assert reports, "the run hangs"
    assert list(reports[0].snapshot.partitions) == ["sa_0", "sa_1", "sa_2"]
    assert reports[0].snapshot.partitions["sa_1"].elsewhere == {}


@pytest.fixture
def night(tmp_path):
    """What a run knows of a corpus of three shards, of which it has found the first two finished."""
    config, store, shards = Config(), Store(str(tmp_path / "corpus")), no_tars(tmp_path, 3)
    index(config, store, shards)
    run(config, shards, store.root, Selection())
    photos = {"sa_0": Photos("a1", "a3", "a"), "sa_1": Photos("b1", "b3", "b"), "sa_2": Photos("c1", "c3", "c")}
    append(
        store, MadeBy("run"), lambda before: {name: replace(before[name], photos=one) for name, one in photos.items()}
    )
    corpus = Corpus(store)
    return corpus, {name: corpus.partitions[name] for name in ("sa_0", "sa_1")}


@pytest.mark.parametrize("only", [False, True])
def test_a_shard_that_a_run_has_only_found_is_what_another_command_has_made_of_it_meanwhile(night, only):
    corpus, mine = night
    retried = replace(mine["sa_0"], wanted=9)
    append(corpus.store, MadeBy("run"), lambda before: {**before, "sa_0": retried})
    drop(corpus.store.root, ["sa_1"])
    new = replace(mine["sa_0"], shard="new", photos=Photos("n", "n", "n"))
    others = {} if only else {"sa_2": ANY}
    published = corpus.publish(MadeBy("run"), {**mine, "new": new}, only=only)
    assert published.partitions == {"sa_0": retried, "new": new, **others}
    drop(corpus.store.root, ["new"])  # the same holds for what the run has published before
    later = replace(new, shard="later", photos=Photos("o", "o", "o"))
    published = corpus.publish(MadeBy("run"), {**mine, "new": new, "later": later}, only=only)
    assert published.partitions == {"sa_0": retried, "later": later, **others}


def test_a_shard_that_a_run_has_made_is_that_of_the_run(night):
    corpus, mine = night
    append(corpus.store, MadeBy("run"), lambda before: {**before, "sa_0": replace(mine["sa_0"], wanted=9)})
    made = replace(mine["sa_0"], wanted=8)
    published = corpus.publish(MadeBy("run"), {**mine, "sa_0": made})
    assert published.partitions == {**mine, "sa_0": made, "sa_2": ANY}


def test_the_photos_of_a_shard_that_another_command_has_dropped_are_free(night):
    corpus, mine = night
    corpus.claim("begun", ["d1"], "d")
    drop(corpus.store.root, ["sa_2"])
    corpus.publish(MadeBy("run"), mine)
    assert corpus.claim("new", ["c1", "c2", "d1"], "new") == {"d1": "begun"}


def test_a_run_waits_anew_after_a_fault_if_it_has_finished_something_since():
    faults, report = Faults(), RunReport()
    fault = MachineError("device_lost", "")
    assert [faults.wait(fault, report) for _ in range(3)] == [*WAITS_S, None]
    report.made = {"score": 1}  # a cell of a last stage
    assert faults.wait(fault, report) == WAITS_S[0]
    report.made = {"score": 1, "caption": 5}  # the stages before one that fails every time
    assert faults.wait(fault, report) == WAITS_S[1]
    report.partitions = {"sa_0": None}
    assert [faults.wait(fault, report) for _ in range(3)] == [*WAITS_S, None]
    report.partitions = {"sa_0": None, "sa_1": None}
    assert faults.wait(MachineError("ray_start", ""), report) is None
