"""The files of one shard: its tars, its tables and its manifest, each under a name with its digest.

    assets/<shard>/<first object>-<digest>.tar    WebDataset: <object>.json .png .mask.png .cloud.ply .glb ...
    shards/<shard>/objects-<digest>.parquet       one row for each object: all metadata and scores
    shards/<shard>/rejects-<digest>.parquet       one row for each item that stopped
    shards/<shard>/manifest-<digest>.parquet      the cells that the shard consists of, and the files above
    shards/<shard>/gallery-<digest>.js ...        the files of the gallery, see gallery/

`write_group` makes one tar, and `write_shard` the rest. They run in this process or in a Ray task (`spread.py`). A
file never changes: its name says what is in it. Only `gc` removes one. Each is written even if it lies there already,
so that it is young: `gc` takes old files that no snapshot names.
"""

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import pyarrow as pa

from pipeline.commit import Commit, Part
from pipeline.input.ids import image_of
from pipeline.release.finished import finished_objects
from pipeline.release.gallery import data as gallery
from pipeline.release.objects import write_tar
from pipeline.release.partition import COLUMNS, Partition, Photos, Rejected, Tally, manifest_bytes
from pipeline.release.snapshot import MadeBy
from pipeline.store import Store
from pipeline.unit import Unit
from schemas.arrow import from_table, objects_table, published_bytes, to_table
from schemas.records import ObjectRecord, RejectRecord

TAR_BYTES = 512 << 20  # about; of the assets of one tar
READERS = 16  # threads that read rejects
OF_PHOTOS = ("index", "segment")  # stages whose units are not those of the objects


@dataclass(frozen=True, slots=True)
class Made:
    """A shard whose objects have come through all stages: all that its partition is made of."""

    shard: Unit
    key: str  # see Partition
    note: str
    units: Sequence[Unit]  # of the wanted objects, in order
    commits: Mapping[str, Sequence[Commit]]  # stage -> the commits of all its cells, in order
    duplicates: Sequence[RejectRecord]  # photos that another shard has; they belong to no cell
    elsewhere: Mapping[str, str]  # see Partition
    photos: Photos
    made_by: MadeBy
    retries: tuple[int, ...] = ()  # see Partition
    retried: Mapping[str, Collection[str]] = field(default_factory=dict)  # folder of a cell -> items that ran again

    @property
    def licence(self) -> str:
        """The licence of the photos."""
        return (self.units[0] if self.units else self.shard).inputs["licence"].digest

    @property
    def digest(self) -> str:
        """Hash of what the partition holds."""
        cells = sorted([name, commit.unit, commit.digest] for name, some in self.commits.items() for commit in some)
        duplicates = [[row.item_id, row.message] for row in self.duplicates]
        held = json.dumps([cells, duplicates, self.licence, COLUMNS, gallery.FORMAT])
        return hashlib.sha256(held.encode()).hexdigest()[:16]

    def named_anew(self, partition: Partition) -> Partition:
        """A partition that holds the same, as that of this shard."""
        return replace(
            partition,
            location=self.shard.inputs["shard"].path,
            key=self.key,
            note=self.note,
            photos=self.photos,
            elsewhere=self.elsewhere,
            retries=self.retries,
        )

    def groups(self) -> Iterator[list[Unit]]:
        """Its units, cut where a tar is full."""
        sizes = {(name, commit.unit): commit.rows.bytes for name, some in self.commits.items() for commit in some}
        group, size = list[Unit](), 0
        for unit in self.units:
            own = sum(sizes.get((stage, unit.name), 0) for stage in ("lift", "mesh", "score"))
            if group and size + own > TAR_BYTES:
                yield group
                group, size = [], 0
            group.append(unit)
            size += own
        if group:
            yield group

    def read_by(self, units: Sequence[Unit]) -> dict[str, Commit]:
        """Folder of a cell -> its commit, of the cells that these units name."""
        folders = {known.path for unit in units for known in unit.inputs.values()}
        return {commit.folder: commit for some in self.commits.values() for commit in some if commit.folder in folders}


