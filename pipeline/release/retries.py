"""The retries of a corpus: retries/000003.json names rejected items that are to run again, and the cells they are in.

A retry changes no cell. Whoever takes a shard through the stages cuts these items out of their unit, into a unit of
their own. That unit goes on from the cells of the old one, and has cells of its own from the stage on that had rejected
the items. So the old cells stay as they are for all other items, and a retry happens once, whoever does it.

A retry belongs to the cells that it names. After a setting has changed, other cells count, and it changes nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from anything3d.errors import SourceError
from pipeline.commit import sealed, unsealed
from pipeline.release.snapshot import now
from pipeline.store import Store
from pipeline.unit import Unit, slices

NAME = re.compile(r"retries/(\d{6,})\.json")
Cells = Mapping[str, Sequence[str]]  # folder of a cell -> items that it rejected


@dataclass(frozen=True, slots=True)
class Retry:
    """What was asked for by one command."""

    number: int
    shards: Mapping[str, Cells]  # name of a shard -> its cells


def read_retries(store: Store) -> list[Retry]:
    """The retries of a corpus, the oldest first.

    Raises: SourceError("damaged_corpus") if one is damaged: without it, its objects would leave the corpus.
    """
    found = sorted((int(match[1]), match[0]) for path in store.paths("retries") if (match := NAME.fullmatch(path)))
    retries = []
    for number, path in found:
        try:
            retries.append(Retry(number, unsealed(store.read(path))["shards"]))
        except (ValueError, KeyError) as error:
            says = (
                f"{store.root}/{path} is damaged ({error}). Restore it, or remove it: then its items are rejects again."
            )
            raise SourceError("damaged_corpus", says) from error
    return retries


def numbers_of(retries: Sequence[Retry], shard: str) -> tuple[int, ...]:
    """The numbers of the retries that name a shard."""
    return tuple(retry.number for retry in retries if shard in retry.shards)


def cells_of(retries: Sequence[Retry], shard: str) -> dict[str, set[str]]:
    """The cells of a shard that retries name, and the items of each that run again."""
    cells: dict[str, set[str]] = {}
    for retry in retries:
        for folder, items in retry.shards.get(shard, {}).items():
            cells.setdefault(folder, set()).update(items)
    return cells


def add(store: Store, wanted: Mapping[str, Cells]) -> list[Retry]:
    """All retries of the corpus, after these items have been put into a new one, but for those that are in one."""
    while True:
        retries = read_retries(store)
        new: dict[str, Cells] = {}
        for shard, cells in wanted.items():
            known = cells_of(retries, shard)
            left = {
                folder: [item for item in items if item not in known.get(folder, ())] for folder, items in cells.items()
            }
            if left := {folder: items for folder, items in left.items() if items}:
                new[shard] = left
        if not new:
            return retries
        number = max((one.number for one in retries), default=0) + 1
        data = sealed({"number": number, "date": now(), "shards": new})
        if store.create(f"retries/{number:06d}.json", data) == data:
            return [*retries, Retry(number, new)]


def cut(unit: Unit, retry: Retry, shard: str, stages: Sequence[str]) -> tuple[Unit, dict[str, Unit]]:
    """A unit of a shard without the items of a retry; these as units, by the stage of `stages` that rejected them.

    The new units have the cells of the stages before as inputs.
    """
    cells, made = retry.shards.get(shard, {}), dict[str, Unit]()
    gone = set[str]()
    for index, stage in enumerate(stages):
        wanted = set(cells.get(unit.inputs[stage].path, ()))
        if ids := [item for item in unit.ids if item in wanted]:
            before = {name: known for name, known in unit.inputs.items() if name not in stages[index:]}
            (own,) = slices(replace(unit, inputs=before), ids, len(ids))
            made[stage] = replace(own, name=f"{own.name}.r{retry.number}")
            gone.update(ids)
    return replace(unit, ids=tuple(item for item in unit.ids if item not in gone)), made
