"""The outcomes of a batch of items, whatever happens while they are computed. This file does not use Ray.

The rows of an item do not depend on a neighbour that fails, and not on how often a process was killed. When a batch
raises an error or dies, every item is tried alone, to find the items that cause it. A batch that is over its time is
killed, and so dies. The other items are then computed together. So the same failing items lead to the same batches: in
this process or another one, at the first attempt or after a kill.

A fault of the machine (memory, storage, network, device, operating system) says nothing about an item. The call is
tried again, and if the fault stays, it ends the run.
"""

import gc
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from obstore.exceptions import BaseError

from anything3d.errors import (
    Anything3DError,
    Bug,
    ConfigError,
    DeviceLost,
    MachineError,
    OutOfMemory,
    SourceError,
    StorageError,
    WeightsError,
)
from pipeline.apart import Apart
from pipeline.limit import Limit
from pipeline.unit import Unit

WAITS_S = (1.0, 4.0)  # before a call is tried again after a fault of the machine
FAULT = "machine"  # reason of a fault that may pass while this process lives
NO_LIMIT = Limit()
OUT_OF_MEMORY = re.compile(
    r"out of memory|allocate memory|not enough memory|std::bad_alloc|ALLOC_FAILED", re.IGNORECASE
)
DEVICE = re.compile(
    r"\b(CUDA|cuDNN|CUBLAS|CUSOLVER|CUSPARSE|CUFFT|NCCL|HIP|NVML)\b.*error|CU[A-Z]+_STATUS_|"
    r"No CUDA GPUs are available|NVIDIA driver|CUDA driver|CUDA-capable|unable to find an engine",
    re.IGNORECASE,
)
SYSTEM = re.compile(
    r"start new thread|too many open files|no space left|failed writing|input/output error|stale file handle|"
    r"resource temporarily unavailable|\(os error \d+\)",
    re.IGNORECASE,
)
OF_THE_ITEM = (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, AttributeError)  # whatever they say

log = logging.getLogger(__name__)
Outcome = list[Any] | Anything3DError  # of one item: its rows (RejectRecords of its parts among them), or why not


class Checkpoint(Protocol):
    """Inner state of one long call; lives until the cell commits. `at` is told which step the call has done."""

    def load(self) -> bytes | None: ...
    def save(self, state: bytes) -> None: ...
    def at(self, step: int, steps: int) -> None: ...


class LoadedStage(Protocol):
    """All that a batch needs of a stage. `pipeline.stages.Stage` is the whole contract."""

    def __call__(self, items: Sequence[Any], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]: ...


class NoCheckpoint:
    """For a call whose inner state nobody keeps, and whose steps nobody counts."""

    def load(self) -> bytes | None:
        return None

    def save(self, state: bytes) -> None:
        del state

    def at(self, step: int, steps: int) -> None:
        del step, steps


ENDING = (ConfigError, SourceError, StorageError, WeightsError, MachineError, Bug)  # ends the run; no item's outcome
Loader = Callable[[], LoadedStage]  # loads it on the first call: a cell that exists must not cost a model
Checkpoints = Callable[[Sequence[str]], Checkpoint]  # of the batch with these ids
# The outcomes of these items; or why the call raised or died, which is the outcome of its item if it had only one.
Call = Callable[[Sequence[str], Sequence[Any]], list[Outcome] | Anything3DError]


def compute(
    load: Loader,
    ids: Sequence[str],
    items: Sequence[Any],
    unit: Unit,
    checkpoints: Checkpoints,
    *,
    apart: bool,
    limit: Limit = NO_LIMIT,
) -> tuple[list[Outcome], list[int]]:
    """The outcomes of all items, and how often each was tried. `apart`: in throw-away processes, not in this one.

    A call in this process that is over its time ends this process.

    Raises: what ends the run, see ENDING.
    """
    if not items:
        return [], []
    if not apart:
        return _settle(
            lambda some, their: _persistent(_Here(load, unit, checkpoints, limit), some, their), unit, ids, items
        )
    if isinstance(load, partial) and hasattr(load.func, "cache_clear"):  # the networks here make room for those there
        load.func.cache_clear()
        release_memory()
    with Apart(_Here(load, unit, checkpoints, NO_LIMIT), limit) as process:
        return _settle(lambda some, their: _persistent(process, some, their), unit, ids, items)


