"""How long a run still takes: from the items that are left, the seconds that an item takes, and the actors.

The actors of a lane share the work of its stages. Lanes work side by side, so that the slowest one decides. If the
actors of a lane have waited, for the driver or for another lane, then what is left is taken to have the same share of
waiting in it as what is done. What is not known counts as nothing, and `Left.whole` says that there is such a thing. A
photo that has not been segmented is taken to have as many objects as the others, and a shard that has not been begun to
have as much work as the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

SHARDS, PHOTOS = "index", "segment"  # stages whose items are no objects


@dataclass(slots=True)
class Count:
    """Items of one stage."""

    items: int = 0  # that are known to come through it
    already: int = 0  # that were there before
    done: int = 0  # by this run
    rejects: int = 0  # among those that came through it, and their parts
    units_left: int = 0  # that are known to come

    @property
    def left(self) -> int:
        return self.items - self.already - self.done


Lanes = Mapping[tuple[str, ...], int]  # stages that share their actors -> the number of these actors


@dataclass(slots=True)
class Presence:
    """How long the actors of each lane have been there, at work or not, while there were units for them."""

    seconds: dict[tuple[str, ...], float] = field(default_factory=dict)  # of all actors; since the lane's first cell
    _last: float | None = None  # when this was looked at

    def look(
        self, counts: Mapping[str, Count], lanes: Lanes, at_work: Sequence[Mapping[str, Any]], now: float
    ) -> Mapping[tuple[str, ...], float]:
        """Add the time since the last look; the seconds of each lane."""
        past, self._last = max(now - self._last, 0.0) if self._last is not None else 0.0, now
        for stages, actors in lanes.items():
            if stages in self.seconds:
                units = max((counts[stage].units_left for stage in stages if stage in counts), default=0)
                self.seconds[stages] += past * min(actors, units)
            elif any(work["stage"] in stages for work in at_work):
                self.seconds[stages] = 0.0
        return self.seconds


class Left(NamedTuple):
    """Seconds that a run still takes."""

    seconds: float
    whole: bool  # False: there is more work, of which it is not known how long it takes


def remaining(
    counts: Mapping[str, Count],
    lanes: Lanes,
    per_item: Mapping[str, float],
    shards: int = 0,
    at_work: Sequence[Mapping[str, Any]] = (),
    now: float = 0.0,
    present: Mapping[tuple[str, ...], float] = MappingProxyType({}),
) -> Left:
    """How long the run still takes.

    `per_item` are the seconds that an actor needs for an item of a stage. `shards` is how many there are, without those
    of which nothing has to be done; 0: those that have been begun. `at_work` are the cells that are being computed,
    each with its `stage`, its number of `items`, and `since` when; `now` is in the same seconds. `present` is what
    `Presence` says of this run.
    """
    begun = dict.fromkeys(per_item, 0.0)  # seconds that have gone into cells which are not done
    for work in at_work:
        if (stage := work["stage"]) in begun:
            begun[stage] += min(max(now - work["since"], 0.0), work["items"] * per_item[stage])
    to_come = dict(_to_come(counts, lanes, shards))
    seconds, whole = 0.0, True
    for stages, actors in lanes.items():
        work_s, done_s, busy = 0.0, 0.0, 1
        for stage in stages:
            count, coming = counts.get(stage, Count()), to_come[stage]
            whole &= coming is not None
            done_s += count.done * per_item.get(stage, 0.0)
            items = count.left + (coming or 0.0)
            if items and stage not in per_item:
                whole = False
            elif items:
                work_s += max(items * per_item[stage] - begun[stage], 0.0)
                busy = max(busy, actors if coming else count.units_left)
        if done_s:
            done_s += sum(begun.get(stage, 0.0) for stage in stages)
            work_s *= max(1.0, present.get(stages, 0.0) / done_s)
        seconds = max(seconds, work_s / max(1, min(actors, busy)))
    return Left(seconds, whole)


def _to_come(counts: Mapping[str, Count], lanes: Lanes, shards: int) -> Iterator[tuple[str, float | None]]:
    """Stage -> items of it that nobody expects by name yet; None if their number is not known.

    A shard has named its photos when it has been indexed.
    """
    index = counts.get(SHARDS, Count())
    indexed = index.already + index.done
    photos = counts.get(PHOTOS, Count())
    seen = photos.already + photos.done
    objects = max((count.items for stage, count in counts.items() if stage not in (SHARDS, PHOTOS)), default=0)
    for stage in [stage for stages in lanes for stage in stages]:
        count = counts.get(stage, Count())
        if stage in (SHARDS, PHOTOS):
            unnamed = 0.0 if count.items else None
        elif photos.left or not photos.items:
            unnamed = photos.left * objects / seen if seen else None
        else:
            unnamed = 0.0
        if unnamed is None:
            yield stage, None
        else:
            new = (count.items - count.already) / count.items if count.items else 1.0  # share that was not there before
            named = count.items if stage == SHARDS else indexed  # shards
            more = max(shards, index.items) - named  # shards
            yield stage, new * (unnamed + (more / named * (count.items + unnamed) if named else 0.0))
