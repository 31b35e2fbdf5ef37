"""How long a stage may work on its items. A process that is over its time is killed, as one that dies by itself.

A call that hangs in native code answers nobody, and it may hold Python's lock for ever. So a thread kills the process
from inside, and faulthandler, whose thread needs no lock, ends it LATE_S later if that thread cannot run. A process of
isolated items is killed from outside.
"""

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

TICK_S = 1.0  # a longer time between two looks at the clock is a pause of the machine, and counts as this
LATE_S = 60.0  # for the last words of a process that is over its time

log = logging.getLogger(__name__)
Wait = Callable[[float], bool]  # waits so many seconds at most; whether that which is waited for has come


def _nobody(ids: Sequence[str], seconds: float) -> None:
    """Whom the end of a process is told."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The time of every item, and who is told before a process is killed that has taken more."""

    seconds_per_item: float = 0.0  # 0: no limit
    tell: Callable[[Sequence[str], float], None] = _nobody  # the items, and their time in seconds

    def keeps(self, wait: Wait, ids: Sequence[str]) -> bool:
        """Whether `wait` comes true within the time of these items. If not, it has been told.

        The time in which this process is paused, or its machine sleeps, does not count.
        """
        seconds = left = self.seconds_per_item * len(ids) or float("inf")
        while left > 0:
            before = time.monotonic()
            if wait(min(TICK_S, left)):
                return True
            left -= min(time.monotonic() - before, TICK_S)
        self.tell(ids, seconds)
        return False

    @contextmanager
    def kept_here(self, ids: Sequence[str]) -> Iterator[None]:
        """Kill this process if the block takes longer than these items may."""
        if not self.seconds_per_item:
            yield
            return
        done = threading.Event()
        threading.Thread(target=self._guard, args=(done, ids), daemon=True).start()
        faulthandler.dump_traceback_later(
            self.seconds_per_item * len(ids) + LATE_S, exit=True, file=sys.__stderr__ or 2
        )
        try:
            yield
        finally:
            done.set()
            faulthandler.cancel_dump_traceback_later()

    def _guard(self, done: threading.Event, ids: Sequence[str]) -> None:
        try:
            kept = self.keeps(done.wait, ids)
        except BaseException:
            log.exception("the end of a process that is over its time cannot be told")
            kept = False
        if not kept:
            os.kill(os.getpid(), signal.SIGKILL)
