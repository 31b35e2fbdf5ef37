"""SIGKILL a worker, SIGKILL the driver: the corpus ends up with the snapshot of an undisturbed run.

The cells before LAST are those of the undisturbed run, so that only the actors of LAST have to start. The actor stops
itself at a known moment, so that nothing depends on how fast it is.
"""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.status import status
from tests.jobs.conftest import LONG_S, ROOT, Corpus, command, environment, run, unfinished, wait_for

pytestmark = pytest.mark.slow
LAST = ("reconstruct", "mesh", "score")
ONE_BY_ONE = ("resources.reconstruct.workers=1",)
# Python imports it at its start. It stops a process before it commits a cell of reconstruct, at the first time when
# STOP_AT of them are committed. The file STOPPED has the number of the process.
SITECUSTOMIZE = """
import os, signal, sys
from pathlib import Path

at, stopped = int(os.environ["STOP_AT"]), Path(os.environ["STOPPED"])


def stop(event, arguments):
    if event != "os.link" or not str(arguments[1]).endswith("/commit.json"):
        return
    stage = Path(arguments[1]).parents[2]
    if stage.name == "reconstruct" and len(list(stage.glob("*/*/commit.json"))) == at and not stopped.exists():
        stopped.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)


sys.addaudithook(stop)
"""


def start(shard: Path, out: Path, stop_at: int) -> tuple[subprocess.Popen, int]:
    """The command; and the number of its actor, which has stopped after it committed so many cells."""
    code, stopped = out.with_name("code"), out.with_name("stopped")
    code.mkdir()
    (code / "sitecustomize.py").write_text(SITECUSTOMIZE)
    more = {"PYTHONPATH": f"{code}", "STOP_AT": f"{stop_at}", "STOPPED": f"{stopped}"}
    log = out.with_suffix(".log")
    with log.open("w") as sink:
        process = subprocess.Popen(
            command(shard, out, ONE_BY_ONE),
            cwd=ROOT,
            env={**environment(), **more},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    wait_for(lambda: process.poll() is not None or (stopped.exists() and stopped.read_text() != ""), "a stopped actor")
    assert process.poll() is None, log.read_text()[-4000:]
    (cell,) = at_work(out)
    (attempt,) = cell.glob("attempts/*.json")
    pid = int(stopped.read_text())
    assert json.loads(attempt.read_text())["pid"] == pid
    assert len(list(out.glob("cells/reconstruct/*/*/commit.json"))) == stop_at
    return process, pid


def at_work(out: Path) -> list[Path]:
    """The cells of reconstruct that have a checkpoint and no commit."""
    cells = {path.parent.parent for path in out.glob("cells/reconstruct/*/*/checkpoints/*")}
    return [cell for cell in cells if not (cell / "commit.json").exists()]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_killed_actor_is_restarted_and_goes_on_from_the_checkpoint(shard, corpus, tmp_path):
    out = tmp_path / "corpus"
    unfinished(corpus, out, LAST)
    process, actor = start(shard, out, stop_at=0)
    os.kill(actor, signal.SIGKILL)
    assert process.wait(timeout=LONG_S) == 0, out.with_suffix(".log").read_text()[-4000:]
    again = Corpus(out, out.with_suffix(".log").read_text())
    assert again.snapshot == corpus.snapshot
    commits = [json.loads(path.read_text()) for path in out.glob("cells/reconstruct/*/*/commit.json")]
    assert max(commit["attempts"] for commit in commits) == 2  # the kill did hit a cell at work


def test_a_killed_driver_leaves_a_corpus_that_the_same_command_finishes(shard, corpus, tmp_path):
    out = tmp_path / "corpus"
    unfinished(corpus, out, LAST)
    process, actor = start(shard, out, stop_at=1)
    process.kill()
    process.wait()
    with suppress(ProcessLookupError):  # its Ray may have killed it
        os.kill(actor, signal.SIGCONT)
    wait_for(lambda: not alive(actor), "the end of the dead driver's worker")
    assert not list(out.glob("snapshots/*.json"))
    (killed,) = status(str(out)).runs
    assert (killed.lives, killed.pid) == (False, process.pid)
    again = run(shard, out)
    assert again.snapshot == corpus.snapshot
    lacking = sum(len(list(corpus.path.glob(f"cells/{stage}/*/*/commit.json"))) for stage in LAST)
    assert 0 < again.cells_run < lacking
    assert status(str(out)).runs == ()
