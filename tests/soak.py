"""A soak: processes that make a corpus are killed at seeded moments, and the corpus has to end as if nobody had died.

    python -m tests.soak --kills 200 --seed 0

Every process walks the whole run: all stages with their real networks, on quick settings, and the release at the end.
One or two of them work on a corpus at the same time. A loop stands in for Ray, so that a process is at work at once.
SIGKILL hits a process just before a write to the disk (a draft, a link, a removal), or at any moment. For some
processes the disk is full from a write on, or somebody deletes the corpus. After a few kills the same command runs
once more, undisturbed. Then the corpus is compared with that of a run that nobody disturbed.

The exit code is 0 if nothing was lost, doubled, stuck or different.
"""

import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from anything3d.errors import MachineError, StorageError
from anything3d.mini.world import write_world
from pipeline import batch, cell, cluster, faults
from pipeline import run as walk
from pipeline.commit import Commit
from pipeline.config import load
from pipeline.plan import Selection
from pipeline.stages import load as load_stage
from pipeline.stages import needed
from pipeline.unit import Unit

CONFIG = load(
    [],
    [
        *("segment.crop_size=64", "segment.max_edges=4", "segment.min_area_px=64", "invert.steps=3"),
        *("lift.candidates=1", "lift.steps=3", "lift.upsampler_steps=2", "mesh.resolution=24"),
        *("reconstruct.steps=6", "resources.reconstruct.checkpoint_every=2", "reconstruct.min_opacity=0.0"),
        *("reconstruct.max_fog=1.0", "reconstruct.max_fall=2.0", "reconstruct.sds.render_size=16"),
        *("score.points=256", "score.size_px=16", "score.views=2", "units.images=1", "units.objects=2"),
    ],
)
OBJECTS = 3
KILLS_OF_ONE = 5  # kills of a corpus, about, before it is let alone
MOMENTS = [*["kill"] * 8, *["any time"] * 4, "full", "gone"]  # what happens to a process, by its share
STUCK_S = 900.0  # after which a process that nobody kills is taken for stuck
FAULT = 4  # exit code of a process whose disk is full, or whose corpus was deleted
WRITES = ("open", "os.rename", "os.link", "os.remove", "os.mkdir")  # what Python says before it does it

CONTEXT = get_context("fork")  # the networks are loaded once, before the first fork


@dataclass(slots=True)
class Found:
    """What a soak has found, over all corpora."""

    kills: int = 0
    faults: int = 0  # processes that ended because the disk was full or the corpus had gone
    corpora: int = 0
    isolated: int = 0  # cells that were computed in a throw-away process, after several deaths
    lost: int = 0  # objects and rejects that an undisturbed run has
    doubled: int = 0  # objects and rejects that are there twice
    stuck: int = 0  # corpora that the last command did not finish
    broken: int = 0  # processes that ended with another exit code than those of a kill, a fault and success
    different: int = 0  # corpora of which a cell, a row or a file of the release differs

    @property
    def sound(self) -> bool:
        return not (self.lost or self.doubled or self.stuck or self.broken or self.different)


async def make_here(actors: cluster.Actors, stage: str, unit: Unit, place: tuple[int, ...]) -> tuple[Commit, bool]:
    """What `pipeline.cluster.Actors.cell` has done by an actor of a Ray, in this process."""
    del place
    load = partial(load_stage, stage, actors.config.to_json(), "cpu")
    return cell.run(actors.recipes[stage], unit, actors.store, load)


