"""docs/settings.md: every setting with its type, range, defaults and meaning, read from the Config classes themselves.

The meaning of a setting is the comment above its field and behind it.
"""

import ast
import inspect
import json
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from io import StringIO
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Interval

from anything3d.settings import described
from jobs.command import read_preset
from pipeline.config import Config, Workers, load

PRESETS = ("mini", "default", "paper")
TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text"}
TOP = """\
# Settings

This page is made by `python -m jobs.docs` from the classes that declare the settings; do not edit it.

A setting is given as `--set key=value`, or in a TOML file with `--config`. The value of a preset is its default. The
columns `default` and `paper` are empty where these presets have the value of `mini`. Every setting is checked before a
run starts. One that is unknown or out of range ends the command with the code `config_key` or `setting`, and nothing is
computed. `anything3d config show --preset default` prints all settings as such a file. `anything3d config explain KEY`
prints one of them.

The settings of a stage, `seed` and `dtype` are part of the stage's fingerprint. If one of them changes, the stage and
all stages that read its rows are computed again. Settings of `units` give other cells, with the same rows. Settings of
`resources` and `price` change neither rows nor cells.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: a row of the page."""

    key: str
    annotation: Any
    values: tuple[Any, ...]  # one for each of the configs that are asked about
    meaning: str

    @property
    def kind(self) -> str:
        """Its type and range in words."""
        return _type(self.annotation)


@dataclass(frozen=True, slots=True)
class Section:
    """The settings of one class of `Config`, without those of the classes inside it."""

    key: str  # "" for the settings of all stages
    about: str  # the first paragraph of the class's docstring
    settings: tuple[Setting, ...]


def sections(configs: Sequence[Config]) -> Iterator[Section]:
    """All settings, in the order in which they are declared, with their values in each of the configs."""
    yield from _sections("", Config, configs)


def page() -> str:
    """The text of docs/settings.md."""
    return "\n".join([TOP, *_page(sections([load([read_preset(name)]) for name in PRESETS]))]).rstrip() + "\n"


def _page(known: Iterator[Section]) -> Iterator[str]:
    """A heading and a table for each section. The settings that all actors have stand in a table of their own."""
    shared = tuple(entry.name for entry in fields(Workers))
    for section in known:
        own = [row for row in section.settings if not (_is_workers(section) and row.key.split(".")[-1] in shared)]
        if own:
            title = f"`{section.key}`" if section.key else "All stages"
            yield from [f"## {title}\n", f"{section.about}\n", *_table(own)]
        if section.key == "resources":
            yield from _workers()


def _is_workers(section: Section) -> bool:
    return section.key.startswith("resources.")


def meanings(section: type[Any]) -> dict[str, str]:
    """Setting -> what the comments above its field and behind it say, of a class and those that it builds on."""
    meanings: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if is_dataclass(kind):
            meanings |= _own_meanings(textwrap.dedent(inspect.getsource(kind)))
    return meanings


def _own_meanings(source: str) -> dict[str, str]:
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            comments[line] = token.string.removeprefix("#").strip()
            if token.line.strip() == token.string:
                alone.add(line)
    said: dict[str, str] = {}
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            lines = range(first, (node.end_lineno or node.lineno) + 1)
            said[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return said


def _sections(key: str, kind: type[Any], configs: Sequence[Any]) -> Iterator[Section]:
    hints, said = get_type_hints(kind, include_extras=True), meanings(kind)
    values = {entry.name: tuple(getattr(config, entry.name) for config in configs) for entry in fields(kind)}
    inside = [name for name, given in values.items() if is_dataclass(given[0])]
    before = f"{key}." if key else ""
    rows = (
        Setting(f"{before}{name}", hints[name], given, said[name])
        for name, given in values.items()
        if name not in inside
    )
    yield Section(key, _docstring(kind), tuple(rows))
    for name in inside:
        yield from _sections(f"{before}{name}", type(values[name][0]), values[name])


def _workers() -> Iterator[str]:
    """The settings that the actors of every stage have."""
    said, hints = meanings(Workers), get_type_hints(Workers, include_extras=True)
    yield "## `resources.<stage>`\n"
    yield "The actors of each stage. The presets `default` and `paper` give stages with networks a share of a GPU.\n"
    yield from _table(
        [
            Setting(
                f"resources.<stage>.{entry.name}",
                hints[entry.name],
                (getattr(Workers(), entry.name),) * len(PRESETS),
                said[entry.name],
            )
            for entry in fields(Workers)
        ]
    )


def _table(rows: Sequence[Setting]) -> Iterator[str]:
    yield f"| Setting | Type and range | {' | '.join(f'`{name}`' for name in PRESETS)} | Meaning |"
    yield f"|---|---|{'---|' * len(PRESETS)}---|"
    for row in rows:
        first, *others = row.values
        shown = [_code(first), *("" if other == first else _code(other) for other in others)]
        cells = [f"`{row.key}`", row.kind, *shown, row.meaning]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def written(value: object) -> str:
    """The value of a setting in TOML, which is that of JSON here."""
    return json.dumps(value, ensure_ascii=False)


def _code(value: object) -> str:
    return f"`{written(value)}`"


def _type(annotation: Any) -> str:  # noqa: ANN401 - whatever a field may be annotated with
    if get_origin(annotation) is Annotated:
        kind, *limits = get_args(annotation)
        return ", ".join([_type(kind), *(described(limit) for limit in limits if isinstance(limit, Interval))])
    if get_origin(annotation) is Literal:
        return " or ".join(_code(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        parts = get_args(annotation)
        return f"list of {len(parts)}, each: {_type(parts[0])}"
    return TYPES[annotation]


def _docstring(section: type[Any]) -> str:
    return " ".join((inspect.getdoc(section) or "").split("\n\n")[0].split())
