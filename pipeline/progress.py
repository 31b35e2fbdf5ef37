"""One line that says how far a run is: items of each stage, elapsed time, and an estimate of the remaining time."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from pipeline.price import Spending, Spent

Line = tuple[str, int, str]  # of a log: name of the logger, level, message
SILENCE_S = 20.0  # longest time without a line


class Progress:
    """Collects what is expected and says what is done: when it changed, and now and then to show that it is alive."""

    def __init__(self, say: Callable[[str], None], note: Callable[..., None] = lambda **more: None) -> None:
        """`note` is told the same as values: what `anything3d status` shows of a run at work."""
        self._say, self._note = say, note
        self._remarks: set[str] = set()
        self._expected: dict[str, tuple[int, int]] = {}  # stage -> items in all, items that were there before
        self._started = self._begun = time.monotonic()  # of the run, and of the stream
        self._stages: Sequence[str] = ()  # of the stream
        self._last = ("", self._started)  # what was said, and when

    def expect(self, stage: str, items: int, already: int) -> None:
        self._expected[stage] = (items, already)

    def remark(self, line: str) -> None:
        """A line that a run says once."""
        if line not in self._remarks:
            self._remarks.add(line)
            self._say(line)

    def begin(self, stages: Sequence[str]) -> None:
        """A stream begins: the actors of these stages are being started."""
        self._stages, self._begun = stages, time.monotonic()
        line = self._counts({})
        self._last = (line, self._begun)
        self._say(f"[{clock(self._begun - self._started)}] {line} · loading networks")

    def show(
        self,
        done: Mapping[str, tuple[int, float]],
        at_work: Sequence[Mapping[str, object]] = (),
        spent: Spent | None = None,
    ) -> None:
        """`done`: stage -> (items finished in this stream, seconds its actors worked on them); `at_work`: see Board."""
        now, line = time.monotonic(), self._counts(done)
        elapsed = now - self._begun
        self._note(
            stages={
                name: {"items": items, "done": already + done.get(name, (0, 0.0))[0]}
                | {"per_minute": round(60 * done.get(name, (0, 0.0))[0] / max(elapsed, 1.0), 1)}
                for name in self._stages
                for items, already in [self._expected[name]]
            },
            seconds_left=round(remaining_seconds(self._expected, done, elapsed)),
            at_work=list(at_work),
            spent=asdict(spent or Spent()),
        )
        if line != self._last[0] or now - self._last[1] > SILENCE_S:
            self._last = (line, now)
            rest = remaining_seconds(self._expected, done, elapsed)
            self._say(f"[{clock(now - self._started)}] {line}" + (f" · about {clock(rest)} left" if rest >= 1 else ""))

    def _counts(self, done: Mapping[str, tuple[int, float]]) -> str:
        counts = ((name, self._expected[name], done.get(name, (0, 0.0))[0]) for name in self._stages)
        return " · ".join(f"{name} {already + n}/{items}" for name, (items, already), n in counts)


class Board:
    """What the actors tell the driver: counts, and why the run must end. A Ray actor, in a file that costs no torch.

    It also tells the actors whether the run has reached a limit. Then they begin no further cell.
    """

    def __init__(self, spending: Spending | None = None) -> None:
        self._spending = spending or Spending()
        self._done: dict[str, tuple[int, float]] = {}
        self._reason: Exception | None = None
        self._logged: list[Line] = []  # since the last look
        self._at_work: dict[tuple[str, str], dict[str, object]] = {}  # (stage, unit) -> who is at it, since when

    def begin(self, stage: str, unit: str, folder: str, host: str, pid: int) -> None:
        """An actor begins a cell, which lies in `folder`."""
        own = {"stage": stage, "unit": unit, "folder": folder, "host": host, "pid": pid, "since": time.time()}
        self._at_work[stage, unit] = own

    def end(self, stage: str, unit: str) -> None:
        """The cell is there."""
        self._at_work.pop((stage, unit), None)

    def add(self, stage: str, items: int, spent: Spent) -> None:
        before = self._done.get(stage, (0, 0.0))
        self._done[stage] = (before[0] + items, before[1] + spent.seconds)
        self._spending.spent += spent

    def limit_reached(self) -> bool:
        return self._spending.reached() is not None

    def stop(self, reason: Exception) -> None:
        self._reason = self._reason or reason

    def log(self, line: Line) -> None:
        self._logged.append(line)

    def read(
        self,
    ) -> tuple[dict[str, tuple[int, float]], Exception | None, list[Line], Spent, list[dict[str, object]]]:
        """Stage -> (items finished, seconds worked); why the run must end, if it must; lines since the last look; what
        the run has used; the cells that are being computed."""
        logged, self._logged = self._logged, []
        return self._done, self._reason, logged, self._spending.spent, list(self._at_work.values())


def remaining_seconds(
    expected: Mapping[str, tuple[int, int]], done: Mapping[str, tuple[int, float]], elapsed: float
) -> float:
    """Seconds left if the actors go on side by side as they did; stages without a finished item count nothing."""
    worked = sum(seconds for _, seconds in done.values())
    left = sum((expected[name][0] - expected[name][1] - n) * seconds / n for name, (n, seconds) in done.items() if n)
    return elapsed * left / worked if worked else 0.0


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
