"""One run: shards -> images -> objects -> a snapshot, each arrow a Ray Data stream of units through stage actors.

The number of objects is known before the expensive half begins, so quotas are exact and every progress line has an end.
Same command again = resume; a finished run finds every commit and starts nothing, not even Ray.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import MappingProxyType

from obstore.exceptions import BaseError

from anything3d.errors import DamagedCell, MachineError, SourceError, StorageError
from anything3d.quality.truth import MINI, is_mini_world
from pipeline import batch, cell, cluster
from pipeline.commit import Commit
from pipeline.config import Config
from pipeline.location import explained
from pipeline.progress import Progress
from pipeline.release.publish import Published, publish
from pipeline.session import disconnect
from pipeline.source import content, digest, file_name, stem
from pipeline.stages import note, recipes
from pipeline.store import Store
from pipeline.unit import Input, Unit, slices
from schemas.records import RejectRecord

READERS = 16  # threads that look commits up
WAITS_S = (10.0, 60.0)  # before a run goes on after a fault of the machine
MOST_DAMAGED = 50  # cells of one run that are found damaged, before its storage is not believed any more
HOPELESS = ("ray_start", "ray_unreachable")  # reasons of faults that have been waited for already


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the items are wanted."""

    max_objects: int | None = None
    ids: frozenset[str] | None = None  # image and object ids; None: all

    def images(self, ids: Sequence[str]) -> list[str]:
        wanted = {image_of(item) for item in self.ids or ()}
        return [item for item in ids if self.ids is None or item in wanted]

    def objects(self, ids: Sequence[str]) -> list[str]:
        return [item for item in ids if self.ids is None or item in self.ids or image_of(item) in self.ids]

    def unknown(self, images: Container[str]) -> list[str]:
        """The ids of no image among `images`, and of no object in one."""
        return sorted(item for item in self.ids or () if image_of(item) not in images)


def image_of(item: str) -> str:
    """The image that an id is of: its own, or that of the image that the object is in."""
    return item.rsplit("-", 1)[0]


@dataclass(slots=True)
class Report:
    """What a run did: every commit it stands on, the cells it made itself, and the release that came of it."""

    commits: dict[str, list[Commit]] = field(default_factory=dict)  # stage -> commits, in order
    made: dict[str, int] = field(default_factory=dict)  # stage -> cells of this run
    duplicates: list[RejectRecord] = field(default_factory=list)  # images that an earlier shard has had
    unknown: list[str] = field(default_factory=list)  # wanted ids of no sound photo, if all shards were looked into
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
    say: Callable[[str], None] = print,
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
                given = [shard_unit(shard, md5) for shard in wave]
            except (SourceError, StorageError) as error:
                if not self.existed:  # nothing has been done: it is the request that is wrong
                    raise
                raise MachineError("storage_failed", error.message) from error
            mini_world = mini_world and all(shard.inputs["world"].digest for shard in given)
            if line := note(self.config, mini_world):
                report.note = line
                self.progress.remark(line)
            indexed = self.advance(given, ["index"])
            images = [unit for shard in indexed for unit in image_units(shard, self, selection)]
            wanted = list(object_units(images, self, selection, budget))
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
        with ThreadPoolExecutor(READERS) as threads:
            before = list(threads.map(partial(self._look_up, stages=stages), units))
            lacking = {name for _, commits in before for name in stages if name not in commits}
            after = before
            if lacking:
                for name in (name for name in stages if name in lacking):
                    have = sum(len(unit.ids) for unit, commits in before if name in commits)
                    self.progress.expect(name, sum(len(unit.ids) for unit in units), have)
                todo = [unit for unit, commits in before if len(commits) < len(stages)]
                needed = [self.recipes[name] for name in stages if name in lacking]
                done = cluster.stream(todo, needed, self.config, self.store.root, self.progress)
                by_name = {unit.name: unit for unit in done}
                after = list(
                    threads.map(partial(self._look_up, stages=stages), (by_name.get(u.name, u) for u, _ in before))
                )
        for (unit, had), (_, commits) in zip(before, after, strict=True):
            for name in stages:
                if name not in commits:
                    raise DamagedCell("commit_gone", f"{self.store.root}: the {name} cell of {unit.name} has gone")
                self.report.commits.setdefault(name, []).append(commits[name])
                existed = self.existed.setdefault((unit.name, name), name in had)
                self.report.made[name] = self.report.made.get(name, 0) + (not existed)
        return [unit for unit, _ in after]

    def _look_up(self, unit: Unit, stages: Sequence[str]) -> tuple[Unit, dict[str, Commit]]:
        """The unit with every cell of `stages` that exists among its inputs, and those cells' commits."""
        commits: dict[str, Commit] = {}
        for name in stages:
            recipe = self.recipes[name]
            commit = cell.find(recipe, unit, self.store) if all(read in unit.inputs for read in recipe.reads) else None
            if commit is not None:
                commits[name] = commit
                unit = cell.as_input(recipe, unit, commit)
        return unit, commits


