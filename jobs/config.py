"""`anything3d config` shows which settings a command would run with, and what one of them means."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command import ConfigFile, Preset, Settings, errors_as_one_line
from jobs.examples import ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobs.settings import Section, Setting
    from pipeline.config import Config

app = typer.Typer(help="Show settings, and say what they mean.", no_args_is_help=True)
WIDTH = 100  # characters of a line of comment


@app.command(epilog=ending("config show"))
def show(
    preset: Preset = "mini",
    config: ConfigFile = None,
    settings: Settings = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only those settings that differ from the preset mini.")
    ] = False,
) -> None:
    """Print all settings as TOML, with their meanings and ranges as comments. `--config` takes what this prints."""
    with errors_as_one_line():
        from jobs.command import read_settings
        from jobs.settings import sections
        from pipeline.config import load

        usual = load([])
        for line in toml(list(sections([read_settings(preset, config, settings), usual])), changed):
            print(line)


@app.command(epilog=ending("config explain"))
def explain(key: Annotated[str, typer.Argument(help="A setting, or a section of settings.")]) -> None:
    """Say what a setting means, which values it may have, and what is computed again if it changes."""
    with errors_as_one_line():
        from jobs.command import read_preset
        from jobs.settings import PRESETS, sections
        from pipeline.config import load

        presets = [load([read_preset(name)]) for name in PRESETS]
        known = list(sections(presets))
        chosen = [
            row for section in known for row in section.settings if row.key == key or row.key.startswith(f"{key}.")
        ]
        if not chosen:
            raise unknown(key, known)
        for about in (section.about for section in known if section.key == key):
            print(f"{about}\n")
        for row in chosen:
            for line in explained(row, PRESETS, consequence(row.key, presets[0])):
                print(line)


def toml(known: "Sequence[Section]", changed: bool) -> "Iterator[str]":
    """The first values of all settings as TOML; with `changed`, only those that differ from the second ones."""
    from jobs.settings import written

    for section in known:
        rows = [row for row in section.settings if not changed or row.values[0] != row.values[1]]
        if not rows:
            continue
        if section.key:
            yield f"\n[{section.key}]"
        for row in rows:
            yield from _comment(f"{row.meaning} ({_plain(row.kind)})")
            yield f"{row.key.rpartition('.')[2]} = {written(row.values[0])}"


def explained(row: "Setting", presets: "Sequence[str]", then: str) -> "Iterator[str]":
    """The lines that `explain` prints of one setting."""
    from jobs.settings import written

    yield row.key
    yield f"  {row.meaning}"
    yield f"  It is: {_plain(row.kind)}."
    values = zip(presets, row.values, strict=True)
    yield f"  Its values: {', '.join(f'{written(value)} in the preset {name}' for name, value in values)}."
    yield f"  {then}"


def consequence(key: str, config: "Config") -> str:
    """What is computed again if the setting changes."""
    from pipeline.stages import STAGES

    top, _, below = key.partition(".")
    stages = [stage.name for stage in STAGES]
    if top in stages:
        later = stages[stages.index(top) + 1 :]
        reading = {top}
        for stage in STAGES[stages.index(top) + 1 :]:
            if reading & set(stage.reads(config)):
                reading.add(stage.name)
        again = [name for name in (top, *later) if name in reading]
        return f"If it changes, these stages are computed again: {', '.join(again)}."
    if not below and top in ("seed", "dtype"):
        return "If it changes, all stages that it concerns are computed again."
    if top == "units":
        return "If it changes, all cells are others, with the same rows. So they are computed again."
    return "If it changes, nothing is computed again."


def unknown(key: str, known: "Sequence[Section]") -> Exception:
    """The error for a key that is neither a setting nor a section."""
    from difflib import get_close_matches

    from anything3d.errors import ConfigError

    keys = [row.key for section in known for row in section.settings] + [section.key for section in known]
    ends = [other for other in keys if other.rpartition(".")[2] == key.rpartition(".")[2]]
    near = ends[:3] or get_close_matches(key, keys, 3, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `anything3d config show` prints all settings"
    return ConfigError("config_key", f"There is no setting {key!r}{hint}")


def _plain(text: str) -> str:
    return text.replace("`", "")


def _comment(text: str) -> "Iterator[str]":
    import textwrap

    return (f"# {line}" for line in textwrap.wrap(text, WIDTH))
