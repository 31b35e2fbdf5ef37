"""One run: shards -> images -> objects -> partitions, each arrow a Ray Data stream of units through stage actors.

The photos of a wave of shards are segmented before the later stages start. So `--max-objects` is exact, and progress
shows a total. A wave is published when its objects are done. A run that is stopped leaves a corpus of all waves before.

The same command again resumes a run. A shard that is finished is recognised by its partition alone; a run whose shards
are all finished starts nothing, not even Ray.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from obstore.exceptions import BaseError

from anything3d.errors import DamagedCell, MachineError, SourceError, StorageError
from pipeline import batch, cell, cluster, spread
from pipeline.commit import Commit
from pipeline.config import Config
from pipeline.input.source import file_name
from pipeline.ledger import RUNS, Attempt
from pipeline.location import explained
from pipeline.marker import check
from pipeline.plan import Selection, batched, gone, image_ids, look_up_all, object_ids, photo_units, shard_unit
from pipeline.price import Spending
from pipeline.progress import Progress
from pipeline.release.corpus import Corpus, key_of, made_by_run
from pipeline.release.partition import Partition, duplicate
from pipeline.release.publish import Made
from pipeline.release.retries import Retry, cells_of, cut, numbers_of
from pipeline.release.snapshot import Judge, MadeBy
from pipeline.report import Report
from pipeline.session import disconnect
from pipeline.stages import note, recipes
from pipeline.store import Store
from pipeline.unit import Unit, shard_of, slices
from schemas.records import RejectRecord

WAITS_S = (10.0, 60.0)  # before a run goes on after a fault of the machine
MOST_DAMAGED = 50  # cells of one run that are found damaged, before its storage is not believed any more
HOPELESS = ("ray_start", "ray_unreachable")  # reasons of faults that have been waited for already


def run(
    config: Config,
    shards: Sequence[str],
    out: str,
    selection: Selection,
    *,
    preset: str = "",
    only: bool = False,
    judge: Judge | None = None,
    one_stage_at_a_time: bool = False,
    md5: Mapping[str, str] | None = None,
    max_gpu_hours: float | None = None,
    max_cost: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Every wanted object of `shards` through every stage into the corpus `out`, and the report.

    The shards become partitions of the corpus, or replace the partitions that have their names. Other shards stay,
    unless `only` is given. With `judge`, nothing is published before it has agreed, at the end. `preset` is the name of
    the settings that `config` began with. `md5` is what the shards' MD5s have to be, by file name: a shard with another
    one is a reject, none of it is used.

    When the cells that this run makes have used `max_gpu_hours` or `max_cost` (price.currency), no further cell is
    begun, and `Report.limit` says so. Those shards are published that are finished.

    A cell that is found damaged is computed again. After a fault of the machine the run goes on with new actors, where
    it stood, and gives up when that does not help.

    Raises: what `batch.ENDING` names. A ConfigError or a StorageError comes before anything has been started, and so
    does a SourceError or a WeightsError that can be seen by then.
    """
    started, waits = time.monotonic(), iter(WAITS_S)
    with explained(out):
        store = Store(out)
        check(store)
    if md5 is not None and (unnamed := [file_name(shard) for shard in shards if file_name(shard) not in md5]):
        some = ", ".join([*unnamed[:5], *(["..."] if len(unnamed) > 5 else [])])
        say(f"The list of MD5s does not name {len(unnamed)} of {len(shards)} shards: {some}")
    report = Report(spending=Spending.allowed(config, max_gpu_hours, max_cost))
    existed, damaged = dict[tuple[str, str], bool](), 0
    while True:
        try:
            with Attempt(store, RUNS) as attempt:
                progress = Progress(say, attempt.will_say)
                walk = Walk(config, preset, store, selection, progress, one_stage_at_a_time, report, existed)
                walk.through(shards, md5 or {}, only, judge)
                attempt.close_the_dead()
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
    preset: str
    store: Store
    selection: Selection
    progress: Progress
    one_stage_at_a_time: bool
    report: Report
    existed: dict[tuple[str, str], bool]  # (unit, stage) -> whether the wave found the cell when it first looked
    recipes: dict[str, cell.Recipe] = field(init=False)
    # Of the wave: stage -> commits of each of its shards, in order.
    commits: dict[str, dict[str, list[Commit]]] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)  # shards that lack cells because a limit was reached

    def __post_init__(self) -> None:
        self.recipes = recipes(self.config)

    def through(self, shards: Sequence[str], md5: Mapping[str, str], only: bool, judge: Judge | None) -> None:
        """All shards through all stages, wave by wave. Every wave is published when it is done.

        With `only` or `judge`, all is published at the end. Until then, the corpus shows what it showed.
        At a limit, `only` does not count.
        """
        report, selection, corpus = self.report, self.selection, Corpus(self.store)
        made_by = made_by_run(self.config, self.preset, self.recipes, shards, selection)
        budget, seen = selection.max_objects, set[str]()
        for wave in batched(shards, self.config.units.shards):
            if budget == 0:
                break
            todo: list[tuple[Unit, str]] = []
            for shard in self._given(wave, md5):
                key = key_of(shard, self.recipes, selection, budget)
                # Behind a shard whose number of objects is not known yet, no budget is known.
                known = selection.ids is None and not (todo and budget is not None)
                done = corpus.finished(shard.name, key) if known else None
                if done is None:
                    todo.append((shard, key))
                else:
                    report.partitions[shard.name] = done
                    budget = None if budget is None else budget - done.wanted
            if not todo:
                continue
            made = self._wave(todo, corpus, budget, seen, made_by)
            budget = None if budget is None else budget - sum(len(unit.ids) for one in made for unit in one.units)
            self._publish(made, corpus)
            if self.unfinished:
                report.limit = report.spending.reached()
                break
            if not only and judge is None:
                report.snapshot = corpus.publish(made_by, report.partitions)
        else:
            report.unknown = selection.unknown(seen)
        only = only and not report.limit
        if judge is None or judge(corpus.candidate(made_by, report.partitions, only=only), report.partitions):
            report.snapshot = corpus.publish(made_by, report.partitions, only=only)

    def _given(self, wave: Sequence[str], md5: Mapping[str, str]) -> list[Unit]:
        """The units of these shards; what is to know of their networks is said."""
        try:
            given = [shard_unit(shard, md5, self.config.licence) for shard in wave]
        except (SourceError, StorageError) as error:
            if not self.report.partitions and not self.existed:  # nothing has been done, so the request is wrong
                raise
            raise MachineError("storage_failed", error.message) from error
        for shard in given:
            if line := self._note(shard):
                self.progress.remark(line)
        return given

    def _note(self, shard: Unit) -> str:
        return note(self.config, mini_world=bool(shard.inputs["world"].digest))

    def _wave(
        self, todo: Sequence[tuple[Unit, str]], corpus: Corpus, budget: int | None, seen: set[str], made_by: MadeBy
    ) -> list[Made]:
        """These shards through all stages; at a limit, those before the first unfinished one: they may depend on it."""
        images, duplicates, elsewhere = list[Unit](), dict[str, list[RejectRecord]](), dict[str, dict[str, str]]()
        photos: dict[str, set[str]] = {}
        self.commits = {shard.name: {} for shard, _ in todo}
        for shard in self.advance([shard for shard, _ in todo], ["index"]):
            ids = self.selection.images(image_ids(shard, self.store))
            (index,) = self.commits[shard.name]["index"]
            photos[shard.name] = set(ids)
            held = corpus.claim(shard.name, ids, index.digest)
            elsewhere[shard.name] = {other: corpus.photos(other).digest for other in sorted(set(held.values()))}
            duplicates[shard.name] = [duplicate(item, shard.name, held[item]) for item in ids if item in held]
            own = [item for item in ids if item not in held]
            images += photo_units(shard, own, self.store, self.config.units.images)
            if self.selection.ids is not None:
                seen.update(ids)
        later = [name for name in self.recipes if name not in ("index", "segment")]
        objects = self._objects(images, budget, corpus.retries)
        done, made = self._with_retries(self.advance(objects, later), corpus.retries, later), list[Made]()
        for shard, key in takewhile(lambda one: one[0].name not in self.unfinished, todo):
            units = [unit for unit in done if shard_of(unit) == shard.name]
            made.append(
                Made(
                    shard=shard,
                    key=key,
                    note=self._note(shard),
                    units=units,
                    commits=self.commits[shard.name],
                    duplicates=duplicates[shard.name],
                    photos=corpus.photos(shard.name),
                    elsewhere=elsewhere[shard.name],
                    made_by=replace(made_by, max_objects=budget, ids=self.selection.within(photos[shard.name])),
                    retries=numbers_of(corpus.retries, shard.name),
                    retried=cells_of(corpus.retries, shard.name),
                )
            )
            budget = None if budget is None else budget - sum(len(unit.ids) for unit in units)
        return made

    def _publish(self, made: Sequence[Made], corpus: Corpus) -> None:
        """Write the files of these shards, but for those that hold what they held before."""
        new = []
        for one in made:
            if known := corpus.same(one.shard.name, one.digest):
                self.report.partitions[one.shard.name] = one.named_anew(known)
            else:
                new.append(one)
        for one, written in zip(new, spread.publish(self.store, new, self.progress.remark), strict=True):
            if isinstance(written, Partition):
                self.report.partitions[one.shard.name] = written
            else:
                self.report.lost += written
        corpus.written(self.report.partitions)
        for (_, stage), existed in self.existed.items():
            self.report.made[stage] = self.report.made.get(stage, 0) + (not existed)
        self.existed.clear()

    def advance(self, units: Sequence[Unit], stages: Sequence[str]) -> list[Unit]:
        """The units after `stages`, through Ray where a cell is missing; at a limit, without those that lack one."""
        groups = [[name] for name in stages] if self.one_stage_at_a_time else [list(stages)]
        for group in groups:
            units = self._advance(units, group)
        return list(units)

    def _advance(self, units: Sequence[Unit], stages: Sequence[str]) -> list[Unit]:
        recipes = [self.recipes[name] for name in stages]
        before = after = look_up_all(units, recipes, self.store)
        lacking = [recipe for recipe in recipes if any(recipe.stage not in known.commits for known in before)]
        if lacking and not self.report.spending.reached():
            for name in (recipe.stage for recipe in lacking):
                have = sum(len(known.unit.ids) for known in before if name in known.commits)
                self.progress.expect(name, sum(len(unit.ids) for unit in units), have)
            todo = [known.unit for known in before if len(known.commits) < len(stages)]
            done = cluster.stream(todo, lacking, self.config, self.store.root, self.progress, self.report.spending)
            by_name = {unit.name: unit for unit in done}
            after = look_up_all([by_name.get(unit.name, unit) for unit in units], recipes, self.store)
        for had, has in zip(before, after, strict=True):
            for name in stages:
                if name not in has.commits and self.report.spending.reached():
                    self.unfinished.add(shard_of(has.unit))
                    break
                if name not in has.commits:
                    raise gone(name, has.unit, self.store)
                of_shard = self.commits.setdefault(shard_of(has.unit), {})
                of_shard.setdefault(name, []).append(has.commits[name])
                self.existed.setdefault((has.unit.name, name), name in had.commits)
        return [has.unit for has in after if len(has.commits) == len(stages)]

    def _objects(self, images: Sequence[Unit], budget: int | None, retries: Sequence[Retry]) -> list[Unit]:
        """The wanted objects, cut into units; with a budget, images are segmented only until it is filled.

        The photos of retries come last.
        """
        units, done, found = list[Unit](), list[Unit](), 0
        for some in batched(images, max(1, self.config.resources.segment.workers) if budget else len(images)):
            now = self.advance(some, ["segment"])
            done += now
            found += sum(len(self.selection.objects(object_ids(unit, self.store))) for unit in now) if budget else 0
            if budget and found >= budget:
                break
        for unit in self._with_retries(done, retries, ["segment"]):
            ids = self.selection.objects(object_ids(unit, self.store))[:budget]
            budget = None if budget is None else budget - len(ids)
            units += slices(unit, ids, self.config.units.objects)
        return units

    def _with_retries(self, units: Sequence[Unit], retries: Sequence[Retry], stages: Sequence[str]) -> list[Unit]:
        """Units that have come through `stages`, with the items of the retries in units of their own."""
        for retry in retries:
            parts = [cut(unit, retry, shard_of(unit), stages) for unit in units]
            units = [unit for unit, _ in parts]
            for index, stage in enumerate(stages):
                again = [own[stage] for _, own in parts if stage in own]
                units += self.advance(again, stages[index:])
        return list(units)
