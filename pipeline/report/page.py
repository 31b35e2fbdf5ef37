"""The report on the newest snapshot of a corpus: all of its numbers, and the page that shows them."""

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anything3d.reasons import REASONS
from pipeline.compare import Comparison, compare
from pipeline.config import differences
from pipeline.location import explained
from pipeline.release.duplicates import duplicates_of
from pipeline.release.gallery.page import HERE as GALLERY
from pipeline.release.gallery.template import render
from pipeline.release.snapshot import Snapshot, read_snapshot, snapshot_of
from pipeline.report import shown, yields
from pipeline.report.distributions import Distribution, spread
from pipeline.report.shown import Pictures, Shown
from pipeline.report.yields import Cause, Step
from pipeline.store import Store

ASSETS = Path(__file__).parent / "assets"
SCRIPTS, STYLES = (
    (ASSETS / "plot.js", ASSETS / "report.js"),
    (GALLERY / "assets" / "gallery.css", ASSETS / "report.css"),
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What the snapshot has that an earlier one had not."""

    date: str  # of the earlier one
    objects: Comparison
    why: Sequence[str]  # settings, weights and versions of the commands that made the two, where they differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All numbers of a report."""

    corpus: str
    snapshot: int
    digest: str
    date: str
    preset: str
    note: str  # what to know of the networks; "" if nothing
    shards: int
    objects: int
    rejects: int
    wanted: int  # objects that were to be made
    duplicates: int | None  # objects that look nearly like an earlier one; None if nobody has looked for them
    steps: Sequence[Step]
    causes: Sequence[Cause]
    distributions: Sequence[Distribution]
    quality: Mapping[str, int]  # letter -> objects
    ranked_by: str | None  # the number by which the objects are ranked; None if no object has it
    best: Sequence[Shown]  # the best first
    worst: Sequence[Shown]  # the worst first
    changes: Changes | None  # None: there is no earlier snapshot

    @property
    def funnel(self) -> list[tuple[str, int]]:
        """What was left after every stage, from the photos to the finished objects."""
        left = [
            (f"{step.kind if step.stage == 'index' else 'objects'}: {step.stage}", step.done) for step in self.steps
        ]
        place = next((place for place, step in enumerate(self.steps, 1) if step.stage == "segment"), len(left))
        return [*left[:place], ("objects: wanted", self.wanted), *left[place:]]

    @property
    def costs(self) -> dict[str, float]:
        """Currency -> cost of all stages."""
        return {
            currency: sum(step.costs.get(currency, 0.0) for step in self.steps)
            for currency in sorted({currency for step in self.steps for currency in step.costs})
        }


def report_of(corpus: str, against: int | None) -> tuple[Report, Pictures]:
    """The report on the newest snapshot, and the pictures of its examples. `against` is the number of the earlier one.

    Without it, the earlier one is that from which the newest was made, if it is still there.

    Raises: SourceError("no_snapshot") if there is no such snapshot; SourceError("damaged_corpus"); StorageError.
    """
    store, snapshot = snapshot_of(corpus)
    with explained(corpus):
        before = read_snapshot(store, snapshot.parent) if against is None else snapshot_of(corpus, against)[1]
        return _report(store, snapshot, before)


def _report(store: Store, snapshot: Snapshot, before: Snapshot | None) -> tuple[Report, Pictures]:
    pictures: Pictures = {}
    distributions, counted, ranked_by = spread(store, snapshot)
    causes = yields.causes(snapshot, before)
    shown.add_examples(store, snapshot, causes, pictures)
    report = Report(
        corpus=store.root,
        snapshot=snapshot.number,
        digest=snapshot.digest,
        date=snapshot.date,
        preset=snapshot.made_by.preset,
        note=snapshot.note,
        shards=len(snapshot.partitions),
        objects=snapshot.objects,
        rejects=snapshot.rejects,
        wanted=sum(partition.wanted for partition in snapshot.partitions.values()),
        duplicates=None if (marks := duplicates_of(store, snapshot.number)) is None else marks.num_rows,
        steps=yields.steps(snapshot, yields.costs_of(store, snapshot)),
        causes=causes,
        distributions=distributions,
        quality=dict(sorted(counted.tiers.items())),
        ranked_by=ranked_by,
        best=shown.objects(store, snapshot, counted.best, pictures),
        worst=shown.objects(store, snapshot, counted.worst, pictures),
        changes=_changes(store, before, snapshot) if before else None,
    )
    return report, pictures


def _changes(store: Store, before: Snapshot, after: Snapshot) -> Changes:
    """Raises: SourceError("damaged_corpus") if a table of one of them is damaged or has gone."""
    old, new = before.made_by, after.made_by
    why = list(differences("", old.settings, new.settings))
    why += [f"the weights of {name} are others" for name in _others(old.weights, new.weights)]
    why += [
        f"{name} was {old.versions.get(name, 'not there')} and is {new.versions.get(name, 'not there')}"
        for name in _others(old.versions, new.versions)
    ]
    return Changes(before.date, compare(store, before, after), why)


def _others(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The names whose values differ."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def numbers(report: Report) -> dict[str, Any]:
    """The numbers of a report, as JSON can hold them."""
    body = asdict(report)
    for step, known in zip(body["steps"], report.steps, strict=True):
        step["share"], step["seconds_per_input"] = known.share, known.seconds_per_input
    for cause in body["causes"]:
        for example in cause["examples"]:
            del example["picture"]
    return {**body, "funnel": report.funnel, "costs": report.costs}


def page(report: Report, pictures: Mapping[str, bytes]) -> bytes:
    """The page. It needs no other file and no network, and its policy lets it run no other script than its own.

    Captions, messages and names come from outside and are escaped.
    """
    from markupsafe import Markup  # of jinja2

    script = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    charts = numbers(report)
    return render(
        "report.html",
        report=report,
        title=report.corpus.rstrip("/").rpartition("/")[2],
        total_seconds=sum(step.seconds for step in report.steps),
        reasons=REASONS,
        pictures={key: f"data:image/webp;base64,{b64encode(data).decode()}" for key, data in pictures.items()},
        charts={name: charts[name] for name in ("funnel", "steps", "distributions")},
        style=Markup("".join(path.read_text(encoding="utf-8") for path in STYLES)),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    ).encode()
