"""How a snapshot is published: a run's commits become a release, and files that other tools open.

    objects/*.parquet     one row for each object: all metadata and scores
    assets/*.tar          WebDataset: <object>.json .png .mask.png .cloud.ply .glb .turntable.webp
    rejects/*.parquet     one row for each item that stopped
    snapshots/<id>.json   the commits of the snapshot (stage, unit, digest, the cell's folder) and the files above with
                          their bytes and sha256; its id is the hash of the commits' digests and the licences
    snapshot.json         the newest snapshot
    index.html            gallery
    publishing/           the files of runs that publish now, or that died while they published

The name of a file ends with the digest of its content. So an unchanged part of the corpus is not written again. The
three folders show the newest snapshot. The files of earlier snapshots are removed after it exists. No other file is
removed: a file that no snapshot of this corpus has named belongs to somebody else. The commits and their parts stay,
and so does every older snapshot.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from anything3d.errors import MachineError
from pipeline.commit import Commit
from pipeline.ledger import Attempt, read
from pipeline.release.objects import write_tar
from pipeline.release.pages import Card, corpus_page
from pipeline.release.snapshot import (
    POINTER,
    File,
    Files,
    Named,
    Snapshot,
    find_snapshot,
    finished_objects,
    object_stages,
    path_of,
)
from pipeline.source import stem
from pipeline.store import Store
from pipeline.unit import Unit
from schemas.arrow import objects_table, published_bytes, to_table
from schemas.corpus import OBJECT_COLUMNS
from schemas.records import RejectRecord

OBJECTS_PER_FILE = 256  # about; of one Parquet file and one tar
VIEW = ("objects", "assets", "rejects")  # folders that show one snapshot
PAGE = "index.html"
PUBLISHING = "publishing"  # folder of the attempts to publish
GALLERY_OBJECTS = 60
READERS = 16  # threads that read parts
ROUNDS = 3  # times that files which a rival has removed are written again

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """What came of publishing."""

    id: str  # of the snapshot
    objects: int
    rejects: int
    lost: tuple[str, ...]  # objects with neither a row nor a reject; if there is one, the view stays as it was


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one shard whose objects share a Parquet file and a tar."""

    shard: str
    units: tuple[Unit, ...]

    @property
    def key(self) -> str:
        """A hash of what its objects are, and of their columns."""
        rows = [
            [unit.name, unit.inputs["licence"].digest, *(unit.inputs[stage].digest for stage in object_stages(unit))]
            for unit in self.units
        ]
        return _hash([[column.name for column in OBJECT_COLUMNS], rows])


def publish(
    store: Store,
    units: Sequence[Unit],
    commits: Mapping[str, Sequence[Commit]],
    duplicates: Sequence[RejectRecord],
    note: str,
    say: Callable[[str], None],
) -> Published:
    """Make the snapshot of `commits` exist and the view show it; files that are there already are not written again.

    `duplicates` are rejects that belong to no cell: images that several shards have.

    Raises: DamagedCell if a part is not what its commit says; MachineError if files vanish while they are written.
    """
    digests = sorted([name, commit.unit, commit.digest] for name, made in commits.items() for commit in made)
    licences = sorted({unit.inputs["licence"].digest for unit in units})
    identity = _hash([digests, [[row.item_id, row.message] for row in duplicates], licences])
    known, shown = find_snapshot(store, path_of(identity)), find_snapshot(store, POINTER)
    if known is not None and shown == known and known.note == note and not missing(store, known):
        if strays(store, known) or store.paths(PUBLISHING) or store.size(PAGE) is None:
            show(store, known, units)
        return Published(identity, known.objects, known.rejects, ())
    table, finished = rejects_table(store, commits, duplicates), finished_ids(store, commits, units)
    rejected = set(table.column("item_id").to_pylist())
    if lost := tuple(sorted({item for unit in units for item in unit.ids} - finished - rejected)):
        return Published(identity, len(finished), table.num_rows, lost)
    gone: list[str] = []
    for _ in range(ROUNDS):
        with Attempt(store, PUBLISHING, leave_on_error=True) as attempt:
            made, files = write_groups(store, attempt, list(groups(units)), [known, shown], say)
            rejects = published_bytes(table)
            files |= write_files(store, attempt, {f"rejects/{_name(rejects)}.parquet": rejects}, files)
            snapshot = snapshot_of(identity, commits, len(finished), table.num_rows, note, files, made)
            turn(store, snapshot, units, attempt)
        if not (gone := missing(store, snapshot)):
            return Published(identity, len(finished), table.num_rows, ())
        log.warning("%s: another run has removed %s; writing it again", store.root, ", ".join(gone[:3]))
    raise MachineError(
        "view",
        f"{store.root}: {', '.join(gone[:3])} vanish as often as they are written."
        " Let other runs end, and give the same command again.",
    )


