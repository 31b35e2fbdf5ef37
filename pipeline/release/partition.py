"""A partition is one shard in a corpus: which cells it consists of, and which files hold its objects and rejects.

A snapshot holds about a kilobyte for each of its partitions. The rest stands in the manifest of the partition, a
Parquet file that is written once, under a name with its digest: one row for each cell and for each file.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anything3d.errors import DamagedCell, SourceError
from pipeline.commit import Commit, Part
from pipeline.plan import Selection
from pipeline.store import Store
from schemas.arrow import from_table, published_bytes, to_table
from schemas.corpus import OBJECT_COLUMNS
from schemas.records import ManifestRecord, RejectRecord

COUNTS = ("inputs", "rows", "skipped", "failed", "crashed")  # of a commit
# Of the tables that this version writes.
COLUMNS = [column.name for column in OBJECT_COLUMNS] + [column.name for column in fields(RejectRecord)]
DUPLICATE = "duplicate_id"  # reason of a photo that another shard has
# What mends any damage.
MEND = "Give `anything3d verify` with this corpus, and then the command of the run of the shard again."


@dataclass(frozen=True, slots=True)
class Tally:
    """All cells of one stage in a partition, summed up."""

    cells: int
    inputs: int
    rows: int
    skipped: int
    failed: int
    crashed: int
    seconds: float
    gpu_seconds: float

    @classmethod
    def of(cls, commits: Sequence[Commit]) -> "Tally":
        counts = [commit.counts for commit in commits]
        return cls(
            cells=len(commits),
            **{name: sum(count[name] for count in counts) for name in COUNTS},
            seconds=round(sum(commit.seconds for commit in commits), 3),
            gpu_seconds=round(sum(commit.gpu_seconds for commit in commits), 3),
        )

    def without(self, kinds: Sequence[str]) -> "Tally":
        """This tally without rejects of these kinds, whose items came again."""
        failed, crashed = self.failed - kinds.count("failed"), self.crashed - kinds.count("crashed")
        return replace(self, inputs=self.inputs - len(kinds), failed=failed, crashed=crashed)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(self)))


@dataclass(frozen=True, slots=True)
class Rejected:
    """How often a stage gave one reason."""

    stage: str
    kind: str
    reason: str
    inputs: int  # items that came to the stage
    parts: int  # what the stage found in an item: members of a shard, masks of a photo


@dataclass(frozen=True, slots=True)
class Photos:
    """The photos of a shard. Shards whose ranges of ids do not overlap have no photo in common."""

    first: str  # the least id; "" if there is none
    last: str
    digest: str  # of the commit of its index cell

    def may_share(self, other: "Photos") -> bool:
        return bool(self.first and other.first) and self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Partition:
    """One shard in a snapshot."""

    shard: str
    location: str
    key: str  # hash of all that decides what it holds: the shard's bytes, the settings, which objects are wanted
    digest: str  # hash of what it holds: the digests of its commits, its duplicates and the licence of its photos
    wanted: int  # objects that were to be made
    objects: int
    rejects: int
    note: str  # what to know of the networks that made it; "" if nothing
    licences: tuple[str, ...]  # of the photos, of the weights and of the backends; they all apply
    fingerprints: Mapping[str, str]  # stage -> fingerprint, of every stage that ran, in order
    stages: Mapping[str, Tally]
    rejected: tuple[Rejected, ...]
    photos: Photos
    elsewhere: Mapping[str, str]  # shard that has photos of this one, which are not taken here -> Photos.digest of it
    manifest: Part
    tables: Mapping[str, Part]  # objects, rejects
    tars: tuple[Part, ...]
    gallery: Mapping[str, Part] = field(default_factory=dict)  # objects, rejects; {} if published before there was one
    retries: tuple[int, ...] = ()  # numbers of the retries that it has, see retries.py

    @property
    def files(self) -> list[Part]:
        """Those that a snapshot names. The manifest also names the pictures and pages of the gallery."""
        return [self.manifest, *self.tables.values(), *self.tars, *self.gallery.values()]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Partition":
        """Raises: KeyError, TypeError or AttributeError if `body` is no partition."""
        return cls(
            **{
                **body,
                "stages": {name: Tally(**tally) for name, tally in body["stages"].items()},
                "licences": tuple(body["licences"]),
                "rejected": tuple(Rejected(**entry) for entry in body["rejected"]),
                "photos": Photos(**body["photos"]),
                "manifest": Part(**body["manifest"]),
                "tables": {name: Part(**file) for name, file in body["tables"].items()},
                "tars": tuple(Part(**file) for file in body["tars"]),
                "gallery": {name: Part(**file) for name, file in body.get("gallery", {}).items()},
                "retries": tuple(body.get("retries", ())),
            }
        )


def tallies(partitions: Mapping[str, Partition]) -> dict[str, Tally]:
    """Stage -> all its cells, in the order of the stages."""
    sums: dict[str, Tally] = {}
    for partition in partitions.values():
        for stage, tally in partition.stages.items():
            sums[stage] = sums[stage] + tally if stage in sums else tally
    return sums


def manifest_bytes(
    commits: Sequence[Commit],
    files: Mapping[str, Sequence[Part]],
    origin: Mapping[str, Any],
    shared: Sequence[tuple[str, Commit]] = (),
) -> bytes:
    """A manifest: the cells, the files by kind, and with what settings, weights and versions they were made.

    `shared` are (unit, cell of another unit that it goes on from). They have rows without counts.
    """
    cells = [
        ManifestRecord(
            what="cell",
            stage=commit.stage,
            unit=commit.unit,
            path=commit.folder,
            digest=commit.digest,
            rows=commit.counts["rows"],
            inputs=commit.counts["inputs"],
            skipped=commit.counts["skipped"],
            failed=commit.counts["failed"],
            crashed=commit.counts["crashed"],
            seconds=commit.seconds,
            gpu_seconds=commit.gpu_seconds,
        )
        for commit in commits
    ]
    nothing = {name: 0 for name in COUNTS}
    cells += [
        ManifestRecord(
            what="cell",
            stage=commit.stage,
            unit=unit,
            path=commit.folder,
            digest=commit.digest,
            **nothing,
            seconds=0.0,
            gpu_seconds=0.0,
        )
        for unit, commit in shared
    ]
    rows = [*cells, *(_of_file(kind, file) for kind, some in files.items() for file in some)]
    table = to_table(rows, ManifestRecord)
    about = {**(table.schema.metadata or {}), b"origin": json.dumps(origin, sort_keys=True).encode()}
    return published_bytes(table.replace_schema_metadata(about))


def _of_file(kind: Any, file: Part) -> ManifestRecord:  # noqa: ANN401 - one of the literals of `what`
    return ManifestRecord(what=kind, path=file.path, digest=file.sha256, rows=file.rows, bytes=file.bytes)


def read_manifest(store: Store, partition: Partition) -> tuple[list[ManifestRecord], dict[str, Any]]:
    """The rows of a partition's manifest, and the settings, weights and versions that made it.

    Raises: SourceError("damaged_corpus") if the manifest is damaged or has gone.
    """
    table = sound_table(store, partition.manifest)
    return from_table(table, ManifestRecord), json.loads(table.schema.metadata[b"origin"])


def sound_table(store: Store, file: Part, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file of a partition, or some columns of it.

    Raises: as `sound_bytes`.
    """
    return pq.read_table(pa.BufferReader(sound_bytes(store, file)), columns=columns)


