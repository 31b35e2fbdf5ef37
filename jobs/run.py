"""`anything3d run`. `ray job submit --working-dir . -- python -m jobs.run ...` calls the same function."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command import (
    CODES,
    DONE,
    MAX_FAILED,
    NOT_BALANCED,
    Address,
    ConfigFile,
    LogFile,
    MaxFailed,
    Preset,
    Settings,
    Verbose,
    errors_as_one_line,
    exit_code,
    join,
    logs,
    read_settings,
    read_settings_like,
)
from jobs.live import live

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.plan import Selection

Shards = Annotated[
    list[str] | None, typer.Argument(help="Tars, folders, Parquet files, lists: paths, URLs, globs, sa_{000..009}.tar.")
]
Like = Annotated[
    int | None,
    typer.Option(
        min=1, help="Repeat the command that made this snapshot: its settings, and its shards if none are named."
    ),
]
MaxObjects = Annotated[
    int | None, typer.Option(min=1, help="At most N objects: whole units (units.objects), the rest from many photos.")
]
Ids = Annotated[
    Path | None,
    typer.Option(help="File of image or object ids, one a line: only these.", exists=True, dir_okay=False),
]
SampleRate = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Only this share of the photos, by a hash of their ids: the same each time."),
]
Md5 = Annotated[
    str | None, typer.Option(help="List of MD5s as md5sum prints it (SA-1B's checklist.chk): checked per shard.")
]
OneStageAtATime = Annotated[bool, typer.Option(help="For GPUs that cannot hold all stages at once.")]


def run(
    out: Annotated[str, typer.Option(help="The corpus: a folder or s3://bucket/prefix. Run again to resume.")],
    shards: Shards = None,
    preset: Preset = "mini",
    config: ConfigFile = None,
    settings: Settings = None,
    like: Like = None,
    max_objects: MaxObjects = None,
    ids: Ids = None,
    sample_rate: SampleRate = None,
    md5: Md5 = None,
    only: Annotated[
        bool, typer.Option("--only", help="Publish these shards alone; without it the corpus keeps its other shards.")
    ] = False,
    one_stage_at_a_time: OneStageAtATime = False,
    max_gpu_hours: Annotated[
        float | None, typer.Option(min=0, help="Stop when the cells of this run have used so many GPU-hours.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Stop when they have cost so much, by the prices in `price`.")
    ] = None,
    max_failed: MaxFailed = MAX_FAILED,
    address: Address = None,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Turn photos into a corpus of 3D objects. The same command again continues where a killed run stopped."""
    with errors_as_one_line(), logs(verbose, log_file):
        asked = request(out, shards, preset, config, settings, like, max_objects, ids, sample_rate)

        from jobs.run_report import lines, shortfall
        from pipeline.input import source
        from pipeline.run import run as run_pipeline  # Ray, which takes seconds; a wrong argument has been said

        join(address)
        with live() as (say, show):
            report = run_pipeline(
                asked.config,
                asked.shards,
                source.absolute(out),
                asked.selection,
                preset=asked.preset,
                only=only,
                one_stage_at_a_time=one_stage_at_a_time,
                md5=None if md5 is None else source.read_md5(md5),
                max_gpu_hours=max_gpu_hours,
                max_cost=max_cost,
                say=say,
                show=show,
            )
        for line in lines(report, out):
            print(line, flush=True)
        short = report.limit or shortfall(report.partitions, source.absolute(out), max_failed)
        if short:
            typer.echo(f"anything3d: {short}", err=True)
    raise typer.Exit(NOT_BALANCED if report.lost else exit_code(short) if short else DONE)


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks of a run."""

    config: "Config"
    shards: list[str]
    selection: "Selection"
    preset: str


def request(
    out: str,
    shards: list[str] | None,
    preset: str,
    config: Path | None,
    settings: list[str] | None,
    like: int | None,
    max_objects: int | None,
    ids: Path | None,
    sample_rate: float | None,
) -> Request:
    """The options of `run` that decide what it computes.

    Raises: ConfigError; SourceError.
    """
    from anything3d.errors import ConfigError
    from pipeline.input import source

    wanted = read_ids(ids) if ids else None
    if like is None:
        chosen, named = read_settings(preset, config, settings), shards or []
    else:
        if config is not None or preset != "mini":
            raise ConfigError("like_and_preset", "--like has a preset of its own. Leave --preset and --config out.")
        from pipeline.release.snapshot import snapshot_of

        _, snapshot = snapshot_of(source.absolute(out), like)
        chosen, preset = read_settings_like(snapshot, settings), snapshot.made_by.preset
        named = shards or list(snapshot.made_by.shards.values())
        if not shards:
            made_by = snapshot.made_by
            max_objects = made_by.max_objects if max_objects is None else max_objects
            if wanted is None and sample_rate is None:  # --ids and --sample-rate each stand for both
                wanted = None if made_by.ids is None else frozenset(made_by.ids)
                sample_rate = made_by.sample_rate
    if sample_rate == 0 or (sample_rate is not None and wanted is not None):
        why = "--ids names the photos already." if sample_rate else "--sample-rate 0 leaves no photo."
        raise ConfigError("sample_rate", f"{why} Leave --sample-rate out, or give a share above 0 without --ids.")
    if not named:
        raise ConfigError("no_shards", "No shard is named. Name one, or repeat a snapshot with --like.")
    found = source.expand(named)

    from pipeline.plan import Selection

    return Request(chosen, found, Selection(max_objects, wanted, sample_rate), preset)


def read_ids(path: Path) -> frozenset[str]:
    """The words of a file.

    Raises: SourceError if it has none: whoever looked for objects and found none does not want all of them.
    """
    from anything3d.errors import SourceError
    from pipeline.input.text import text_of

    if not (wanted := frozenset(text_of(path.read_bytes()).split())):
        raise SourceError("no_ids", f"{path} names no photo and no object. Leave --ids out if all are wanted.")
    return wanted


if __name__ == "__main__":
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(epilog=CODES)(run)
    single()