def _settle(call: Call, unit: Unit, ids: Sequence[str], items: Sequence[Any]) -> tuple[list[Outcome], list[int]]:
    at_once = call(ids, items)
    if isinstance(at_once, list):
        return at_once, [1] * len(ids)
    if len(ids) == 1:
        return [at_once], [1]
    log.warning("%s: the batch failed. Its items are tried one by one.\n%s", unit.name, at_once)
    alone = [call([name], [item]) for name, item in zip(ids, items, strict=True)]
    innocent = [index for index, outcome in enumerate(alone) if isinstance(outcome, list)]
    outcomes = [outcome[0] if isinstance(outcome, list) else outcome for outcome in alone]
    if len(innocent) > 1:  # perhaps all of them: a passing trouble, as a process that the system killed
        together = call([ids[index] for index in innocent], [items[index] for index in innocent])
        if isinstance(together, list):
            for index, outcome in zip(innocent, together, strict=True):
                outcomes[index] = outcome
        else:  # nobody alone does it: each keeps the outcome that it had alone
            log.warning("%s: the other items failed together, too.\n%s", unit.name, together)
    return outcomes, [2] * len(ids)


def _persistent(call: Call, ids: Sequence[str], items: Sequence[Any]) -> list[Outcome] | Anything3DError:
    """What `call` says, tried again after faults of the machine, with half of the items after it ran out of memory.

    Raises: as `call`; the fault, when it does not pass.
    """
    waits = iter(WAITS_S)
    while True:
        try:
            return call(ids, items)
        except OutOfMemory as error:
            release_memory()
            half = len(ids) // 2
            if half:
                log.warning("%s The memory does not suffice for %d items at once. Trying %d.", error, len(ids), half)
                first = _persistent(call, ids[:half], items[:half])
                if not isinstance(first, list):
                    return first
                second = _persistent(call, ids[half:], items[half:])
                return first + second if isinstance(second, list) else second
            fault: MachineError = error
        except DeviceLost as error:
            if not isinstance(call, Apart):  # nothing in this process can use the device any more
                raise
            fault = error
        except MachineError as error:
            if error.reason != FAULT:
                raise
            fault = error
        if (wait := next(waits, None)) is None:
            raise fault
        log.warning("%s; trying again in %.0f s", fault, wait)
        time.sleep(wait)


class _Here:
    """Calls the stage in this process."""

    def __init__(self, load: Loader, unit: Unit, checkpoints: Checkpoints, limit: Limit) -> None:
        self._load, self._unit, self._checkpoints, self._limit = load, unit, checkpoints, limit

    def __call__(self, ids: Sequence[str], items: Sequence[Any]) -> list[Outcome] | Anything3DError:
        stage = self.loaded()
        try:
            with self._limit.kept_here(ids):
                return stage(items, self._unit, self._checkpoints(ids))
        except ENDING:
            raise
        except Anything3DError as error:
            return error
        except Exception as error:
            if fault := machine_fault(error):
                raise fault from error
            return Bug("unexpected", _traceback())

    def loaded(self) -> LoadedStage:
        """The stage. What goes wrong while it loads is no item's fault."""
        try:
            return self._load()
        except Exception as error:
            if not isinstance(error, Anything3DError) and (fault := machine_fault(error)):
                raise fault from error
            raise

    def ready(self) -> int:
        """Load the stage in this process; the number of the process."""
        self.loaded()
        return os.getpid()


def machine_fault(error: BaseException) -> MachineError | None:
    """What the machine has to do with an exception; None if it is the item's or the code's.

    torch's classes are known by their names, as this file does not import it.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return OutOfMemory("out_of_memory", said)
    if "AcceleratorError" in names:
        return DeviceLost("device_lost", said)
    if isinstance(error, OF_THE_ITEM) or type(error).__module__.startswith("PIL"):  # Pillow's OSErrors are of pictures
        return None
    if OUT_OF_MEMORY.search(str(error)):
        return OutOfMemory("out_of_memory", said)
    if DEVICE.search(str(error)):
        return DeviceLost("device_lost", said)
    if isinstance(error, BaseError | ImportError | OSError) or SYSTEM.search(str(error)):
        return MachineError(FAULT, said)
    return None


def release_memory() -> None:
    """Give back what this process keeps in reserve."""
    gc.collect()
    if "torch" in sys.modules:
        from anything3d.models.device import release_memory as release

        release()


def _traceback() -> str:
    return traceback.format_exc(limit=-4).strip()[-2000:]
