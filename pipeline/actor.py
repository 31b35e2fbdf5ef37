"""One Ray actor, which makes cells of one stage, or of several."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from anything3d.errors import Anything3DError, WeightsError
from anything3d.models.weights import digest
from pipeline import cell
from pipeline.batch import LoadedStage
from pipeline.cell import Recipe
from pipeline.commit import Commit
from pipeline.config import Config, Workers
from pipeline.progress import SILENT_S, Line
from pipeline.stages import BY_NAME, use_threads
from pipeline.store import Store
from pipeline.unit import Unit

STEP_S = 5.0  # shortest time between two steps of which the driver is told

Load = Callable[[str, str, str], LoadedStage]  # stage, Config.to_json(), device -> the stage, ready to be called


@dataclass(frozen=True, slots=True)
class Answer:
    """What an actor says of a unit. An error is a value here: of what is raised, Ray passes on the text only."""

    commit: Commit | Anything3DError  # an error ends the run
    made: bool  # by this actor, now
    lines: tuple[Line, ...]  # for the log


class StageActor:
    """Makes cells. The networks of its only stage are loaded when it starts; those of several, with their first units.

    An actor that has ended the run works on nothing any more: a device that failed once fails all that follows.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        config: str,
        weights: dict[str, str],
        root: str,
        device: str,
        board: "ray.actor.ActorHandle",
        load: Load,
    ) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before transformers is imported
        self._recipes, self._config, self._weights = recipes, Config.from_json(config), weights
        self._load = {stage: partial(load, stage, config, device) for stage in recipes}
        self._store = Store(root)
        self._board = board
        self._ended: Anything3DError | None = None
        self._told = 0.0  # when the board was told of a step, or a cell was begun
        if len(recipes) == 1:
            (only,) = recipes
            with suppress(Anything3DError):  # its unit raises it again; Ray prints what a constructor raises, thrice
                self._check_weights(only)
                self._load[only]()

    def ready(self) -> tuple[str, int]:
        """The host and the number of the process, which is ready for a unit."""
        return socket.gethostname(), os.getpid()

    def make(self, stage: str, unit: str) -> Answer:
        """The stage's cell of a unit, which is Unit.to_json(). Raises: whatever is a bug."""
        with _logged_on(self._board) as lines:
            if not self._ended:
                try:
                    self._check_weights(stage)
                    use_threads(stage, self._config)  # the stage before may have had others
                    recipe, load = self._recipes[stage], self._load[stage]
                    own, self._told = Unit.from_json(unit), time.monotonic()
                    at = partial(self._at, cell.folder_of(recipe, own))
                    commit, made = cell.run(recipe, own, self._store, load, at)
                    return Answer(commit, made, tuple(lines))
                except Anything3DError as error:
                    self._ended = error
            return Answer(self._ended, False, tuple(lines))

    def _at(self, folder: str, step: int, steps: int) -> None:
        """Tell the board which step of this cell is done, if it has not been told for long. It is not waited for."""
        if (now := time.monotonic()) - self._told >= STEP_S:
            self._told = now
            self._board.at.remote(folder, step, steps)

    def _check_weights(self, stage: str) -> None:
        """Whether the networks here are those that the fingerprint speaks of; their files are read once a process."""
        here = weights_digests(stage, self._config)
        if wrong := sorted(name for name, sha256 in here.items() if self._weights[name] != sha256):
            raise WeightsError(
                "weights_differ",
                f"{', '.join(wrong)} on {socket.gethostname()} are not what the driver has. Copy the same files to all"
                " nodes, below resources.weights_root.",
            )


def start(
    name: str,
    recipes: Mapping[str, Recipe],
    config: Config,
    own: Workers,
    node: str,
    root: str,
    board: "ray.actor.ActorHandle",
    load: Load,
) -> "ray.actor.ActorHandle":
    """A new actor of these stages, which takes from its node what `own` says; the node "" is any node.

    `name` is that of its class, and so of its process, as the dashboard of Ray and its metrics show them.
    """
    kind = ray.remote(type(name, (StageActor,), {})).options(
        num_cpus=own.num_cpus,
        num_gpus=own.num_gpus or None,
        max_restarts=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD",
    )
    return kind.remote(
        {stage: replace(recipe, num_gpus=own.num_gpus) for stage, recipe in recipes.items()},
        config.to_json(),
        {name: sha256 for stage in recipes for name, sha256 in weights_digests(stage, config).items()},
        root,
        "cuda" if own.num_gpus else "cpu",
        board,
        load,
    )


def weights_digests(stage: str, config: Config) -> dict[str, str]:
    """sha256 of all weights that the stage loads, by name, as they lie on this machine."""
    place = config.place()
    return {name: digest(name, place) for name in BY_NAME[stage].weights(getattr(config, stage))}


class _Handler(logging.Handler):
    """Keeps what an actor logs for its answer. A warning goes to the board at once: the process may be killed next."""

    def __init__(self, board: "ray.actor.ActorHandle", lines: list[Line]) -> None:
        super().__init__()
        self._board, self._lines = board, lines

    def emit(self, record: logging.LogRecord) -> None:
        line = (record.name, record.levelno, record.getMessage())
        if record.levelno < logging.WARNING:
            self._lines.append(line)
            return
        try:
            ray.get(self._board.log.remote(line), timeout=SILENT_S)
        except RayError:
            self.handleError(record)


@contextmanager
def _logged_on(board: "ray.actor.ActorHandle") -> Iterator[list[Line]]:
    """What our loggers say meanwhile, from INFO on, goes to the driver, and not to the standard error of the actor."""
    lines: list[Line] = []
    ours, handler = logging.getLogger("pipeline"), _Handler(board, lines)
    before = ours.level
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    try:
        yield lines
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)
