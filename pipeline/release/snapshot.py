"""A snapshot: one release of a corpus, as snapshots/<id>.json says it, and the objects in it.

A snapshot names its own stages. So a corpus is read with the stages that made it, whatever stages there are today.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from anything3d.errors import DamagedCell, SourceError
from pipeline import source
from pipeline.commit import Commit, sealed, unsealed
from pipeline.location import explained
from pipeline.store import Store
from pipeline.unit import Unit
from schemas.corpus import OBJECT_RECORDS, ObjectRows
from schemas.records import OriginRecord

POINTER = "snapshot.json"  # the newest snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class File:
    """A file of the view, as its snapshot describes it."""

    bytes: int
    sha256: str


Files = dict[str, File]  # path -> what it is


@dataclass(frozen=True, slots=True, order=True)
class Named:
    """A commit, as a snapshot names it."""

    stage: str
    unit: str
    digest: str
    folder: str  # of the cell


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A release of a corpus: the commits that it consists of, and the files that show it."""

    id: str  # the hash of the commits' digests, and of the licences of the photos
    objects: int
    rejects: int
    note: str  # what to know of the networks that made it; "" if nothing
    fingerprints: Mapping[str, str]  # stage -> fingerprint, of every stage that ran, in order
    commits: tuple[Named, ...]
    seconds: Mapping[str, float]  # stage -> seconds of all its cells
    files: Files
    groups: Mapping[str, Sequence[str]]  # key of a group of units -> its files

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that ran, in order."""
        return tuple(self.fingerprints)

    def to_json(self) -> bytes:
        """With a digest of itself, so that damage is seen."""
        return sealed(
            {
                "id": self.id,
                "objects": self.objects,
                "rejects": self.rejects,
                "note": self.note,
                "fingerprints": dict(self.fingerprints),
                "commits": [[named.stage, named.unit, named.digest, named.folder] for named in self.commits],
                "seconds": dict(self.seconds),
                "files": sorted(self.files),
                "contents": {path: asdict(file) for path, file in sorted(self.files.items())},
                "groups": {key: list(paths) for key, paths in self.groups.items()},
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> "Snapshot":
        """Raises: ValueError if `data` is no snapshot, or is damaged."""
        body = unsealed(data)
        try:
            return cls(
                id=body["id"],
                objects=body["objects"],
                rejects=body["rejects"],
                note=body["note"],
                fingerprints=body["fingerprints"],
                commits=tuple(Named(*entry) for entry in body["commits"]),
                seconds=body["seconds"],
                files={path: File(**file) for path, file in body["contents"].items()},
                groups=body["groups"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no snapshot: {error!r}") from error

    def looks_like(self, other: "Snapshot") -> bool:
        """Whether the view of the other one is the view of this one: same objects, files and note."""
        return (self.id, self.files, self.note) == (other.id, other.files, other.note)


def path_of(identity: str) -> str:
    """Where the snapshot with this id lies in its corpus."""
    return f"snapshots/{identity}.json"


def find_snapshot(store: Store, path: str) -> Snapshot | None:
    """The snapshot in a file; None if there is none that can be read, which is then said."""
    data = store.find(path)
    if data is None:
        return None
    try:
        return Snapshot.from_json(data)
    except ValueError as error:
        log.warning("%s/%s is damaged or of an earlier version (%s); it is written again", store.root, path, error)
        return None


def newest(corpus: str) -> Snapshot:
    """The snapshot that a finished corpus shows.

    Raises: SourceError("no_snapshot") if there is none, or it is damaged or of an earlier version; StorageError.
    """
    path = f"{corpus.rstrip('/')}/{POINTER}"
    with explained(corpus):
        try:
            return Snapshot.from_json(source.read(path))
        except FileNotFoundError as error:
            raise SourceError(
                "no_snapshot", f"There is no {path}. Give the --out of a finished `anything3d run`."
            ) from error
        except ValueError as error:
            raise SourceError(
                "no_snapshot",
                f"{path} is damaged or of an earlier version ({error}). Give the command of the run again.",
            ) from error


def released_cells(store: Store, snapshot: Snapshot) -> Iterator[dict[str, Commit]]:
    """Stage -> commit, of the stages of this snapshot whose rows are objects; unit by unit, in order of their names."""
    folders = {(named.stage, named.unit): named.folder for named in snapshot.commits}
    segments = {named.digest: named.folder for named in snapshot.commits if named.stage == "segment"}
    later = [stage for stage in snapshot.stages if stage in OBJECT_RECORDS and stage != "segment"]
    for unit in [unit for stage, unit in folders if stage == "score"]:
        commits = {stage: _commit(store, folders[stage, unit]) for stage in later}
        yield {"segment": _commit(store, segments[commits["score"].inputs["segment"]]), **commits}


def _commit(store: Store, folder: str) -> Commit:
    commit = store.commit_at(folder)
    if commit is None:
        raise SourceError(
            "no_commit", f"{store.root}/{folder}/commit.json has gone. Give the command of the run again."
        )
    return commit


def finished_objects(store: Store, unit: Unit) -> list[ObjectRows]:
    """Every object of the unit that has come through all stages, in order."""
    commits: dict[str, Commit] = {}
    for stage in object_stages(unit):
        commit = store.commit_at(unit.inputs[stage].path)
        if commit is None:
            raise DamagedCell("commit_gone", f"{store.root}/{unit.inputs[stage].path}/commit.json has gone")
        commits[stage] = commit
    licence = unit.inputs["licence"].digest
    return [
        replace(rows, origin=origin_of(rows.object_id, commits, licence))
        for rows in read_objects(store, commits, unit.ids)
    ]


def origin_of(object_id: str, commits: Mapping[str, Commit], licence: str) -> OriginRecord:
    """What made the rows of these commits (by stage), and under which terms they stand; `licence` is the photos'."""
    lift, score = commits.get("lift"), commits["score"]
    weights = {name: digest for commit in commits.values() for name, digest in commit.weights.items()}
    return OriginRecord(
        object_id,
        lift.backend if lift else None,
        commits["reconstruct"].backend,
        json.dumps(weights, sort_keys=True),
        "; ".join(sorted({licence, *(name for commit in commits.values() for name in commit.licences)})),
        score.versions["anything3d"],
    )


def object_stages(unit: Unit) -> list[str]:
    """The stages that the unit has come through and whose rows are objects."""
    return [stage for stage in OBJECT_RECORDS if stage in unit.inputs]


def read_objects(store: Store, commits: Mapping[str, Commit], ids: Sequence[str]) -> list[ObjectRows]:
    """Every one of `ids` that all commits (by stage) have a row of, in order."""
    tables: dict[str, dict[str, Any]] = {}
    for stage, commit in commits.items():
        rows: list[Any] = store.read_part(commit.rows, OBJECT_RECORDS[stage], ids)
        tables[stage] = {row.object_id: row for row in rows}
    return [
        ObjectRows(**{stage: table[item] for stage, table in tables.items()})
        for item in ids
        if all(item in table for table in tables.values())
    ]
