"""A snapshot: the release that a run's commits make, and its view in files that other tools open.

    objects/*.parquet     one row per object: all metadata and scores
    assets/*.tar          WebDataset: <object>.json .png .mask.png .cloud.ply .glb .turntable.webp
    rejects/*.parquet     one row per item that stopped
    snapshots/<id>.json   the commits it consists of (stage, unit, digest, the cell's folder) and the files above with
                          their bytes and sha256; its id is the hash of the commits' digests
    snapshot.json         the newest of them
    index.html            gallery
    publishing/           what runs that are publishing now, or died while they were, have written

A file's name ends with the digest of its content: an unchanged part of the corpus is not written again. The three
folders show the newest snapshot: the files of earlier ones are removed after it exists. No other file is: one that no
snapshot of this corpus has named is somebody else's. The commits and their parts stay, and with them every older
snapshot.
"""

import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

import pyarrow as pa

from anything3d.errors import DamagedCell, MachineError
from anything3d.photo.image import decode_png, encode_png
from pipeline.commit import Commit, sealed, unsealed
from pipeline.ledger import Attempt, read
from pipeline.release.pages import Card, corpus_page
from pipeline.source import stem
from pipeline.store import Store
from pipeline.unit import Unit
from schemas.arrow import parquet_bytes, to_table
from schemas.corpus import OBJECT_RECORDS, column_name, objects_schema
from schemas.records import RejectRecord

OBJECTS_PER_FILE = 256  # about; of one Parquet file and one tar
VIEW = ("objects", "assets", "rejects")  # folders that show one snapshot
PAGE, POINTER = "index.html", "snapshot.json"
PUBLISHING = "publishing"  # folder of the attempts to publish
GALLERY_OBJECTS = 60
READERS = 16  # threads that read parts
ROUNDS = 3  # times that files which a rival has removed are written again

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A release of the corpus."""

    id: str
    objects: int
    rejects: int
    lost: tuple[str, ...]  # objects with neither a row nor a reject: empty, or the run did not balance


@dataclass(frozen=True, slots=True)
class File:
    """A file of the view, as its snapshot describes it."""

    bytes: int
    sha256: str


Files = dict[str, File]  # path -> what it is


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one shard whose objects share a Parquet file and a tar."""

    shard: str
    units: tuple[Unit, ...]

    @property
    def key(self) -> str:
        """A hash of what its objects are."""
        return _hash([[unit.name, *(unit.inputs[stage].digest for stage in OBJECT_RECORDS)] for unit in self.units])


def publish(
    store: Store,
    units: Sequence[Unit],
    commits: Mapping[str, Sequence[Commit]],
    duplicates: Sequence[RejectRecord],
    note: str,
    say: Callable[[str], None],
) -> Snapshot:
    """Make the snapshot of `commits` exist and the view show it; files that are there already are not written again.

    `duplicates` are rejects that belong to no cell: images that several shards have.

    Raises: DamagedCell if a part is not what its commit says; MachineError if files vanish while they are written.
    """
    digests = sorted([name, commit.unit, commit.digest] for name, made in commits.items() for commit in made)
    identity = _hash([digests, [[row.item_id, row.message] for row in duplicates]])
    known, shown = snapshot_at(store, f"snapshots/{identity}.json"), snapshot_at(store, POINTER)
    if known is not None and shown == known and known["note"] == note and not missing(store, known):
        if strays(store, known) or store.paths(PUBLISHING) or store.size(PAGE) is None:
            show(store, known, units, note)
        return Snapshot(identity, known["objects"], known["rejects"], ())
    table, finished = rejects_table(store, commits, duplicates), scored(store, commits)
    rejected = set(table.column("item_id").to_pylist())
    if lost := tuple(sorted({item for unit in units for item in unit.ids} - finished - rejected)):
        return Snapshot(identity, len(finished), table.num_rows, lost)
    about = {
        "id": identity,
        "objects": len(finished),
        "rejects": table.num_rows,
        "note": note,
        "fingerprints": {name: made[0].fingerprint for name, made in commits.items() if made},
        "commits": sorted(
            [name, commit.unit, commit.digest, commit.folder] for name, made in commits.items() for commit in made
        ),
        "seconds": {name: round(sum(commit.seconds for commit in made), 3) for name, made in commits.items()},
    }
    gone: list[str] = []
    for _ in range(ROUNDS):
        with Attempt(store, PUBLISHING, leave_on_error=True) as attempt:
            made, files = write_groups(store, attempt, list(groups(units)), [known, shown], say)
            rejects = parquet_bytes(table)
            files |= write_files(store, attempt, {f"rejects/{_name(rejects)}.parquet": rejects}, files)
            body = {
                **about,
                "files": sorted(files),
                "contents": {path: asdict(file) for path, file in sorted(files.items())},
                "groups": made,
            }
            turn(store, body, units, note, attempt)
        if not (gone := missing(store, body)):
            return Snapshot(identity, len(finished), table.num_rows, ())
        log.warning("%s: another run has removed %s; writing it again", store.root, ", ".join(gone[:3]))
    raise MachineError("view", f"{store.root}: {', '.join(gone[:3])} vanish as often as they are written; run again")


