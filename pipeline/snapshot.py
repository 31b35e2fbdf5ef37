"""A snapshot: the release that a run's commits make, and its view in files that other tools open.

    objects/*.parquet     one row per object: all metadata and scores
    assets/*.tar          WebDataset: <object>.json .png .mask.png .cloud.ply .glb .turntable.webp
    rejects/*.parquet     one row per item that stopped
    snapshots/<id>.json   the commits it consists of (stage, unit, digest, the cell's folder) and the files above; its
                          id is the hash of the commits' digests
    snapshot.json         the newest of them
    index.html            gallery

Files are named by the digests of what is in them: an unchanged part of the corpus is not written again. The three
folders show the newest snapshot: every other file in them is removed after it exists, whoever left it there. The
commits and their parts stay, and with them every older snapshot.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import pyarrow as pa

from anything3d.image import decode_png, encode_png
from pipeline.gallery import Card, corpus_page
from pipeline.source import stem
from pipeline.store import Commit, Store, parquet_bytes
from pipeline.unit import Unit
from schemas.arrow import to_table
from schemas.corpus import OBJECT_RECORDS, column_name, objects_schema
from schemas.records import RejectRecord

OBJECTS_PER_FILE = 256  # about; of one Parquet file and one tar
VIEW = ("objects", "assets", "rejects")  # folders that show one snapshot
GALLERY_OBJECTS = 60
READERS = 16  # threads that read parts


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A release of the corpus."""

    id: str
    objects: int
    rejects: int
    lost: tuple[str, ...]  # objects with neither a row nor a reject: empty, or the run did not balance


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one shard whose objects share a Parquet file and a tar; the name says what is in them."""

    name: str
    units: tuple[Unit, ...]


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
    """
    digests = sorted([name, commit.unit, commit.digest] for name, made in commits.items() for commit in made)
    identity = _hash([digests, [[row.item_id, row.message] for row in duplicates]])
    grouped = list(groups(units))
    rejects = f"rejects/{identity}.parquet"
    known = store.find(f"snapshots/{identity}.json")
    if known is None or store.find(rejects) is None:
        table, finished = rejects_table(store, commits, duplicates), scored(store, commits)
        rejected = set(table.column("item_id").to_pylist())
        if lost := tuple(sorted({item for unit in units for item in unit.ids} - finished - rejected)):
            return Snapshot(identity, len(finished), table.num_rows, lost)
        store.write(rejects, parquet_bytes(table))
    write_missing(store, grouped, say)
    if known is None:
        body: dict[str, Any] = {
            "id": identity,
            "objects": len(finished),
            "rejects": table.num_rows,
            "fingerprints": {name: made[0].fingerprint for name, made in commits.items() if made},
            "commits": sorted(
                [name, commit.unit, commit.digest, commit.folder] for name, made in commits.items() for commit in made
            ),
            "files": sorted([*view_files(grouped), rejects]),
            "seconds": {name: round(sum(commit.seconds for commit in made), 3) for name, made in commits.items()},
        }
        known = store.create(f"snapshots/{identity}.json", json.dumps(body, indent=1).encode() + b"\n")
    body = json.loads(known)
    show(store, body, units, note)
    return Snapshot(identity, body["objects"], body["rejects"], ())


def groups(units: Sequence[Unit]) -> Iterator[Group]:
    """Units of the same shard together, about OBJECTS_PER_FILE objects at a time, in order."""
    for shard, some in groupby(units, lambda unit: stem(unit.inputs["shard"].path)):
        pending: list[Unit] = []
        for unit in some:
            pending.append(unit)
            if sum(len(unit.ids) for unit in pending) >= OBJECTS_PER_FILE:
                yield _group(shard, pending)
                pending = []
        if pending:
            yield _group(shard, pending)


def view_files(grouped: Sequence[Group]) -> list[str]:
    """Paths of the objects' files."""
    return [path for group in grouped for path in (f"objects/{group.name}.parquet", f"assets/{group.name}.tar")]


def write_missing(store: Store, grouped: Sequence[Group], say: Callable[[str], None]) -> None:
    """Write those files of the objects that are not there."""
    there = {path for folder in ("objects", "assets") for path in store.paths(folder)}
    for group in grouped:
        table, tar = f"objects/{group.name}.parquet", f"assets/{group.name}.tar"
        if table in there and tar in there:
            continue
        say(f"writing objects of {group.name}")
        rows = [rows for unit in group.units for rows in finished_objects(store, unit)]
        store.write(tar, tar_bytes(rows))
        store.write(table, parquet_bytes(objects_table(rows, f"{group.name}.tar")))


def finished_objects(store: Store, unit: Unit) -> list[dict[str, Any]]:
    """Stage -> record, of every object of the unit that has come through all stages, in order."""
    commits: dict[str, Commit] = {}
    for stage in OBJECT_RECORDS:
        commit = store.commit_at(unit.inputs[stage].path)
        assert commit is not None, unit.inputs[stage].path
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
        tables = list(threads.map(lambda commit: store.read_table(commit.rejects.path), some))
    return pa.concat_tables([to_table(duplicates, RejectRecord), *tables])


def scored(store: Store, commits: Mapping[str, Sequence[Commit]]) -> set[str]:
    """Ids of the objects that have come through all stages."""
    with ThreadPoolExecutor(READERS) as threads:
        columns = threads.map(lambda commit: store.read_column(commit.rows, "object_id"), commits.get("score", ()))
        return {item for column in columns for item in column}


def show(store: Store, body: Mapping[str, Any], units: Sequence[Unit], note: str) -> None:
    """Turn the view to this snapshot: gallery and pointer first, then away with every file that it does not name."""
    pointer = store.find("snapshot.json")
    if pointer is None or json.loads(pointer)["id"] != body["id"]:
        store.write("index.html", gallery(store, body, units, note).encode())
        store.write("snapshot.json", json.dumps(body, indent=1).encode() + b"\n")
    there = {path for folder in VIEW for path in store.paths(folder)}
    store.delete(sorted(there - set(body["files"])))


def gallery(store: Store, body: Mapping[str, Any], units: Sequence[Unit], note: str) -> str:
    """The page of the first GALLERY_OBJECTS finished objects."""
    cards: list[Card] = []
    for unit in units:
        if len(cards) >= GALLERY_OBJECTS:
            break
        cards += map(Card.of, finished_objects(store, unit))
    return corpus_page(cards[:GALLERY_OBJECTS], body, note)


def _group(shard: str, units: Sequence[Unit]) -> Group:
    content = [[unit.name, sorted((name, found.digest) for name, found in unit.inputs.items())] for unit in units]
    return Group(f"{shard}-{units[0].ids[0]}-{_hash(content)[:10]}", tuple(units))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
