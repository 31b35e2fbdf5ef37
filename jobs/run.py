"""`anything3d run`, and what `ray job submit --working-dir . -- python -m jobs.run ...` calls."""

import os
from pathlib import Path
from typing import Annotated

import typer

PRESETS = Path(__file__).parent / "presets"


def run(
    shards: Annotated[
        list[str], typer.Argument(help="SA-1B tars: paths, URLs, globs, brace ranges sa_{000..009}.tar.")
    ],
    out: Annotated[str, typer.Option(help="The corpus: a folder or s3://bucket/prefix. Run again to resume.")],
    preset: Annotated[str, typer.Option(help="Settings to begin with; see jobs/presets/.")] = "mini",
    config: Annotated[Path | None, typer.Option(help="TOML file over the preset.", exists=True, dir_okay=False)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over both, as caption.beams=5; repeatable.")
    ] = None,
    max_objects: Annotated[int | None, typer.Option(min=1, help="Stop after the first N objects.")] = None,
    ids: Annotated[
        Path | None, typer.Option(help="File of image or object ids, one a line: only these.", exists=True)
    ] = None,
    one_stage_at_a_time: Annotated[bool, typer.Option(help="For GPUs that cannot hold all stages at once.")] = False,
) -> None:
    """Turn shards into a corpus of 3D objects. The same command again continues where a killed run stopped."""
    from anything3d.errors import Anything3DError
    from jobs.report import lines
    from pipeline import config as settings_of
    from pipeline import source
    from pipeline.run import Selection
    from pipeline.run import run as run_pipeline

    try:
        _refuse_relative_paths([out, *shards])
        layers = [read_preset(preset), *([config.read_text()] if config else [])]
        wanted = frozenset(ids.read_text().split()) if ids else frozenset()
        report = run_pipeline(
            settings_of.load(layers, settings or []),
            source.expand(shards),
            out if "://" in out else str(Path(out).absolute()),
            Selection(max_objects, wanted),
            one_stage_at_a_time=one_stage_at_a_time,
            say=lambda line: print(line, flush=True),
        )
    except Anything3DError as error:
        typer.echo(f"anything3d: {error}", err=True)
        raise typer.Exit(2) from error
    for line in lines(report, out):
        print(line, flush=True)
    raise typer.Exit(1 if report.snapshot is None or report.snapshot.lost else 0)


def read_preset(name: str) -> str:
    """The TOML of a preset.

    Raises: ConfigError for an unknown name.
    """
    from anything3d.errors import ConfigError

    known = sorted(path.stem for path in PRESETS.glob("*.toml"))
    if name not in known:
        raise ConfigError("preset", f"no preset {name!r}; known: {', '.join(known)}")
    return (PRESETS / f"{name}.toml").read_text()


def _refuse_relative_paths(paths: list[str]) -> None:
    """A Ray job works in a temporary copy of the submitted folder: what it writes there vanishes with it."""
    from anything3d.errors import ConfigError

    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return
    if relative := [path for path in paths if "://" not in path and not path.startswith("/")]:
        raise ConfigError(
            "relative_path",
            f"{relative} inside a Ray job, whose working folder is a temporary copy; give an absolute"
            " path that all nodes see, or a URL",
        )


if __name__ == "__main__":
    typer.run(run)
