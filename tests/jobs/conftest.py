"""Runs of the real command in processes of their own, on a small mini-world shard, with few steps."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pipeline.pools import SHARED
from pipeline.stages import BY_NAME

ROOT = Path(__file__).parent.parent.parent
QUICK = (
    "units.objects=2",
    "invert.steps=3",
    "lift.candidates=1",
    "lift.steps=3",
    "lift.upsampler_steps=3",
    "reconstruct.steps=12",
    "resources.reconstruct.checkpoint_every=4",
    "reconstruct.min_opacity=0.0",
    "reconstruct.max_fog=1.0",
    "mesh.resolution=32",
    "score.points=512",
    "score.size_px=32",
    "score.views=2",
)
OBJECTS = 4
LONG_S = 1200  # of a command that would not end; a machine with other work may need minutes for a run
END_S = 60.0  # of a command that is ended, and waits for nobody; the same


@dataclass(frozen=True)
class Corpus:
    """What a run left: where, and what it said."""

    path: Path
    output: str

    @property
    def snapshot(self) -> str:
        """The digest of what the corpus holds."""
        return self.output.rsplit("snapshot ", 1)[1].split("(")[1].split(")")[0]

    @property
    def cells_run(self) -> int:
        return int(self.output.rsplit(" cells run", 1)[0].rsplit(" ", 1)[1])

    def cells_now(self) -> dict[str, int]:
        """Stage -> cells that this run made, from the report's table."""
        rows = [line.split() for line in self.output.rsplit("run now", 1)[1].splitlines()[1:]]
        return {row[0]: int(row[2]) for row in rows if len(row) == 8 and row[1].isdigit()}


def command(shard: Path, out: Path, settings: Sequence[str] = (), flags: Sequence[str] = ()) -> list[str]:
    """`anything3d run` as a Ray job would call it."""
    sets = [part for setting in (*QUICK, *settings) for part in ("--set", setting)]
    return [
        sys.executable,
        "-m",
        "jobs.run",
        str(shard),
        "--out",
        str(out),
        "--max-objects",
        str(OBJECTS),
        *sets,
        *flags,
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def run(
    shard: Path,
    out: Path,
    settings: Sequence[str] = (),
    flags: Sequence[str] = (),
    code: int = 0,
    tree: Path = ROOT,
) -> Corpus:
    """Run the command of the checkout in `tree`."""
    done = subprocess.run(
        command(shard, out, settings, flags),
        cwd=tree,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )
    assert done.returncode == code, done.stdout[-4000:] + done.stderr[-4000:]
    return Corpus(out, done.stdout + done.stderr)


def workers(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that are actors of stages: Ray names a process after the class of its actor, or what it does."""
    found = []
    for process in processes:
        with suppress(psutil.Error):  # it has just ended
            title = " ".join(process.cmdline()).partition("ray::")[2]
            if title.partition(".")[0].strip() in (SHARED, *BY_NAME):
                found.append(process)
    return found


def heed_ctrl_c() -> None:
    """For processes that start from now on: what a shell starts in the background ignores SIGINT, and hands that on.

    A test run that has its own handler keeps it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def stopped(process: psutil.Process) -> bool:
    """Stop it, if it has not just ended."""
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        return True
    return False


def unfinished(corpus: Corpus, out: Path, stages: Sequence[str]) -> None:
    """Write to `out` what a run leaves that was ended before `stages`: the cells of all others, and no snapshot."""
    for folder in (corpus.path / "cells").iterdir():
        if folder.name not in stages:
            shutil.copytree(folder, out / "cells" / folder.name)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Poll until the world outside this process is in a state; there is no event to wait for."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LONG_S} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def shard(tmp_path_factory) -> Path:
    from anything3d.mini.world import write_world

    path = tmp_path_factory.mktemp("world") / "world.tar"
    write_world(path, scenes=3, seed=5, size=192)
    return path


@pytest.fixture(scope="session")
def corpus(shard, tmp_path_factory) -> Corpus:
    """An undisturbed run, which writes a log beside the corpus."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(shard, folder / "corpus", flags=["--log-file", str(folder / "run.log")])
