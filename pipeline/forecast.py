"""What a run would find, what it would compute and why, and what that would take. Nothing is computed.

Finished shards are recognised by their partitions. The cells of all others are looked up, shard by shard.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from anything3d.errors import SourceError, StorageError
from pipeline.cell import Recipe
from pipeline.commit import Commit
from pipeline.config import Config, differences
from pipeline.input import listing
from pipeline.input.shard import Shard
from pipeline.input.source import is_photo, kind, stem
from pipeline.location import explained
from pipeline.measured import Measured
from pipeline.plan import (
    READERS,
    Selection,
    batched,
    first_of,
    image_ids,
    look_up,
    look_up_all,
    object_ids,
    photo_units,
    shard_unit,
)
from pipeline.price import Spent, spent
from pipeline.release.corpus import Corpus, key_of
from pipeline.release.partition import Partition, Tally, read_manifest
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.unit import Unit, slices

NEW = "new or unfinished shards"
OTHER = "the source, or the choice of objects, is another one"
SIZED = 20  # shards of the corpus whose bytes are compared with the numbers of their photos


@dataclass(slots=True)
class StagePlan:
    """One stage of the run."""

    reuse: int = 0  # items whose cells are there
    run: int = 0  # items that have to run, the estimated ones among them
    estimated: int = 0  # items that are expected of photos and shards whose objects are not known yet
    why: dict[str, int] = field(default_factory=dict)  # reason -> shards
    seconds_per_item: float | None = None  # None: not measured in this corpus
    gpu_seconds_per_item: float | None = None
    measured_with_other_settings: bool = False
    spent: Spent = field(default_factory=Spent)  # what `run` items will take; 0 if it is not measured


@dataclass(slots=True)
class Plan:
    """All stages, and the shards."""

    stages: dict[str, StagePlan]
    finished: int = 0  # shards of which nothing is to be done
    changed: int = 0  # shards of the corpus that have to run again, wholly or in part
    new: int = 0
    leaving: int = 0  # shards of the corpus that are not named; they leave it with --only
    unknown: list[str] = field(default_factory=list)  # shards whose photos or objects cannot be estimated
    wall_seconds: float = 0.0  # all actors at work all the time; one in each stage whose `workers` is 0

    @property
    def spent(self) -> Spent:
        return sum((stage.spent for stage in self.stages.values()), Spent())

    @property
    def unmeasured(self) -> list[str]:
        """Stages that have to run and of which no time is known."""
        return [name for name, stage in self.stages.items() if stage.run and stage.seconds_per_item is None]


def forecast(
    config: Config,
    shards: Sequence[str],
    out: str,
    selection: Selection,
    *,
    md5: Mapping[str, str] | None = None,
    one_stage_at_a_time: bool = False,
) -> Plan:
    """The plan of `pipeline.run.run` with these arguments.

    Raises: SourceError if a shard is not there; StorageError; WeightsError.
    """
    with explained(out):
        try:
            corpus = Corpus(Store(out, create=False))
        except FileNotFoundError:
            corpus = None
        walk = _Walk(config, selection, corpus)
        for shard in _units(shards, md5 or {}, config.licence):
            if walk.budget == 0:
                break
            walk.look_at(shard)
    named = {stem(shard) for shard in shards}
    walk.plan.leaving = len(corpus.partitions.keys() - named) if corpus else 0
    walk.reckon(one_stage_at_a_time)
    return walk.plan


def _units(shards: Sequence[str], md5: Mapping[str, str], licence: str) -> Iterator[Unit]:
    with ThreadPoolExecutor(READERS) as threads:
        for some in batched(shards, 4 * READERS):
            yield from threads.map(partial(shard_unit, md5=md5, licence=licence), some)


class _Walk:
    """One look at all shards, in order."""

    def __init__(self, config: Config, selection: Selection, corpus: Corpus | None) -> None:
        self.config, self.selection, self.corpus = config, selection, corpus
        self.recipes = recipes(config)
        self.plan = Plan({name: StagePlan() for name in self.recipes})
        self.budget = selection.max_objects
        self.measured = Measured.of(corpus.partitions.values() if corpus else (), self.recipes)
        self._photos_per_byte: float | None = None

    def look_at(self, shard: Unit) -> None:
        """Count what is there of a shard, and what is missing."""
        plan, known = self.plan, self.corpus.partitions.get(shard.name) if self.corpus else None
        key = key_of(shard, self.recipes, self.selection, self.budget)
        exact = self.selection.ids is None and (self.budget is None or not (plan.changed or plan.new))
        done = self.corpus.finished(shard.name, key) if self.corpus and exact else None
        if done is not None:
            plan.finished += 1
            for name, tally in done.stages.items():
                plan.stages[name].reuse += tally.inputs
            self._use(done.wanted)
            return
        before = {name: stage.run for name, stage in plan.stages.items()}
        self._look_inside(shard)
        missing = [name for name, stage in plan.stages.items() if stage.run > before[name]]
        if known is None or self.corpus is None:
            plan.new += 1
            said: Mapping[str, str] = dict.fromkeys(missing, NEW)
        elif missing:
            plan.changed += 1
            said = changes(self.corpus.store, known, self.config, self.recipes)
        else:  # only its files are to be written
            plan.changed += 1
            said = {}
        for name in missing:
            why, reason = plan.stages[name].why, said.get(name, OTHER)
            why[reason] = why.get(reason, 0) + 1

    def _use(self, objects: int) -> None:
        self.budget = None if self.budget is None else self.budget - objects

    def _look_inside(self, shard: Unit) -> None:
        index, segment, *later = self.recipes.values()
        have = look_up(shard, [index], self.corpus.store) if self.corpus else None
        self._count(index, have.commits if have else {}, 1)
        if self.corpus is None or have is None or index.stage not in have.commits:
            photos = self._photos_of(shard.inputs["shard"].path)
            if photos is None:
                self.plan.unknown.append(shard.name)
            else:
                self._guess(shard.name, photos, photos)
            return
        store, unit = self.corpus.store, have.unit
        ids = self.selection.images(image_ids(unit, store))
        held = self.corpus.claim(shard.name, ids, have.commits[index.stage].digest)
        units = list(photo_units(unit, [item for item in ids if item not in held], store, self.config.units.images))
        objects, unsegmented = list[Unit](), 0
        for part in look_up_all(units, [segment], store):
            if self.budget == 0:
                break
            if segment.stage not in part.commits:
                unsegmented += len(part.unit.ids)
                continue
            self._count(segment, part.commits, len(part.unit.ids))
            wanted, size = self.selection.objects(object_ids(part.unit, store)), self.config.units.objects
            wanted = wanted if self.budget is None else first_of(wanted, self.budget, size)
            self._use(len(wanted))
            objects += slices(part.unit, wanted, size)
        for one in look_up_all(objects, later, store):
            for recipe in later:
                self._count(recipe, one.commits, len(one.unit.ids))
        self._guess(shard.name, unsegmented, 0)

    def _count(self, recipe: Recipe, commits: Mapping[str, Commit], items: int) -> None:
        stage = self.plan.stages[recipe.stage]
        if commit := commits.get(recipe.stage):
            stage.reuse += commit.counts["inputs"]
            self.measured.learn(recipe.stage, Tally.of([commit]))
        else:
            stage.run += items

    def _guess(self, shard: str, photos: int, estimated: int) -> None:
        """Count photos that have to be segmented, of which so many are estimated, and the objects that they may have.

        With a number of wanted objects, only so many photos are segmented as may be needed.
        """
        if not photos or self.budget == 0:
            return
        _, segment, *later = self.plan.stages.values()
        found = self.measured.cells_of("segment")
        rate = found.rows / found.inputs if found else None
        objects = round(photos * rate) if rate is not None else None
        if objects is not None and rate and self.budget is not None and objects > self.budget:
            objects, photos = self.budget, min(photos, -int(-self.budget // rate))
        segment.run += photos
        segment.estimated += min(photos, estimated)
        if objects is None:
            self.plan.unknown.append(shard)
            return
        self._use(objects)
        for stage in later:
            stage.run += objects
            stage.estimated += objects

    def _photos_of(self, location: str) -> int | None:
        """About how many photos a source has that is not indexed; None if nothing is known of such sources."""
        if kind(location) == "folder":
            return sum(is_photo(file.name) for file in listing.files(location))
        if kind(location) != "tar" or self.corpus is None:
            return None
        if self._photos_per_byte is None:
            sizes, photos = 0, 0
            for partition in [one for one in self.corpus.partitions.values() if kind(one.location) == "tar"][:SIZED]:
                try:
                    with explained(partition.location):
                        sizes += Shard(partition.location).size
                except (FileNotFoundError, StorageError):
                    continue
                photos += partition.stages["index"].rows
            self._photos_per_byte = photos / sizes if sizes else 0.0
        return round(Shard(location).size * self._photos_per_byte) or None

    def reckon(self, one_stage_at_a_time: bool) -> None:
        """From items to hours. The cluster is not known: a stage whose `workers` is 0 has one actor here."""
        seconds: list[float] = []
        for name, stage in self.plan.stages.items():
            total = self.measured.cells_of(name)
            stage.measured_with_other_settings = total is not None and name not in self.measured.same
            if total is not None:
                stage.seconds_per_item = total.seconds / total.inputs
                stage.gpu_seconds_per_item = total.gpu_seconds / total.inputs
                took = stage.run * stage.seconds_per_item, stage.run * stage.gpu_seconds_per_item
                stage.spent = spent(name, *took, self.config)
            seconds.append(stage.spent.seconds / (getattr(self.config.resources, name).workers or 1))
        index, segment, *later = seconds
        self.plan.wall_seconds = index + segment + (sum(later) if one_stage_at_a_time else max(later, default=0.0))


def changes(store: Store, known: Partition, config: Config, now: Mapping[str, Recipe]) -> dict[str, str]:
    """Stage -> why its cells in a partition are not those of these settings; only of stages that differ."""
    try:
        _, before = read_manifest(store, known)
    except SourceError:
        return dict.fromkeys(now, "the manifest of the shard is damaged")
    new, said = json.loads(config.to_json()), dict[str, str]()
    for name, recipe in now.items():
        if known.fingerprints.get(name) == recipe.fingerprint:
            continue
        old, own = before["settings"].get(name, {}), new[name]
        why = [*differences(f"{name}.", old, own)]
        why += differences("", *({key: body[key] for key in ("seed", "dtype")} for body in (before["settings"], new)))
        weights = (weight for weight, digest in recipe.weights.items() if before["weights"].get(weight) != digest)
        why += [f"the weights {weight} are others" for weight in weights]
        why += [f"{other} has changed" for other in recipe.reads if other in said]
        if name not in known.fingerprints:
            why = ["it did not run before"]
        said[name] = f"changed because {', '.join(why) or f'the stage {name} has a new version'}"
    return said