def snapshot_at(store: Store, path: str) -> dict[str, Any] | None:
    """The snapshot in a file; None if there is none that can be read, which is then said."""
    data = store.find(path)
    if data is None:
        return None
    try:
        return unsealed(data)
    except ValueError as error:
        log.warning("%s/%s is damaged or of an earlier version (%s); it is written again", store.root, path, error)
        return None


def missing(store: Store, body: Mapping[str, Any]) -> list[str]:
    """Files that a snapshot names and that do not lie in the view with the size that they have to have."""
    there = {path: entry.bytes for folder in VIEW for path, entry in store.entries(folder).items()}
    return [path for path in body["files"] if there.get(path) != body["contents"][path]["bytes"]]


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
    earlier: Sequence[Mapping[str, Any] | None],
    say: Callable[[str], None],
) -> tuple[dict[str, list[str]], Files]:
    """The files of the objects, by group and all; what lies there as an earlier snapshot says is not made again."""
    made, files = {}, Files()
    described = [(body, set(missing(store, body))) for body in earlier if body is not None]
    for group in grouped:
        for body, gone in described:
            paths = body["groups"].get(group.key, [])
            if paths and gone.isdisjoint(paths):
                written = {path: File(**body["contents"][path]) for path in paths}
                break
        else:
            first = group.units[0].ids[0]
            say(f"writing objects of {group.shard} from {first} on")
            objects = [rows for unit in group.units for rows in finished_objects(store, unit)]
            tar = tar_bytes(objects)
            name = f"{group.shard}-{first}-{_name(tar)}.tar"
            table = parquet_bytes(objects_table(objects, name))
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


def finished_objects(store: Store, unit: Unit) -> list[dict[str, Any]]:
    """Stage -> record, of every object of the unit that has come through all stages, in order."""
    commits: dict[str, Commit] = {}
    for stage in OBJECT_RECORDS:
        commit = store.commit_at(unit.inputs[stage].path)
        if commit is None:
            raise DamagedCell("commit_gone", f"{store.root}/{unit.inputs[stage].path}/commit.json has gone")
        commits[stage] = commit
    return joined(store, commits, unit.ids)


def joined(store: Store, commits: Mapping[str, Commit], ids: Sequence[str]) -> list[dict[str, Any]]:
    """Stage -> record, of every one of `ids` that all commits have a row of, in order."""
    tables: dict[str, dict[str, Any]] = {}
    for stage, record in OBJECT_RECORDS.items():
        rows: list[Any] = store.read_part(commits[stage].rows, record, ids)
        tables[stage] = {row.object_id: row for row in rows}
    return [
        {stage: table[item] for stage, table in tables.items()}
        for item in ids
        if all(item in table for table in tables.values())
    ]


def objects_table(objects: Sequence[Mapping[str, Any]], tar: str) -> pa.Table:
    schema = objects_schema()
    return pa.Table.from_pylist([{"asset_tar": tar, **metadata(rows)} for rows in objects], schema)


def metadata(rows: Mapping[str, Any]) -> dict[str, Any]:
    """All columns of one object but the large binary ones."""
    return {
        column_name(stage, column.name): value
        for stage, row in rows.items()
        for column in fields(row)
        if not isinstance(value := getattr(row, column.name), bytes)
    }


