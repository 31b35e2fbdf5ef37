"""How the numbers of all objects are spread, and which objects are the best and the worst.

The footers of the tables say the least and the greatest value of every column. Then each shard is read once, only its
numbers and ids, and counted in equal steps between the two. So only the shards that are read at once are in memory.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import isfinite

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.release.columns import read_columns, read_extents
from pipeline.release.gallery.data import NUMBERS, QUALITY
from pipeline.release.partition import Partition
from pipeline.release.publish import READERS
from pipeline.release.snapshot import Snapshot
from pipeline.store import Store
from schemas.corpus import OBJECT_COLUMNS, OBJECT_ID

BARS, WITHIN = 40, 50  # bars of a histogram; steps in each of them, of which the quantiles are read
RANKED_BY = ("mesh_psnr_db", "reference_psnr_db")  # the first that an object has says which are the best
SHOWN = 8  # best objects, and as many of the worst

Extents = Mapping[str, tuple[float, float]]  # column -> its least and its greatest value
ABOUT = {column.name: column.about for column in OBJECT_COLUMNS}


@dataclass(frozen=True, slots=True)
class Distribution:
    """How one number is spread over the objects that have it. Quantiles are right to a 2,000th of the whole range."""

    name: str
    about: str  # unit or meaning
    count: int  # objects that have it
    least: float
    p10: float  # a tenth of the objects has less
    median: float
    p90: float
    most: float
    mean: float
    bars: Sequence[int]  # objects in BARS equal steps from least to most; one bar if these two are equal


@dataclass(frozen=True, slots=True)
class Ranked:
    """One of the best or the worst objects."""

    value: float
    object_id: str
    shard: str


@dataclass(slots=True)
class Spread:
    """All that is counted of the objects of a snapshot, or of one shard of it."""

    steps: dict[str, Counter[int]] = field(default_factory=dict)  # column -> number of a step -> objects
    sums: Counter[str] = field(default_factory=Counter)  # column -> sum of its values
    tiers: Counter[str] = field(default_factory=Counter)  # letter -> objects
    best: list[Ranked] = field(default_factory=list)  # the best first
    worst: list[Ranked] = field(default_factory=list)  # the worst first

    def add(self, other: "Spread") -> None:
        """Count another shard, too."""
        for name, counts in other.steps.items():
            self.steps.setdefault(name, Counter()).update(counts)
        self.sums.update(other.sums)
        self.tiers.update(other.tiers)
        self.best = sorted([*self.best, *other.best], key=lambda one: (-one.value, one.object_id))[:SHOWN]
        self.worst = sorted([*self.worst, *other.worst], key=lambda one: (one.value, one.object_id))[:SHOWN]


def spread(store: Store, snapshot: Snapshot) -> tuple[list[Distribution], Spread, str | None]:
    """The numbers that any object has, what was counted, and the column by which the objects are ranked.

    No object is both among the best and among the worst.

    Raises: SourceError("damaged_corpus") if a table is damaged or has gone.
    """
    partitions, whole = list(snapshot.partitions.values()), Spread()
    with ThreadPoolExecutor(READERS) as threads:
        ends: dict[str, tuple[float, float]] = {}
        for own in threads.map(partial(_extents, store), partitions):
            for name, (least, most) in own.items():
                known = ends.get(name, (least, most))
                ends[name] = min(known[0], least), max(known[1], most)
        ranked_by = next((name for name in RANKED_BY if name in ends), None)
        for counted in threads.map(partial(_count, store, ends, ranked_by), partitions):
            whole.add(counted)
    ranked = whole.steps[ranked_by].total() if ranked_by else 0
    del whole.best[(ranked + 1) // 2 :], whole.worst[ranked // 2 :]
    return [_distribution(name, *ends[name], whole) for name in NUMBERS if name in whole.steps], whole, ranked_by


def _extents(store: Store, partition: Partition) -> Extents:
    """Those of one shard, of finite values."""
    table = partition.tables["objects"]
    found = read_extents(store, table, NUMBERS)
    if odd := [name for name, ends in found.items() if not all(map(isfinite, ends))]:
        columns = read_columns(store, table, odd)
        for name in odd:
            del found[name]
            if len(values := _finite(columns[name])):
                found[name] = pc.min(values).as_py(), pc.max(values).as_py()
    return found


def _count(store: Store, ends: Extents, ranked_by: str | None, partition: Partition) -> Spread:
    """One shard."""
    found = Spread()
    table = read_columns(store, partition.tables["objects"], [OBJECT_ID.name, QUALITY, *ends])
    for name in [name for name in table.column_names if name in ends]:
        values = _finite(table[name])
        if len(values):
            found.steps[name] = _steps(values, *ends[name])
            found.sums[name] = pc.sum(values).as_py()
    if QUALITY in table.column_names:
        found.tiers = _values(table[QUALITY].drop_null())
    if ranked_by in found.steps:
        is_finite = pc.fill_null(pc.is_finite(table[ranked_by]), False)
        some = pa.table({"value": table[ranked_by], "object_id": table[OBJECT_ID.name]}).filter(is_finite)
        for order, into in (("descending", found.best), ("ascending", found.worst)):
            keys = [("value", order), ("object_id", "ascending")]
            rows = some.take(pc.select_k_unstable(some, min(SHOWN, len(some)), keys)).to_pylist()
            into += [Ranked(row["value"], row["object_id"], partition.shard) for row in rows]
    return found


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values that are numbers."""
    values = column.cast(pa.float64())
    return values.filter(pc.fill_null(pc.is_finite(values), False))


def _steps(values: pa.ChunkedArray, least: float, most: float) -> Counter[int]:
    """Step -> values in it."""
    if not least < most:
        return Counter({0: len(values)})
    share = pc.divide(pc.subtract(values, least), most - least)
    step = pc.min_element_wise(pc.floor(pc.multiply(share, float(BARS * WITHIN))), float(BARS * WITHIN - 1))
    return _values(step.cast(pa.int64()))


def _values(column: pa.ChunkedArray) -> Counter:
    """Value -> how often it is there."""
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()})


def _distribution(name: str, least: float, most: float, whole: Spread) -> Distribution:
    counts = whole.steps[name]
    bars = [0] * (BARS if least < most else 1)
    for step, count in counts.items():
        bars[step // WITHIN] += count
    p10, median, p90 = (_quantile(counts, share, least, most) for share in (0.1, 0.5, 0.9))
    mean = whole.sums[name] / counts.total()
    return Distribution(name, ABOUT[name], counts.total(), least, p10, median, p90, most, mean, bars)


def _quantile(counts: Counter[int], share: float, least: float, most: float) -> float:
    """The middle of the step in which this share of the values is reached."""
    wanted, seen = share * counts.total(), 0
    for step in sorted(counts):
        seen += counts[step]
        if seen >= wanted:
            return least + (step + 0.5) * (most - least) / (BARS * WITHIN)
    return most
