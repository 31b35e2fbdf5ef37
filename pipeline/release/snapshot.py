"""The log of a corpus: snapshots/000017.json says which partitions the corpus has after its 17th change, and why.

A snapshot is written put-if-absent under the next number. Whoever loses that race reads the winner's snapshot, applies
its own change on top of it, and tries the number after it. So two commands that end at the same moment lose nothing.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from anything3d.errors import SourceError
from pipeline.commit import Part, sealed, unsealed
from pipeline.location import explained
from pipeline.release.partition import Partition
from pipeline.store import Store

NAME = re.compile(r"snapshots/(\d{6,})\.json")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MadeBy:
    """The command that made a snapshot, with all that its result depends on."""

    command: str  # run, drop, verify
    preset: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)  # all of them: Config as JSON
    weights: Mapping[str, str] = field(default_factory=dict)  # name -> digest of all its files
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    shards: Mapping[str, str] = field(default_factory=dict)  # name -> location, of the shards of the command
    max_objects: int | None = None
    ids: tuple[str, ...] | None = None  # the only photos or objects that were wanted
    sample_rate: float | None = None  # share of the photos that were wanted

    @property
    def origin(self) -> dict[str, Any]:
        """What the rows depend on besides the shards. Of the manifest of a shard: `ids` are those in it."""
        return {
            "preset": self.preset,
            "settings": self.settings,
            "weights": self.weights,
            "versions": self.versions,
            "max_objects": self.max_objects,
            "ids": self.ids,
            **({} if self.sample_rate is None else {"sample_rate": self.sample_rate}),
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A release of a corpus: a short list of partitions."""

    number: int
    parent: int  # number of the snapshot that it was made from; 0: of none
    date: str  # ISO 8601, UTC
    made_by: MadeBy
    partitions: Mapping[str, Partition]  # shard -> its partition, in order of the names

    @property
    def digest(self) -> str:
        """Hash of what it holds: equal for equal cells, whoever made it and when."""
        held = [[shard, partition.digest] for shard, partition in self.partitions.items()]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:16]

    @property
    def path(self) -> str:
        return path_of(self.number)

    @property
    def objects(self) -> int:
        return sum(partition.objects for partition in self.partitions.values())

    @property
    def rejects(self) -> int:
        return sum(partition.rejects for partition in self.partitions.values())

    @property
    def note(self) -> str:
        """What to know of the networks that made it; "" if nothing."""
        return " ".join(sorted({partition.note for partition in self.partitions.values()} - {""}))

    @property
    def files(self) -> list[Part]:
        return [file for partition in self.partitions.values() for file in partition.files]

    def to_json(self) -> bytes:
        """With a digest of itself, so that damage is seen."""
        counts = {"digest": self.digest, "objects": self.objects, "rejects": self.rejects, "note": self.note}
        return sealed(
            {
                "number": self.number,
                "parent": self.parent,
                "date": self.date,
                **counts,
                "made_by": json.loads(json.dumps(asdict(self.made_by))),
                "partitions": {shard: partition.to_json() for shard, partition in self.partitions.items()},
            },
            indent=None,
        )

    @classmethod
    def from_json(cls, data: bytes) -> "Snapshot":
        """Raises: ValueError if `data` is no snapshot, or is damaged."""
        body = unsealed(data)
        try:
            made_by = body["made_by"]
            ids = None if made_by["ids"] is None else tuple(made_by["ids"])
            return cls(
                number=body["number"],
                parent=body["parent"],
                date=body["date"],
                made_by=MadeBy(**{**made_by, "ids": ids}),
                partitions={shard: Partition.from_json(entry) for shard, entry in body["partitions"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no snapshot: {error!r}") from error


# Whether to publish: of the snapshot that would come of it, and of the partitions of the command.
Judge = Callable[[Snapshot, Mapping[str, Partition]], bool]


def path_of(number: int) -> str:
    """Where the snapshot with this number lies in its corpus."""
    return f"snapshots/{number:06d}.json"


def numbers(store: Store) -> list[int]:
    """The numbers of all snapshots of the corpus, the newest first."""
    found = (NAME.fullmatch(path) for path in store.paths("snapshots"))
    return sorted((int(match[1]) for match in found if match), reverse=True)


def newest(store: Store) -> Snapshot | None:
    """The newest snapshot that can be read; None if there is none. Damaged ones are said."""
    return _readable(store, numbers(store))


def _readable(store: Store, some: Sequence[int]) -> Snapshot | None:
    """The first of these snapshots that can be read."""
    return next((snapshot for number in some if (snapshot := read_snapshot(store, number))), None)


def read_snapshot(store: Store, number: int) -> Snapshot | None:
    """The snapshot with this number; None if there is none, or it is damaged, which is said."""
    data = store.find(path_of(number))
    if data is None:  # removed a moment ago
        return None
    try:
        return Snapshot.from_json(data)
    except ValueError as error:
        said = f"{store.root}/{path_of(number)} is damaged ({error}). What it alone says is not known any more"
        log.warning("%s; run its shards again: their cells are found again", said)
        return None


def snapshot_of(corpus: str, number: int | None = None) -> tuple[Store, Snapshot]:
    """A corpus that somebody names, with one of its snapshots: the newest, or the one with this number.

    Raises: SourceError("no_snapshot") if there is none, or it is damaged; StorageError.
    """
    with explained(corpus):
        try:
            store = Store(corpus, create=False)
            found = newest(store) if number is None else read_snapshot(store, number)
        except FileNotFoundError:
            found = None
        if found is None:
            which = "has no snapshot" if number is None else f"has no snapshot {number}"
            raise SourceError(
                "no_snapshot", f"{corpus} {which} that can be read. Give the --out of a finished `anything3d run`."
            )
        return store, found


def append(
    store: Store, made_by: MadeBy, change: Callable[[Mapping[str, Partition]], Mapping[str, Partition]]
) -> Snapshot:
    """The snapshot that has the partitions that `change` makes of the newest one's; no new one if that is the same.

    `change` is called again whenever another command has appended a snapshot meanwhile.
    """
    while True:
        taken = numbers(store)  # looked at once: the next number belongs to the newest of these
        last, base = max(taken, default=0), _readable(store, taken)
        before = base.partitions if base else {}
        after = {shard: partition for shard, partition in sorted(change(before).items())}
        if base is not None and base.number == last and after == before:
            return base
        made = Snapshot(last + 1, base.number if base else 0, now(), made_by, after)
        data = made.to_json()
        if store.create(made.path, data) == data:
            return made


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
