"""Two snapshots of a corpus side by side, object by object: a page of the server.

The files of a snapshot never change, so both are read at the same time. Of a shard, only its list of objects is read,
which the gallery has, too. A shard whose list is the same file in both snapshots has not changed, and is not read. What
stays in memory of an object are at most 16 bytes.
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from threading import Lock
from typing import Any
from urllib.parse import urlencode

from anything3d.errors import ConfigError, SourceError
from anything3d.photo.sheet import CELL_PX
from pipeline.release.gallery.data import ACROSS, NUMBERS, unscript
from pipeline.release.gallery.template import render
from pipeline.release.partition import Partition
from pipeline.release.snapshot import Snapshot
from pipeline.store import Store

STATES = ("changed", "new", "gone", "same")
ORDERS = {
    "change": "largest change first",
    "fall": "largest fall first",
    "rise": "largest rise first",
    "id": "as in the shards",
}
PER_PAGE = 48  # objects
MOST_PAGES = 10**6


@dataclass(frozen=True, slots=True)
class Asked:
    """Which objects a page shows, and in which order; only changed ones are sorted by the change of a score."""

    state: str = STATES[0]
    score: str = NUMBERS[0]
    order: str = next(iter(ORDERS))
    page: int = 1

    def __post_init__(self) -> None:
        """Raises: ConfigError("setting") if there is no such page."""
        known = self.state in STATES and self.score in NUMBERS and self.order in ORDERS
        if not known or not 1 <= self.page <= MOST_PAGES:
            raise ConfigError("setting", f"There is no page {self}. Begin with /against.")

    def at(self, page: int) -> str:
        """The query of another page of the same objects."""
        return urlencode({"state": self.state, "score": self.score, "order": self.order, "page": page})


@dataclass(frozen=True, slots=True)
class Marks:
    """The objects of a shard by what has happened to them."""

    shard: str
    places: Mapping[str, Sequence[int]]  # by state: in the newer list, those of gone objects in the older one
    changes: Sequence[float]  # of the score, of the changed ones; NaN if one of the two has none


@dataclass(frozen=True, slots=True)
class Side:
    """An object in one snapshot."""

    caption: str
    quality: str
    value: float | None  # of the score
    sheet: str  # path of the file that has its pictures
    crop: tuple[int, int]  # pixels of the sheet to the left and to the top of a picture
    render: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pair:
    """An object in both snapshots; None: it is not in this one."""

    object_id: str
    shard: str
    before: Side | None
    now: Side | None

    @property
    def change(self) -> float | None:
        values = [side.value for side in (self.before, self.now) if side is not None and side.value is not None]
        return values[1] - values[0] if len(values) == 2 else None


class Against:
    """The newer of two snapshots against the older."""

    def __init__(self, store: Store, before: Snapshot, now: Snapshot) -> None:
        """Raises: SourceError("no_snapshot") if a shard was published before there was a gallery."""
        self.before, self.now, self._store = before, now, store
        for snapshot in (before, now):
            for partition in snapshot.partitions.values():
                if "objects" not in partition.gallery:
                    old = f"{partition.shard} in snapshot {snapshot.number} has no gallery: an older version made it."
                    raise SourceError("no_snapshot", f"{old} Give a later snapshot.")
        names = dict.fromkeys((*now.partitions, *before.partitions))
        self._shards = [(name, before.partitions.get(name), now.partitions.get(name)) for name in names]
        self._lock = Lock()
        self._marks: tuple[str, list[Marks]] = ("", [])  # of one score

    def html(self, asked: Asked) -> str:
        """One page."""
        marks = self._marked(asked.score)
        counts = {state: sum(len(shard.places[state]) for shard in marks) for state in STATES}
        pages = max(1, -(-counts[asked.state] // PER_PAGE))
        return render(
            "against.html",
            before=self.before,
            now=self.now,
            asked=asked,
            counts=counts,
            pages=pages,
            pairs=self.pairs(asked),
            states=STATES,
            scores=NUMBERS,
            orders=ORDERS,
            cell_px=CELL_PX,
        )

    def pairs(self, asked: Asked) -> list[Pair]:
        """The objects of one page."""
        marks = self._marked(asked.score)
        first, end = (asked.page - 1) * PER_PAGE, asked.page * PER_PAGE
        if asked.state == "changed" and asked.order != "id":
            ranked = (
                (_rank(change, asked.order), -number, -place)
                for number, shard in enumerate(marks)
                for place, change in enumerate(shard.changes)
            )
            chosen = [
                (-number, marks[-number].places["changed"][-place])
                for _, number, place in nlargest(end, ranked)[first:]
            ]
        else:
            chosen = list(_slice(marks, asked.state, first, end))
        lists: dict[str, Mapping[str, Any]] = {}
        return [self._pair(*self._shards[number], place, asked, lists) for number, place in chosen]

    def _marked(self, score: str) -> list[Marks]:
        with self._lock:
            if self._marks[0] != score:
                self._marks = score, [self._compared(*shard, score) for shard in self._shards]
            return self._marks[1]

    def _compared(self, shard: str, before: Partition | None, now: Partition | None, score: str) -> Marks:
        places: dict[str, Sequence[int]] = dict.fromkeys(STATES, ())
        if before is None or now is None:
            state, partition = ("new", now) if before is None else ("gone", before)
            return Marks(shard, {**places, state: range(partition.objects if partition else 0)}, ())
        if before.gallery["objects"].sha256 == now.gallery["objects"].sha256:
            return Marks(shard, {**places, "same": range(now.objects)}, ())
        old, new = self._list(before, {}), self._list(now, {})
        found, changes = {state: array("l") for state in STATES}, array("d")
        at = {name: place for place, name in enumerate(old["ids"])}
        others = [at.pop(name, None) for name in new["ids"]]
        differs = _differs(old, new, others)
        for place, other in enumerate(others):
            if other is None:
                found["new"].append(place)
            elif not differs[place]:
                found["same"].append(place)
            else:
                found["changed"].append(place)
                first, last = _number(old, score, other), _number(new, score, place)
                changes.append(math.nan if first is None or last is None else last - first)
        found["gone"].extend(at.values())
        return Marks(shard, found, changes)

    def _pair(
        self,
        shard: str,
        before: Partition | None,
        now: Partition | None,
        place: int,
        asked: Asked,
        lists: dict[str, Mapping[str, Any]],
    ) -> Pair:
        old, new = (self._list(partition, lists) if partition else None for partition in (before, now))
        named = old if asked.state == "gone" else new
        assert named is not None
        name = named["ids"][place]
        sides = (_side(listed, name, shard, asked.score) if listed else None for listed in (old, new))
        return Pair(name, shard, *sides)

    def _list(self, partition: Partition, lists: dict[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """The list of a shard's objects, which is kept in `lists`."""
        part = partition.gallery["objects"]
        if part.path not in lists:
            data = self._store.read_whole(part)
            if data is None:
                raise SourceError("no_snapshot", f"{self._store.root}/{part.path} has gone, or is damaged.")
            lists[part.path] = unscript(data)
        return lists[part.path]