def tar_bytes(objects: Sequence[Mapping[str, Any]]) -> bytes:
    """The objects' files as a WebDataset tar; equal objects give equal bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for rows in objects:
            for suffix, data in asset_files(rows).items():
                member = tarfile.TarInfo(f"{rows['segment'].object_id}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def asset_files(rows: Mapping[str, Any]) -> dict[str, bytes]:
    """Suffix -> bytes of one object's files."""
    crop = rows["segment"].crop_png
    return {
        "json": json.dumps(metadata(rows), sort_keys=True).encode(),
        "png": crop,
        "mask.png": encode_png(decode_png(crop)[..., 3:]),
        "cloud.ply": rows["lift"].cloud_ply,
        "glb": rows["mesh"].glb,
        "turntable.webp": rows["score"].turntable_webp,
    }


def rejects_table(
    store: Store, commits: Mapping[str, Sequence[Commit]], duplicates: Sequence[RejectRecord]
) -> pa.Table:
    """Every reject of the commits, and those that belong to no cell."""
    some = [commit for made in commits.values() for commit in made if commit.rejects.rows]
    with ThreadPoolExecutor(READERS) as threads:
        tables = list(threads.map(lambda commit: store.read_part_table(commit.rejects), some))
    return pa.concat_tables([to_table(duplicates, RejectRecord), *tables])


def scored(store: Store, commits: Mapping[str, Sequence[Commit]]) -> set[str]:
    """Ids of the objects that have come through all stages."""
    with ThreadPoolExecutor(READERS) as threads:
        columns = threads.map(lambda commit: store.read_column(commit.rows, "object_id"), commits.get("score", ()))
        return {item for column in columns for item in column}


def show(store: Store, body: Mapping[str, Any], units: Sequence[Unit], note: str) -> None:
    """Turn the view to this snapshot."""
    with Attempt(store, PUBLISHING) as attempt:
        turn(store, body, units, note, attempt)


def turn(store: Store, body: Mapping[str, Any], units: Sequence[Unit], note: str, attempt: Attempt) -> None:
    """Turn the view to this snapshot: gallery and pointer first, then away with the files of earlier ones.

    What is deleted has been named by an earlier snapshot or by an attempt that died, and is named neither by the newest
    snapshot (another run may have turned the view meanwhile) nor by an attempt that lives.
    """
    path, data = f"snapshots/{body['id']}.json", sealed(body)
    before = named(store, [path, POINTER])
    if store.find(path) != data:
        store.write(path, data)
    if not _is(store.find(POINTER), body) or (units and store.size(PAGE) is None):
        store.write(PAGE, gallery(store, body, units, note).encode())
        store.write(POINTER, data)
    if others := strays(store, body):
        attempt.look()
        ours = before | named(store, [*store.paths("snapshots"), *attempt.dead])
        store.delete(sorted((others & ours) - named(store, [POINTER, *attempt.living])))
    attempt.close_the_dead()


def strays(store: Store, body: Mapping[str, Any]) -> set[str]:
    """What lies in the view and is not of this snapshot."""
    return {path for folder in VIEW for path in store.paths(folder)} - set(body["files"])


def named(store: Store, paths: Sequence[str]) -> set[str]:
    """The files that snapshots and attempts name; one that cannot be read names none, and so none is deleted."""
    return {name for path in paths for name in read(store, path).get("files", [])}


def gallery(store: Store, body: Mapping[str, Any], units: Sequence[Unit], note: str) -> str:
    """The page of the first GALLERY_OBJECTS finished objects."""
    cards: list[Card] = []
    for unit in units:
        if len(cards) >= GALLERY_OBJECTS:
            break
        cards += map(Card.of, finished_objects(store, unit))
    return corpus_page(cards[:GALLERY_OBJECTS], body, note)


def _is(pointer: bytes | None, body: Mapping[str, Any]) -> bool:
    """Whether that is the snapshot that the view shows."""
    try:
        says = json.loads(pointer or b"")
        return all(says.get(key) == body.get(key) for key in ("id", "contents", "note"))
    except (ValueError, AttributeError):
        return False


def _name(data: bytes) -> str:
    """What a file is called by its content."""
    return hashlib.sha256(data).hexdigest()[:16]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
