"""One line that says how far a run is: items of each stage, elapsed time, and an estimate of the remaining time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from pipeline.price import Spent

Line = tuple[str, int, str]  # of a log: name of the logger, level, message
SILENCE_S = 20.0  # longest time without a line
SILENT_S = 20.0  # after which a board that does not answer is taken for dead


@dataclass(slots=True)
class Count:
    """Items of one stage."""

    items: int = 0  # that are known to come through it
    already: int = 0  # that were there before
    done: int = 0  # by this run
    seconds: float = 0.0  # that its actors worked on them

    @property
    def left(self) -> int:
        return self.items - self.already - self.done


class Progress:
    """Collects what is expected and says what is done: when it changed, and now and then to show that it is alive."""

    def __init__(self, say: Callable[[str], None], note: Callable[..., None] = lambda **more: None) -> None:
        """`note` is told the same as values: what `anything3d status` shows of a run at work."""
        self._say, self._note = say, note
        self._remarks: set[str] = set()
        self._counts: dict[str, Count] = {}
        self._shards: tuple[int, int, int] = (0, 0, 0)  # finished, begun, in all
        self._started = time.monotonic()
        self._begun: float | None = None  # when the first actors were started; before that, nothing is said
        self._last = ("", self._started)  # what was said, and when

    def shards(self, finished: int, begun: int, total: int) -> None:
        """How many of the shards are finished, and how many have been begun."""
        self._shards = (finished, begun, total)

    def expect(self, stage: str, items: int) -> None:
        """More items will come through the stage."""
        self._counts.setdefault(stage, Count()).items += items

    def add(self, stage: str, items: int, seconds: float | None) -> None:
        """Items have come through the stage, in so many seconds of its actor. None: they were there before."""
        count = self._counts.setdefault(stage, Count())
        if seconds is None:
            count.already += items
        else:
            count.done, count.seconds = count.done + items, count.seconds + seconds

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
            line = self._line()
            self._last = (line, self._begun)
            self._say(f"[{clock(self._begun - self._started)}] {line} · loading networks")

    def show(self, at_work: Sequence[dict[str, object]] = (), spent: Spent | None = None) -> None:
        """Say how far the run is, if that has changed; `at_work`: the cells that are being computed."""
        if self._begun is None:
            return
        now, line, elapsed = time.monotonic(), self._line(), time.monotonic() - self._begun
        rest = self._seconds_left(elapsed)
        self._note(
            stages={
                name: {"items": one.items, "done": one.already + one.done}
                | {"per_minute": round(60 * one.done / max(elapsed, 1.0), 1)}
                for name, one in self._counts.copy().items()
            },
            seconds_left=round(rest),
            at_work=list(at_work),
            spent=asdict(spent or Spent()),
        )
        if line != self._last[0] or now - self._last[1] > SILENCE_S:
            self._last = (line, now)
            self._say(f"[{clock(now - self._started)}] {line}" + (f" · about {clock(rest)} left" if rest >= 1 else ""))

    def _line(self) -> str:
        finished, _, total = self._shards
        shards = [f"shards {finished}/{total}"] if total > 1 else []
        counts = [f"{name} {one.already + one.done}/{one.items}" for name, one in self._counts.copy().items()]
        return " · ".join([*shards, *counts])

    def _seconds_left(self, elapsed: float) -> float:
        """Of the run. A shard that has not been begun is taken for as large as the others."""
        _, begun, total = self._shards
        more = (total - begun) / begun if begun else 0.0
        return remaining_seconds(list(self._counts.copy().values()), elapsed, more)


class Board:
    """What actors have to say at once, for the log of the driver. A Ray actor, in a file that costs no torch."""

    def __init__(self) -> None:
        self._logged: list[Line] = []  # since the last look

    def log(self, line: Line) -> None:
        self._logged.append(line)

    def read(self) -> list[Line]:
        """The lines since the last look."""
        logged, self._logged = self._logged, []
        return logged


def remaining_seconds(counts: Sequence[Count], elapsed: float, more: float = 0.0) -> float:
    """Seconds left if the actors go on side by side as they did; a stage without a finished item counts nothing.

    `more` is how much work is still to come that is not among the items, as a multiple of all of them.
    """
    worked = sum(one.seconds for one in counts)
    left = sum((one.left + more * (one.items - one.already)) * one.seconds / one.done for one in counts if one.done)
    return elapsed * left / worked if worked else 0.0


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