def asked_for(query: Mapping[str, Sequence[str]]) -> Asked:
    """What the query of an address asks for. Raises: ConfigError("setting") as `Asked`."""
    given: dict[str, Any] = {name: values[-1] for name, values in query.items() if name in ("state", "score", "order")}
    page = query.get("page", ["1"])[-1]
    return Asked(**given, page=int(page) if page.isascii() and page.isdecimal() and len(page) < 9 else 0)


def _rank(change: float, order: str) -> float:
    """What the largest of comes first; last are those whose change is not known."""
    if math.isnan(change):
        return -math.inf
    return {"change": abs(change), "fall": -change, "rise": change}[order]


def _slice(marks: Sequence[Marks], state: str, first: int, end: int) -> Iterator[tuple[int, int]]:
    """The number of the shard and the place of some of the objects of a state, counted through all shards."""
    for number, shard in enumerate(marks):
        places = shard.places[state]
        for place in places[max(0, first) : max(0, end)]:
            yield number, place
        first, end = first - len(places), end - len(places)


def _differs(old: Mapping[str, Any], new: Mapping[str, Any], others: Sequence[int | None]) -> bytearray:
    """Of each object of the newer list: 1 if it differs from that of the older one, whose place is in `others`.

    All that the lists say counts, but where pictures are.
    """
    differs, in_place = bytearray(len(others)), old["ids"] == new["ids"]
    names = dict.fromkeys((*old["numbers"], *new["numbers"]))
    both = [(listed["captions"], listed["quality"], *map(listed["numbers"].get, names)) for listed in (old, new)]
    for first, last in zip(*both, strict=True):
        if first == last and (in_place or first is None):
            continue
        for place, other in enumerate(others):
            if other is not None and (first and first[other]) != (last and last[place]):
                differs[place] = 1
    return differs


def _number(listed: Mapping[str, Any], score: str, place: int) -> float | None:
    values = listed["numbers"].get(score)
    return None if values is None else values[place]


def _side(listed: Mapping[str, Any], name: str, shard: str, score: str) -> Side | None:
    """An object of a list; None if the list does not have it."""
    if name not in listed["ids"]:
        return None
    place = own = listed["ids"].index(name)
    sheets = iter(listed["sheets"])
    count, file = next(sheets)
    while own >= count:
        own -= count
        count, file = next(sheets)
    crop, picture = (
        (number % (2 * ACROSS) * CELL_PX, number // (2 * ACROSS) * CELL_PX) for number in (2 * own, 2 * own + 1)
    )
    quality = listed["quality"][place] if listed["quality"] else None
    value = _number(listed, score, place)
    return Side(listed["captions"][place], quality or "", value, f"gallery/{shard}/{file}", crop, picture)
