"""`anything3d run`. `ray job submit --working-dir . -- python -m jobs.run ...` calls the same function."""

from pathlib import Path
from typing import Annotated

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


def run(
    out: Annotated[str, typer.Option(help="The corpus: a folder or s3://bucket/prefix. Run again to resume.")],
    shards: Annotated[
        list[str] | None,
        typer.Argument(help="Tars, folders, Parquet files, lists: paths, URLs, globs, sa_{000..009}.tar."),
    ] = None,
    preset: Preset = "mini",
    config: ConfigFile = None,
    settings: Settings = None,
    like: Annotated[
        int | None,
        typer.Option(
            min=1, help="Repeat the command that made this snapshot: its settings, and its shards if none are named."
        ),
    ] = None,
    max_objects: Annotated[int | None, typer.Option(min=1, help="Stop after the first N objects.")] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="File of image or object ids, one a line: only these.", exists=True, dir_okay=False),
    ] = None,
    md5: Annotated[
        str | None, typer.Option(help="List of MD5s as md5sum prints it (SA-1B's checklist.chk): checked per shard.")
    ] = None,
    only: Annotated[
        bool, typer.Option("--only", help="Publish these shards alone; without it the corpus keeps its other shards.")
    ] = False,
    one_stage_at_a_time: Annotated[bool, typer.Option(help="For GPUs that cannot hold all stages at once.")] = False,
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
        from anything3d.errors import ConfigError
        from jobs.report import lines, shortfall
        from pipeline import source
        from pipeline.plan import Selection
        from pipeline.release.snapshot import snapshot_of
        from pipeline.run import run as run_pipeline

        join(address)
        wanted = read_ids(ids) if ids else None
        if like is None:
            chosen, named = read_settings(preset, config, settings), shards or []
        else:
            if config is not None or preset != "mini":
                raise ConfigError("like_and_preset", "--like has a preset of its own. Leave --preset and --config out.")
            _, snapshot = snapshot_of(source.absolute(out), like)
            chosen, preset = read_settings_like(snapshot, settings), snapshot.made_by.preset
            named = shards or list(snapshot.made_by.shards.values())
            if not shards:
                made_by = snapshot.made_by
                max_objects = made_by.max_objects if max_objects is None else max_objects
                wanted = frozenset(made_by.ids) if wanted is None and made_by.ids is not None else wanted
        if not named:
            raise ConfigError("no_shards", "No shard is named. Name one, or repeat a snapshot with --like.")
        report = run_pipeline(
            chosen,
            source.expand(named),
            source.absolute(out),
            Selection(max_objects, wanted),
            preset=preset,
            only=only,
            one_stage_at_a_time=one_stage_at_a_time,
            md5=None if md5 is None else source.read_md5(md5),
            max_gpu_hours=max_gpu_hours,
            max_cost=max_cost,
            say=lambda line: print(line, flush=True),
        )
        for line in lines(report, out):
            print(line, flush=True)
        short = report.limit or shortfall(report.partitions, source.absolute(out), max_failed)
        if short:
            typer.echo(f"anything3d: {short}", err=True)
    raise typer.Exit(NOT_BALANCED if report.lost else exit_code(short) if short else DONE)


def read_ids(path: Path) -> frozenset[str]:
    """The words of a file.

    Raises: SourceError if it has none: whoever looked for objects and found none does not want all of them.
    """
    from anything3d.errors import SourceError

    if not (wanted := frozenset(path.read_text().split())):
        raise SourceError("no_ids", f"{path} names no photo and no object. Leave --ids out if all are wanted.")
    return wanted


if __name__ == "__main__":
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(epilog=CODES)(run)
    single()
