"""How far a run is, on a terminal: a table that is drawn again and again, below the lines that the run says."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.progress import Shown

Say = Callable[[str], None]
Show = Callable[["Shown"], None]


@contextmanager
def live() -> Iterator[tuple[Say, Show | None]]:
    """Whom a run tells its lines, and whom it shows how far it is; the latter is None where no terminal is."""
    if not sys.stdout.isatty():
        yield partial(print, flush=True), None
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Live(console=console, auto_refresh=False, transient=True) as drawn:
        yield (
            lambda line: console.print(line, markup=False, highlight=False),
            lambda shown: drawn.update(Group(Text(title(shown)), table(shown)), refresh=True),
        )


def table(shown: "Shown") -> "Table":
    """One row for each stage."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for name in ("stage", "done", "of", "a minute", "rejected", "cells at work"):
        drawn.add_column(name, justify="left" if name == "stage" else "right")
    for stage, count in shown.stages.items():
        busy = [work for work in shown.at_work if work["stage"] == stage]
        numbers = (count.already + count.done, count.items, shown.per_minute[stage], count.rejects, len(busy))
        drawn.add_row(stage, *(f"{number:,}" for number in numbers))
    return drawn


def title(shown: "Shown") -> str:
    """The time, the shards, what is left, and what it has cost."""
    from pipeline.progress import clock, told_left, told_step

    finished, begun, total = shown.shards
    parts = [clock(shown.elapsed), f"shards {finished} finished, {begun} begun, {total} in all"]
    if told := told_left(shown.left):
        parts.append(told)
    if shown.spent.seconds:
        parts.append(shown.spent.told(shown.currency))
    if shown.at_work:
        oldest = min(shown.at_work, key=lambda work: work["since"])
        step = told_step(oldest["step"], oldest["steps"])
        since = clock(shown.now - oldest["since"])
        does = f"{step} after {since}" if step else f"at work for {since}"
        parts.append(f"{oldest['stage']} {oldest['unit']}: {does}")
    return " · ".join(parts)
