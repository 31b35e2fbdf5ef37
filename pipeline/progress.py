"""How far a run is: items of each stage, elapsed time and an estimate of the remaining time, as a line or as values."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from pipeline.price import Spending, Spent
from pipeline.remaining import Count, Lanes, Left, Presence, remaining

Line = tuple[str, int, str]  # of a log: name of the logger, level, message
PAUSE_S = 5.0  # shortest time between two lines, at the beginning of a run
PAUSE = 0.02  # the same, as a share of the time of the run: the log of a long run grows with its logarithm
SILENCE_S = 20.0  # longest time without a line, at the beginning of a run
SILENT_S = 20.0  # after which a board that does not answer is taken for dead


@dataclass(frozen=True, slots=True)
class Shown:
    """How far a run is."""

    now: float  # seconds since 1970
    elapsed: float  # seconds since the start of the run
    shards: tuple[int, int, int]  # finished, begun, in all
    stages: Mapping[str, Count]  # in the order in which items came to them
    per_minute: Mapping[str, float]  # stage -> items that this run has done in a minute
    at_work: Sequence[Mapping[str, Any]]  # cells that are being computed
    left: Left
    spent: Spent
    currency: str  # of spent.cost

    @property
    def line(self) -> str:
        """The counts alone."""
        finished, _, total = self.shards
        shards = [f"shards {finished}/{total}"] if total > 1 else []
        counts = [f"{name} {one.already + one.done}/{one.items}" for name, one in self.stages.items()]
        return " · ".join([*shards, *counts])


class Progress:
    """Collects what is expected and what is done, and says it: now and then as a line, or whenever it is looked at."""

    def __init__(
        self,
        say: Callable[[str], None],
        note: Callable[..., None] = lambda **more: None,
        show: Callable[[Shown], None] | None = None,
    ) -> None:
        """`note` is told the same as values: what `anything3d status` shows of a run at work.

        With `show`, there are no lines of counts. It is told of the counts at every look.
        """
        self._say, self._note, self._show = say, note, show
        self._remarks: set[str] = set()
        self._counts: dict[str, Count] = {}
        self._shards: tuple[int, int, int] = (0, 0, 0)  # finished, begun, in all
        self._nothing = 0  # shards of which nothing has to be done
        self._presence = Presence()
        self._started = time.monotonic()
        self._begun: float | None = None  # when the first actors were started; before that, nothing is said
        self._last = ("", self._started)  # what was said, and when

    def shards(self, finished: int, begun: int, total: int) -> None:
        """How many of the shards are finished, and how many have been begun."""
        self._shards = (finished, begun, total)

    def nothing_to_do(self) -> None:
        """One of the shards is finished already, or no more objects are wanted of it."""
        self._nothing += 1

    def expect(self, stage: str, items: int) -> None:
        """A unit with so many items will come through the stage."""
        count = self._counts.setdefault(stage, Count())
        count.items, count.units_left = count.items + items, count.units_left + 1

    def add(self, stage: str, items: int, rejects: int = 0, *, made: bool) -> None:
        """A unit with so many items has come through the stage. Its cell was `made` now, or was there before."""
        count = self._counts.setdefault(stage, Count())
        count.units_left -= 1
        count.rejects += rejects
        if made:
            count.done += items
        else:
            count.already += items

    def remark(self, line: str) -> None:
        """A line that a run says once."""
        if line not in self._remarks:
            self._remarks.add(line)
            self.tell(line)

    def tell(self, line: str) -> None:
        """A line that may come again."""
        self._say(line)

    def begin(self) -> None:
        """Actors are being started."""
        if self._begun is None:
            self._begun = time.monotonic()
            now = self._now((), Spending(), {}, {})
            self._last = (now.line, self._begun)
            self._say(f"[{clock(now.elapsed)}] {now.line} · loading networks")

    def show(
        self,
        at_work: Sequence[Mapping[str, Any]] = (),
        spending: Spending | None = None,
        lanes: Lanes = MappingProxyType({}),
        per_item: Mapping[str, float] = MappingProxyType({}),
    ) -> Shown | None:
        """How far the run is; None before actors are started.

        It is said, if it has changed or nothing was said for long.

        `at_work` are the cells that are being computed, `lanes` the actors, and `per_item` the seconds that an item of
        a stage takes, as far as that is known.
        """
        if self._begun is None:
            return None
        now = self._now(at_work, spending or Spending(), lanes, per_item)
        self._note(
            stages={
                name: {"items": one.items, "done": one.already + one.done, "per_minute": now.per_minute[name]}
                for name, one in now.stages.items()
            },
            seconds_left=round(now.left.seconds),
            at_work=list(at_work),
            spent=asdict(now.spent),
        )
        if self._show is not None:
            self._show(now)
            return now
        silent_s, pause_s = time.monotonic() - self._last[1], max(PAUSE_S, PAUSE * now.elapsed)
        if silent_s > max(SILENCE_S, pause_s) or (now.line != self._last[0] and silent_s >= pause_s):
            self._last = (now.line, time.monotonic())
            self._say(" · ".join(filter(None, [f"[{clock(now.elapsed)}] {now.line}", told_left(now.left)])))
        return now

    def _now(
        self,
        at_work: Sequence[Mapping[str, Any]],
        spending: Spending,
        lanes: Lanes,
        per_item: Mapping[str, float],
    ) -> Shown:
        now, date, (_, _, total) = time.monotonic(), time.time(), self._shards
        counts = {name: replace(one) for name, one in self._counts.copy().items()}
        present = self._presence.look(counts, lanes, at_work, now)
        minutes = max(now - (self._begun or now), 1.0) / 60
        return Shown(
            now=date,
            elapsed=now - self._started,
            shards=self._shards,
            stages=counts,
            per_minute={name: round(one.done / minutes, 1) for name, one in counts.items()},
            at_work=at_work,
            left=remaining(counts, lanes, per_item, total - self._nothing, at_work, date, present),
            spent=spending.spent,
            currency=spending.currency,
        )


class Board:
    """What actors have to say at once, for the log of the driver. A Ray actor, in a file that costs no torch."""

    def __init__(self) -> None:
        self._logged: list[Line] = []  # since the last look
        self._steps: dict[str, dict[str, int]] = {}  # the same

    def log(self, line: Line) -> None:
        self._logged.append(line)

    def at(self, folder: str, step: int, steps: int) -> None:
        """The cell in this folder has done so many of its steps."""
        self._steps[folder] = {"step": step, "steps": steps}

    def read(self) -> tuple[list[Line], dict[str, dict[str, int]]]:
        """Since the last look: the lines; and the last `step` and the number of `steps` of cells, by their folders."""
        logged, steps, self._logged, self._steps = self._logged, self._steps, [], {}
        return logged, steps


def told_left(left: Left) -> str:
    """In words; nothing if less than a second is known to be left."""
    return f"{'about' if left.whole else 'more than'} {clock(left.seconds)} left" if left.seconds >= 1 else ""


def told_step(step: int, steps: int) -> str:
    """In words; nothing if no step is known."""
    return f"step {step:,} of {steps:,}" if step else ""


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
