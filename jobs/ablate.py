"""`anything3d ablate` says what each part of the method is worth, with intervals, on objects whose shape is known."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command import (
    MAX_FAILED,
    NOT_BALANCED,
    Address,
    LogFile,
    MaxFailed,
    Preset,
    Verbose,
    errors_as_one_line,
    exit_code,
    join,
    logs,
)

if TYPE_CHECKING:
    from pipeline.ablate import Measured

ABLATIONS = Path(__file__).parent / "ablations"
SHOWN = (
    "mask_iou",
    "caption_shape_accuracy",
    "reference_psnr_db",
    "mesh_psnr_db",
    "novel_psnr_db",
    "mesh_novel_psnr_db",
    "novel_mask_iou",
    "chamfer",
    "fscore_5pct",
    "lift_chamfer",
    "seconds_per_object",
)


def ablate(
    shards: Annotated[list[str], typer.Argument(help="SA-1B tars with truth beside them, as for `run`.")],
    out: Annotated[str, typer.Option(help="One corpus for all variants; stages that they share run once.")],
    truth: Annotated[list[str], typer.Option(help="As for `evaluate`; repeatable.")],
    variants: Annotated[
        Path,
        typer.Option(help="TOML: [[variant]] with name and settings; the first is compared with each.", exists=True),
    ] = ABLATIONS / "mini.toml",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant, with seeds 0, 1, ...")] = 3,
    max_objects: Annotated[int | None, typer.Option(min=1, help="At most N objects, as for `run`.")] = None,
    preset: Preset = "mini",
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value for all variants; repeatable.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.", dir_okay=False)] = None,
    max_failed: MaxFailed = MAX_FAILED,
    address: Address = None,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Say what each part of the method is worth.

    Runs variants of the settings on the same objects, and compares the first with each of the others.
    """
    with errors_as_one_line(), logs(verbose, log_file):
        import json
        from dataclasses import asdict

        from anything3d.errors import TooFew
        from jobs.command import read_preset, read_settings
        from pipeline.input import source

        read_settings(preset, None, settings)  # a wrong argument is said before the imports below, which take seconds
        if json_file:
            json_file.parent.mkdir(parents=True, exist_ok=True)
        found = source.expand(shards)

        from jobs.run_report import shortfall
        from pipeline.ablate import ablate as run_variants
        from pipeline.ablate import read_variants
        from pipeline.plan import Selection
        from pipeline.run_report import RunReport

        join(address)
        read = read_variants(variants.read_text(), [read_preset(preset)], settings or [])
        short, lost = list[TooFew](), list[str]()

        def judge(report: RunReport) -> None:
            lost.extend(report.lost)
            if line := shortfall(report.partitions, source.absolute(out), max_failed):
                short.append(line)
                typer.echo(f"anything3d: {line}", err=True)

        measured = run_variants(
            read,
            range(seeds),
            found,
            source.absolute(out),
            [source.absolute(location) for location in truth],
            Selection(max_objects),
            say=lambda line: print(line, flush=True),
            judge=judge,
        )
        for line in lines(measured):
            print(line)
        if json_file:
            json_file.write_text(json.dumps([asdict(row) for row in measured], indent=1) + "\n")
        if lost:
            typer.echo(
                f"NOT BALANCED: {len(lost)} objects are neither done nor rejected: {', '.join(lost[:5])}", err=True
            )
    if lost or short:
        raise typer.Exit(NOT_BALANCED if lost else max(map(exit_code, short)))


def lines(measured: "list[Measured]") -> Iterator[str]:
    """A Markdown table: means of every variant, then by how much the first is higher, with 95 % intervals."""
    first = measured[0].name
    yield f"| variant | n | {' | '.join(SHOWN)} |"
    yield "|" + "---|" * (len(SHOWN) + 2)
    for row in measured:
        cells = (f"{row.summary[name].mean:.3f}" if name in row.summary else "-" for name in SHOWN)
        yield f"| {row.name} | {row.objects} | {' | '.join(cells)} |"
    for row in measured[1:]:
        cells = (_interval(row.gain[name]) if name in row.gain else "-" for name in SHOWN)
        yield f"| {first} minus {row.name} | | {' | '.join(cells)} |"


def _interval(gain: object) -> str:
    from anything3d.quality.summary import Summary

    assert isinstance(gain, Summary)
    return f"{gain.mean:+.3f} ({gain.low:+.3f} .. {gain.high:+.3f})"


if __name__ == "__main__":
    typer.run(ablate)
