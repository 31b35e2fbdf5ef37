"""Ray: the actors of all stages, and the cells that they make. An actor lives as long as the run.

The driver is one loop of asyncio (`conduct.py`). Whoever wants a cell awaits it. Each actor has a coroutine of the
driver, which takes the first waiting unit of the stage, and gives it to the actor. So an actor that has done one unit
begins with the next, whichever shard that is of.

How many actors a stage has is chosen from the cluster (`pools.py`), at the start, when a node comes or goes, and when
it is known how long the stages take. An actor that dies leaves its unit to the others, and another actor is started.
The ledger counts the deaths of a cell, so that `batch.py` finds the item that kills.

Ray is started when the first cell is missing.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from anything3d.errors import ConfigError, MachineError, WeightsError
from pipeline import pools, stages
from pipeline.actor import Load, start, weights_digests
from pipeline.cell import Recipe
from pipeline.commit import Commit
from pipeline.config import Config, Workers
from pipeline.measured import Measured
from pipeline.metrics import Metrics
from pipeline.pool import Made, Place, Pool
from pipeline.pools import SHARED, Node
from pipeline.price import Spending, spent
from pipeline.progress import SILENT_S, Board, Progress
from pipeline.release.partition import Tally
from pipeline.session import check_alive, connect, nodes_now
from pipeline.store import Store
from pipeline.unit import Unit

POLL_S = 1.0  # between two looks at the board, and between two looks at the nodes
CHOOSE_S = 30.0  # between two looks whether other numbers of actors are faster, when all stages have been measured


class Actors:
    """The actors of a run. `cell` has a cell made by one of them."""

    def __init__(
        self,
        config: Config,
        recipes: Mapping[str, Recipe],
        store: Store,
        progress: Progress,
        spending: Spending,
        measured: Measured,
        *,
        load: Load = stages.load,
        one_stage_at_a_time: bool = False,
    ) -> None:
        """`measured` is what earlier runs have measured. `load` makes a stage, in the actor."""
        self.config, self.recipes, self.store = config, recipes, store
        self._progress, self._spending, self._load = progress, spending, load
        self._alone, self._measured = one_stage_at_a_time, measured
        self._pool_of: dict[str, str] = {}  # stage -> name of its pool; known when Ray runs
        self._pools: dict[str, Pool] = {}
        self._nodes: Sequence[Node] = ()
        self._until = 0.0  # when it is to be seen whether other numbers of actors are faster
        self._on_gpus = False  # whether the cluster has had GPUs
        self._sizes: dict[str, int] = {}
        self._ask: Future[None] = Future()  # that Ray be started; done when it runs
        self._asked = threading.Event()
        self._board: Any = None
        self._metrics = Metrics(store.root, spending.currency)
        self._fitting: asyncio.Task[None] | None = None
        self._refit = asyncio.Event()
        self._broken: Exception | None = None  # why no actor can be started any more

    # what the main thread does

    @property
    def running(self) -> bool:
        """Whether Ray runs."""
        return self._board is not None

    def watch(self) -> None:
        """Start Ray if it is wanted, log what actors say, show how far the run is, and see whether Ray lives.

        Raises: MachineError if Ray does not start, or has died; ConfigError if there is no such cluster.
        """
        if self._asked.is_set() and self._board is None:
            connect()
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()  # no lost node takes it
            own = {stage: getattr(self.config.resources, stage) for stage in self.recipes}
            self._pool_of = {stage: stage for stage in own} if self._alone else pools.pooled(own, nodes_now())
            self._ask.set_result(None)
        check_alive()
        open_now = list(self._pools.values())
        at_work = [one for pool in open_now for one in list(pool.at_work.values())]
        if self._board is not None:
            lines, steps = ray.get(self._board.read.remote(), timeout=SILENT_S)
            for name, level, message in lines:
                logging.getLogger(name).log(level, "%s", message)
            for one in at_work:
                one.update(steps.get(one["folder"], {}))
        lanes = {tuple(pool.recipes): pool.size for pool in open_now}
        if self._alone:  # one stage after the other
            lanes = {tuple(self.recipes): max(lanes.values(), default=1)}
        per_item = self._measured.seconds_per_item()
        if now := self._progress.show(at_work, self._spending, lanes, per_item):
            self._metrics.look(now, per_item, self._pools.copy())

    # what the loop does

    async def connected(self) -> None:
        """Return when Ray runs. The main thread starts it, as the signals are handled there."""
        self._asked.set()
        await asyncio.shield(asyncio.wrap_future(self._ask))

    def count(self, stage: str) -> int:
        """Actors of the stage; 1 before they are started."""
        return max(1, self._sizes.get(self._pool_of.get(stage, stage), 1))

    async def cell(self, stage: str, unit: Unit, place: Place) -> Made | None:
        """The commit of the stage's cell of `unit`, and whether an actor has made it now.

        None: a limit was reached before the cell was begun.

        Raises: what a stage raises for the whole run (`batch.ENDING`); MachineError if its actors do not start.
        """
        if self._spending.reached():
            return None
        await self.connected()
        if self._broken:
            raise self._broken
        self._open(stage)
        done = self._pools[self._pool_of[stage]].wait_for(stage, unit, place)
        if self._alone:
            self._refit.set()
        return await done

    async def end(self) -> None:
        """Let all actors go."""
        if self._fitting:
            self._fitting.cancel()
        await asyncio.gather(*(pool.end() for pool in self._pools.values()))

    def _open(self, stage: str) -> None:
        """Open the pool of a stage, and those of the stages after it: a unit that lacks this cell lacks theirs, too."""
        if self._pool_of[stage] in self._pools:
            return
        names = list(self.recipes)
        for pool in [self._pool_of[name] for name in names[names.index(stage) :]]:
            if pool not in self._pools:
                served = {name: self.recipes[name] for name in names if self._pool_of[name] == pool}
                for name in served:
                    self._check_weights(name)
                self._pools[pool] = Pool(served, self._spending, partial(self._start, pool), self._learn, self._refit)
        self._progress.begin()
        self._refit.set()
        if self._fitting is None:
            self._fitting = asyncio.ensure_future(self._fit())

    def _check_weights(self, stage: str) -> None:
        if stages.recipes(self.config)[stage].fingerprint != self.recipes[stage].fingerprint:
            named = ", ".join(weights_digests(stage, self.config))
            raise WeightsError(
                "weights_differ",
                f"Files of {named} were written since the run began. Give the same command again.",
            )

    async def _fit(self) -> None:
        """Keep as many actors of each stage as suit the cluster, when nodes come and go, and as times are measured."""
        try:
            while True:
                self._refit.clear()
                if nodes := await asyncio.to_thread(nodes_now):
                    self._resize(nodes)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._refit.wait(), POLL_S)
        except Exception as error:  # noqa: BLE001 - it is raised where a cell is awaited
            self._broken = error
            for pool in self._pools.values():
                pool.fail(error)

    def _resize(self, nodes: Sequence[Node]) -> None:
        """Start actors, or let some go."""
        open_now = self._one_alone() if self._alone else list(self._pools)
        wanted = {name: self._wanted(name) for name in open_now}
        if self._sizes.keys() != wanted.keys() or self._nodes != nodes or time.monotonic() > self._until:
            self._choose(wanted, nodes)
            known = self._seconds().keys() >= wanted.keys()
            self._until = time.monotonic() + (CHOOSE_S if known else 0.0)
        where = pools.placed(wanted, self._nodes, self._sizes)
        # Large shares first: they leave room for small ones, and not the other way round.
        for name in sorted(self._pools, key=lambda name: -self._wanted(name).num_gpus):
            self._pools[name].fill(self._sizes.get(name, 0), Counter(where.get(name, ())))

    def _wanted(self, pool: str) -> Workers:
        return pools.together([getattr(self.config.resources, stage) for stage in self._pools[pool].recipes])

    def _seconds(self) -> dict[str, float]:
        """What an object costs in each pool of which all stages have been measured."""
        known = self._measured.seconds_per_object()
        served = {name: pool.recipes.keys() for name, pool in self._pools.items()}
        return {name: sum(known[stage] for stage in own) for name, own in served.items() if own <= known.keys()}

    def _choose(self, wanted: Mapping[str, Workers], nodes: Sequence[Node]) -> None:
        """Choose how many actors each stage has, and say it. Without enough nodes, a run that is at work waits."""
        times = self._seconds()
        if not self._sizes and not self._spending.spent.seconds and not any(node.gpus >= 1 for node in nodes):
            self._spending.check_without_gpus(self.config.price)
        if SHARED in wanted and any(pools.on_cluster(wanted, nodes)[name].num_gpus for name in wanted):
            raise MachineError("ray", "A node with a GPU has come up, and the actors were chosen without.")
        try:
            if self._on_gpus and not any(node.gpus for node in nodes):
                raise ConfigError("gpus", "The nodes with GPUs have gone.")
            sizes = pools.sizes(wanted, nodes, times)
        except ConfigError as error:
            if not self._sizes:
                raise
            self._progress.remark(f"{error} The run waits for nodes.")
            return
        same = self._nodes == nodes
        if self._sizes.keys() != sizes.keys() or pools.worth(self._sizes, sizes, times, same_nodes=same):
            self._sizes = sizes
            if sizes:
                self._progress.tell(pools.described(sizes, wanted, nodes))
        self._nodes, self._on_gpus = nodes, any(node.gpus for node in nodes)

    def _one_alone(self) -> list[str]:
        """The one stage that has actors now: that of before, as long as it has work, or else the first that has any."""
        busy = [name for name, pool in self._pools.items() if pool.has_work]
        first = [name for name in self.recipes if name in busy]
        return [name for name in busy if self._pools[name].size][:1] or first[:1]

    def _start(self, pool: str, node: str) -> "ray.actor.ActorHandle":
        """A new actor on a node, which comes up when there is room for it; "" is any node."""
        served, wanted = self._pools[pool].recipes, self._wanted(pool)
        own = pools.on_cluster({pool: wanted}, self._nodes)[pool]
        for stage in served:
            if getattr(self.config.resources, stage).num_gpus and not own.num_gpus:
                self._progress.remark(f"no node with a GPU is up: {stage} runs on the CPU")
        return start(pool, served, self.config, own, node, self.store.root, self._board, self._load)

    def _learn(self, unit: Unit, commit: Commit) -> None:
        """An actor has made a cell."""
        took = spent(commit.stage, commit.seconds, commit.gpu_seconds, self.config)
        self._spending.spent += took
        self._metrics.made(len(unit.ids), commit, took)
        self._measured.learn(commit.stage, Tally.of([commit]))
