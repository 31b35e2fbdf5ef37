"""The loop of a run: it has a thread of its own, and the main thread watches Ray meanwhile.

A thread that waits for Ray may wait for ever. The signals are handled in the main thread.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from ray.exceptions import RayError, RayTaskError

from anything3d.errors import MachineError
from pipeline.cluster import POLL_S, Actors
from pipeline.session import check_alive, last_words

SOON_S = 0.05  # between two looks, as long as Ray has not been started
LEAVE_S = 5.0  # for the loop to end, after the run has failed
THREADS = 16  # that wait for the storage

T = TypeVar("T")


def conduct(actors: Actors, main: Callable[[Actors], Awaitable[T]]) -> T:
    """What `main` gives. It runs in a loop in a thread of its own, while this thread watches Ray.

    Raises: what `main` raises; MachineError if Ray fails; ray's error for a bug, with its traceback.
    """
    ended: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    started: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()  # what stops the loop

    async def through() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.set_default_executor(ThreadPoolExecutor(THREADS))
        started.put(lambda: loop.call_soon_threadsafe(task.cancel))
        try:
            ended.put((await main(actors), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            ended.put((None, error))
        finally:
            await actors.end()

    thread = threading.Thread(target=lambda: asyncio.run(through()), daemon=True)
    thread.start()
    stop = started.get()
    try:
        while True:
            actors.watch()
            with suppress(queue.Empty):
                outcome, error = ended.get(timeout=POLL_S if actors.running else SOON_S)
                with suppress(MachineError, RayError):  # all has been done, or there is a better reason
                    actors.watch()
                if error is not None:
                    raise error
                return outcome
    except RayTaskError:
        raise  # a bug, with its traceback
    except RayError as error:
        check_alive()  # if a process of Ray has died, that is the reason
        raise MachineError("ray", f"Ray failed: {last_words(error)} Give the same command again.") from error
    finally:
        with suppress(RuntimeError):  # the loop has ended
            stop()
        thread.join(LEAVE_S)