def sound_bytes(store: Store, file: Part) -> bytes:
    """A file of a partition. Raises: SourceError("damaged_corpus") if it is not what was written."""
    data = store.read_whole(file)
    if data is None:
        raise SourceError("damaged_corpus", f"{store.root}/{file.path} is damaged or has gone. {MEND}")
    return data


def sound_commit(store: Store, folder: str) -> Commit:
    """The commit of a cell that has to be there. Raises: DamagedCell if it is not."""
    commit = store.commit_at(folder)
    if commit is None:
        raise DamagedCell("commit_gone", f"{store.root}/{folder}/commit.json has gone.")
    return commit


def duplicate(photo: str, shard: str, other: str) -> RejectRecord:
    """The reject of a photo that another shard of the corpus had before this one."""
    return RejectRecord(photo, "index", "skipped", DUPLICATE, f"in {shard} and, before it, in {other}", 1)


def photos_of(store: Store, partition: Partition) -> set[str]:
    """The ids of the photos that a partition has taken; not of those that it left to another shard.

    Raises: SourceError("damaged_corpus").
    """
    rows, origin = read_manifest(store, partition)
    cells = [row for row in rows if row.what == "cell"]
    (index,) = (row for row in cells if row.stage == "index")
    rejects = from_table(sound_table(store, partition.tables["rejects"]), RejectRecord)
    left = {row.item_id for row in rejects if (row.reason, row.kind) == (DUPLICATE, "skipped")}
    try:
        there = store.read_column(sound_commit(store, index.path).rows, "image_id")
    except DamagedCell as error:  # of another shard than that which a run is at: to go on would not mend it
        raise SourceError("damaged_corpus", f"{error.message} The shard is {partition.shard}. {MEND}") from error
    ids = None if origin["ids"] is None else frozenset(origin["ids"])
    own = [item for item in Selection(None, ids, origin.get("sample_rate")).images(there) if item not in left]
    if origin.get("max_objects") is None:
        return set(own)
    # Photos are segmented in order, until there are enough objects. The units of retries have been cut out of these.
    segmented = sum(row.inputs or 0 for row in cells if row.stage == "segment" and not is_retry(row.unit or ""))
    return set(own[:segmented])


def is_retry(unit: str) -> bool:
    """Whether a unit with this name has items that run again, see `retries.cut`."""
    return re.search(r"\.r\d+$", unit) is not None
