"""The finished objects of a corpus, read from their cells: those that have a row of every stage."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pipeline.commit import Commit
from pipeline.input.ids import image_of
from pipeline.release.objects import BECOME_FILES
from pipeline.release.partition import Partition, read_manifest, sound_commit
from pipeline.store import Store
from pipeline.unit import Unit
from schemas.corpus import OBJECT_RECORDS, ObjectRows
from schemas.records import ImageRecord, OriginRecord


def finished_objects(
    store: Store, units: Sequence[Unit], seed: int, known: Mapping[str, Commit] = MappingProxyType({})
) -> Iterator[ObjectRows]:
    """The finished objects of these units of one shard, in order; the rows of one unit at a time are in memory.

    Of their columns of bytes only those are read that become files, or pictures of the gallery. Commits are read unless
    they are `known`, by the folders of their cells.

    Raises: DamagedCell if a part is not what its commit says.
    """
    photos = photos_of_units(store, units, known)
    for unit in units:
        if not unit.ids:  # all of its items ran again, in other units
            continue
        folders = {stage: unit.inputs[stage].path for stage in OBJECT_RECORDS if stage in unit.inputs}
        commits = {stage: known.get(folder) or sound_commit(store, folder) for stage, folder in folders.items()}
        licence = unit.inputs["licence"].digest
        for rows in read_objects(store, commits, unit.ids, (*BECOME_FILES, "render_png")):
            photo = photos[rows.segment.image_id]
            yield replace(rows, origin=origin_of(rows.object_id, commits, licence, seed, photo))


def photos_of_units(store: Store, units: Sequence[Unit], known: Mapping[str, Commit]) -> dict[str, ImageRecord]:
    """Id -> photo, of the objects of these units of one shard; `known` as of `finished_objects`."""
    if not units:
        return {}
    folder = units[0].inputs["index"].path
    index = known.get(folder) or sound_commit(store, folder)
    ids = {image_of(item) for unit in units for item in unit.ids}
    return {row.image_id: row for row in store.read_part(index.rows, ImageRecord, ids)}


def origin_of(
    object_id: str, commits: Mapping[str, Commit], licence: str, seed: int, photo: ImageRecord
) -> OriginRecord:
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
        seed,
        photo.photo_name,
        photo.jpg_offset if photo.photo_in == "shard" else None,
        photo.jpg_size,
        photo.jpg_sha256,
    )


def read_objects(
    store: Store, commits: Mapping[str, Commit], ids: Sequence[str], heavy: Collection[str]
) -> list[ObjectRows]:
    """Every one of `ids` that all commits (by stage) have a row of, in order; `heavy` as of `Store.read_part`."""
    tables: dict[str, dict[str, Any]] = {}
    for stage, commit in commits.items():
        rows: list[Any] = store.read_part(commit.rows, OBJECT_RECORDS[stage], ids, heavy)
        tables[stage] = {row.object_id: row for row in rows}
    return [
        ObjectRows(**{stage: table[item] for stage, table in tables.items()})
        for item in ids
        if all(item in table for table in tables.values())
    ]


def released_cells(store: Store, partitions: Sequence[Partition]) -> Iterator[dict[str, Commit]]:
    """Stage -> commit, of the stages whose rows are objects; partition by partition, unit by unit, in order of names.

    Raises: SourceError if a manifest is damaged; DamagedCell if a commit has gone.
    """
    for partition in partitions:
        cells = [row for row in read_manifest(store, partition)[0] if row.what == "cell"]
        folders = {(row.stage, row.unit): row.path for row in cells}
        segments = {row.digest: row.path for row in cells if row.stage == "segment"}
        later = [name for name in partition.stages if name in OBJECT_RECORDS and name != "segment"]
        for unit in sorted(unit for stage, unit in folders if stage == "score" and unit is not None):
            commits = {stage: sound_commit(store, folders[stage, unit]) for stage in later}
            segment = sound_commit(store, segments[commits["score"].inputs["segment"]])
            yield {"segment": segment, **commits}


def released_objects(store: Store, partitions: Sequence[Partition], heavy: Collection[str]) -> Iterator[ObjectRows]:
    """The finished objects of these partitions, without their origin; `heavy` as of `Store.read_part`.

    Raises: as `released_cells`.
    """
    for commits in released_cells(store, partitions):
        yield from read_objects(store, commits, store.read_column(commits["score"].rows, "object_id"), heavy)
