"""One shard through all stages: its photos, the objects in them, and the retries among both.

A unit goes through its stages in one coroutine. It awaits one cell after the other, each found or made by an actor.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline import cell
from pipeline.cell import Recipe
from pipeline.cluster import Actors
from pipeline.commit import Commit
from pipeline.config import Units
from pipeline.plan import Selection, batched, first_of, object_ids
from pipeline.pool import Place
from pipeline.progress import Progress
from pipeline.release.retries import Retry, cut
from pipeline.run_report import RunReport
from pipeline.store import Store
from pipeline.unit import Unit, shard_of, slices


@dataclass(frozen=True, slots=True)
class Through:
    """A unit that has come through some stages, with the commits of the cells that are its own."""

    unit: Unit
    commits: Mapping[str, Commit]  # by stage


@dataclass(frozen=True, slots=True)
class Segmented:
    """Units of photos after `segment`, and the wanted objects in them, cut into units."""

    images: Sequence[Through]
    units: Sequence[Unit]

    @property
    def count(self) -> int:
        """Wanted objects."""
        return sum(len(unit.ids) for unit in self.units)


@dataclass(frozen=True, slots=True)
class Objects:
    """Units of photos after `segment`, and units of their objects after all stages."""

    images: Sequence[Through]
    objects: Sequence[Through]


@dataclass(frozen=True, slots=True)
class Passage:
    """What the units of a shard go through, and who is told. `number` is that of the shard in the run."""

    number: int
    recipes: Mapping[str, Recipe]
    selection: Selection
    units: Units
    retries: Sequence[Retry]
    store: Store
    actors: Actors
    progress: Progress
    report: RunReport

    async def straight(self, unit: Unit, stages: Sequence[str], place: Place = ()) -> Through | None:
        """The unit after these stages. None: a limit was reached before it had all of their cells."""
        commits, here = dict[str, Commit](), True
        for name in stages:
            self.progress.expect(name, len(unit.ids))
        for name in stages:
            recipe = self.recipes[name]
            # A unit that lacks a cell lacks the later ones: nobody looks for them here. The actor does.
            commit = await asyncio.to_thread(cell.find, recipe, unit, self.store) if here else None
            made = False
            if commit is None:
                here = False
                answer = await self.actors.cell(name, unit, (self.number, *place))
                if answer is None:
                    return None
                commit, made = answer
            self.progress.add(name, len(unit.ids), commit.rejected, made=made)
            self.report.made[name] = self.report.made.get(name, 0) + made
            commits[name] = commit
            unit = cell.as_input(recipe, unit, commit)
        return Through(unit, commits)

    async def through(self, unit: Unit, stages: Sequence[str], place: Place) -> list[Through] | None:
        """As `straight`: the unit without the items of retries, and then these, in units of their own."""
        first = await self.straight(unit, stages, place)
        if first is None:
            return None
        found = [first]
        for retry in self.retries:
            parts = [cut(one.unit, retry, shard_of(unit), stages) for one in found]
            found = [replace(one, unit=rest) for one, (rest, _) in zip(found, parts, strict=True)]
            for index, stage in enumerate(stages):
                for own in [own[stage] for _, own in parts if stage in own]:
                    again = await self.straight(own, stages[index:], place)
                    if again is None:
                        return None
                    found.append(again)
        return found

    async def all_objects(self, photos: Sequence[Unit]) -> Objects | None:
        """All wanted objects of these photos. The objects of a unit of photos go on at once, whatever the others do."""
        return joined(await asyncio.gather(*(self._objects_of(unit, (place,)) for place, unit in enumerate(photos))))

    async def _objects_of(self, photos: Unit, place: Place) -> Objects | None:
        images = await self.through(photos, ["segment"], place)
        if images is None:
            return None
        units = [unit for one in images for unit in self._cut(one.unit, await self._wanted(one.unit))]
        return await self.finish(Segmented(images, units), place)

    async def first_objects(self, photos: Sequence[Unit], budget: int) -> Segmented | None:
        """The first wanted objects of these photos (`first_of`), `budget` of them at most, cut into units.

        As many photos are segmented at once as there are actors. Those that were not needed do not count: how many that
        are depends on the cluster. The photos of retries come last.
        """
        groups, found = list[list[Through]](), 0
        for some in batched(enumerate(photos), self.actors.count("segment")):
            for group in await asyncio.gather(*(self.through(unit, ["segment"], (place,)) for place, unit in some)):
                if group is None:
                    return None
                if found < budget:
                    groups.append(group)
                    found += len(await self._wanted(group[0].unit))
            if found >= budget:
                break
        images = [*(group[0] for group in groups), *(one for group in groups for one in group[1:])]
        units = list[Unit]()
        for one in images:
            ids = first_of(await self._wanted(one.unit), budget, self.units.objects)
            budget -= len(ids)
            units += self._cut(one.unit, ids)
        return Segmented(images, units)

    async def finish(self, first: Segmented, place: Place = ()) -> Objects | None:
        """The objects after all stages."""
        ways = (self.through(unit, self.later, (*place, number)) for number, unit in enumerate(first.units))
        groups = await asyncio.gather(*ways)
        done = [group for group in groups if group is not None]
        return Objects(first.images, [one for group in done for one in group]) if len(done) == len(groups) else None

    @property
    def later(self) -> list[str]:
        """The stages whose items are objects."""
        return [name for name in self.recipes if name not in ("index", "segment")]

    async def _wanted(self, images: Unit) -> list[str]:
        return self.selection.objects(await asyncio.to_thread(object_ids, images, self.store))

    def _cut(self, images: Unit, ids: Sequence[str]) -> Iterator[Unit]:
        return slices(images, ids, self.units.objects)


def joined(groups: Sequence[Objects | None]) -> Objects | None:
    """All of them in one. None: one of them is None."""
    done = [group for group in groups if group is not None]
    if len(done) < len(groups):
        return None
    return Objects([one for each in done for one in each.images], [one for each in done for one in each.objects])
