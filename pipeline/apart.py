"""A stage in a throw-away process, for items of which one may kill the process or hang. This file does not use Ray."""

import logging
import os
import threading
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, connection, get_context, parent_process
from typing import Any, Protocol

from anything3d.errors import Anything3DError, Crashed, MachineError
from pipeline.limit import Limit

DEATHS_ALONE = 2  # times that an item has to end its own process, or to be over its time, before it is rejected

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

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def __call__(self, ids: Sequence[str], items: Sequence[Any]) -> list[Any] | Anything3DError:
        late = False
        for _ in range(DEATHS_ALONE if len(ids) == 1 else 1):
            outcome = self._ready().submit(self._call, ids, items)
            late = not self._limit.keeps(partial(_comes, outcome), ids)
            if late:
                self._end()
                continue
            try:
                return outcome.result()
            except BrokenProcessPool:
                log.warning("%s killed the process that worked on it", ", ".join(ids))
                self._end()
            except MachineError:
                self._end()
                raise
        names = ", ".join(ids)
        if late:
            return Crashed("timeout", f"{names}: no outcome within {self._limit.seconds_per_item * len(ids):g} s.")
        return Crashed("process_died", f"{names} killed the process, in which nothing else was.")

    def _ready(self) -> ProcessPoolExecutor:
        """The process, with the stage loaded."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent)
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
        for process in active_children():
            if process.pid == self._pid:
                process.kill()
        if self._pool:
            self._pool.shutdown()
        self._pool = None


def _comes(outcome: futures.Future[Any], seconds: float) -> bool:
    return bool(futures.wait([outcome], seconds).done)


def _end_with_parent() -> None:
    """Let this process die when the one that started it does: a killed process cannot end its children."""
    parent = parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def wait() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
