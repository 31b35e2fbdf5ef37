"""One run: shards -> images -> objects -> a snapshot, each arrow a Ray Data stream of units through stage actors.

The photos of a wave of shards are segmented before the later stages start. So `--max-objects` is exact, and progress
shows a total. The same command again resumes a run. A finished run finds every commit and starts nothing, not even Ray.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from obstore.exceptions import BaseError

from anything3d.errors import DamagedCell, MachineError, SourceError, StorageError
from pipeline import batch, cell, cluster
from pipeline.commit import Commit
from pipeline.config import Config
from pipeline.location import explained
from pipeline.plan import Selection, batched, image_ids, look_up_all, object_ids, photo_units, shard_unit
from pipeline.progress import Progress
from pipeline.release.publish import Published, publish
from pipeline.session import disconnect
from pipeline.source import file_name
from pipeline.stages import note, recipes
from pipeline.store import Store
from pipeline.unit import Unit, slices
from schemas.records import RejectRecord

WAITS_S = (10.0, 60.0)  # before a run goes on after a fault of the machine
MOST_DAMAGED = 50  # cells of one run that are found damaged, before its storage is not believed any more
HOPELESS = ("ray_start", "ray_unreachable")  # reasons of faults that have been waited for already


@dataclass(slots=True)
class Report:
    """What a run did: every commit it stands on, the cells it made itself, and the release that came of it."""

    commits: dict[str, list[Commit]] = field(default_factory=dict)  # stage -> commits, in order
    made: dict[str, int] = field(default_factory=dict)  # stage -> cells of this run
    duplicates: list[RejectRecord] = field(default_factory=list)  # images that an earlier shard has had
    # Requested ids that no sound photo has. Empty if not all shards were read.
    unknown: list[str] = field(default_factory=list)
    snapshot: Published | None = None
    note: str = ""
    seconds: float = 0.0

    @property
    def cells_run(self) -> int:
        return sum(self.made.values())


def run(
    config: Config,
    shards: Sequence[str],
    out: str,
    selection: Selection,
    *,
    one_stage_at_a_time: bool = False,
    md5: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Every wanted object of `shards` through every stage into the corpus `out`, and the report.

    `md5` is what the shards' MD5s have to be, by file name: a shard with another one is a reject, none of it is used.

    A cell that is found damaged is computed again. After a fault of the machine the run goes on with new actors, where
    it stood, and gives up when that does not help.

    Raises: what `batch.ENDING` names. A ConfigError or a StorageError comes before anything has been started, and so
    does a SourceError or a WeightsError that can be seen by then.
    """
    started, waits = time.monotonic(), iter(WAITS_S)
    with explained(out):
        store = Store(out)
        store.check()
    if md5 is not None and (unnamed := [file_name(shard) for shard in shards if file_name(shard) not in md5]):
        some = ", ".join([*unnamed[:5], *(["..."] if len(unnamed) > 5 else [])])
        say(f"The list of MD5s does not name {len(unnamed)} of {len(shards)} shards: {some}")
    existed: dict[tuple[str, str], bool] = {}
    damaged = 0
    while True:
        walk = Walk(config, store, Report(), Progress(say), one_stage_at_a_time, existed)
        try:
            report = walk.through(shards, selection, md5 or {}, say)
        except (MachineError, BaseError, OSError) as error:
            fault = error if isinstance(error, MachineError) else batch.machine_fault(error)
            damaged += isinstance(fault, DamagedCell)
            again = isinstance(fault, DamagedCell) and damaged <= MOST_DAMAGED
            wait = 0.0 if again else next(waits, None)
            if fault is None:
                raise
            if wait is None or fault.reason in HOPELESS:
                raise fault from (None if fault is error else error)
            say(f"{fault}; the run goes on" + (f" in {wait:.0f} s" if wait else ""))
            disconnect()
            time.sleep(wait)
        else:
            report.seconds = time.monotonic() - started
            return report


