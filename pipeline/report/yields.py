"""What every stage of a snapshot was given, what became of it, and what it took.

The counts stand in the snapshot. The prices stand in the manifests of its shards.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from pipeline.config import Price, Workers
from pipeline.price import cost
from pipeline.release.columns import read_origin
from pipeline.release.partition import DUPLICATE, Partition, tallies
from pipeline.release.publish import OF_PHOTOS, READERS
from pipeline.release.snapshot import Snapshot
from pipeline.store import Store

Costs = Mapping[str, Mapping[str, float]]  # stage -> currency -> cost; no currency if no price is known


@dataclass(frozen=True, slots=True)
class Step:
    """One stage: how many items it had, and what became of them. They are photos for `index`, and masks for `segment`.

    items = done + skipped + failed + crashed.
    """

    stage: str
    kind: str  # of the items: photos, masks, objects
    items: int
    done: int
    skipped: int
    failed: int
    crashed: int
    whole: int  # rejects of a shard by index, and of a photo by segment: nobody knows how many items they have
    inputs: int  # shards of index, photos of segment, objects of the others
    seconds: float  # of actors
    gpu_seconds: float
    costs: Mapping[str, float]  # currency -> cost

    @property
    def share(self) -> float:
        """Of the items that are done; 0 if there are none."""
        return self.done / self.items if self.items else 0.0

    @property
    def seconds_per_input(self) -> float:
        return self.seconds / self.inputs if self.inputs else 0.0


@dataclass(slots=True)
class Example:
    """One reject."""

    item: str
    shard: str
    message: str
    picture: str  # key of its picture; "" if it has none


@dataclass(slots=True)
class Cause:
    """How often a stage gave one reason."""

    stage: str
    kind: str
    reason: str
    count: int
    before: int | None  # the same of the earlier snapshot; None if there is none
    examples: list[Example] = field(default_factory=list)


def steps(snapshot: Snapshot, costs: Costs) -> list[Step]:
    """The stages in their order."""
    parts, whole, duplicates = Counter[tuple[str, str]](), Counter[str](), 0
    for partition in snapshot.partitions.values():
        for entry in partition.rejected:
            of_items = entry.parts if entry.stage in OF_PHOTOS else entry.inputs
            parts[entry.stage, entry.kind] += of_items
            whole[entry.stage] += entry.inputs + entry.parts - of_items
            if (entry.stage, entry.kind, entry.reason) == ("index", "skipped", DUPLICATE):
                duplicates += entry.parts
    found = []
    for stage, tally in tallies(snapshot.partitions).items():
        done = tally.rows - (duplicates if stage == "index" else 0)  # whose cell knows nothing of other shards
        skipped, failed, crashed = (parts[stage, kind] for kind in ("skipped", "failed", "crashed"))
        found.append(
            Step(
                stage=stage,
                kind={"index": "photos", "segment": "masks"}.get(stage, "objects"),
                items=done + skipped + failed + crashed,
                done=done,
                skipped=skipped,
                failed=failed,
                crashed=crashed,
                whole=whole[stage],
                inputs=tally.inputs,
                seconds=tally.seconds,
                gpu_seconds=tally.gpu_seconds,
                costs=costs.get(stage, {}),
            )
        )
    return found


def causes(snapshot: Snapshot, before: Snapshot | None) -> list[Cause]:
    """The reasons of all rejects, the most frequent first."""
    now, old = _counts(snapshot), _counts(before) if before else None
    every = sorted(now.keys() | (old or {}).keys(), key=lambda cause: (-now[cause], cause))
    return [Cause(*cause, now[cause], old[cause] if old is not None else None) for cause in every]


def _counts(snapshot: Snapshot) -> Counter[tuple[str, str, str]]:
    """(stage, kind, reason) -> rejects."""
    counts = Counter[tuple[str, str, str]]()
    for partition in snapshot.partitions.values():
        for entry in partition.rejected:
            counts[entry.stage, entry.kind, entry.reason] += entry.inputs + entry.parts
    return counts


def costs_of(store: Store, snapshot: Snapshot) -> Costs:
    """What the cells of each stage cost, at the prices and on the CPUs that the settings of each shard say.

    Raises: SourceError("damaged_corpus") if a manifest is damaged or has gone.
    """
    sums = defaultdict[str, defaultdict[str, float]](lambda: defaultdict(float))
    with ThreadPoolExecutor(READERS) as threads:
        for own in threads.map(partial(_costs, store), snapshot.partitions.values()):
            for stage, costs in own.items():
                for currency, amount in costs.items():
                    sums[stage][currency] += amount
    return {stage: dict(costs) for stage, costs in sums.items()}


def _costs(store: Store, partition: Partition) -> Costs:
    """Those of one shard. A setting that its version did not have yet is the default."""
    settings = read_origin(store, partition)["settings"]
    price = Price(**settings.get("price", {}))
    if not price.gpu_hour and not price.cpu_hour:
        return {}
    resources = settings.get("resources", {})
    return {
        stage: {price.currency: cost(tally.seconds, tally.gpu_seconds, _cpus(resources.get(stage, {})), price)}
        for stage, tally in partition.stages.items()
    }


def _cpus(workers: Mapping[str, float]) -> float:
    usual = Workers()
    return max(workers.get("num_cpus", usual.num_cpus), workers.get("threads", usual.threads))
