"""What a corpus has, and who works on it: read from its newest snapshot and from the files of runs, on any machine.

A run writes runs/attempts/<id>.json every HEARTBEAT_S (ledger.py): how far it is, and which cells its actors compute.
The file goes when the run ends. One that stays behind is of a run that was killed. Nothing else is listed: cells are
looked at only if a run says that they are being computed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from anything3d.errors import SourceError
from pipeline import ledger
from pipeline.ledger import RUNS
from pipeline.location import explained
from pipeline.release.partition import Tally, tallies
from pipeline.release.snapshot import Snapshot, newest
from pipeline.store import Store


@dataclass(frozen=True, slots=True)
class Work:
    """A cell that an actor computes."""

    stage: str
    unit: str
    host: str
    pid: int
    seconds: float  # since it began
    step: int  # of its inner steps, the last one that was told; 0: none
    steps: int
    deaths: int  # of processes that worked on it before


@dataclass(frozen=True, slots=True)
class Running:
    """A run, as its file says."""

    lives: bool
    host: str
    pid: int
    silent_s: float  # since its last sign
    stages: Mapping[str, Mapping[str, float]]  # stage -> items, done, per_minute
    seconds_left: float | None
    spent: Mapping[str, float]  # seconds, gpu_seconds, cost of its cells
    at_work: tuple[Work, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """A corpus now."""

    snapshot: int | None  # number; None: nothing has been published
    date: str
    objects: int
    rejects: int
    shards: int
    stages: Mapping[str, Tally]  # of the published shards
    rejected: Mapping[str, int]  # "stage reason" -> items
    runs: tuple[Running, ...]


def status(corpus: str) -> Status:
    """Raises: SourceError("no_corpus") if there is none at this place; StorageError."""
    with explained(corpus):
        try:
            store = Store(corpus, create=False)
            some = store.some()
        except FileNotFoundError:
            some = []
        if not some:
            raise SourceError("no_corpus", f"There is no corpus at {corpus}. Give the --out of a run.")
        return _status(store, newest(store))


def _status(store: Store, snapshot: Snapshot | None) -> Status:
    partitions = snapshot.partitions if snapshot else {}
    rejected = Counter[str]()
    for partition in partitions.values():
        for entry in partition.rejected:
            rejected[f"{entry.stage} {entry.reason}"] += entry.inputs + entry.parts
    return Status(
        snapshot=snapshot.number if snapshot else None,
        date=snapshot.date if snapshot else "",
        objects=snapshot.objects if snapshot else 0,
        rejects=snapshot.rejects if snapshot else 0,
        shards=len(partitions),
        stages=tallies(partitions),
        rejected=dict(rejected.most_common()),
        runs=tuple(_runs(store)),
    )


def _runs(store: Store) -> list[Running]:
    now, found = datetime.now(UTC), []
    for path, entry in sorted(store.entries(f"{RUNS}/attempts").items()):
        says = ledger.read(store, path)
        age = now - entry.modified
        found.append(
            Running(
                lives=ledger.lives(says, age),
                host=says.get("host", ""),
                pid=says.get("pid", 0),
                silent_s=max(0.0, age.total_seconds()),
                stages=says.get("stages", {}),
                seconds_left=says.get("seconds_left"),
                spent=says.get("spent", {}),
                at_work=tuple(_work(store, one, now) for one in says.get("at_work", ())),
            )
        )
    return found


def _work(store: Store, says: Mapping[str, Any], now: datetime) -> Work:
    attempts = store.entries(f"{says['folder']}/attempts")
    dead = [path for path, one in attempts.items() if not ledger.lives(ledger.read(store, path), now - one.modified)]
    since = max(0.0, now.timestamp() - says["since"])
    step, steps = says.get("step", 0), says.get("steps", 0)
    return Work(says["stage"], says["unit"], says["host"], says["pid"], since, step, steps, len(dead))