@dataclass(slots=True)
class Walk:
    """What one run carries along: where it stands and who is told."""

    config: Config
    store: Store
    report: Report
    progress: Progress
    one_stage_at_a_time: bool
    existed: dict[tuple[str, str], bool]  # (unit, stage) -> whether the run found the cell when it first looked
    recipes: dict[str, cell.Recipe] = field(init=False)
    shard_of: dict[str, str] = field(default_factory=dict)  # image id -> the first shard that has it

    def __post_init__(self) -> None:
        self.recipes = recipes(self.config)

    def through(
        self, shards: Sequence[str], selection: Selection, md5: Mapping[str, str], say: Callable[[str], None]
    ) -> Report:
        """All shards through all stages, wave by wave, and the snapshot of it."""
        report, objects, mini_world = self.report, list[Unit](), True
        for wave in batched(shards, self.config.units.shards):
            budget = None if selection.max_objects is None else selection.max_objects - sum(len(u.ids) for u in objects)
            if budget == 0:
                break
            try:
                given = [shard_unit(shard, md5, self.config.licence) for shard in wave]
            except (SourceError, StorageError) as error:
                if not self.existed:  # nothing has been done: it is the request that is wrong
                    raise
                raise MachineError("storage_failed", error.message) from error
            mini_world = mini_world and all(shard.inputs["world"].digest for shard in given)
            if line := note(self.config, mini_world):
                report.note = line
                self.progress.remark(line)
            indexed = self.advance(given, ["index"])
            wanted = self._objects(self._images(indexed, selection), selection, budget)
            objects += self.advance(wanted, [name for name in self.recipes if name not in ("index", "segment")])
        else:
            report.unknown = selection.unknown(self.shard_of)
        report.snapshot = publish(self.store, objects, report.commits, report.duplicates, report.note, say)
        return report

    def advance(self, units: Sequence[Unit], stages: Sequence[str]) -> list[Unit]:
        """The units after `stages`; those that lack a cell go through Ray, through stages that any of them lacks."""
        groups = [[name] for name in stages] if self.one_stage_at_a_time else [list(stages)]
        for group in groups:
            units = self._advance(units, group)
        return list(units)

    def _advance(self, units: Sequence[Unit], stages: Sequence[str]) -> list[Unit]:
        recipes = [self.recipes[name] for name in stages]
        before = after = look_up_all(units, recipes, self.store)
        lacking = [recipe for recipe in recipes if any(recipe.stage not in known.commits for known in before)]
        if lacking:
            for name in (recipe.stage for recipe in lacking):
                have = sum(len(known.unit.ids) for known in before if name in known.commits)
                self.progress.expect(name, sum(len(unit.ids) for unit in units), have)
            todo = [known.unit for known in before if len(known.commits) < len(stages)]
            done = cluster.stream(todo, lacking, self.config, self.store.root, self.progress)
            by_name = {unit.name: unit for unit in done}
            after = look_up_all([by_name.get(unit.name, unit) for unit in units], recipes, self.store)
        for had, has in zip(before, after, strict=True):
            for name in stages:
                if name not in has.commits:
                    raise DamagedCell(
                        "commit_gone",
                        f"{self.store.root}: the {name} cell of {has.unit.name} has gone while the run was at work.",
                    )
                self.report.commits.setdefault(name, []).append(has.commits[name])
                existed = self.existed.setdefault((has.unit.name, name), name in had.commits)
                self.report.made[name] = self.report.made.get(name, 0) + (not existed)
        return [has.unit for has in after]

    def _images(self, shards: Sequence[Unit], selection: Selection) -> list[Unit]:
        """The wanted images of indexed shards, cut into units; an id that an earlier shard has had is a reject."""
        units: list[Unit] = []
        for shard in shards:
            ids = selection.images(image_ids(shard, self.store))
            first = {image_id: self.shard_of.setdefault(image_id, shard.name) for image_id in ids}
            self.report.duplicates += [
                RejectRecord(item, "index", "skipped", "duplicate_id", f"in {shard.name} and, before it, in {other}", 1)
                for item, other in first.items()
                if other != shard.name
            ]
            own = [item for item in ids if first[item] == shard.name]
            units += photo_units(shard, own, self.store, self.config.units.images)
        return units

    def _objects(self, images: Sequence[Unit], selection: Selection, budget: int | None) -> list[Unit]:
        """The wanted objects, cut into units; with a budget, images are segmented only until it is filled."""
        units: list[Unit] = []
        workers = self.config.resources.segment.workers
        for some in batched(images, len(images) if budget is None else workers) if images else ():
            for unit in self.advance(some, ["segment"]):
                ids = selection.objects(object_ids(unit, self.store))[:budget]
                budget = None if budget is None else budget - len(ids)
                units += slices(unit, ids, self.config.units.objects)
            if budget == 0:
                break
        return units