def shard_unit(shard: str, md5: Mapping[str, str] = MappingProxyType({})) -> Unit:
    """The unit that is a whole shard, with the truth that lies beside it, if any, and whether that is the mini world's.

    `md5` is what MD5s have to be, by file name.

    Raises: SourceError if there is no such shard; StorageError if its storage cannot be reached.
    """
    truth = f"{shard.removesuffix('.tar')}.truth/truth.json"
    with explained(shard):
        said, said_digest = content(truth)
        inputs = {
            "shard": Input(shard, digest(shard)),
            "truth": Input(truth, said_digest),
            "world": Input("", MINI if is_mini_world(said) else ""),
            "md5": Input("", md5.get(file_name(shard), "")),
        }
    if not inputs["shard"].digest:
        raise SourceError("no_shard", f"{shard} is not there")
    return Unit(stem(shard), (stem(shard),), inputs)


def image_units(shard: Unit, walk: Walk, selection: Selection) -> Iterator[Unit]:
    """The wanted images of an indexed shard, cut into units; an id that an earlier shard has had is a reject."""
    commit = commit_of(shard, "index", walk)
    ids = selection.images(walk.store.read_column(commit.rows, "image_id"))
    first = {image_id: walk.shard_of.setdefault(image_id, shard.name) for image_id in ids}
    walk.report.duplicates += [
        RejectRecord(image_id, "index", "skipped", "duplicate_id", f"in {shard.name} and, before it, in {other}", 1)
        for image_id, other in first.items()
        if other != shard.name
    ]
    yield from slices(shard, [item for item in ids if first[item] == shard.name], walk.config.units.images)


def object_units(images: Sequence[Unit], walk: Walk, selection: Selection, budget: int | None) -> Iterator[Unit]:
    """The wanted objects, cut into units; with a budget, images are segmented only until it is filled."""
    workers = walk.config.resources.segment.workers
    for some in batched(images, len(images) if budget is None else workers) if images else ():
        for unit in walk.advance(some, ["segment"]):
            commit = commit_of(unit, "segment", walk)
            ids = selection.objects(walk.store.read_column(commit.rows, "object_id"))[:budget]
            budget = None if budget is None else budget - len(ids)
            yield from slices(unit, ids, walk.config.units.objects)
        if budget == 0:
            return


def commit_of(unit: Unit, stage: str, walk: Walk) -> Commit:
    """The commit of a cell that the unit has come through."""
    commit = walk.store.commit_at(unit.inputs[stage].path)
    if commit is None:
        raise DamagedCell("commit_gone", f"{walk.store.root}: the {stage} cell of {unit.name} has gone")
    return commit


def batched(values: Sequence[str] | Sequence[Unit], size: int) -> Iterator[list]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch
