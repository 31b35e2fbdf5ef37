"""ablate: the same objects under several settings, and what each setting is worth.

All variants and seeds share one corpus. So a stage runs again only where its settings differ.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anything3d.errors import ConfigError
from pipeline.config import Config, load
from pipeline.evaluate import evaluate_snapshot, summarised
from pipeline.location import explained
from pipeline.plan import Selection
from pipeline.run import run
from pipeline.run_report import RunReport
from pipeline.store import Store
from pipeline.truth import given_truth
from schemas.records import EvaluationRecord

if TYPE_CHECKING:
    from anything3d.quality.summary import Summary


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run, and the settings that make it."""

    name: str
    layers: tuple[str, ...]  # TOML
    settings: tuple[str, ...]  # key=value, over the layers

    def config(self, seed: int) -> Config:
        return load(self.layers, [*self.settings, f"seed={seed}"])


@dataclass(frozen=True, slots=True)
class Measured:
    """A variant over all objects and seeds; `gain` is what the first variant has more than it, object by object."""

    name: str
    settings: tuple[str, ...]
    objects: int  # rows: objects times seeds
    summary: "dict[str, Summary]"
    gain: "dict[str, Summary]"


def read_variants(text: str, layers: Sequence[str], settings: Sequence[str]) -> list[Variant]:
    """The variants of a TOML file ([[variant]] with `name` and `settings`), each over the same preset and settings.

    Raises: ConfigError for anything that is no such file, and for settings that do not exist.
    """
    try:
        entries = tomllib.loads(text)["variant"]
        named = [(str(entry["name"]), [str(line) for line in entry["settings"]]) for entry in entries]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigError("variants", f"Every [[variant]] of the file needs a name and settings: {error!r}") from error
    if len({name for name, _ in named}) != len(named) or not named:
        raise ConfigError("variants", "The file needs one [[variant]] at least, and names that differ.")
    variants = [Variant(name, tuple(layers), (*settings, *own)) for name, own in named]
    for variant in variants:
        variant.config(seed=0)
    return variants


def ablate(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    shards: Sequence[str],
    out: str,
    truths: Sequence[str],
    selection: Selection,
    say: Callable[[str], None] = lambda line: None,
    judge: Callable[[RunReport], None] = lambda report: None,
) -> list[Measured]:
    """Run and evaluate every variant with every seed; the first one is compared with each. `judge` hears of every run.

    Raises: as `run` and `evaluate`.
    """
    from anything3d.quality import summary as measures  # loads torch

    given = [given_truth(location) for location in truths]
    rows: dict[str, list[EvaluationRecord]] = {}
    for variant in variants:
        rows[variant.name] = []
        for seed in seeds:
            say(f"--- {variant.name}, seed {seed}")
            report = run(variant.config(seed), shards, out, selection, say=say)
            judge(report)
            assert report.snapshot is not None
            own = replace(report.snapshot, partitions=report.partitions)  # the corpus may have other shards
            with explained(out):
                rows[variant.name] += evaluate_snapshot(Store(out), own, given, lambda _: None)[1]
    first = by_object(rows[variants[0].name])
    return [
        Measured(
            variant.name,
            variant.settings,
            len(rows[variant.name]),
            summarised(rows[variant.name]),
            measures.differences(first, by_object(rows[variant.name])),
        )
        for variant in variants
    ]


def by_object(rows: Sequence[EvaluationRecord]) -> Mapping[str, list[dict[str, float | None]]]:
    """The metrics of each object, one row for each run."""
    from anything3d.quality import summary as measures

    rows_of: dict[str, list[dict[str, float | None]]] = {}
    for row in rows:
        rows_of.setdefault(row.object_id, []).append({name: getattr(row, name) for name in measures.METRICS})
    return rows_of
