"""The memoised function at the heart: commits, balance, failing batches, poison, resume. Real stages, real store."""

import ctypes
import json
import os
import signal
import site
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import psutil
import pytest

from anything3d.errors import Bug, Skipped
from pipeline import batch, cell, ledger, limit
from pipeline.cell import Recipe
from pipeline.store import Store
from pipeline.unit import Input, Unit, slices
from schemas.records import ImageRecord, ObjectRecord, RejectRecord
from tests import s3

ROOT = Path(__file__).parent.parent.parent
SHARD = Unit("s", ("s",), {"shard": Input("s.tar", "d0")})


@dataclass(frozen=True, slots=True)
class WordRecord:
    word: Annotated[str, "id"]


@dataclass(frozen=True, slots=True)
class LengthRecord:
    word: Annotated[str, "id"]
    length: Annotated[int, "letters"]


class Words:
    """A shard of six words."""

    name, version, reads, record = "words", 1, ("shard",), WordRecord

    def __call__(self, items, unit, checkpoint):
        return [[WordRecord(word) for word in ("ant", "bee", "cow", "dog", "elk", "fox")]]


class Lengths:
    """Counts letters; `trouble` names words that do something else."""

    name, version, reads, record = "lengths", 1, ("words",), LengthRecord

    def __init__(self, trouble: dict[str, str]) -> None:
        self.trouble = trouble

    def __call__(self, items, unit, checkpoint):
        return [self.one(item[0].word) for item in items]

    def one(self, word: str):
        match self.trouble.get(word):
            case "skip":
                return Skipped("dull", f"{word} is dull")
            case "raise":
                raise ValueError(word)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                ctypes.string_at(0)
            case "eat":
                eaten = [os.urandom(1 << 20) for _ in range(1 << 20)]
                raise AssertionError(len(eaten))
            case "hang":
                threading.Event().wait()
            case "hang natively":
                ctypes.PyDLL(None).pause()  # it keeps Python's lock, so that no other thread runs
            case "nothing":
                return []
            case "twice":
                return [LengthRecord("ant", 3)]
        return [LengthRecord(word, len(word))]


def lengths(trouble: dict[str, str]) -> Lengths:
    return Lengths(trouble)


class Slow:
    """Counts letters in ten steps, saves each and dies after those named; done with all, it saves the last again."""

    name, version, reads, record = "lengths", 1, ("words",), LengthRecord

    def __init__(self, kills: frozenset[int]) -> None:
        self.kills = kills

    def __call__(self, items, unit, checkpoint):
        done = int(checkpoint.load() or b"0")
        for step in range(done + 1, 11) or [10]:
            checkpoint.save(b"%d" % step)
            checkpoint.at(step, 10)
            if step in self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
        return [[LengthRecord(item[0].word, len(items))] for item in items]


def run_slow(root: str, *kills: int) -> None:
    store = Store(root)
    cell.run(LENGTHS, after_words(store), store, partial(Slow, frozenset(kills)))


def exit_code(*call) -> int:
    """Of a process that makes the cell."""
    process = get_context("spawn").Process(target=run_slow, args=call)
    process.start()
    process.join()
    return process.exitcode


WORDS = Recipe("words", "f0", ("shard",), (), WordRecord)
LENGTHS = Recipe("lengths", "f1", ("words",), (WordRecord,), LengthRecord, num_gpus=0.5)


def after_words(store: Store) -> Unit:
    commit, _ = cell.run(WORDS, SHARD, store, Words)
    unit = cell.as_input(WORDS, SHARD, commit)
    (whole,) = slices(unit, store.read_column(commit.rows, "word"), 64)
    return whole


def run(store: Store, trouble: dict[str, str] | None = None):
    return cell.run(LENGTHS, after_words(store), store, partial(lengths, trouble or {}))


def outcome(store: Store, commit) -> tuple[list[str], dict[str, tuple[str, str]]]:
    rows = [row.word for row in store.read_part(commit.rows, LengthRecord)]
    rejects = store.read_part(commit.rejects, RejectRecord)
    return rows, {row.item_id: (row.kind, row.reason) for row in rejects}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_a_second_call_returns_the_commit_and_loads_nothing(store):
    first, made = run(store)
    assert made

    def must_not_load():
        raise AssertionError("a cell that exists must not load its stage")

    second, made_again = cell.run(LENGTHS, after_words(store), store, must_not_load)
    assert not made_again
    assert second == first
    assert first.gpu_seconds == pytest.approx(first.seconds / 2)


def test_the_time_in_which_a_stage_is_loaded_is_not_that_of_the_cell(store, monkeypatch):
    unit, clock = after_words(store), [1000.0]
    monkeypatch.setattr(cell, "time", lambda: clock[0])

    class Timed(Lengths):
        def __call__(self, *given):
            clock[0] += 7.0
            return super().__call__(*given)

    def slow() -> Timed:
        clock[0] += 60.0
        return Timed({})

    commit, _ = cell.run(LENGTHS, unit, store, slow)
    assert commit.seconds == 7.0


def test_a_skipped_item_is_a_reject_and_its_neighbours_have_rows(store):
    commit, _ = run(store, {"cow": "skip"})
    rows, rejects = outcome(store, commit)
    assert rows == ["ant", "bee", "dog", "elk", "fox"]
    assert rejects == {"cow": ("skipped", "dull")}
    assert commit.counts == {"inputs": 6, "rows": 5, "skipped": 1, "failed": 0, "crashed": 0}
    assert cell.find(LENGTHS, after_words(store), store).reasons == commit.reasons == {"skipped dull": 1}


def test_a_batch_that_raises_is_tried_item_by_item(store):
    commit, _ = run(store, {"bee": "raise"})
    rows, rejects = outcome(store, commit)
    assert rows == ["ant", "cow", "dog", "elk", "fox"]
    assert rejects == {"bee": ("failed", "unexpected")}


def test_a_commit_is_one_line_of_the_log_and_a_commit_that_is_found_is_none(store, caplog):
    with caplog.at_level("INFO", "pipeline"):
        commit, _ = run(store, {"cow": "skip"})
        run(store, {"cow": "skip"})
    (_, line) = [record.message for record in caplog.records]  # the first one is of the stage that this one reads
    words = f"commit: stage={commit.stage} unit={commit.unit} in=6 out=5 rejects=1 seconds="
    assert line.startswith(words)
    assert float(line.removeprefix(words)) >= 0


def die(root: str, trouble: dict[str, str], times: int = cell.DEATHS_BEFORE_ISOLATION) -> None:
    """Processes that work on the cell until an item kills them."""
    for _ in range(times):
        process = get_context("spawn").Process(target=run_in, args=(root, trouble))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL


def leave_deaths(store: Store, unit: Unit) -> None:
    """Write what processes leave that died at the unit's cell, as those of `die` do."""
    dead = {**ledger.whoami(), "process_started": "1"}
    for number in range(cell.DEATHS_BEFORE_ISOLATION):
        store.write(f"{cell.folder_of(LENGTHS, unit)}/attempts/{number}.json", json.dumps(dead).encode())


def run_in(root: str, trouble: dict[str, str]) -> None:
    run(Store(root), trouble)


def test_an_item_that_kills_its_process_is_isolated_and_its_neighbours_survive(store):
    trouble = {"dog": "kill", "elk": "raise"}
    die(store.root, trouble)
    commit, _ = run(store, trouble)
    rows, rejects = outcome(store, commit)
    assert rows == ["ant", "bee", "cow", "fox"]
    assert rejects == {"dog": ("crashed", "process_died"), "elk": ("failed", "unexpected")}
    assert store.paths(f"{commit.folder}/attempts") == []


class Together(Lengths):
    """Says of every word how many it was computed with, which no caller may see; `trouble` as for Lengths."""

    def __call__(self, items, unit, checkpoint):
        found = [self.one(item[0].word) for item in items]
        return [[LengthRecord(row[0].word, len(items))] if isinstance(row, list) and row else row for row in found]


def run_together(root: str, trouble: dict[str, str]) -> dict[str, int]:
    store = Store(root)
    commit, _ = cell.run(LENGTHS, after_words(store), store, partial(Together, trouble))
    return {row.word: row.length for row in store.read_part(commit.rows, LengthRecord)}


def test_kills_change_no_row(store, tmp_path):
    """After two deaths the batch runs in a process of its own, and still as the batch that it is."""
    leave_deaths(store, after_words(store))
    assert run_together(store.root, {}) == dict.fromkeys(["ant", "bee", "cow", "dog", "elk", "fox"], 6)


@pytest.mark.parametrize("trouble", ["raise", "kill"])
def test_those_who_do_nothing_wrong_are_computed_together(store, tmp_path, trouble):
    """An item that always raises or kills gives its neighbours the same rows at the first try and after two kills."""
    sick = {"dog": trouble}
    if trouble == "raise":
        assert run_together(str(tmp_path / "other"), sick) == dict.fromkeys(["ant", "bee", "cow", "elk", "fox"], 5)
    leave_deaths(store, after_words(store))
    assert run_together(store.root, sick) == dict.fromkeys(["ant", "bee", "cow", "elk", "fox"], 5)


QUICK = replace(LENGTHS, max_seconds_per_item=0.5)
FOUR = ("bee", "cow", "dog", "elk")


def four(store: Store) -> Unit:
    return next(iter(slices(after_words(store), FOUR, 4)))


class Hung(Together):
    """Says in a file which process hangs, before it does."""

    def __init__(self, says: Path, trouble: dict[str, str]) -> None:
        super().__init__(trouble)
        self.says = says

    def one(self, word: str):
        if self.trouble.get(word, "").startswith("hang"):
            self.says.write_text(str(os.getpid()))
        return super().one(word)


def run_quick(root: str, trouble: dict[str, str], late_s: float = limit.LATE_S) -> None:
    limit.LATE_S = late_s
    store = Store(root)
    cell.run(QUICK, four(store), store, partial(Together, trouble))


def exit_of(function, *arguments) -> int:
    """The exit code of a process that calls the function."""
    process = get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("hang", ["hang", "hang natively"])
def test_an_item_that_hangs_is_rejected_and_its_neighbours_have_the_rows_of_an_undisturbed_run(
    store, hang, caplog, tmp_path_factory, monkeypatch
):
    """The process in which it hangs first is killed, with a word to the next one, which isolates the batch at once.

    Here, time goes on only while a process hangs: however slow the machine is, the neighbours are in time.
    """
    trouble, says = {"dog": hang}, tmp_path_factory.mktemp("says") / "pid"
    if hang == "hang":
        assert exit_of(run_quick, store.root, trouble) == -signal.SIGKILL
    else:
        leave_deaths(store, four(store))

    def now() -> float:
        hangs = says.exists() and ledger.started(int(says.read_text() or "0"))
        return time.monotonic() if hangs else 0.0

    monkeypatch.setattr(limit, "time", SimpleNamespace(monotonic=now))
    commit, _ = cell.run(QUICK, four(store), store, partial(Hung, says, trouble))
    assert {row.word: row.length for row in store.read_part(commit.rows, LengthRecord)} == dict.fromkeys(
        ("bee", "cow", "elk"), 3
    )
    (reject,) = store.read_part(commit.rejects, RejectRecord)
    assert (reject.item_id, reject.kind, reject.reason) == ("dog", "crashed", "timeout")
    assert reject.message == "dog: no outcome within 0.5 s."
    late = [record.message for record in caplog.records if record.message.startswith("over its time")]
    assert [line.partition("unit=")[2].partition(" (resources")[0] for line in late] == [
        f"{four(store).name} items=4 (bee, cow, dog, elk) limit=2 s",
        *[f"{four(store).name} items=1 (dog) limit=0.5 s"] * 2,
    ]
    assert store.paths(f"{commit.folder}/attempts") == []


def test_a_process_that_hangs_with_pythons_lock_is_ended_all_the_same(store):
    assert exit_of(run_quick, store.root, {"dog": "hang natively"}, 0.1) == 1
    (attempt,) = store.paths(f"{cell.folder_of(QUICK, four(store))}/attempts")
    assert ledger.read(store, attempt)["pid"]


def keep_in_time() -> None:
    limit.LATE_S = 0.0
    with limit.Limit(2.0).kept_here(["ant"]):
        (guard,) = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    guard.join()
    threading.Event().wait(2.5)  # faulthandler has no thread that can be waited for


def test_a_clock_ends_with_its_call():
    assert exit_of(keep_in_time) == 0


def pause() -> None:
    limit.TICK_S = 0.05
    with limit.Limit(0.5).kept_here(["ant"]):
        os.kill(os.getpid(), signal.SIGSTOP)


def test_the_time_of_a_paused_process_does_not_count():
    process = get_context("spawn").Process(target=pause)
    process.start()
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    process.join(1.0)
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 0


def test_any_number_of_dead_attempts_needs_no_hand(store):
    folder = cell.folder_of(LENGTHS, after_words(store))
    gone = {**ledger.whoami(), "process_started": "1"}  # the number of a process that has ended
    for death in range(20):
        store.write(f"{folder}/attempts/{death}.json", json.dumps(gone).encode())
    commit, made = run(store)
    assert (made, commit.attempts, commit.counts["rows"]) == (True, 21, 6)
    assert store.paths(f"{folder}/attempts") == []


def test_the_living_and_those_just_heard_of_elsewhere_are_not_dead(store, tmp_path):
    """One of this process, two of another machine, of which one has had no heartbeat for long, and one torn."""
    elsewhere = json.dumps({**ledger.whoami(), "machine": "elsewhere"}).encode()
    says = {"own": json.dumps(ledger.whoami()).encode(), "fresh": elsewhere, "stale": elsewhere, "torn": b""}
    for name, data in says.items():
        store.write(f"cells/x/attempts/{name}.json", data)
    age = time.time() - 2 * ledger.LEASE_S
    os.utime(tmp_path / "cells/x/attempts/stale.json", (age, age))
    with ledger.Attempt(store, "cells/x") as attempt:
        assert (len(attempt.dead), len(attempt.living)) == (1, 3)
        attempt.close_the_dead()
    assert store.paths("cells/x/attempts") == [f"cells/x/attempts/{name}.json" for name in ("fresh", "own", "torn")]


def test_a_heartbeat_writes_what_is_new_and_nothing_after_the_end(store):
    with ledger.Attempt(store, "cells/x") as attempt:
        attempt.will_say(cells=3)
        attempt.beat()
        (path,) = store.paths("cells/x/attempts")
        assert ledger.read(store, path) == {**ledger.whoami(), "cells": 3}
        (heart,) = [thread for thread in threading.enumerate() if thread.name.startswith("heartbeats of ")]
    attempt.beat()
    assert store.paths("cells/x") == []
    with ledger.Attempt(store, "cells/y"):
        assert [heart] == [thread for thread in threading.enumerate() if thread.name.startswith("heartbeats of ")]


def test_a_finished_cell_is_two_files_in_one_folder(store, tmp_path):
    commit, _ = run(store)
    assert sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / commit.folder).rglob("*")) == sorted(
        [commit.rows.path, f"{commit.folder}/commit.json"]
    )


def test_a_cell_costs_six_requests_to_make_and_one_to_find():
    with s3.serve() as server:
        store = Store("s3://b/corpus")
        cell.run(WORDS, SHARD, store, Words)  # the first commit of a process also tries the storage
        server.asked.clear()
        other = replace(SHARD, name="t")
        commit, _ = cell.run(WORDS, other, store, Words)
        asked = [f"{method} {path.removeprefix(f'/b/corpus/{commit.folder}')}" for method, path, _ in server.asked]
        own = f"/attempts/{commit.attempt}.json"
        part = commit.rows.path.removeprefix(commit.folder)
        first = asked.index(f"PUT {own}") + 1  # a later one is a heartbeat, which may come at any moment
        asked[first:] = [line for line in asked[first:] if line != f"PUT {own}"]
        assert asked == ["GET /commit.json", f"PUT {own}", "GET /b", f"PUT {part}", "PUT /commit.json", "POST /b"]
        server.asked.clear()
        assert cell.run(WORDS, other, store, Words) == (commit, False)
        assert len(server.asked) == 1


def test_an_attempt_that_is_seen_to_fail_is_no_death(store):
    unit = after_words(store)

    def interrupted():
        raise KeyboardInterrupt

    for load, error in ((interrupted, KeyboardInterrupt), (partial(lengths, {"fox": "nothing"}), Bug)):
        with pytest.raises(error):
            cell.run(LENGTHS, unit, store, load)
        assert store.paths(f"{cell.folder_of(LENGTHS, unit)}/attempts") == []


def test_a_failed_write_of_a_checkpoint_changes_no_row(store, monkeypatch):
    """A disk that fails once: the call is made again from the checkpoint before, with all of its items."""
    monkeypatch.setattr(batch, "WAITS_S", (0.0,))
    write, failed = Store.write, []

    def fail_once(self, path, data):
        if "/checkpoints/" in path and data.endswith(b"5") and not failed:
            failed.append(path)
            raise OSError(28, "No space left on device")
        write(self, path, data)

    monkeypatch.setattr(Store, "write", fail_once)
    commit, _ = cell.run(LENGTHS, after_words(store), store, partial(Slow, frozenset()))
    assert failed
    assert {row.length for row in store.read_part(commit.rows, LengthRecord)} == {6}


def test_a_cell_commits_where_the_code_was_copied_and_not_installed(tmp_path):
    """As in a Ray job: the dependencies are installed, the code is a working directory."""
    libraries, code = tmp_path / "libraries", tmp_path / "code"
    libraries.mkdir()
    code.mkdir()
    for found in (entry for folder in site.getsitepackages() for entry in Path(folder).iterdir()):
        if "anything3d" not in found.name.lower() and not (libraries / found.name).exists():
            (libraries / found.name).symlink_to(found)
    for package in ("anything3d", "pipeline", "schemas"):
        (code / package).symlink_to(ROOT / package)
    (code / "job.py").write_text(
        "from pipeline import cell; from pipeline.store import Store; from pipeline.unit import Input, Unit\n"
        "from schemas.records import ImageRecord\n"
        "unit = Unit('s', ('s',), {'shard': Input('s.tar', 'd0')})\n"
        "stage = lambda items, unit, checkpoint: [[ImageRecord('sa_1', 's', 0, 1, '', 2, 3, '')]]\n"
        "print(cell.run(cell.Recipe('x', 'f', ('shard',), (), ImageRecord), unit, Store('corpus'), lambda: stage))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{code}:{libraries}"}
    done = subprocess.run(
        [sys.executable, "-S", "job.py"], cwd=code, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'torch': '2" in done.stdout


def test_a_cell_that_was_killed_goes_on_from_its_checkpoint_with_all_of_its_items(store, tmp_path):
    for kills in ((2,), (4,)):
        assert exit_code(str(tmp_path), *kills) == -signal.SIGKILL
    told, load = [], partial(Slow, frozenset())
    commit, made = cell.run(LENGTHS, after_words(store), store, load, lambda *at: told.append(at))
    assert (made, told) == (True, [])  # it was isolated, and nobody hears the process in which it was
    assert {row.length for row in store.read_part(commit.rows, LengthRecord)} == {6}


def test_a_batch_in_which_everybody_kills_is_all_rejected(store):
    sick = {"ant": "kill", "bee": "kill"}
    (two,) = slices(after_words(store), ("ant", "bee"), 2)
    leave_deaths(store, two)
    assert cell.run(LENGTHS, two, store, partial(lengths, sick))[0].counts["crashed"] == 2


def test_an_isolated_process_ends_with_the_one_that_started_it(tmp_path):
    """SIGKILL asks nobody: the process of the isolated items has to see for itself that it is alone."""
    leave_deaths(Store(str(tmp_path)), after_words(Store(str(tmp_path))))
    process = get_context("spawn").Process(target=run_in_with, args=(str(tmp_path), str(tmp_path / "fifo")))
    os.mkfifo(tmp_path / "fifo")
    process.start()
    with open(tmp_path / "fifo") as told:
        child = int(told.readline())
        process.kill()
        process.join()
        assert told.read() == ""  # the child's end of the pipe is closed: it has ended
    with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):  # it is about to go, or waits for whoever adopted it
        psutil.Process(child).wait(30)
    assert ledger.started(child) == "" or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


class Hanging(Lengths):
    """Says which process it is in, and then waits for ever."""

    def __init__(self, fifo: str) -> None:
        super().__init__({})
        self.fifo = fifo

    def __call__(self, items, unit, checkpoint):
        with open(self.fifo, "w") as tell:
            tell.write(f"{os.getpid()}\n")
            tell.flush()
            threading.Event().wait()


def run_in_with(root: str, fifo: str) -> None:
    store = Store(root)
    cell.run(LENGTHS, after_words(store), store, partial(Hanging, fifo))


@pytest.mark.parametrize("trouble", ["nothing", "twice"])
def test_an_item_without_an_outcome_or_with_anothers_row_does_not_commit(store, trouble):
    with pytest.raises(Bug):
        run(store, {"fox": trouble})
    assert cell.find(LENGTHS, after_words(store), store) is None


def test_a_rejected_item_does_not_travel_on(store):
    commit, _ = run(store, {"cow": "skip"})
    unit = cell.as_input(LENGTHS, after_words(store), commit)
    both = Recipe("both", "f2", ("words", "lengths"), (WordRecord, LengthRecord), LengthRecord)
    ids, items = cell.join(both, unit, store)
    assert ids == ["ant", "bee", "dog", "elk", "fox"]
    assert items[0] == (WordRecord("ant"), LengthRecord("ant", 3))


def test_an_object_is_joined_with_the_row_of_its_photo(store):
    photos = [ImageRecord(name, "s", start, 10, "a", start + 10, 5, "b") for name, start in (("sa_1", 0), ("sa_2", 20))]
    around = ("annotations", 8, 8, "08", 0, 0, 8, 8, 64, 0.9, 0.9, 0.0, 0.0, 8.0, b"png")
    objects = [ObjectRecord(f"sa_{n}-{k}", f"sa_{n}", "s", *around) for n, k in ((1, 0), (1, 1), (2, 0), (3, 0))]
    unit = SHARD
    for stage, record, rows in (("index", ImageRecord, photos), ("segment", ObjectRecord, objects)):
        made = Recipe(stage, "f", ("shard",), (), record)
        commit, _ = cell.run(made, SHARD, store, lambda rows=rows: lambda items, unit, checkpoint: [rows])
        unit = cell.as_input(made, unit, commit)
    (unit,) = slices(unit, [row.object_id for row in objects], 9)
    both = Recipe("both", "f", ("segment", "index"), (ObjectRecord, ImageRecord), LengthRecord)
    ids, items = cell.join(both, unit, store)
    assert ids == ["sa_1-0", "sa_1-1", "sa_2-0"]  # the photo of the fourth has no row
    assert items == list(zip(objects[:3], [photos[0], photos[0], photos[1]], strict=True))


def test_the_digest_says_what_the_rows_say_and_not_how_they_came(store, tmp_path):
    die(str(tmp_path / "other"), {"dog": "kill"}, times=1)
    other = Store(str(tmp_path / "other"))
    first, second = run(store, {"cow": "skip"})[0], run(other, {"cow": "skip"})[0]
    assert (first.digest, first.attempts, second.attempts) == (second.digest, 1, 2)
    assert run(Store(str(tmp_path / "third")))[0].digest != first.digest


def test_another_content_of_the_input_is_another_cell(store):
    changed = Unit("s", ("s",), {"shard": Input("s.tar", "d1")})
    assert cell.folder_of(WORDS, SHARD) != cell.folder_of(WORDS, changed)


def test_of_two_writers_one_wins_and_the_other_adopts(store):
    unit = after_words(store)
    rival = {}

    def load_slowly():
        rival["commit"], _ = cell.run(LENGTHS, unit, store, partial(lengths, {}))  # commits while we are at work
        return lengths({})

    commit, made = cell.run(LENGTHS, unit, store, load_slowly)
    assert not made
    assert commit == rival["commit"]


def test_a_checkpoint_survives_and_a_torn_one_reads_as_none(store):
    checkpoint = cell.StoredCheckpoint(store, "cells/x", set(), ["ant", "bee"])
    assert checkpoint.load() is None
    checkpoint.save(b"step 50")
    assert checkpoint.load() == b"step 50"
    assert cell.StoredCheckpoint(store, "cells/x", set(), ["ant"]).load() is None  # of another batch
    (path,) = store.paths("cells/x/checkpoints")
    store.write(path, store.read(path)[:-1])
    assert checkpoint.load() is None
