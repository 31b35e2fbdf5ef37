"""Where segments pass through triangles: the measure behind self-intersections and thin walls.

Boxes that share a cell of a uniform grid are candidates. Each candidate is tested in float64.

Source: Möller and Trumbore 1997 (a segment against a triangle).
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

MAX_CELLS = 512  # along the longest side of what the triangles fill
MAX_ENTRIES = 1 << 22  # (box, cell) entries; about 0.2 GB. Where there would be more, the cells are larger
MAX_PAIRS = 1 << 20  # (segment, triangle) pairs that are tested at a time; about 0.3 GB
TOUCH = 1e-7  # share of a segment at either end that does not count: a vertex that lies on a triangle is no crossing
SEAM = 1e-9  # by how much a barycentric coordinate may be negative: no segment slips between two triangles

Pairs = tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]


def crossings(
    starts: Float[np.ndarray, "S 3"], ends: Float[np.ndarray, "S 3"], corners: Float[np.ndarray, "F 3 3"]
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"], Float[np.ndarray, "P"]]:
    """Every segment and triangle that it passes through: their numbers, and how far along the segment that is (0..1).

    A segment that lies in the triangle's plane, or only touches it with an end, does not pass through it.
    """
    starts, ends, corners = (values.astype(np.float64) for values in (starts, ends, corners))
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    none = np.zeros(0, np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(none, none, np.zeros(0))]
    for segments, triangles in _candidates(low, high, corners.min(1), corners.max(1)):
        hit, along = _meet(starts[segments], ends[segments], corners[triangles])
        found.append((segments[hit], triangles[hit], along))
    segments, triangles, along = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return segments, triangles, along


def _meet(
    starts: Float[np.ndarray, "P 3"], ends: Float[np.ndarray, "P 3"], corners: Float[np.ndarray, "P 3 3"]
) -> tuple[Int[np.ndarray, "H"], Float[np.ndarray, "H"]]:
    """Which of the pairs meet, and where on the segment."""
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    way, offset = ends - starts, starts - a
    across = np.cross(way, ac)
    volume = (ab * across).sum(1)
    scale = np.linalg.norm(way, axis=1) * np.linalg.norm(ab, axis=1) * np.linalg.norm(ac, axis=1)
    slanted = np.abs(volume) > 1e-12 * scale
    inverse = 1 / np.where(slanted, volume, 1)
    u = (offset * across).sum(1) * inverse
    turned = np.cross(offset, ab)
    v = (way * turned).sum(1) * inverse
    along = (ac * turned).sum(1) * inverse
    hit = slanted & (u >= -SEAM) & (v >= -SEAM) & (u + v <= 1 + SEAM) & (along > TOUCH) & (along < 1 - TOUCH)
    rows = hit.nonzero()[0]
    return rows, along[rows]


def _candidates(
    low: Float[np.ndarray, "S 3"],
    high: Float[np.ndarray, "S 3"],
    low_there: Float[np.ndarray, "F 3"],
    high_there: Float[np.ndarray, "F 3"],
) -> Iterator[Pairs]:
    """Pairs of boxes that meet, every pair once, about MAX_PAIRS at a time."""
    if not len(low) or not len(low_there):
        return
    origin, extent = low_there.min(0), float((high_there.max(0) - low_there.min(0)).max())
    cell = max(float((high_there - low_there).max(1).mean()), extent / MAX_CELLS, 1e-12)
    while _count(low_there, high_there, origin, cell).sum() > MAX_ENTRIES:
        cell *= 1.5
    side = int(extent / cell) + 1
    there, keys = _entries(low_there, high_there, origin, cell, side)
    order = np.argsort(keys, kind="stable")
    there, keys = there[order], keys[order]
    inside = ((high >= origin) & (low <= origin + extent)).all(1).nonzero()[0]
    for some in _portions(inside, _count(low[inside], high[inside], origin, cell), MAX_ENTRIES):
        here, wanted = _entries(low[some], high[some], origin, cell, side)
        first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
        for entries in _portions(np.arange(len(here)), last - first, MAX_PAIRS):
            counts = (last - first)[entries]
            segments = some[here[entries]].repeat(counts)
            triangles = there[ranges(first[entries], counts)]
            # Boxes can share several cells. Their pair counts in the first cell of what both cover.
            key = wanted[entries].repeat(counts)
            both = np.maximum(low[segments], low_there[triangles]) <= np.minimum(high[segments], high_there[triangles])
            corner = np.maximum(low[segments], low_there[triangles])
            chosen = both.all(1) & (_keys(_cells(corner, origin, cell, side), side) == key)
            yield segments[chosen], triangles[chosen]


def _cells(
    points: Float[np.ndarray, "N 3"], origin: Float[np.ndarray, "3"], cell: float, side: int
) -> Int[np.ndarray, "N 3"]:
    return np.floor((points - origin) / cell).astype(np.int64).clip(0, side - 1)


def _keys(cells: Int[np.ndarray, "N 3"], side: int) -> Int[np.ndarray, "N"]:
    return (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]


def _count(
    low: Float[np.ndarray, "N 3"], high: Float[np.ndarray, "N 3"], origin: Float[np.ndarray, "3"], cell: float
) -> Int[np.ndarray, "N"]:
    """Cells that each box covers, at most."""
    return (np.floor((high - origin) / cell) - np.floor((low - origin) / cell) + 1).prod(1).astype(np.int64)


def _entries(
    low: Float[np.ndarray, "N 3"],
    high: Float[np.ndarray, "N 3"],
    origin: Float[np.ndarray, "3"],
    cell: float,
    side: int,
) -> Pairs:
    """Every box with every cell that it covers: the box's number and the cell's key."""
    first, last = _cells(low, origin, cell, side), _cells(high, origin, cell, side)
    sides = last - first + 1
    counts = sides.prod(1)
    box = np.arange(len(low)).repeat(counts)
    within = ranges(np.zeros(len(low), np.int64), counts)
    x, rest = within // (sides[box, 1] * sides[box, 2]), within % (sides[box, 1] * sides[box, 2])
    offset = np.stack([x, rest // sides[box, 2], rest % sides[box, 2]], 1)
    return box, _keys(first[box] + offset, side)


def ranges(first: Int[np.ndarray, "N"], counts: Int[np.ndarray, "N"]) -> Int[np.ndarray, "P"]:
    """`first[i]`, `first[i]` + 1 and so on, `counts[i]` of them, for each i."""
    ends = counts.cumsum()
    return np.arange(int(counts.sum())) + (first - ends + counts).repeat(counts)


def _portions(items: Int[np.ndarray, "N"], sizes: Int[np.ndarray, "N"], limit: int) -> list[Int[np.ndarray, "n"]]:
    """`items` in order, in portions whose sizes sum to about `limit`; those of size 0 are left out."""
    items, sizes = items[sizes > 0], sizes[sizes > 0]
    if not len(items):
        return []
    numbers = (sizes.cumsum() - 1) // limit
    return np.split(items, np.diff(numbers).nonzero()[0] + 1)
