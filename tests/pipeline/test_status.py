"""What a corpus has, and who works on it, as files say that a run has written."""

import json
import re
import shutil
import time

import pytest
from typer.testing import CliRunner

from anything3d.errors import SourceError
from jobs.cli import app
from pipeline import ledger
from pipeline.ledger import RUNS, Attempt
from pipeline.price import Spending, Spent
from pipeline.progress import Progress
from pipeline.status import status
from pipeline.store import Store

DEAD = {**ledger.whoami(), "process_started": "1", "pid": 7}


@pytest.fixture
def store(world, tmp_path):
    return Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))


def at_work(attempt, cell):
    """What the driver of a run does: it knows the cell that an actor computes."""
    progress = Progress([].append, attempt.will_say)
    progress.expect("lift", 10)
    progress.add("lift", 4, made=False)
    progress.begin()
    progress.add("lift", 3, made=True)
    own = {"stage": "lift", "unit": "unit", "folder": cell, "host": "host", "pid": 5, "items": 3, "since": time.time()}
    own |= {"step": 3400, "steps": 10000}
    progress.show([own], Spending(spent=Spent(60.0, 30.0, 2.0)), {("lift",): 1}, {"lift": 20.0})
    attempt.says()  # as every heartbeat does


def test_an_idle_corpus_says_what_is_published(world, store):
    found = status(store.root)
    assert (found.snapshot, found.objects, found.shards, found.runs) == (1, 4, 1, ())
    assert found.rejects == world.snapshot.rejects
    assert found.stages["reconstruct"].inputs == 5
    assert found.rejected["reconstruct field_fog"] == 1
    told = CliRunner().invoke(app, ["status", store.root])
    assert told.exit_code == 0
    assert told.stdout.startswith("snapshot 1 of ")
    assert "no run is at work" in told.stdout


def test_a_run_at_work_says_how_far_it_is_and_what_its_actors_do(store):
    cell = "cells/lift/f/unit-key"
    for name in ("one", "two"):
        store.write(f"{cell}/attempts/{name}.json", json.dumps(DEAD).encode())
    with Attempt(store, RUNS) as attempt, Attempt(store, cell):
        at_work(attempt, cell)
        (run,) = status(store.root).runs
        told, words = (CliRunner().invoke(app, ["status", store.root, *flags]).stdout for flags in (["--json"], []))
    assert run.lives
    assert run.silent_s < 600
    assert (run.stages["lift"]["items"], run.stages["lift"]["done"]) == (10, 7)
    assert run.spent == {"seconds": 60.0, "gpu_seconds": 30.0, "cost": 2.0}
    (work,) = run.at_work
    assert (work.stage, work.unit, work.host, work.pid, work.deaths) == ("lift", "unit", "host", 5, 2)
    assert json.loads(told)["runs"][0]["at_work"][0]["deaths"] == 2
    assert re.search(r"  lift unit: step 3,400 of 10,000, process 5 on host for \d+:\d\d, 2 processes", words)
    assert status(store.root).runs == ()


def test_a_run_that_was_killed_is_named(store):
    store.write(f"{RUNS}/attempts/x.json", json.dumps(DEAD).encode())
    (run,) = status(store.root).runs
    assert (run.lives, run.pid) == (False, 7)
    told = CliRunner().invoke(app, ["status", store.root])
    assert "a run was killed: process 7 on" in told.stdout
    assert "no run is at work" in told.stdout


def test_a_place_without_a_corpus_is_one_line(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SourceError, match="no_corpus"):
            status(str(place))
    assert not (tmp_path / "nowhere").exists()


def test_a_corpus_whose_first_run_is_at_work_has_no_snapshot_yet(tmp_path):
    store = Store(str(tmp_path))
    with Attempt(store, RUNS):
        told = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert "has no snapshot yet" in told.stdout
    assert "a run is at work: process" in told.stdout
