"""What a run wants, which cells of it are there, and into which units it is cut. Nothing in here computes or writes."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from types import MappingProxyType
from typing import TypeVar

from anything3d.errors import DamagedCell, SourceError
from anything3d.models.weights import OURS
from anything3d.quality.world import MINI, is_mini_world
from pipeline import cell
from pipeline.cell import Recipe
from pipeline.commit import Commit
from pipeline.config import SA_1B
from pipeline.input.ids import NUMBERED, image_of
from pipeline.input.source import PROMPTS, beside, content, content_digest, digest, file_name, kind, stem
from pipeline.location import explained
from pipeline.store import Store
from pipeline.unit import Input, Unit, slices
from schemas.records import ImageRecord

T = TypeVar("T")
READERS = 16  # threads that look commits up
GROUP = 8  # photos of a unit of a folder or a list, on average


@dataclass(frozen=True)  # no slots, for what is computed once
class Selection:
    """Which of the items are wanted."""

    max_objects: int | None = None
    ids: frozenset[str] | None = None  # image and object ids; None: all
    sample_rate: float | None = None  # share of the images; None: all

    @cached_property
    def by_image(self) -> Mapping[str, Sequence[str]]:
        """Image -> the requested ids of it and of its objects, in order."""
        found: dict[str, list[str]] = {}
        for item in sorted(self.ids or ()):
            found.setdefault(image_of(item), []).append(item)
        return found

    @cached_property
    def digest(self) -> str:
        """Hash of the requested ids."""
        return _hash(json.dumps(sorted(self.ids or ()))).hex()

    def images(self, ids: Sequence[str]) -> list[str]:
        return [item for item in ids if (self.ids is None or item in self.by_image) and self._sampled(item)]

    def objects(self, ids: Sequence[str]) -> list[str]:
        return [item for item in ids if self.ids is None or item in self.ids or image_of(item) in self.ids]

    def _sampled(self, image: str) -> bool:
        """By a hash of the id: the same images in every run, and all images of a lower rate among those of a higher."""
        if self.sample_rate is None:
            return True
        return int.from_bytes(hashlib.sha256(image.encode()).digest()[:8]) < self.sample_rate * 2**64

    def within(self, images: Collection[str]) -> tuple[str, ...] | None:
        """The requested ids of these images and of their objects; None: all."""
        if self.ids is None:
            return None
        return tuple(sorted(item for image in images for item in self.by_image.get(image, ())))

    def unknown(self, images: Container[str]) -> list[str]:
        """The requested ids that name neither an image of `images` nor an object of such an image."""
        return sorted(item for item in self.ids or () if image_of(item) not in images)


def shard_unit(shard: str, md5: Mapping[str, str] = MappingProxyType({}), licence: str = "") -> Unit:
    """The unit that is a whole shard, with the truth that lies beside it, if any, and whether that is the mini world's.

    `md5` is what MD5s have to be, by file name. `licence` is that of the photos, but for those of the mini world.

    Raises: SourceError if there is no such shard; StorageError if its storage cannot be reached.
    """
    truth = beside(shard, ".truth/truth.json")
    with explained(shard):
        said, said_digest = content(truth)
        prompts = content_digest(beside(shard, PROMPTS))
        inputs = {
            "shard": Input(shard, (known := digest(shard)) and f"{known}{prompts}"),
            "truth": Input(truth, said_digest),
            "world": Input("", MINI if is_mini_world(said) else ""),
            "md5": Input("", md5.get(file_name(shard), "")),
            "licence": Input("", OURS if is_mini_world(said) else licence),
        }
    if not inputs["shard"].digest:
        raise SourceError("no_shard", f"{shard} is not there. Correct its location, or restore it.")
    return Unit(stem(shard), (stem(shard),), inputs)


@dataclass(frozen=True, slots=True)
class Known:
    """What is there of a unit."""

    unit: Unit  # with every cell that exists among its inputs
    commits: Mapping[str, Commit]  # stage -> the commit of its cell, for the stages that were asked for


def look_up(unit: Unit, recipes: Sequence[Recipe], store: Store) -> Known:
    """The cells that the unit has under these recipes, which are in order."""
    commits: dict[str, Commit] = {}
    for recipe in recipes:
        commit = cell.find(recipe, unit, store) if all(name in unit.inputs for name in recipe.reads) else None
        if commit is not None:
            commits[recipe.stage] = commit
            unit = cell.as_input(recipe, unit, commit)
    return Known(unit, commits)


def look_up_all(units: Sequence[Unit], recipes: Sequence[Recipe], store: Store) -> list[Known]:
    """As `look_up`, of many units at once."""
    with ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(partial(look_up, recipes=recipes, store=store), units))


def image_ids(shard: Unit, store: Store) -> list[str]:
    """The images of an indexed shard, in order."""
    return store.read_column(_commit(shard, "index", store).rows, "image_id")


def photo_units(shard: Unit, ids: Sequence[str], store: Store, size: int) -> Iterator[Unit]:
    """The photos `ids` of an indexed source, cut into units of at most `size`.

    A folder or a list may grow. So its units end at ids that are chosen by their hash, and depend on their own photos
    only: a new photo changes the unit that it comes into, and no other one.
    """
    if shard.inputs["licence"].digest == SA_1B and not all(map(NUMBERED.fullmatch, ids)):
        shard = shard.with_input("licence", Input("", "not stated"))
    if kind(shard.inputs["shard"].path) == "tar":
        yield from slices(shard, ids, size)
        return
    rows = {row.image_id: row for row in store.read_part(_commit(shard, "index", store).rows, ImageRecord)}
    end = 0
    while end < len(ids):
        start, end = end, end + 1
        while end < len(ids) and end - start < size and _hash(ids[end - 1])[0] % GROUP:
            end += 1
        known = [rows[item] for item in ids[start:end]]
        said = [[row.image_id, row.shard, row.jpg_sha256, row.prompts] for row in known]
        own = Input(shard.inputs["index"].path, _hash(json.dumps(said)).hex())
        yield from slices(shard.with_input("index", own), ids[start:end], size)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def object_ids(images: Unit, store: Store) -> list[str]:
    """The objects of a segmented unit of images, in order."""
    return store.read_column(_commit(images, "segment", store).rows, "object_id")


def first_of(ids: Sequence[str], count: int, size: int) -> list[str]:
    """The objects of a unit of images that are taken if `count` are wanted, in order; `size` are in a unit.

    Whole units are taken in order, so that a run that wants more finds their cells. Those that fill no unit are spread
    over the photos that are left: a few objects show what many photos give.
    """
    if count >= len(ids):
        return list(ids)
    whole, before = count // size * size, Counter[str]()  # objects of each photo that come before the next one
    turns = list[tuple[int, int]]()
    for place, photo in enumerate(map(image_of, ids)):
        turns.append((before[photo], place))
        before[photo] += 1
    places = sorted(place for _, place in sorted(turns[whole:])[: count - whole])
    return [*ids[:whole], *(ids[place] for place in places)]


def _commit(unit: Unit, stage: str, store: Store) -> Commit:
    """The commit of a cell that the unit has come through."""
    commit = store.commit_at(unit.inputs[stage].path)
    if commit is None:
        raise gone(stage, unit, store)
    return commit


def gone(stage: str, unit: Unit, store: Store) -> DamagedCell:
    """The error of a cell that was there before."""
    return DamagedCell(
        "commit_gone", f"{store.root}: the {stage} cell of {unit.name} has gone while the run was at work."
    )


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch
