"""A stage in a throw-away process, for items of which one may kill the process or hang. This file does not use Ray."""

import logging
import os
import threading
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from typing import Any, Protocol

from anything3d.errors import Anything3DError, Crashed, MachineError, OutOfMemory
from pipeline import memory
from pipeline.limit import Limit

DEATHS_ALONE = 2  # times that an item has to end its own process, or to be over its time, before it is rejected
LARGE = 0.5  # share of all memory from which an item has taken it from the others
SHORT = 0.1  # share of all memory below which what is free is too little; Ray kills its workers at 0.05
LOOK_S = 0.1  # between two looks at the memory

log = logging.getLogger(__name__)


class Here(Protocol):
    """What is called there; it has to survive pickling. See `pipeline/batch.py`."""

    def __call__(self, ids: Sequence[str], items: Sequence[Any]) -> list[Any] | Anything3DError: ...
    def ready(self) -> int: ...


class Apart:
    """Calls the stage in a process of its own, which serves until it dies, hangs, or its machine fails."""

    def __init__(self, call: Here, limit: Limit) -> None:
        self._call, self._limit = call, limit
        self._pool: ProcessPoolExecutor | None = None
        self._pid = 0
        self._most = 0  # bytes that the process was seen to have during the call
        self._greedy = False  # whether it was killed for that

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def __call__(self, ids: Sequence[str], items: Sequence[Any]) -> list[Any] | Anything3DError:
        names, end = ", ".join(ids), Crashed("process_died", "")
        for _ in range(DEATHS_ALONE if len(ids) == 1 else 1):
            kills, self._most, self._greedy = memory.kills(), 0, False
            outcome = self._ready().submit(self._call, ids, items)
            if not self._limit.keeps(partial(self._comes, outcome), ids):
                end = Crashed("timeout", f"{names}: no outcome within {self._limit.seconds_per_item * len(ids):g} s.")
                self._end()
                continue
            try:
                return outcome.result()
            except BrokenProcessPool:
                log.warning("%s killed the process that worked on it", names)
                end = self._why(names, kills)
                self._end()
            except MachineError:
                self._end()
                raise
            if end.reason == "out_of_memory" and len(ids) == 1 and self._most <= LARGE * memory.room()[0]:
                raise OutOfMemory("out_of_memory", end.message)  # the others have more of it than this item
        return end

    def _comes(self, outcome: futures.Future[Any], seconds: float) -> bool:
        """Whether the outcome comes within so many seconds. A process that takes the memory from all others is killed:
        Ray would kill its workers first, which have done nothing wrong."""
        for _ in range(max(1, round(seconds / LOOK_S))):
            if futures.wait([outcome], min(seconds, LOOK_S)).done:
                return True
            self._most = max(self._most, memory.owned(self._pid))
            total, free = memory.room()
            if self._most > LARGE * total and free < SHORT * total:
                self._greedy = True
                self._kill()
        return False

    def _why(self, names: str, kills: int) -> Crashed:
        """Why the process died. `kills`: those for want of memory before the call."""
        if self._greedy or memory.kills() > kills:
            return Crashed(
                "out_of_memory",
                f"{names}: the memory was short, and the process was killed. It was seen with {self._most / 1e9:.1f} GB"
                f" of {memory.room()[0] / 1e9:.1f} GB.",
            )
        return Crashed("process_died", f"{names} killed the process, in which nothing else was.")

    def _ready(self) -> ProcessPoolExecutor:
        """The process, with the stage loaded."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)
            try:
                self._pid = self._pool.submit(self._call.ready).result()
            except BrokenProcessPool as error:
                self._end()
                raise MachineError("machine", "A process was killed while it loaded its networks.") from error
            except BaseException:
                self._end()
                raise
        return self._pool

    def _end(self) -> None:
        """End the process, whatever it is at."""
        self._kill()
        if self._pool:
            self._pool.shutdown()
        self._pool = None

    def _kill(self) -> None:
        for process in active_children():
            if process.pid == self._pid:
                process.kill()


def _begin() -> None:
    """Let this process die when the one that started it does: a killed process cannot end its children.

    If the memory is short, the system kills this process before any other.
    """
    with suppress(OSError):  # no Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
    parent = parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def wait() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
