"""Ray: a check that the actors fit, and one stream of units through a chain of stage actors.

This file avoids four faults that we have met:
- Pools have a fixed size, because Ray Data adds actors one by one.
- Ray restarts a dead actor and retries its unit without end. So `batch.py` finds the item that kills, after the number
  of deaths that the ledger gives.
- No errored block is allowed, because Ray would drop its rows and report nothing.
- A thread that waits for Ray may wait for ever. So the stream has a thread of its own, and the driver's thread watches.
"""

import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError, RayTaskError

from anything3d.errors import Anything3DError, ConfigError, MachineError, WeightsError
from anything3d.models.weights import digest
from pipeline import cell
from pipeline.cell import Recipe
from pipeline.config import Config, Workers
from pipeline.price import Spending, Spent, spent
from pipeline.progress import Board, Progress
from pipeline.session import check_alive, connect, last_words
from pipeline.stages import BY_NAME, load
from pipeline.stages import recipes as recipes_now
from pipeline.store import Store
from pipeline.unit import Unit

POLL_S = 1.0  # between two looks at the board
SILENT_S = 20.0  # after which a board that does not answer is taken for dead


def share(config: Config, stages: Sequence[str], say: Callable[[str], None]) -> dict[str, Workers]:
    """The actors of each stage on this cluster: as configured, or all on CPU where there is no GPU, which is said.

    Counted are the nodes that are up now; an autoscaler's nodes to come are not.

    Raises: ConfigError if their GPU shares together exceed the cluster's GPUs.
    """
    gpus = ray.cluster_resources().get("GPU", 0.0)
    own = {name: getattr(config.resources, name) for name in stages}
    wanted = {name: replace(one, workers=max(1, one.workers)) for name, one in own.items()}
    if not gpus:
        if on_gpu := [name for name, own in wanted.items() if own.num_gpus]:
            say(f"no node with a GPU is up: {', '.join(on_gpu)} run on the CPU")
        return {name: replace(own, num_gpus=0.0) for name, own in wanted.items()}
    if (total := sum(w.workers * w.num_gpus for w in wanted.values())) > gpus:
        parts = ", ".join(f"{name} {w.workers} x {w.num_gpus}" for name, w in wanted.items() if w.num_gpus)
        raise ConfigError(
            "gpus",
            f"The stages want {total} GPUs ({parts}), and the cluster has {gpus}. Lower resources.<stage>.workers"
            " or num_gpus, give --one-stage-at-a-time, or raise min_workers in cluster.yaml.",
        )
    return wanted


def stream(
    units: Sequence[Unit], recipes: Sequence[Recipe], config: Config, root: str, progress: Progress, spending: Spending
) -> list[Unit]:
    """The units after the stages of `recipes`, each a pool of actors, all of them at work at once.

    `spending` is told what the cells take. When it has reached a limit, no further cell is begun: cells that are at
    work are finished, and the other units come back without them.

    Raises: what a stage raises for the whole run (`batch.ENDING`), as soon as it is
    known, whatever else is still at work; MachineError if Ray fails; ray's error for a bug.
    """
    connect()
    stages = [recipe.stage for recipe in recipes]
    workers = share(config, stages, progress.remark)
    progress.begin(stages)
    _quiet_data()
    board = ray.remote(num_cpus=0)(Board).remote(spending)
    data = ray.data.from_items([{"unit": unit.to_json()} for unit in units], override_num_blocks=len(units))
    for recipe in recipes:
        own = workers[recipe.stage]
        used = replace(recipe, num_gpus=own.num_gpus)
        weights = weights_digests(recipe.stage, config)
        if recipes_now(config)[recipe.stage].fingerprint != recipe.fingerprint:
            raise WeightsError(
                "weights_differ",
                f"Files of {', '.join(weights)} were written since the run began. Give the same command again.",
            )
        device = "cuda" if own.num_gpus else "cpu"
        data = data.map(
            StageActor,
            fn_constructor_args=(used, config.to_json(), weights, root, device, board),
            compute=ActorPoolStrategy(size=min(own.workers, len(units))),
            num_cpus=own.num_cpus,
            num_gpus=own.num_gpus or None,
        )
    ended: queue.SimpleQueue[list[Unit] | Exception] = queue.SimpleQueue()
    threading.Thread(target=_consume, args=(data, ended), daemon=True).start()
    try:
        return _watch(board, progress, spending, ended)
    except RayTaskError:
        raise  # a bug, with its traceback
    except RayError as error:
        raise MachineError("ray", f"Ray failed: {last_words(error)} Give the same command again.") from error


