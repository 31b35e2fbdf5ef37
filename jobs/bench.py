"""`anything3d bench` measures what the pipeline costs beside the algorithms; `bench plan` counts the algorithms."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.bench_plan import plan
from jobs.command import CODES, LogFile, Settings, Verbose, errors_as_one_line, logs
from jobs.examples import ending

if TYPE_CHECKING:
    from pipeline.bench import Bench, Growth, Size

app = typer.Typer(help="Count and measure what a run costs.", no_args_is_help=True)
PREFIX = "anything3d-bench-"  # of the name of a folder that is removed at the end


app.command(epilog=ending("bench plan"))(plan)


@app.command(epilog=ending("bench engine", CODES))
def engine(
    units: Annotated[str, typer.Option(help="Sizes in units, with commas between them.")] = "100,1000,10000",
    objects: Annotated[int, typer.Option(min=1, help="Objects of a unit.")] = 8,
    per_shard: Annotated[int, typer.Option(min=1, help="The most units of a shard.")] = 250,
    corpus: Annotated[
        str | None,
        typer.Option(help="Empty folder or s3://bucket/prefix for the corpora; without it, a folder that is removed."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the figures here, as JSON, after each size.", dir_okay=False)
    ] = None,
    settings: Settings = None,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Measure the engine with stages that do nothing.

    Every size is run, run again when it is finished, and published again from its cells. Shows a Markdown table of
    times, memory, files and bytes, and how they grow with the number of units: an exponent of 1 is in proportion.
    """
    with errors_as_one_line(), logs(verbose, log_file):
        import json
        import shutil
        import tempfile
        from dataclasses import asdict
        from functools import partial

        from jobs.command import read_settings
        from pipeline.bench import bench
        from pipeline.input import source

        sizes = read_sizes(units)
        config = read_settings("mini", None, [*(settings or []), f"units.objects={objects}"])
        place = source.absolute(corpus) if corpus else tempfile.mkdtemp(prefix=PREFIX)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
        print(f"corpora in {place}" + ("" if corpus else "; a signal leaves them there"), flush=True)
        try:
            for measured in bench(config, sizes, per_shard, place, say=partial(print, flush=True)):
                if out:
                    out.write_text(json.dumps(asdict(measured), indent=1) + "\n")
        finally:
            if not corpus:
                shutil.rmtree(place)
        for line in lines(measured):
            print(line)


def read_sizes(text: str) -> list[int]:
    """The sizes of `--units`. Raises: ConfigError if the text is no list of different numbers above 0."""
    from anything3d.errors import ConfigError

    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() and int(word) for word in words) or len(set(words)) < len(words):
        raise ConfigError("setting", f"--units {text!r}: give different numbers above 0, as in --units 100,1000")
    return [int(word) for word in words]


ROWS: tuple[tuple[str, str, "Callable[[Size], float]", str], ...] = (  # label, format, figure, name in Bench.growth
    ("shards", ",", lambda size: size.shards, ""),
    ("objects", ",", lambda size: size.objects, ""),
    ("cells", ",", lambda size: size.cells, ""),
    ("load of the machine before, processes", ".1f", lambda size: size.load_before, ""),
    ("run, s", ",.1f", lambda size: size.run.seconds, "run_s"),
    ("- to its first object, s", ",.1f", lambda size: size.first_s, ""),
    ("- one cell after that, ms", ".2f", lambda size: 1000 * size.cell_s, ""),
    ("- all cells, at that pace, s", ",.1f", lambda size: size.cell_s * size.cells, "cells_s"),
    ("- CPU of all processes, s", ",.1f", lambda size: size.run.all_cpu_s, "run_cpu_s"),
    ("- CPU of the driver, s", ",.1f", lambda size: size.run.driver_cpu_s, ""),
    ("- memory of the driver, imports only, MB", ",.0f", lambda size: size.run.driver_before_mb, ""),
    ("- what the run adds to it, MB", ",.0f", lambda size: size.run.added_mb, "driver_added_mb"),
    ("- memory of all processes, MB", ",.0f", lambda size: size.run.all_mb, ""),
    ("files of a cell", ".2f", lambda size: size.files_per_cell, ""),
    ("bytes of a cell", ",.0f", lambda size: size.bytes_per_cell, ""),
    ("finished corpus, same command again, s", ".2f", lambda size: size.finished.seconds, "finished_s"),
    ("- memory of the driver, MB", ",.0f", lambda size: size.finished.driver_peak_mb, ""),
    ("look-up and publishing of all cells, s", ",.1f", lambda size: size.publish.seconds, "publish_s"),
    ("- CPU of all processes, s", ",.1f", lambda size: size.publish.all_cpu_s, ""),
    ("- memory of the driver, MB", ",.0f", lambda size: size.publish.driver_peak_mb, ""),
    ("- memory of the largest process, MB", ",.0f", lambda size: size.publish.largest_mb, ""),
)


def lines(measured: "Bench") -> Iterator[str]:
    """A Markdown table: a column for each size, then how the figure grows."""
    heads = [f"{size.units:,} units" for size in measured.sizes]
    yield f"| what | {' | '.join(heads)} | exponent | one more unit |"
    yield "|---" * (len(heads) + 3) + "|"
    for label, style, figure, name in ROWS:
        cells = [format(figure(size), style) for size in measured.sizes]
        yield f"| {label} | {' | '.join(cells)} | {' | '.join(grows(name, measured.growth))} |"


def grows(name: str, growth: "Mapping[str, Growth]") -> tuple[str, str]:
    """The exponent of a figure, and what one more unit adds to it; "" if it has no growth, - where it is not known."""
    if name not in growth:
        return "", ""
    known, part = growth[name], "ms" if name.endswith("_s") else "kB"
    return (
        "-" if known.exponent is None else f"{known.exponent:.2f}",
        "-" if known.per_unit is None else f"{1000 * known.per_unit:.2f} {part}",
    )
