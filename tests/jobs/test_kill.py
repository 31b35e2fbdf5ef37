"""SIGKILL a worker, SIGKILL the driver: the corpus ends up with the snapshot of an undisturbed run.

The cells before LAST are those of the undisturbed run, so that only the actors of LAST have to start.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from pipeline.status import status
from tests.jobs.conftest import ROOT, Corpus, command, environment, run, unfinished, wait_for

pytestmark = pytest.mark.slow
LAST = ("reconstruct", "mesh", "score")
ONE_BY_ONE = ("resources.reconstruct.workers=1",)  # with two actors, both cells may end at the same moment


def start(shard: Path, out: Path) -> subprocess.Popen:
    log = out.with_suffix(".log")
    with log.open("w") as sink:
        return subprocess.Popen(
            command(shard, out, ONE_BY_ONE),
            cwd=ROOT,
            env=environment(),
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def pids(cells: Iterable[Path]) -> set[int]:
    """The processes that have worked on these cells."""
    return {json.loads(path.read_text())["pid"] for cell in cells for path in cell.glob("attempts/*.json")}


def at_work(out: Path) -> list[Path]:
    """The cells of reconstruct that have a checkpoint and no commit."""
    cells = {path.parent.parent for path in out.glob("cells/reconstruct/*/*/checkpoints/*")}
    return [cell for cell in cells if not (cell / "commit.json").exists()]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_killed_actor_is_restarted_and_goes_on_from_the_checkpoint(shard, corpus, tmp_path):
    out = tmp_path / "corpus"
    unfinished(corpus, out, LAST)
    process = start(shard, out)
    wait_for(lambda: any(at_work(out)), "a checkpoint of reconstruct")
    (pid,) = pids(at_work(out))
    os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=400) == 0, out.with_suffix(".log").read_text()[-4000:]
    again = Corpus(out, out.with_suffix(".log").read_text())
    assert again.snapshot == corpus.snapshot
    commits = [json.loads(path.read_text()) for path in out.glob("cells/reconstruct/*/*/commit.json")]
    assert max(commit["attempts"] for commit in commits) == 2  # the kill did hit a cell at work


def test_a_killed_driver_leaves_a_corpus_that_the_same_command_finishes(shard, corpus, tmp_path):
    out = tmp_path / "corpus"
    unfinished(corpus, out, LAST)
    process = start(shard, out)
    commits = partial(out.glob, "cells/reconstruct/*/*/commit.json")
    wait_for(lambda: any(commits()) and any(at_work(out)), "one cell of reconstruct that is done and one at work")
    workers = pids(out.glob("cells/reconstruct/*/*"))
    assert workers
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers), "the end of the dead driver's workers")
    assert not list(out.glob("snapshots/*.json"))
    (killed,) = status(str(out)).runs
    assert (killed.lives, killed.pid) == (False, process.pid)
    again = run(shard, out)
    assert again.snapshot == corpus.snapshot
    lacking = sum(len(list(corpus.path.glob(f"cells/{stage}/*/*/commit.json"))) for stage in LAST)
    assert 0 < again.cells_run < lacking
    assert status(str(out)).runs == ()
