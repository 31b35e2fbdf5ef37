"""What the engine costs beside the algorithms: runs of growing size whose stages do nothing (`pipeline/nothing.py`).

Every size is measured three times, each time by a new process, so that one peak of memory does not hide another:

    run       a new corpus
    finished  the same command again, when nothing is to be done
    publish   the same command again, when every cell is there and nothing is published

The stages do nothing. The actors, cells, commits, the storage, the snapshots and the publishing are those of every run.
"""

import math
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import psutil

from anything3d.errors import Bug, ConfigError, MachineError
from pipeline import nothing
from pipeline.config import Config
from pipeline.plan import Selection
from pipeline.run import run
from pipeline.stages import LAST
from pipeline.store import Store

LOOK_S = 0.5  # between two looks at the processes
LOOKS_PER_WEIGHING = 10  # a process is weighed rarely, as that takes milliseconds
MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `pipeline.run.run`, by a process of its own, which is the driver of the run."""

    began: float  # seconds since 1970
    seconds: float  # of the call alone, without the imports
    cells_run: int
    driver_cpu_s: float  # seconds of CPU of the driver, during the call
    all_cpu_s: float  # the same, with all processes that the driver has started; each may lack its last LOOK_S
    driver_before_mb: float  # peak of the driver's memory before the call: what its imports take
    driver_peak_mb: float  # peak of the driver's memory, of all that it did
    largest_mb: float  # most memory that one process was seen with, the driver or another one
    all_mb: float  # most memory that all of them together were seen with; what they share counts once

    @property
    def added_mb(self) -> float:
        """What the call adds to the memory that the imports take."""
        return self.driver_peak_mb - self.driver_before_mb


@dataclass(frozen=True, slots=True)
class Size:
    """The engine on a corpus of one size."""

    units: int  # cells of the last stage
    shards: int
    objects: int
    cells: int
    load_before: float  # processes that wanted a CPU of this machine in the minute before
    run: Call
    first_s: float  # seconds of the run until its first object was done: the start of Ray and of all actors
    cell_s: float  # seconds from then to the last cell, by the cells in between; 0: the storage's clock is too coarse
    files_per_cell: float
    bytes_per_cell: float
    finished: Call
    publish: Call


@dataclass(frozen=True, slots=True)
class Growth:
    """How a figure grows with the number of units, over all sizes."""

    exponent: float | None  # 1: twice the units take twice as much; None: not two different sizes, or one took nothing
    per_unit: float | None  # how much one more unit adds; None: not two different sizes


@dataclass(frozen=True, slots=True)
class Bench:
    """All sizes, and how the figures grow with them."""

    cpus: int
    settings: Mapping[str, int]
    sizes: Sequence[Size]
    growth: Mapping[str, Growth]


GROWING: Mapping[str, Callable[[Size], float]] = {
    "run_s": lambda size: size.run.seconds,
    "cells_s": lambda size: size.cell_s * size.cells,
    "run_cpu_s": lambda size: size.run.all_cpu_s,
    "driver_added_mb": lambda size: size.run.added_mb,
    "finished_s": lambda size: size.finished.seconds,
    "publish_s": lambda size: size.publish.seconds,
}


def silent(line: str) -> None:
    """Whom nothing is to be told."""


def bench(
    config: Config, sizes: Sequence[int], per_shard: int, root: str, say: Callable[[str], None] = silent
) -> Iterator[Bench]:
    """Measure every size, in units of `config.units.objects` objects, of which a shard has at most `per_shard`.

    After each size, the figures of all sizes so far are given. The shards and the corpora are written to
    `root`/units-<size>, and stay there. `say` has to survive pickling.

    Raises: ConfigError if something lies there already; what a run raises.
    """
    settings = {"units.objects": config.units.objects, "units.images": config.units.images, "per_shard": per_shard}
    measured: list[Size] = []
    for units in sizes:
        say(f"{units} units")
        measured.append(measure(config, units, per_shard, f"{root.rstrip('/')}/units-{units}", say))
        done = [size.units for size in measured]
        growth = {name: grow(done, list(map(of, measured))) for name, of in GROWING.items()}
        yield Bench(os.cpu_count() or 1, settings, tuple(measured), growth)


def measure(config: Config, units: int, per_shard: int, place: str, say: Callable[[str], None]) -> Size:
    """One size, in the empty folder `place`."""
    if there := Store(place).some():
        raise ConfigError("place_in_use", f"{place} is not empty: it has {there[0]}. Give a new folder as --corpus.")
    store, per_unit = Store(f"{place}/corpus"), config.units.objects / nothing.OBJECTS_PER_PHOTO  # photos
    photos = math.ceil(units * per_unit)
    shards = nothing.write_shards(f"{place}/shards", photos, math.ceil(per_shard * per_unit))
    load_before = os.getloadavg()[0]
    made = called(config, shards, store.root, say)
    cells = list(store.listing("cells"))
    commits = {path: entry.modified.timestamp() for path, entry in cells if path.endswith("/commit.json")}
    last = [end for path, end in commits.items() if path.startswith(f"cells/{LAST[0]}/")]
    ends, first = commits.values(), min(last)
    say(f"finished after {made.seconds:.0f} s; the same command again")
    finished = called(config, shards, store.root)
    store.delete([path for path in store.paths("") if not path.startswith("cells/")])
    say("published again from the cells")
    publish = called(config, shards, store.root)
    if made.cells_run != len(commits) or finished.cells_run or publish.cells_run:
        raise Bug(
            "not_balanced",
            f"{store.root} has {len(commits)} cells. The runs made {made.cells_run}, {finished.cells_run} and"
            f" {publish.cells_run}.",
        )
    return Size(
        units=len(last),
        shards=len(shards),
        objects=photos * nothing.OBJECTS_PER_PHOTO,
        cells=len(commits),
        load_before=load_before,
        run=made,
        first_s=first - made.began,
        cell_s=(max(ends) - first) / after if (after := sum(end > first for end in ends)) else 0.0,
        files_per_cell=len(cells) / len(commits),
        bytes_per_cell=sum(entry.bytes for _, entry in cells) / len(commits),
        finished=finished,
        publish=publish,
    )


def grow(units: Sequence[int], values: Sequence[float]) -> Growth:
    """The slope of log `values` on log `units`, and that of `values` on `units`; least squares."""
    if len(set(units)) < 2:
        return Growth(None, None)
    exponent = slope([math.log(n) for n in units], [math.log(value) for value in values]) if min(values) > 0 else None
    return Growth(exponent, slope(units, values))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the straight line through these points, by least squares."""
    return statistics.linear_regression(x, y).slope