def snapshot_of(
    identity: str,
    commits: Mapping[str, Sequence[Commit]],
    objects: int,
    rejects: int,
    note: str,
    files: Files,
    made: Mapping[str, Sequence[str]],
) -> Snapshot:
    """What the snapshot of `commits` says; `made` are the files of each group of units."""
    named = [
        Named(name, commit.unit, commit.digest, commit.folder) for name, some in commits.items() for commit in some
    ]
    return Snapshot(
        id=identity,
        objects=objects,
        rejects=rejects,
        note=note,
        fingerprints={name: some[0].fingerprint for name, some in commits.items() if some},
        commits=tuple(sorted(named)),
        seconds={name: round(sum(commit.seconds for commit in some), 3) for name, some in commits.items()},
        files=files,
        groups=made,
    )


def missing(store: Store, snapshot: Snapshot) -> list[str]:
    """Files that a snapshot names and that do not lie in the view with the size that they have to have."""
    there = {path: entry.bytes for folder in VIEW for path, entry in store.entries(folder).items()}
    return [path for path, file in snapshot.files.items() if there.get(path) != file.bytes]


def groups(units: Sequence[Unit]) -> Iterator[Group]:
    """Units of the same shard together, about OBJECTS_PER_FILE objects at a time, in order."""
    for shard, some in groupby(units, lambda unit: stem(unit.inputs["shard"].path)):
        pending: list[Unit] = []
        for unit in some:
            pending.append(unit)
            if sum(len(unit.ids) for unit in pending) >= OBJECTS_PER_FILE:
                yield Group(shard, tuple(pending))
                pending = []
        if pending:
            yield Group(shard, tuple(pending))


def write_groups(
    store: Store,
    attempt: Attempt,
    grouped: Sequence[Group],
    earlier: Sequence[Snapshot | None],
    say: Callable[[str], None],
) -> tuple[dict[str, list[str]], Files]:
    """The files of the objects, by group and all; what lies there as an earlier snapshot says is not made again."""
    made, files = {}, Files()
    described = [(snapshot, set(missing(store, snapshot))) for snapshot in earlier if snapshot is not None]
    for group in grouped:
        for snapshot, gone in described:
            paths = snapshot.groups.get(group.key, [])
            if paths and gone.isdisjoint(paths):
                written = {path: snapshot.files[path] for path in paths}
                break
        else:
            first = group.units[0].ids[0]
            say(f"writing objects of {group.shard} from {first} on")
            objects = (rows for unit in group.units for rows in finished_objects(store, unit))
            sink = io.BytesIO()
            rows = write_tar(objects, sink)
            tar = sink.getvalue()
            name = f"{group.shard}-{first}-{_name(tar)}.tar"
            table = published_bytes(objects_table(rows, f"assets/{name}"))
            new = {f"assets/{name}": tar, f"objects/{group.shard}-{first}-{_name(table)}.parquet": table}
            written = write_files(store, attempt, new, files)
        made[group.key] = sorted(written)
        files |= written
    return made, files