@dataclass(frozen=True, slots=True)
class Group:
    """One tar of a shard: the file, the rows of its objects, and the wanted objects that are not in it."""

    tar: Part | None  # None: no object of the units is finished
    rows: pa.Table
    absent: tuple[str, ...]
    sheets: tuple[Part, ...] = ()  # of the gallery
    pages: tuple[Part, ...] = ()  # likewise


def write_group(store: Store, made_by: MadeBy, units: Sequence[Unit], commits: Mapping[str, Commit]) -> Group:
    """Write the tar of the finished objects of these units, and their sheets and pages of the gallery.

    One unit at a time is in memory, and all rows. `commits` are those of `Made.read_by`.

    Raises: DamagedCell if a part is not what its commit says.
    """
    seed, sheets, pages = int(made_by.settings.get("seed", 0)), list[Part](), list[Part]()
    with tempfile.TemporaryFile() as file:
        rows = write_tar(gallery.with_sheets(store, finished_objects(store, units, seed, commits), sheets), file)
        tar = None
        if rows:
            digest = _digest_of(file)
            shard, first = rows[0]["shard"], rows[0]["object_id"]
            tar = Part(f"assets/{shard}/{first}-{digest[:16]}.tar", file.tell(), digest, len(rows))
            store.write_file(tar.path, file)
            pages = gallery.write_pages(store, rows, tar.path)
    found = {row["object_id"] for row in rows}
    absent = tuple(item for unit in units for item in unit.ids if item not in found)
    return Group(tar, objects_table(rows, tar.path if tar else ""), absent, tuple(sheets), tuple(pages))


def write_shard(store: Store, made: Made, groups: Sequence[Group]) -> Partition | tuple[str, ...]:
    """Write the tables and the manifest of a shard whose tars are there; the partition.

    Instead, the ids of the objects that are neither in a tar nor rejected: then nothing is published.

    Raises: DamagedCell if a part is not what its commit says.
    """
    rejects = rejects_of(store, made)
    standing = [row for row in rejects if not row.retried]
    again = [(row.stage, row.kind) for row in rejects if row.retried]
    absent = {item for group in groups for item in group.absent}
    if lost := absent - {row.item_id for row in standing}:
        return tuple(sorted(lost))
    objects = pa.concat_tables([objects_table([], ""), *(group.rows for group in groups)])
    name, table = made.shard.name, to_table(rejects, RejectRecord, whole=True)
    tables = {
        "objects": _write(store, name, "objects", published_bytes(objects), objects.num_rows),
        "rejects": _write(store, name, "rejects", published_bytes(table), len(rejects)),
    }
    tars = tuple(group.tar for group in groups if group.tar is not None)
    shown, pictures = write_gallery(store, made, groups, objects, standing)
    commits = [commit for some in made.commits.values() for commit in some]
    files = {**{kind: [table] for kind, table in tables.items()}, "assets": tars, "gallery": pictures}
    licences = {licence for commit in commits for licence in commit.licences}
    by_folder = {commit.folder: commit for commit in commits}
    shared = [
        (unit.name, commit)
        for unit in made.units
        for known in unit.inputs.values()
        if (commit := by_folder.get(known.path)) and commit.unit != unit.name and commit.stage not in OF_PHOTOS
    ]
    manifest = manifest_bytes(commits, files, made.made_by.origin, shared)
    return Partition(
        shard=name,
        location=made.shard.inputs["shard"].path,
        key=made.key,
        digest=made.digest,
        wanted=sum(len(unit.ids) for unit in made.units),
        objects=objects.num_rows,
        rejects=len(standing),
        note=made.note,
        licences=tuple(sorted({made.licence, *licences})),
        fingerprints={stage: some[0].fingerprint for stage, some in made.commits.items() if some},
        stages={
            stage: Tally.of(some).without([kind for name, kind in again if name == stage])
            for stage, some in made.commits.items()
        },
        rejected=summed_up(standing, name),
        photos=made.photos,
        elsewhere=dict(made.elsewhere),
        manifest=_write(store, name, "manifest", manifest, len(commits) + len(shared) + len(tables) + len(tars)),
        tables=tables,
        tars=tars,
        gallery=shown,
        retries=made.retries,
    )


