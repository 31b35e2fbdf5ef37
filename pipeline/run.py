"""One run: shards -> images -> objects -> partitions. Each arrow is a stage, whose actors make one cell for each unit.

Every shard has a coroutine, `Walk._shard`, which awaits its cells. Some shards are open at one time, so that no actor
waits for a slow one: while the objects of a shard are distilled, the photos of the next are segmented. A shard is
published when its objects are done. A run that is stopped leaves a corpus of the shards that were published before.

The same command again resumes a run. A shard that is finished is recognised by its partition alone; a run whose shards
are all finished starts nothing, not even Ray.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace

from obstore.exceptions import BaseError

from anything3d.errors import MachineError, SourceError, StorageError
from pipeline import batch, spread, stages
from pipeline.actor import Load
from pipeline.cluster import Actors
from pipeline.conduct import conduct
from pipeline.config import Config
from pipeline.faults import Faults
from pipeline.input.source import file_name
from pipeline.ledger import RUNS, Attempt
from pipeline.location import explained
from pipeline.marker import check
from pipeline.measured import Measured
from pipeline.plan import READERS, Selection, image_ids, photo_units, shard_unit
from pipeline.price import Spending
from pipeline.progress import Progress, Shown
from pipeline.release.corpus import Corpus, key_of, made_by_run
from pipeline.release.partition import Partition, duplicate
from pipeline.release.publish import Made
from pipeline.release.retries import cells_of, numbers_of
from pipeline.release.snapshot import Judge
from pipeline.run_report import RunReport
from pipeline.session import disconnect
from pipeline.shard import Passage
from pipeline.spread import Written
from pipeline.store import Store
from pipeline.unit import Unit


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
    load: Load = stages.load,
    say: Callable[[str], None] = lambda line: None,
    show: Callable[[Shown], None] | None = None,
) -> RunReport:
    """Every wanted object of `shards` through every stage into the corpus `out`, and the report.

    The shards become partitions of the corpus, or replace the partitions that have their names. Other shards stay,
    unless `only` is given. With `judge`, nothing is published before it has agreed, at the end. `preset` is the name of
    the settings that `config` began with. `md5` is what the shards' MD5s have to be, by file name: a shard with another
    one is a reject, none of it is used. `say` hears lines; `show` is told how far the run is, which no line says then.

    When the cells that this run makes have used `max_gpu_hours` or `max_cost` (price.currency), no further cell is
    begun, and `RunReport.limit` says so. Those shards are published that are finished.

    A cell that is found damaged is computed again. After a fault of the machine the run goes on with new actors, where
    it stood, and gives up when that does not help.

    Raises: what `batch.ENDING` names. A ConfigError or a StorageError comes before anything has been started, and so
    does a SourceError or a WeightsError that can be seen by then.
    """
    started, faults = time.monotonic(), Faults()
    with explained(out):
        store = Store(out)
        check(store)
    if md5 is not None and (unnamed := [file_name(shard) for shard in shards if file_name(shard) not in md5]):
        some = ", ".join([*unnamed[:5], *(["..."] if len(unnamed) > 5 else [])])
        say(f"The list of MD5s does not name {len(unnamed)} of {len(shards)} shards: {some}")
    report = RunReport(spending=Spending.allowed(config, max_gpu_hours, max_cost))
    while True:
        try:
            with Attempt(store, RUNS) as attempt:
                progress = Progress(say, attempt.will_say, show)
                walk = Walk(config, store, selection, progress, report, preset, judge, only=only)
                walk.through(shards, md5 or {}, load, one_stage_at_a_time)
                attempt.close_the_dead()
        except (MachineError, BaseError, OSError) as error:
            fault = error if isinstance(error, MachineError) else batch.machine_fault(error)
            if fault is None:
                raise
            if (wait := faults.wait(fault, report)) is None:
                raise fault from (None if fault is error else error)
            say(f"{str(fault).rstrip('.')}; the run goes on" + (f" in {wait:.0f} s" if wait else ""))
            disconnect()
            time.sleep(wait)
        else:
            report.seconds = time.monotonic() - started
            return report


class Walk:
    """One walk through all shards, and how far it has come. After a fault of the machine, a run begins another one."""

    def __init__(
        self,
        config: Config,
        store: Store,
        selection: Selection,
        progress: Progress,
        report: RunReport,
        preset: str,
        judge: Judge | None,
        *,
        only: bool,
    ) -> None:
        self.config, self.store, self.selection = config, store, selection
        self.progress, self.report, self.preset = progress, report, preset
        self.judge, self.only = judge, only
        self.recipes, self.corpus = stages.recipes(config), Corpus(store)
        self.budget = selection.max_objects  # objects that are still wanted; None: all
        self.open = asyncio.Semaphore(config.units.shards)
        self.begun = 0  # shards
        self.skipped = False  # whether a shard was left out, as nothing more is wanted
        self.seen = set[str]()  # photos, if ids were asked for

    def through(self, shards: Sequence[str], md5: Mapping[str, str], load: Load, one_stage_at_a_time: bool) -> None:
        """All shards through all stages. There is a snapshot after every `units.shards` of them, and at the end.

        With `only` or `judge`, there is no snapshot before the end. At a limit, `only` does not count.
        """
        report, corpus = self.report, self.corpus
        self.made_by = made_by_run(self.config, self.preset, self.recipes, shards, self.selection)
        units = self._given(shards, md5)
        self.actors = Actors(
            self.config,
            self.recipes,
            self.store,
            self.progress,
            report.spending,
            Measured.of(corpus.partitions.values(), self.recipes),
            load=load,
            one_stage_at_a_time=one_stage_at_a_time,
        )
        complete = conduct(self.actors, lambda _: self._all(units))
        report.limit = None if complete else report.spending.reached()
        if complete and not self.skipped:
            report.unknown = self.selection.unknown(self.seen)
        only = self.only and complete
        candidate = corpus.candidate(self.made_by, report.partitions, only=only)
        if self.judge is None or self.judge(candidate, report.partitions):
            report.snapshot = corpus.publish(self.made_by, report.partitions, only=only)

    def _given(self, shards: Sequence[str], md5: Mapping[str, str]) -> list[Unit]:
        """The units of all shards; what is to know of their networks is said."""
        try:
            with ThreadPoolExecutor(READERS) as threads:
                given = list(threads.map(lambda shard: shard_unit(shard, md5, self.config.licence), shards))
        except (SourceError, StorageError) as error:
            if not self.report.partitions and not self.report.made:  # nothing has been done, so the request is wrong
                raise
            raise MachineError("storage_failed", error.message) from error
        for shard in given:
            if line := self._note(shard):
                self.progress.remark(line)
        return given

    def _note(self, shard: Unit) -> str:
        return stages.note(self.config, mini_world=bool(shard.inputs["world"].digest))

    async def _all(self, shards: Sequence[Unit]) -> bool:
        """Take all shards side by side. False: a limit was reached."""
        before, ways = asyncio.Event(), list[asyncio.Task[Written | None]]()
        before.set()
        for number, shard in enumerate(shards):
            ways.append(asyncio.ensure_future(self._in_turn(shard, number, before, after := asyncio.Event())))
            before = after
        publishing = asyncio.ensure_future(self._publish(ways))
        await asyncio.gather(publishing, *ways)
        return publishing.result()

    async def _publish(self, ways: Sequence["asyncio.Task[Written | None]"]) -> bool:
        """Publish shards as they are done, none before those that come before it. False: a limit was reached.

        A shard leaves photos to those before it. So none of them may be missing when it is published.
        """
        corpus, report, new = self.corpus, self.report, 0
        for number, way in enumerate(ways):
            self.progress.shards(number, self.begun, len(ways))
            written = await way
            if isinstance(written, Partition):
                new += corpus.partitions.get(written.shard) is not written
                report.partitions[written.shard] = written
                corpus.written({written.shard: written})
            elif written is None:
                return False
            else:
                report.lost += written
            if new == self.config.units.shards and not self.only and self.judge is None:
                report.snapshot, new = corpus.publish(self.made_by, report.partitions), 0
        self.progress.shards(len(ways), self.begun, len(ways))
        return True

    async def _in_turn(self, shard: Unit, number: int, before: asyncio.Event, after: asyncio.Event) -> Written | None:
        """One shard: its partition. `before` is set when the shard before it has taken its photos; then it is its turn.

        It sets `after` when it has taken its own. None: a limit was reached.
        """
        try:
            if self.budget is not None:  # how many objects are left for this shard is known in its turn
                await before.wait()
            if self.budget == 0:
                self.skipped = True
                self.progress.nothing_to_do()
                return ()
            key = key_of(shard, self.recipes, self.selection, self.budget)
            permit: AbstractAsyncContextManager[None] = self.open
            if self.selection.ids is None and self.corpus.finished(shard.name, key):
                await before.wait()  # a shard before it may have taken photos that it has left to another
                if done := self.corpus.finished(shard.name, key):
                    self.progress.nothing_to_do()
                    self.budget = None if self.budget is None else self.budget - done.wanted
                    return done
                permit = nullcontext()  # the shards behind it wait for it, and may have all permits
            async with permit:
                self.begun += 1
                return await self._shard(shard, number, key, before, after)
        finally:
            after.set()

    async def _shard(
        self, shard: Unit, number: int, key: str, before: asyncio.Event, after: asyncio.Event
    ) -> Written | None:
        """One shard through all stages, and into its files."""
        corpus, selection, budget = self.corpus, self.selection, self.budget
        about = (self.config.units, corpus.retries, self.store, self.actors, self.progress, self.report)
        passage = Passage(number, self.recipes, selection, *about)
        indexed = await passage.straight(shard, ["index"])
        await before.wait()
        if indexed is None:
            return None
        shard = indexed.unit
        ids = selection.images(image_ids(shard, self.store))
        held = corpus.claim(shard.name, ids, indexed.commits["index"].digest)
        elsewhere = {other: corpus.photos(other).digest for other in sorted(set(held.values()))}
        if selection.ids is not None:
            self.seen.update(ids)
        own = [item for item in ids if item not in held]
        photos = list(photo_units(shard, own, self.store, self.config.units.images))
        if budget is None:
            after.set()
            done = await passage.all_objects(photos)
        else:
            first = await passage.first_objects(photos, budget)
            self.budget = budget - first.count if first else 0
            after.set()
            done = await passage.finish(first) if first else None
        if done is None:
            return None
        commits = [one.commits for one in (indexed, *done.images, *done.objects)]
        made = Made(
            shard=shard,
            key=key,
            note=self._note(shard),
            units=[one.unit for one in done.objects],
            commits={name: some for name in self.recipes if (some := [own[name] for own in commits if name in own])},
            duplicates=[duplicate(item, shard.name, held[item]) for item in ids if item in held],
            photos=corpus.photos(shard.name),
            elsewhere=elsewhere,
            made_by=replace(self.made_by, max_objects=budget, ids=selection.within(set(ids))),
            retries=numbers_of(corpus.retries, shard.name),
            retried=cells_of(corpus.retries, shard.name),
        )
        if known := corpus.same(shard.name, made.digest):
            return made.named_anew(known)
        if spread.is_wide(made):
            await self.actors.connected()
        return await asyncio.to_thread(spread.publish, self.store, made, self.progress.remark)
