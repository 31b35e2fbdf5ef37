"""One stage in one Ray actor, side by side with the actors of other stages."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import ray
from ray.exceptions import RayError

from anything3d.errors import Anything3DError, WeightsError
from anything3d.models.weights import digest
from pipeline import cell
from pipeline.batch import LoadedStage
from pipeline.cell import Recipe
from pipeline.commit import Commit
from pipeline.config import Config
from pipeline.progress import SILENT_S, Line
from pipeline.stages import BY_NAME
from pipeline.store import Store
from pipeline.unit import Unit

Load = Callable[[str, str, str], LoadedStage]  # stage, Config.to_json(), device -> the stage, ready to be called


@dataclass(frozen=True, slots=True)
class Answer:
    """What an actor says of a unit. An error is a value here: of what is raised, Ray passes on the text only."""

    commit: Commit | Anything3DError  # an error ends the run
    made: bool  # by this actor, now
    lines: tuple[Line, ...]  # for the log


class StageActor:
    """Makes cells of one stage. The networks are loaded when it starts.

    An actor that has ended the run works on nothing any more: a device that failed once fails all that follows.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: str,
        weights: dict[str, str],
        root: str,
        device: str,
        board: "ray.actor.ActorHandle",
        load: Load,
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

    def ready(self) -> tuple[str, int]:
        """The host and the number of the process, which has loaded its stage."""
        return socket.gethostname(), os.getpid()

    def make(self, unit: str) -> Answer:
        """The cell of a unit, which is Unit.to_json(). Raises: whatever is a bug."""
        with _logged_on(self._board) as lines:
            if not self._ended:
                try:
                    self._check_weights()
                    commit, made = cell.run(self._recipe, Unit.from_json(unit), self._store, self._load)
                    return Answer(commit, made, tuple(lines))
                except Anything3DError as error:
                    self._ended = error
            return Answer(self._ended, False, tuple(lines))

    def _check_weights(self) -> None:
        """Whether the networks here are those that the fingerprint speaks of; their files are read once a process."""
        here = weights_digests(self._recipe.stage, self._config)
        if wrong := sorted(name for name, sha256 in self._weights.items() if here[name] != sha256):
            raise WeightsError(
                "weights_differ",
                f"{', '.join(wrong)} on {socket.gethostname()} are not what the driver has. Copy the same files to all"
                " nodes, below resources.weights_root.",
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