def write_gallery(
    store: Store, made: Made, groups: Sequence[Group], objects: pa.Table, rejects: Sequence[RejectRecord]
) -> tuple[dict[str, Part], list[Part]]:
    """Write the index of a shard's gallery and the examples of its rejects: these two, and all files of the gallery.

    Raises: DamagedCell.
    """
    folder = f"shards/{made.shard.name}"
    sheets, pages = [one for group in groups for one in group.sheets], [one for group in groups for one in group.pages]
    crops = crops_of(store, made, {row.item_id for row in gallery.examples(rejects)})
    reasons, more = gallery.rejected(rejects, crops, store, made.shard.name)
    shown = {
        "objects": gallery.write(
            store, folder, "gallery", "js", gallery.index(objects, sheets, pages), objects.num_rows
        ),
        "rejects": gallery.write(store, folder, "rejected", "js", reasons, len(rejects)),
    }
    return shown, [*shown.values(), *sheets, *pages, *more]


def crops_of(store: Store, made: Made, ids: Collection[str]) -> dict[str, bytes]:
    """The crops of those of these items that are wanted objects. Raises: DamagedCell."""
    wanted: dict[str, list[str]] = {}  # folder of a cell -> its objects
    for unit in made.units:
        if some := [item for item in unit.ids if item in ids]:
            wanted.setdefault(unit.inputs["segment"].path, []).extend(some)
    commits = {commit.folder: commit for commit in made.commits.get("segment", ())}
    with ThreadPoolExecutor(READERS) as threads:
        read = threads.map(
            lambda cell: store.read_part(commits[cell[0]].rows, ObjectRecord, cell[1], ("crop_png",)), wanted.items()
        )
        return {row.object_id: row.crop_png for rows in read for row in rows}


def publish_here(store: Store, made: Made) -> Partition | tuple[str, ...]:
    """All files of a shard, written by this process."""
    return write_shard(
        store, made, [write_group(store, made.made_by, units, made.read_by(units)) for units in made.groups()]
    )


def rejects_of(store: Store, made: Made) -> list[RejectRecord]:
    """Every reject of the shard's cells, and those that belong to no cell."""
    commits = [commit for some in made.commits.values() for commit in some]
    with ThreadPoolExecutor(READERS) as threads:
        read = threads.map(lambda commit: rejects_in(store, commit), commits)
        return [
            *made.duplicates,
            *(
                replace(row, retried=row.item_id in made.retried.get(commit.folder, ()))
                for commit, some in zip(commits, read, strict=True)
                for row in some
            ),
        ]


def rejects_in(store: Store, commit: Commit) -> list[RejectRecord]:
    """The rejects of one cell. Raises: DamagedCell."""
    return [] if commit.rejects is None else from_table(store.read_part_table(commit.rejects), RejectRecord)


def summed_up(rejects: Sequence[RejectRecord], shard: str) -> tuple[Rejected, ...]:
    """How often each stage gave each reason."""
    counts: dict[tuple[str, str, str], list[int]] = {}
    for row in rejects:
        both = counts.setdefault((row.stage, row.kind, row.reason), [0, 0])
        both[0 if is_input(row, shard) else 1] += 1
    return tuple(Rejected(*cause, inputs, parts) for cause, (inputs, parts) in sorted(counts.items()))


def is_input(row: RejectRecord, shard: str) -> bool:
    """Whether a reject is of an item that came to the stage, not of what the stage found in one."""
    if row.stage == "index":
        return row.item_id == shard
    return row.stage != "segment" or image_of(row.item_id) == row.item_id


def _write(store: Store, shard: str, kind: str, data: bytes, rows: int) -> Part:
    """Write a table of a shard."""
    digest = hashlib.sha256(data).hexdigest()
    part = Part(f"shards/{shard}/{kind}-{digest[:16]}.parquet", len(data), digest, rows)
    store.write(part.path, data)
    return part


def _digest_of(file: BinaryIO) -> str:
    """SHA-256 of an open file, whose position is at its end afterwards."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