def at_writes(out: Path, what: str, when: int) -> list[str]:
    """Let something happen just before the write to `out` with this number; the writes, as they come."""
    writes: list[str] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if (
            event not in WRITES
            or not str(args[0]).startswith(str(out))
            or (event == "open" and "x" not in str(args[1]))
        ):
            return
        writes.append(f"{event} {' '.join(map(str, args[:2]))}")
        match what:
            case "kill" if len(writes) == when:
                os.kill(os.getpid(), signal.SIGKILL)
            case "full" if len(writes) >= when and event in ("open", "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
            case "gone" if len(writes) == when:
                shutil.rmtree(out, ignore_errors=True)

    sys.addaudithook(hook)
    return writes


def make(shard: Path, out: Path, moment: tuple[str, int] = ("", 0), counted: Path | None = None) -> None:
    """The whole run. `moment`: what happens at which of its writes; `counted` is told how many there were.

    It ends with FAULT after a fault of the storage.
    """
    writes = at_writes(out, *moment)
    batch.WAITS_S = faults.WAITS_S = ()
    cluster.Actors.cell = make_here
    try:
        walk.run(CONFIG, [str(shard)], str(out), Selection(max_objects=OBJECTS))
    except (MachineError, StorageError):  # the second if nothing has been written yet
        raise SystemExit(FAULT) from None
    if counted:
        counted.write_text(str(len(writes)))


def state(out: Path) -> dict[str, list[str]]:
    """What a corpus says, in lines that two corpora have in common if they say the same."""
    commits = [json.loads(path.read_text()) for path in out.glob("cells/*/*/*/commit.json")]
    objects = [row for path in out.glob("objects/**/*.parquet") for row in pq.read_table(path).to_pylist()]
    rejects = [row for path in out.glob("rejects/**/*.parquet") for row in pq.read_table(path).to_pylist()]
    return {
        "cells": sorted(f"{commit['stage']} {commit['unit']} {commit['digest']}" for commit in commits),
        "objects": sorted(str(row) for row in objects),
        "object ids": sorted(row["object_id"] for row in objects),
        "rejects": sorted(f"{row['item_id']} {row['stage']} {row['kind']} {row['reason']}" for row in rejects),
        "files": sorted(path.name for folder in ("objects", "assets") for path in (out / folder).rglob("*.*")),
    }


def ended(process: BaseProcess, seconds: float | None = None) -> int | None:
    """The exit code; None if the process had to be ended after so many seconds."""
    process.join(seconds)
    if process.exitcode is not None:
        return process.exitcode
    process.kill()
    process.join()
    return None


def disturb(shard: Path, out: Path, random: Random, writes: int, seconds: float) -> list[int | None]:
    """One or two processes at once, each with its moment: their exit codes."""
    processes = []
    for _ in range(random.choice((1, 1, 2))):
        what, part = (
            random.choice(("kill", "kill", "kill", "kill", "full", "any time", "any time")),
            random.random() ** 2,
        )
        moment = (what, 1 + int(writes * part))
        process = CONTEXT.Process(target=make, args=(shard, out, moment))
        process.start()
        processes.append((process, time.monotonic() + seconds * part if what == "any time" else None))
    return [ended(process, None if end is None else max(0.0, end - time.monotonic())) for process, end in processes]


def compare(found: Found, ours: dict[str, list[str]], undisturbed: dict[str, list[str]]) -> None:
    """Add to `found` what differs."""
    for kind in ("object ids", "rejects"):
        have, want = Counter(ours[kind]), Counter(undisturbed[kind])
        found.lost += (want - have).total()
        found.doubled += (have - want).total()
    found.different += ours != undisturbed


def attempts_of(out: Path) -> list[int]:
    """How many processes each cell took."""
    return [json.loads(path.read_text())["attempts"] for path in out.glob("cells/*/*/*/commit.json")]


def told(found: Found) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in asdict(found).items())


def soak(kills: int, seed: int, folder: Path, say: Callable[[str], None]) -> Found:
    """Corpora in `folder`, until so many processes have been killed."""
    found = Found()
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # before transformers is imported
    for stage in needed(CONFIG):
        load_stage(stage.name, CONFIG.to_json(), "cpu")
    shard, first = folder / "world.tar", folder / "undisturbed"
    write_world(shard, scenes=2, seed=5, size=128)
    started = time.monotonic()
    process = CONTEXT.Process(target=make, args=(shard, first, ("", 0), folder / "writes"))
    process.start()
    assert ended(process, STUCK_S) == 0
    seconds, writes, undisturbed = time.monotonic() - started, int((folder / "writes").read_text()), state(first)
    say(f"undisturbed: {seconds:.1f} s, {writes} writes, {len(undisturbed['cells'])} cells")
    while found.kills < kills:
        random, out, most = (
            Random(f"{seed}/{found.corpora}"),
            folder / f"{found.corpora:04d}",
            found.kills + KILLS_OF_ONE,
        )
        codes: list[int | None] = []
        while found.kills < min(most, kills) and 0 not in codes:
            codes = disturb(shard, out, random, writes, seconds)
            found.kills += sum(code in (None, -signal.SIGKILL) for code in codes)
            found.faults += codes.count(FAULT)
            found.broken += sum(code not in (None, -signal.SIGKILL, FAULT, 0) for code in codes)
        last = CONTEXT.Process(target=make, args=(shard, out))
        last.start()
        code = ended(last, STUCK_S)
        found.corpora += 1
        if code == 0:
            compare(found, state(out), undisturbed)
            found.isolated += sum(attempts > cell.DEATHS_BEFORE_ISOLATION for attempts in attempts_of(out))
        else:
            found.stuck += 1
        say(f"{out.name}: {told(found)}")
    return found


def main(kills: Annotated[int, typer.Option(min=1)] = 200, seed: int = 0, keep: Path | None = None) -> None:
    """Kill so many processes; `keep` is a folder for the corpora, to look at them afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        found = soak(kills, seed, keep or Path(folder), lambda line: print(line, flush=True))
    print(told(found))
    raise typer.Exit(0 if found.sound else 1)


if __name__ == "__main__":
    typer.run(main)