def weights_digests(stage: str, config: Config) -> dict[str, str]:
    """sha256 of all weights that the stage loads, by name, as they lie on this machine."""
    place = config.place()
    return {name: digest(name, place) for name in BY_NAME[stage].weights(getattr(config, stage))}


class StageActor:
    """One stage in one Ray actor, its networks loaded at the start: side by side with those of the other stages.

    What ends the run goes to the board: what Ray makes of an exception has its text, and no longer its object. An actor
    that has ended the run works on nothing any more: a device that failed once fails all that follows.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: str,
        weights: dict[str, str],
        root: str,
        device: str,
        board: "ray.actor.ActorHandle",
    ) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before transformers is imported
        self._recipe, self._config, self._weights = recipe, Config.from_json(config), weights
        self._load = partial(load, recipe.stage, config, device)
        self._store = Store(root)
        self._board = board
        self._ended: Anything3DError | None = None
        with suppress(Anything3DError):  # the first unit raises it again; Ray prints what a constructor raises, thrice
            self._check_weights()
            self._load()

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        unit = Unit.from_json(row["unit"])
        if self._ended:
            raise self._ended
        if ray.get(self._board.limit_reached.remote()):
            return row
        stage = self._recipe.stage
        try:
            with _logged_on(self._board):
                self._check_weights()
                folder = cell.folder_of(self._recipe, unit)
                self._board.begin.remote(stage, unit.name, folder, socket.gethostname(), os.getpid())
                commit, made = cell.run(self._recipe, unit, self._store, self._load)
        except Anything3DError as error:
            self._ended = error
            ray.get(self._board.stop.remote(error))
            raise
        self._board.end.remote(stage, unit.name)
        own = spent(stage, commit.seconds, commit.gpu_seconds, self._config) if made else Spent()
        ray.get(self._board.add.remote(stage, len(unit.ids), own))  # counted before the next cell is begun
        return {"unit": cell.as_input(self._recipe, unit, commit).to_json()}

    def _check_weights(self) -> None:
        """Whether the networks here are those that the fingerprint speaks of; their files are read once a process."""
        here = weights_digests(self._recipe.stage, self._config)
        if wrong := sorted(name for name, sha256 in self._weights.items() if here[name] != sha256):
            raise WeightsError(
                "weights_differ",
                f"{', '.join(wrong)} on {socket.gethostname()} are not what the driver has. Copy the same files to all"
                " nodes, below resources.weights_root.",
            )


class _BoardHandler(logging.Handler):
    """Puts what an actor logs on the board. The driver logs it again, where its own lines go."""

    def __init__(self, board: "ray.actor.ActorHandle") -> None:
        super().__init__()
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        line = (record.name, record.levelno, record.getMessage())
        try:  # the line lies there before the row comes back, so that the driver's last look has it
            ray.get(self._board.log.remote(line), timeout=SILENT_S)
        except RayError:
            self.handleError(record)


@contextmanager
def _logged_on(board: "ray.actor.ActorHandle") -> Iterator[None]:
    """What our loggers say meanwhile, from INFO on, goes to the board and not to the standard error of the actor."""
    ours, handler = logging.getLogger("pipeline"), _BoardHandler(board)
    before = ours.level
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)


def _consume(data: Dataset, ended: "queue.SimpleQueue[list[Unit] | Exception]") -> None:
    """Pull all units through the stages; they, or what ended them, go to `ended`."""
    try:
        ended.put([Unit.from_json(row["unit"]) for row in data.iter_rows()])
    except Exception as error:  # noqa: BLE001 - it is raised by `_watch`
        ended.put(error)


def _watch(
    board: "ray.actor.ActorHandle",
    progress: Progress,
    spending: Spending,
    ended: "queue.SimpleQueue[list[Unit] | Exception]",
) -> list[Unit]:
    """Show how far the stream is until it has ended, or the board says why the run must, or Ray has died."""
    outcome: list[Unit] | Exception | None = None
    while outcome is None:
        with suppress(queue.Empty):
            outcome = ended.get(timeout=POLL_S)
        check_alive()
        done, reason, logged, spending.spent, at_work = ray.get(board.read.remote(), timeout=SILENT_S)
        for name, level, message in logged:
            logging.getLogger(name).log(level, "%s", message)
        progress.show(done, at_work, spending.spent)
        if reason:
            raise reason
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _quiet_data() -> None:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # whatever goes wrong is raised, too
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    context.issue_detectors_config.detectors = []  # they advise on memory reservations, over pages
