"""`anything3d plan`: what a run would compute, why, and what it would take."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command import Address, ConfigFile, Preset, Settings, errors_as_one_line, join
from jobs.run import Ids, Like, MaxObjects, Md5, OneStageAtATime, SampleRate, Shards, request
from pipeline.price import HOUR_S

if TYPE_CHECKING:
    from pipeline.forecast import Plan

COLUMNS = f"{'stage':<12}{'reuse':>10}{'run':>11}{'s/item':>9}{'hours':>9}{'GPU-hours':>11}{'cost':>10}"


def plan(
    out: Annotated[str, typer.Option(help="The corpus: the --out of the run.")],
    shards: Shards = None,
    preset: Preset = "mini",
    config: ConfigFile = None,
    settings: Settings = None,
    like: Like = None,
    max_objects: MaxObjects = None,
    ids: Ids = None,
    sample_rate: SampleRate = None,
    md5: Md5 = None,
    only: Annotated[bool, typer.Option("--only", help="As of `run`: say which shards would leave the corpus.")] = False,
    one_stage_at_a_time: OneStageAtATime = False,
    measure: Annotated[
        int,
        typer.Option(min=0, help="Run so many objects first if no time of a stage is known. Publishes nothing."),
    ] = 0,
    address: Address = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the plan to this file too.", dir_okay=False)
    ] = None,
) -> None:
    """Say what `run` would compute, why, and what it would take.

    Computes nothing, unless --measure is given. Times are those that cells of this corpus took.
    """
    with errors_as_one_line():
        asked = request(out, shards, preset, config, settings, like, max_objects, ids, sample_rate)

        import json
        from dataclasses import asdict, replace

        from pipeline.forecast import forecast
        from pipeline.input import source
        from pipeline.run import run

        md5s, place = None if md5 is None else source.read_md5(md5), source.absolute(out)

        def look() -> "Plan":
            return forecast(
                asked.config,
                asked.shards,
                place,
                asked.selection,
                md5=md5s,
                one_stage_at_a_time=one_stage_at_a_time,
            )

        made = look()
        if measure and made.unmeasured:
            join(address)
            run(
                asked.config,
                asked.shards,
                place,
                replace(asked.selection, max_objects=min(measure, asked.selection.max_objects or measure)),
                preset=asked.preset,
                judge=lambda snapshot, partitions: False,
                one_stage_at_a_time=one_stage_at_a_time,
                md5=md5s,
                say=lambda line: print(line, flush=True),
            )
            made = look()
        for line in lines(made, asked.config.price.currency, only):
            print(line)
        if json_file:
            about = {**asdict(made), "spent": asdict(made.spent), "unmeasured": made.unmeasured}
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(about, indent=1) + "\n")


def lines(made: "Plan", currency: str, only: bool = False) -> Iterator[str]:
    """A table of the stages, why they run, and the sum. Estimates have a `~`."""
    from jobs.run_report import counted

    yield COLUMNS
    for name, stage in made.stages.items():
        known = stage.seconds_per_item is not None
        run = f"{'~' if stage.estimated else ''}{stage.run}{'+?' if made.unknown and name != 'index' else ''}"
        per_item = f"{stage.seconds_per_item:.2f}" if known else "?"
        numbers = (stage.spent.seconds / HOUR_S, stage.spent.gpu_seconds / HOUR_S)
        hours, gpu_hours = (f"{number:.3g}" if known or not stage.run else "?" for number in numbers)
        cost = f"{stage.spent.cost:.2f}" if stage.spent.cost else "-"
        yield f"{name:<12}{stage.reuse:>10}{run:>11}{per_item:>9}{hours:>9}{gpu_hours:>11}{cost:>10}"
    for name, stage in made.stages.items():
        for reason, count in sorted(stage.why.items(), key=lambda one: -one[1])[:5]:
            yield f"{name}: {reason} ({counted(count, 'shard')})"
        if stage.run and stage.measured_with_other_settings:
            yield f"{name}: its time was measured with other settings"
    if any(stage.estimated for stage in made.stages.values()):
        yield "~ is estimated: from the photos and objects of the shards that are there"
    if made.unknown:
        some = ", ".join([*made.unknown[:5], *(["..."] if len(made.unknown) > 5 else [])])
        yield f"not in these numbers: what {some} will have; that is known after they are segmented"
    if made.unmeasured:
        yield (
            f"not in the sum: {', '.join(made.unmeasured)}. No cell of this corpus says how long they take."
            " --measure 8 runs 8 objects first."
        )
    yield f"shards: {made.finished} finished, {made.changed} changed, {made.new} new"
    if only and made.leaving:
        yield f"{counted(made.leaving, 'other shard')} will leave the corpus"
    least = "at least " if made.unknown or made.unmeasured else ""
    wall = f"{made.wall_seconds / HOUR_S:.3g} hours with 1 actor a stage, or as many as are set"
    yield f"in all {least}{made.spent.told(currency)}; {wall}"
