"""`anything3d status` says what a corpus has, and who works on it. It needs no Ray, and runs on any machine."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command import CorpusArgument, errors_as_one_line

if TYPE_CHECKING:
    from pipeline.status import Running, Status

WATCH_S = 5.0


def status(
    corpus: CorpusArgument,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of words.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds, until Ctrl-C.")] = False,
) -> None:
    """Say what a corpus has, and who works on it.

    Shows the published numbers of every stage, the rejects by reason, the runs at work with their rates and the time
    they need, and the cells that they compute. What a run says of itself is at most half a minute old.
    """
    with errors_as_one_line():
        import json
        from dataclasses import asdict

        from pipeline.input import source
        from pipeline.status import status as look

        place = source.absolute(corpus)
        while True:
            found = look(place)
            print(json.dumps(asdict(found)) if as_json else "\n".join(lines(found, place)), flush=True)
            if not watch:
                return
            time.sleep(WATCH_S)


def lines(found: "Status", corpus: str) -> Iterator[str]:
    """A status in words."""
    from jobs.run_report import COLUMNS, counted, tally_line

    if found.snapshot is None:
        yield f"{corpus} has no snapshot yet"
    else:
        shards = counted(found.shards, "shard")
        yield f"snapshot {found.snapshot} of {found.date}: {found.objects} objects, {found.rejects} rejects, {shards}"
        yield COLUMNS.replace(f"{'run now':>9}", " " * 9)
        for stage, tally in found.stages.items():
            yield tally_line(stage, tally, "")
    if found.rejected:
        yield "rejected: " + ", ".join(f"{cause} {count}" for cause, count in found.rejected.items())
    for run in found.runs:
        yield from _run(run)
    if not any(run.lives for run in found.runs):
        yield "no run is at work"


def _run(run: "Running") -> Iterator[str]:
    from pipeline.price import Spent
    from pipeline.progress import clock, told_step

    who = f"process {run.pid} on {run.host}"
    if not run.lives:
        yield f"a run was killed: {who}, {clock(run.silent_s)} ago; its command continues it"
        return
    left = f", about {clock(run.seconds_left)} left" if run.seconds_left else ""
    yield f"a run is at work: {who}, last sign {clock(run.silent_s)} ago{left}"
    for stage, counts in run.stages.items():
        yield f"  {stage:<12}{counts['done']:.0f} of {counts['items']:.0f}, {counts['per_minute']:g} a minute"
    if run.spent:
        yield f"  its cells took {Spent(**run.spent).told('')}".rstrip()
    for work in run.at_work:
        died = f", {work.deaths} processes have died of it" if work.deaths else ""
        step = f"{told_step(work.step, work.steps)}, " if work.step else ""
        yield f"  {work.stage} {work.unit}: {step}process {work.pid} on {work.host} for {clock(work.seconds)}{died}"
