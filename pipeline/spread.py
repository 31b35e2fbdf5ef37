"""The files of shards, written by tasks of Ray: one task for each tar, and one for the rest of a shard.

The driver handles names only. The rows of a tar go from its task to the task of its shard. A wave of small shards, each
with one tar, is written by the driver itself: it costs less than a process.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from obstore.exceptions import BaseError
from ray.exceptions import RayError

from anything3d.errors import Anything3DError, MachineError
from pipeline import batch
from pipeline.release.partition import Partition
from pipeline.release.publish import Group, Made, publish_here, write_group, write_shard
from pipeline.session import check_alive, connect, last_words
from pipeline.store import Store

POLL_S = 1.0  # between two looks whether Ray lives
Written = Partition | tuple[str, ...]  # see write_shard


def publish(store: Store, shards: Sequence[Made], say: Callable[[str], None]) -> list[Written]:
    """The partitions of these shards, with all of their files written.

    Raises: DamagedCell; MachineError if Ray or the storage fails.
    """
    groups = [list(made.groups()) for made in shards]
    if all(len(some) <= 1 for some in groups):
        return [publish_here(store, made) for made in shards]
    say(f"writing {sum(map(len, groups))} tars of {len(shards)} shards")
    connect()
    tar, rest = ray.remote(num_cpus=0.5)(_write_group), ray.remote(num_cpus=0.5)(_write_shard)
    refs = [
        rest.remote(store, made, *[tar.remote(store, made.made_by, units) for units in some])
        for made, some in zip(shards, groups, strict=True)
    ]
    written: list[Written] = []
    for outcome in _wait(refs):
        if isinstance(outcome, Anything3DError):
            raise outcome
        written.append(outcome)
    return written


def _write_group(*arguments: Any) -> Group | Anything3DError:  # noqa: ANN401 - those of write_group
    return _said(write_group, *arguments)


def _write_shard(store: Store, made: Made, *groups: Group | Anything3DError) -> Written | Anything3DError:
    if error := next((group for group in groups if isinstance(group, Anything3DError)), None):
        return error
    return _said(write_shard, store, made, groups)


def _said(write: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - what `write` gives
    """What `write` gives, or the error that it raises: Ray gives on what is returned, and of an exception its text."""
    try:
        return write(*arguments)
    except Anything3DError as error:
        return error
    except (BaseError, OSError) as error:
        return batch.machine_fault(error) or MachineError("storage_failed", str(error)[:300])


def _wait(refs: Sequence["ray.ObjectRef"]) -> list[Any]:
    """What the tasks give. A thread waits for them, as Ray may never answer; this one sees whether Ray has died."""
    ended: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def get() -> None:
        try:
            ended.put(ray.get(list(refs)))
        except Exception as error:  # noqa: BLE001 - it is raised below
            ended.put(error)

    threading.Thread(target=get, daemon=True).start()
    while True:
        check_alive()
        with suppress(queue.Empty):
            outcome = ended.get(timeout=POLL_S)
            if isinstance(outcome, RayError):
                raise MachineError(
                    "ray", f"Ray failed: {last_words(outcome)} Give the same command again."
                ) from outcome
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
