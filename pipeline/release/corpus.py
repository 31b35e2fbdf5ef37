"""What a run knows of its corpus: which shards are finished, which photos other shards have, and what is published."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from anything3d.errors import MachineError, SourceError
from pipeline.cell import Recipe, versions
from pipeline.config import Config
from pipeline.input.source import stem
from pipeline.location import explained
from pipeline.plan import Selection
from pipeline.release.gallery.data import FORMAT
from pipeline.release.partition import COLUMNS, Partition, Photos, photos_of
from pipeline.release.retries import numbers_of, read_retries
from pipeline.release.snapshot import MadeBy, Snapshot, append, newest, now, snapshot_of
from pipeline.release.view import turn
from pipeline.store import Store
from pipeline.unit import SOURCES, Unit

FOLDERS = ("shards", "assets")  # of the files that partitions name


def key_of(shard: Unit, recipes: Mapping[str, Recipe], selection: Selection, budget: int | None) -> str:
    """Hash of all that decides what the partition of a shard holds; `budget` is how many objects are wanted of it.

    The columns and the gallery of this version are part of it, so that all shards of a corpus have the same ones. How
    the shard is cut into units is not part of it: other units have the same rows.
    """
    inputs = {name: shard.inputs[name].digest for name in SOURCES}
    fingerprints = {name: recipe.fingerprint for name, recipe in recipes.items()}
    ids = None if selection.ids is None else selection.digest
    rate = selection.sample_rate  # without one, keys are those of before there was one
    decides = [inputs, fingerprints, budget, ids, COLUMNS, FORMAT, *([] if rate is None else [rate])]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def made_by_run(
    config: Config, preset: str, recipes: Mapping[str, Recipe], shards: Sequence[str], selection: Selection
) -> MadeBy:
    """What a snapshot says of the run that made it."""
    weights = {name: digest for recipe in recipes.values() for name, digest in recipe.weights.items()}
    ids = None if selection.ids is None else tuple(sorted(selection.ids))
    named = {stem(shard): shard for shard in shards}
    settings = json.loads(config.to_json())
    wanted = (selection.max_objects, ids, selection.sample_rate)
    return MadeBy("run", preset, settings, weights, versions(), named, *wanted)


def drop(corpus: str, shards: Sequence[str]) -> Snapshot:
    """A snapshot without these shards, given by their names, and the view turned to it.

    Raises: SourceError("no_partition") if the corpus has no such shard, SourceError("no_snapshot"); StorageError.
    """
    store, base = snapshot_of(corpus)
    if unknown := [shard for shard in shards if shard not in base.partitions]:
        some = ", ".join([*list(base.partitions)[:5], *(["..."] if len(base.partitions) > 5 else [])])
        raise SourceError("no_partition", f"{corpus} has no shard {', '.join(unknown)}. It has {some or 'none'}.")
    dropped = {shard: base.partitions[shard].location for shard in shards}
    made_by = replace(base.made_by, command="drop", shards=dropped, max_objects=None, ids=None, sample_rate=None)
    with explained(corpus):
        snapshot = append(
            store, made_by, lambda before: {name: known for name, known in before.items() if name not in dropped}
        )
        turn(store, snapshot)
    return snapshot


class Corpus:
    """The partitions of a corpus: those of its newest snapshot, and those of this run."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.retries = read_retries(store)
        self.snapshot = newest(store)
        self.partitions = dict(self.snapshot.partitions) if self.snapshot else {}
        self._published = dict(self.partitions)  # the last version of each shard that this run knows to be published
        self._photos = {shard: partition.photos for shard, partition in self.partitions.items()}
        self._claimed: dict[str, set[str]] = {}  # shard of this run that is no partition yet -> its photos
        folders = FOLDERS if self.partitions else ()
        self._bytes = {path: entry.bytes for name in folders for path, entry in store.entries(name).items()}

    def is_whole(self, partition: Partition) -> bool:
        """Whether all files of a partition were there, with their sizes, when the run began."""
        return all(self._bytes.get(file.path) == file.bytes for file in partition.files)

    def finished(self, shard: str, key: str) -> Partition | None:
        """The partition of a shard, if nothing is to be done for it."""
        known = self.partitions.get(shard)
        if known is None or known.key != key or not self.is_whole(known):
            return None
        if known.retries != numbers_of(self.retries, shard):
            return None
        same = all(
            other in self._photos and self._photos[other].digest == digest for other, digest in known.elsewhere.items()
        )
        return known if same else None

    def same(self, shard: str, digest: str) -> Partition | None:
        """The partition of a shard, if it holds the very same and all its files are there."""
        known = self.partitions.get(shard)
        return known if known is not None and known.digest == digest and self.is_whole(known) else None

    def claim(self, shard: str, ids: Sequence[str], digest: str) -> dict[str, str]:
        """Take the photos of an indexed shard, but for those that another shard has: id -> that shard.

        `digest` is that of the commit of its index cell.
        """
        photos = Photos(min(ids, default=""), max(ids, default=""), digest)
        wanted, held = set(ids), dict[str, str]()
        for other, theirs in self._photos.items():
            if other != shard and theirs.may_share(photos):
                held |= dict.fromkeys(wanted & self._ids_of(other), other)
        self._photos[shard] = photos
        self._claimed[shard] = wanted - held.keys()
        return held

    def written(self, mine: Mapping[str, Partition]) -> None:
        """Know the partitions of this run whose files are there. Their photos need no memory: they are in files."""
        self.partitions |= mine
        for shard in mine:
            self._claimed.pop(shard, None)

    def photos(self, shard: str) -> Photos:
        return self._photos[shard]

    def _ids_of(self, shard: str) -> set[str]:
        claimed = self._claimed.get(shard)
        return photos_of(self.store, self.partitions[shard]) if claimed is None else claimed

    def candidate(self, made_by: MadeBy, mine: Mapping[str, Partition], *, only: bool = False) -> Snapshot:
        """The snapshot that `publish` would make, if no other command makes one meanwhile."""
        number = self.snapshot.number if self.snapshot else 0
        partitions = {**({} if only else self.partitions), **mine}
        return Snapshot(number + 1, number, now(), made_by, dict(sorted(partitions.items())))

    def publish(self, made_by: MadeBy, mine: Mapping[str, Partition], *, only: bool = False) -> Snapshot:
        """A snapshot with these partitions in place of earlier ones of their shards, and the view turned to it.

        With `only`, no other partition stays. A shard that this run has only found, or has published before, is what
        the newest snapshot says, or is not there: another command may have changed or dropped it meanwhile.

        Raises: MachineError if another command has added a shard meanwhile that has a photo of these.
        """
        new = {shard: own for shard, own in mine.items() if own != self._published.get(shard)}

        def change(before: Mapping[str, Partition]) -> dict[str, Partition]:
            kept = {shard: one for shard, one in before.items() if shard not in new and (not only or shard in mine)}
            for other, one in kept.items():
                if one.photos != self._photos.get(other):
                    self._check_apart(one, new)
            return {**kept, **new}

        self.snapshot = append(self.store, made_by, change)
        turn(self.store, self.snapshot)
        self.partitions = dict(self.snapshot.partitions)
        self._published = {**self.partitions, **mine}
        claimed = {shard: self._photos[shard] for shard in self._claimed}
        self._photos = {shard: one.photos for shard, one in self.partitions.items()} | claimed
        return self.snapshot

    def _check_apart(self, other: Partition, mine: Mapping[str, Partition]) -> None:
        for own in mine.values():
            if own.photos.may_share(other.photos):
                both = photos_of(self.store, own) & photos_of(self.store, other)
                if both:
                    raise MachineError(
                        "photo_twice",
                        f"{self.store.root}: another command has added the shard {other.shard} meanwhile, which has"
                        f" {len(both)} photos of {own.shard}, too, as {min(both)}. Give the same command again.",
                    )
