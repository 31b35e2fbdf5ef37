"""The files of shards, written by tasks of Ray: one task for each tar, and one for the rest of a shard.

The actors may hold all CPUs of the cluster until the run ends. So these tasks ask Ray for none, and PER_NODE bounds how
many are at work. The driver handles names only. The rows of a tar go from its task to the task of its shard. A small
shard, with one tar, is written by the driver itself: it costs less than a process.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

import ray
from obstore.exceptions import BaseError
from ray.exceptions import GetTimeoutError, RayError

from anything3d.errors import Anything3DError, MachineError
from pipeline import batch, memory
from pipeline.release.partition import Partition
from pipeline.release.publish import Group, Made, publish_here, write_group, write_shard
from pipeline.session import check_alive, last_words, nodes_now
from pipeline.store import Store

POLL_S = 1.0  # between two looks whether Ray lives
PER_NODE = 2  # tars of one shard that are written at once, for each node of the cluster
Written = Partition | tuple[str, ...]  # see write_shard


def is_wide(made: Made) -> bool:
    """Whether a shard has more than one tar. Then `publish` needs Ray, which has to run."""
    return len(list(islice(made.groups(), 2))) > 1


def publish(store: Store, made: Made, say: Callable[[str], None]) -> Written:
    """The partition of a shard, with all of its files written.

    Raises: DamagedCell; MachineError if Ray or the storage fails.
    """
    groups = list(made.groups())
    if len(groups) <= 1:
        try:
            return publish_here(store, made)
        finally:
            memory.give_back()
    say(f"writing {len(groups)} tars of {made.shard.name}")
    at_once, tars, at_work = PER_NODE * max(len(nodes_now()), 1), list[ray.ObjectRef](), list[ray.ObjectRef]()
    for units in groups:
        if len(at_work) >= at_once:
            at_work = _one_less(at_work)
        tars.append(_task(_write_group).remote(store, made.made_by, units, made.read_by(units)))
        at_work.append(tars[-1])
    written = _wait(_task(_write_shard).remote(store, made, *tars))
    if isinstance(written, Anything3DError):
        raise written
    return written


def _task(write: Callable[..., Any]) -> Any:  # noqa: ANN401 - Ray's class of it is not public
    return ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(write)


def _one_less(tasks: "list[ray.ObjectRef]") -> "list[ray.ObjectRef]":
    """Those of these tasks that are not done, when one more has ended."""
    while True:
        check_alive()
        done, left = ray.wait(tasks, timeout=POLL_S)
        if done:
            return list(left)


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


def _wait(ref: "ray.ObjectRef") -> Written | Anything3DError:
    """What the task gives. Ray may never answer, so its death is looked for meanwhile."""
    while True:
        check_alive()
        try:
            return ray.get(ref, timeout=POLL_S)
        except GetTimeoutError:
            continue
        except RayError as error:
            raise MachineError("ray", f"Ray failed: {last_words(error)} Give the same command again.") from error
