"""Two snapshots side by side: which objects were added, have gone or have changed, and what happened to the scores.

The scores of every shard are read, and all rows of the shards that differ; one shard at a time. So the memory does not
depend on the size of the corpus.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pipeline.release.columns import read_columns
from pipeline.release.partition import Partition, sound_table
from pipeline.release.snapshot import Snapshot
from pipeline.store import Store
from schemas.corpus import OBJECT_COLUMNS, PLACES

SCORES = tuple(
    column.name
    for column in OBJECT_COLUMNS
    if column.stage == "score" and float in (column.type, *get_args(column.type))
)


@dataclass(slots=True)
class Change:
    """One score: its mean before and after, and of how many objects that are in both it rose or fell."""

    before: float | None
    after: float | None
    up: int = 0
    down: int = 0


@dataclass(slots=True)
class Comparison:
    """What a snapshot has that an earlier one had not, in numbers of objects."""

    before: int | None  # number of the earlier snapshot; None: there is none
    shards_added: int = 0
    shards_gone: int = 0
    shards_changed: int = 0
    added: int = 0
    gone: int = 0
    changed: int = 0
    same: int = 0
    scores: dict[str, Change] = field(default_factory=dict)  # of the scores that an object has


def compare(store: Store, before: Snapshot | None, after: Snapshot) -> Comparison:
    """The objects of two snapshots by their ids.

    Raises: SourceError("damaged_corpus") if a table of one of them is damaged or has gone.
    """
    old = before.partitions if before else {}
    found = Comparison(
        before.number if before else None,
        shards_added=len(after.partitions.keys() - old.keys()),
        shards_gone=len(old.keys() - after.partitions.keys()),
    )
    means = [means_of(store, partitions) for partitions in (old, after.partitions)]
    found.scores = {
        name: Change(means[0].get(name), means[1].get(name)) for name in SCORES if name in {**means[0], **means[1]}
    }
    for shard in sorted(old.keys() | after.partitions.keys()):
        was, now = old.get(shard), after.partitions.get(shard)
        if was and now and was.digest == now.digest:
            found.same += now.objects
            continue
        found.shards_changed += bool(was and now)
        rows = _rows(store, was)
        for object_id, row in _rows(store, now).items():
            _count(found, rows.pop(object_id, None), row)
        found.gone += len(rows)
    return found


def _count(found: Comparison, was: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    if was is None:
        found.added += 1
        return
    differs = any(was.get(name) != value for name, value in now.items() if name not in PLACES)
    found.changed += differs
    found.same += not differs
    for name, change in found.scores.items():
        if was.get(name) is not None and now.get(name) is not None:
            change.up += now[name] > was[name]
            change.down += now[name] < was[name]


def _rows(store: Store, partition: Partition | None) -> dict[str, dict[str, Any]]:
    """Object id -> its row, of one shard."""
    if partition is None:
        return {}
    return {row["object_id"]: row for row in sound_table(store, partition.tables["objects"]).to_pylist()}


def means_of(store: Store, partitions: Mapping[str, Partition]) -> dict[str, float]:
    """Score -> its mean over the objects that have it; without scores that no object has."""
    sums: dict[str, tuple[float, int]] = {}
    for values in _scores(store, partitions):
        for name, some in values.items():
            total, count = sums.get(name, (0.0, 0))
            known = [value for value in some if value is not None]
            sums[name] = (total + sum(known), count + len(known))
    return {name: total / count for name, (total, count) in sums.items() if count}


def _scores(store: Store, partitions: Mapping[str, Partition]) -> Iterator[dict[str, list[float | None]]]:
    """The scores of the objects of every shard, one shard after the other."""
    for partition in partitions.values():
        table = read_columns(store, partition.tables["objects"], SCORES)
        yield {name: table.column(name).to_pylist() for name in table.column_names}
