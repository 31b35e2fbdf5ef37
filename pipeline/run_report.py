"""What a run did."""

from dataclasses import dataclass, field

from anything3d.errors import LimitReached
from pipeline.price import Spending
from pipeline.release.partition import Partition
from pipeline.release.snapshot import Snapshot


@dataclass(slots=True)
class RunReport:
    """What a run did: the partitions of its shards, the cells it made itself, and the snapshot that came of it."""

    partitions: dict[str, Partition] = field(default_factory=dict)  # shard -> what it is now
    made: dict[str, int] = field(default_factory=dict)  # stage -> cells of this run
    # Requested ids that no sound photo has. Empty if not all shards were read.
    unknown: list[str] = field(default_factory=list)
    # Objects with neither a row nor a reject; their shards are not published.
    lost: list[str] = field(default_factory=list)
    snapshot: Snapshot | None = None  # None if nothing was published: `judge` refused
    spending: Spending = field(default_factory=Spending)
    limit: LimitReached | None = None  # why the run has stopped before all was done
    seconds: float = 0.0

    @property
    def cells_run(self) -> int:
        return sum(self.made.values())

    @property
    def note(self) -> str:
        """What to know of the networks that made the objects of this run."""
        return " ".join(sorted({partition.note for partition in self.partitions.values()} - {""}))
