"""Actors that make cells of the same stages, and the units that wait for them."""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayActorError

from anything3d.errors import Anything3DError, MachineError
from pipeline import cell
from pipeline.actor import Answer
from pipeline.cell import Recipe
from pipeline.commit import Commit
from pipeline.price import Spending
from pipeline.session import last_words
from pipeline.unit import Unit

MOST_DEATHS = 5  # of actors that are starting, one after the other

Place = tuple[int, ...]  # of a unit among those that wait; the smallest comes first
Made = tuple[Commit, bool]  # the commit of a cell, and whether an actor has made it now


class Entry(NamedTuple):
    """A unit that waits for an actor."""

    place: Place
    number: int  # of the entry; no two are equal
    stage: str
    unit: Unit | None  # None: the actor that takes it has to go
    done: "asyncio.Future[Made | None]"


class Pool:
    """Actors of one stage, or of several. Each has a coroutine that feeds it with one unit after the other."""

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        spending: Spending,
        start: Callable[[str], "ray.actor.ActorHandle"],
        learn: Callable[[Unit, Commit], None],
        changed: asyncio.Event,
    ) -> None:
        """`start` gives a new actor on a node, which comes up when there is room for it; "" is any node.

        `learn` is told of every cell that an actor has made, `changed` when an actor has gone or nothing is left to do.
        """
        self.recipes = recipes
        self.at_work: dict[int, dict[str, Any]] = {}  # cells that are being made
        self.size = 0  # actors that it is to have
        self._spending, self._start, self._learn, self._changed = spending, start, learn, changed
        self._queue: asyncio.PriorityQueue[Entry] = asyncio.PriorityQueue()
        self._count = itertools.count()
        self._most = 0  # units that were here at one time
        self._leaving = 0  # entries without a unit in the queue
        self._starting: dict[asyncio.Task[None], str] = {}  # coroutines whose actor has not come up -> its node
        self._ready: dict[asyncio.Task[None], str] = {}  # the others
        self._deaths = 0  # of actors that were starting, one after the other

    @property
    def ready(self) -> int:
        """Actors that are up."""
        return len(self._ready)

    @property
    def has_work(self) -> bool:
        return bool(self.at_work) or self._queue.qsize() > self._leaving

    def wait_for(self, stage: str, unit: Unit | None, place: Place) -> "asyncio.Future[Made | None]":
        """Put a unit into the queue. None comes back if a limit was reached before an actor had begun with it."""
        entry = Entry(place, next(self._count), stage, unit, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(entry)
        self._most = max(self._most, len(self.at_work) + self._queue.qsize() - self._leaving)
        return entry.done

    def fill(self, size: int, nodes: Counter[str]) -> None:
        """Start actors, or let some go, those first that are still starting.

        `nodes` are those of all actors that the pool is to have. Without GPUs, it never has
        more than there were units at one time.
        """
        size = self.size = min(size, max(1, self._most)) if "" in nodes else size
        for task, node in list(self._starting.items()):
            if self._staying > size or not nodes[node]:
                del self._starting[task]
                task.cancel()
        while self._staying > size:
            self._leaving += 1
            self.wait_for("", None, (-1,))
        free = nodes - Counter(self._starting.values()) - Counter(self._ready.values())
        for node in list(free.elements())[: size - self._staying]:
            self._starting[asyncio.ensure_future(self._feed(node))] = node

    @property
    def _staying(self) -> int:
        return len(self._starting) + len(self._ready) - self._leaving

    def fail(self, error: Exception) -> None:
        """Raise the error where a cell is awaited now."""
        while not self._queue.empty():
            if not (entry := self._queue.get_nowait()).done.done():
                entry.done.set_exception(error)

    async def end(self) -> None:
        """Let all actors go at once."""
        tasks = [*self._starting, *self._ready]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, node: str) -> None:
        """Start an actor, and give it one unit after the other, until it has to go or dies."""
        task, actor, up = asyncio.current_task(), self._start(node), False
        assert task is not None
        try:
            host, pid = await actor.ready.remote()
            self._ready[task], self._deaths, up = self._starting.pop(task), 0, True
            while (entry := await self._queue.get()).unit is not None:
                if self._spending.reached():
                    entry.done.set_result(None)
                elif not entry.done.done():  # else nobody awaits it any more
                    await self._make(entry, entry.unit, actor, host, pid)
            self._leaving -= 1
        except RayActorError as error:  # it is dead; `changed` leads to another one
            self._deaths += not up
            if self._deaths >= MOST_DEATHS:
                says = f"The actors of {', '.join(self.recipes)} die while they start: {last_words(error)}"
                self.fail(MachineError("ray", says))
        except Exception as error:  # noqa: BLE001 - it is raised where a cell is awaited
            self.fail(error)
        finally:
            self._starting.pop(task, None)
            self._ready.pop(task, None)
            self._changed.set()
            if ray.is_initialized():  # else Ray would start another one here
                ray.kill(actor)

    async def _make(self, entry: Entry, unit: Unit, actor: "ray.actor.ActorHandle", host: str, pid: int) -> None:
        """Have the actor make a cell, and tell who awaits it.

        Raises: RayActorError if the actor dies. The unit waits for another one then.
        """
        folder = cell.folder_of(self.recipes[entry.stage], unit)
        where: dict[str, Any] = {"stage": entry.stage, "unit": unit.name, "folder": folder, "host": host, "pid": pid}
        self.at_work[entry.number] = {**where, "items": len(unit.ids), "since": time.time(), "step": 0, "steps": 0}
        try:
            answer: Answer = await actor.make.options(name=entry.stage).remote(entry.stage, unit.to_json())
            for name, level, message in answer.lines:
                logging.getLogger(name).log(level, "%s", message)
            if isinstance(answer.commit, Anything3DError):
                raise answer.commit
            if answer.made:
                self._learn(unit, answer.commit)
            entry.done.set_result((answer.commit, answer.made))
        except RayActorError:
            self._queue.put_nowait(entry)
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the cell is awaited
            entry.done.set_exception(error)
        finally:
            del self.at_work[entry.number]
            if not self.has_work:
                self._changed.set()