def called(config: Config, shards: Sequence[str], out: str, say: Callable[[str], None] = silent) -> Call:
    """A call of `run` in a new process, whose processes are looked at meanwhile.

    Raises: what the call raises; MachineError if the process is killed.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            tree = Tree(psutil.Process(pool.submit(os.getpid).result()))
            made = pool.submit(_run, config.to_json(), shards, out, say)
            before = tree.cpu_s()
            while not wait([made], LOOK_S).done:
                tree.look()
            tree.look()
            call = made.result()
        except BrokenProcessPool as error:
            raise MachineError("machine", "The process of a run was killed.") from error
    return replace(call, all_cpu_s=tree.cpu_s() - before, largest_mb=tree.largest_mb, all_mb=tree.all_mb)


class Tree:
    """A process with all that it has started: their CPU time, and the most memory that they were seen with."""

    def __init__(self, root: psutil.Process) -> None:
        self._root, self._looks = root, 0
        self._cpu_s: dict[psutil.Process, float] = {}  # also of those that have ended
        self.largest_mb = self.all_mb = 0.0
        self.look()

    def cpu_s(self) -> float:
        """Seconds of CPU of all processes, as they were last seen."""
        return sum(self._cpu_s.values())

    def look(self) -> None:
        """See what each process has used so far. A process that ends meanwhile is left as it was."""
        early = self._looks < LOOKS_PER_WEIGHING  # a short run would not be weighed again
        weigh, together = early or self._looks % LOOKS_PER_WEIGHING == 0, 0.0
        self._looks += 1
        processes = [self._root]
        with suppress(psutil.NoSuchProcess):
            processes += self._root.children(recursive=True)
        for process in processes:
            with suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                self._cpu_s[process] = times.user + times.system
                self.largest_mb = max(self.largest_mb, process.memory_info().rss / MB)
                if weigh:
                    together += process.memory_full_info().pss / MB
        self.all_mb = max(self.all_mb, together)


def _run(config: str, shards: Sequence[str], out: str, say: Callable[[str], None]) -> Call:
    """Call `run` here. What others see of it is 0."""
    chosen, before = Config.from_json(config), _peak_mb()
    began, started, cpu = time.time(), time.monotonic(), time.process_time()
    report = run(chosen, shards, out, Selection(), load=nothing.load, say=say)
    if report.lost or report.snapshot is None:
        raise Bug("not_balanced", f"{out}: {len(report.lost)} objects are neither done nor rejected.")
    return Call(
        began=began,
        seconds=time.monotonic() - started,
        cells_run=report.cells_run,
        driver_cpu_s=time.process_time() - cpu,
        all_cpu_s=0.0,
        driver_before_mb=before,
        driver_peak_mb=_peak_mb(),
        largest_mb=0.0,
        all_mb=0.0,
    )


def _peak_mb() -> float:
    """The most memory that this process has had so far, in MB, as Linux knows it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _end_with_parent() -> None:
    """Let this process end when its parent does, with its Ray. Ctrl-C is the parent's: it ends this one, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        if session := sys.modules.get("pipeline.session"):
            session.abandon()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