def write_files(store: Store, attempt: Attempt, new: Mapping[str, bytes], before: Files) -> Files:
    """Make files exist. The attempt names them beforehand, so that no file is ever without an owner."""
    attempt.says(files=[*before, *new])
    for path, data in new.items():
        if store.size(path) != len(data):
            store.write(path, data)
    return {path: File(len(data), hashlib.sha256(data).hexdigest()) for path, data in new.items()}


def rejects_table(
    store: Store, commits: Mapping[str, Sequence[Commit]], duplicates: Sequence[RejectRecord]
) -> pa.Table:
    """Every reject of the commits, and those that belong to no cell."""
    some = [commit for made in commits.values() for commit in made if commit.rejects.rows]
    with ThreadPoolExecutor(READERS) as threads:
        tables = list(threads.map(lambda commit: store.read_part_table(commit.rejects), some))
    return pa.concat_tables([to_table(duplicates, RejectRecord), *tables])


def finished_ids(store: Store, commits: Mapping[str, Sequence[Commit]], units: Sequence[Unit]) -> set[str]:
    """Ids of the objects of `units` that have come through all stages: through those that no other stage reads."""
    read_by_others = {name for made in commits.values() for commit in made for name in commit.inputs}
    ids = {item for unit in units for item in unit.ids}
    with ThreadPoolExecutor(READERS) as threads:
        for stage in commits.keys() - read_by_others if units else ():
            columns = threads.map(lambda commit: store.read_column(commit.rows, "object_id"), commits[stage])
            ids &= {item for column in columns for item in column}
    return ids


def show(store: Store, snapshot: Snapshot, units: Sequence[Unit]) -> None:
    """Turn the view to this snapshot."""
    with Attempt(store, PUBLISHING) as attempt:
        turn(store, snapshot, units, attempt)


def turn(store: Store, snapshot: Snapshot, units: Sequence[Unit], attempt: Attempt) -> None:
    """Turn the view to this snapshot: gallery and pointer first, then away with the files of earlier ones.

    What is deleted has been named by an earlier snapshot or by an attempt that died, and is named neither by the newest
    snapshot (another run may have turned the view meanwhile) nor by an attempt that lives.
    """
    path, data = path_of(snapshot.id), snapshot.to_json()
    before = named(store, [path, POINTER])
    if store.find(path) != data:
        store.write(path, data)
    shown = find_snapshot(store, POINTER)
    if shown is None or not shown.looks_like(snapshot) or (units and store.size(PAGE) is None):
        store.write(PAGE, gallery(store, snapshot, units).encode())
        store.write(POINTER, data)
    if others := strays(store, snapshot):
        attempt.look()
        ours = before | named(store, [*store.paths("snapshots"), *attempt.dead])
        store.delete(sorted((others & ours) - named(store, [POINTER, *attempt.living])))
    attempt.close_the_dead()


def strays(store: Store, snapshot: Snapshot) -> set[str]:
    """What lies in the view and is not of this snapshot."""
    return {path for folder in VIEW for path in store.paths(folder)} - set(snapshot.files)


def named(store: Store, paths: Sequence[str]) -> set[str]:
    """The files that snapshots and attempts name; one that cannot be read names none, and so none is deleted."""
    return {name for path in paths for name in read(store, path).get("files", [])}


def gallery(store: Store, snapshot: Snapshot, units: Sequence[Unit]) -> str:
    """The page of the first GALLERY_OBJECTS finished objects."""
    cards: list[Card] = []
    for unit in units:
        if len(cards) >= GALLERY_OBJECTS:
            break
        cards += map(Card.of, finished_objects(store, unit))
    some = cards[:GALLERY_OBJECTS]
    return corpus_page(some, snapshot.id, snapshot.objects, snapshot.rejects, snapshot.note)


def _name(data: bytes) -> str:
    """What a file is called by its content."""
    return hashlib.sha256(data).hexdigest()[:16]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
