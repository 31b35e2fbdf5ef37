"""gc: what no kept snapshot names is listed, and deleted on request.

Kept are the newest snapshot, the last N, and all that are younger than an age. All ages are those that the storage
says. What is deleted was written by us, as its name shows, is older than the age, and is one of these:

    snapshots/<number>.json, evaluation/<number>.parquet, duplicates/<number>.parquet    of snapshots that are not kept
    objects/, rejects/      second names that the newest snapshot does not show
    shards/, assets/        tables, manifests and tars that no kept snapshot names
    gallery/                pictures and pages that no kept manifest names
    cells/                  cells that no kept manifest names
    draft#<number>          what killed writes have left on a local disk

Snapshots go first, so that none of them names a file that has gone; a gc that was interrupted can be given again.
Before each deletion the log is read again, so that what a run has published meanwhile stays. While a run is at work,
nothing in cells/, shards/, assets/ and gallery/ is deleted: it may have been written for days, and be published at the
end. So it is also looked before each deletion whether a run has begun.

In memory are the paths of the files of the kept snapshots, 8 bytes for each cell and each picture or page of a gallery
that they name (three times as much while these are sorted), and BATCH files that are to be deleted. The names of all
files are never in memory.
"""

import hashlib
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

import pyarrow as pa

from anything3d.errors import ConfigError, SourceError
from pipeline import ledger
from pipeline.commit import Part
from pipeline.disk import drafts, remove_empty
from pipeline.location import explained, local_folder
from pipeline.release.partition import sound_table
from pipeline.release.snapshot import NAME, newest, numbers, path_of, read_snapshot, snapshot_of
from pipeline.release.view import TABLES, is_ours, tables, turn
from pipeline.release.wids import ASSETS_INDEX
from pipeline.store import Entry, Store

BATCH = 1000  # files that are deleted at once
HELD = ("cells", "shards", "assets", "gallery")  # folders in which nothing is deleted while a run is at work
CELL = re.compile(r"cells/[^/]+/[0-9a-f]{12}/[^/]+-[0-9a-f]{10}(?=/)")
ATTEMPT = re.compile(rf"({CELL.pattern}|{ledger.RUNS})/attempts/[0-9a-f]{{32}}\.json")
OURS = {  # folder of a corpus -> the files that we write there, in the order in which they are deleted
    "snapshots": NAME,
    **{folder: re.compile(rf"{folder}/(\d{{6,}})\.parquet") for folder in ("evaluation", "duplicates")},
    **{folder: re.compile(rf"{folder}/.+-[0-9a-f]{{16}}\.parquet") for folder in TABLES},
    "shards": re.compile(
        r"shards/[^/]+/(objects|rejects|manifest)-[0-9a-f]{16}\.parquet"
        r"|shards/[^/]+/(gallery|rejected)-[0-9a-f]{16}\.js|shards/_delta_log/.+"
    ),
    "assets": re.compile(rf"assets/[^/]+/[^/]+-[0-9a-f]{{16}}\.tar|{re.escape(ASSETS_INDEX)}"),
    "gallery": re.compile(r"gallery/[^/]+/[^/]+-[0-9a-f]{16}\.(webp|js)|gallery/[a-z0-9-]+\.(js|css|txt)"),
    "cells": re.compile(
        rf"{CELL.pattern}/(commit\.json|damaged-[0-9a-f]{{32}}\.json|(rows|rejects)-[0-9a-f]{{32}}\.parquet"
        r"|attempts/[0-9a-f]{32}\.json|checkpoints/[0-9a-f]{10})"
    ),
}
STAYS = re.compile(
    rf"{re.escape(ASSETS_INDEX)}|shards/_delta_log/.+|gallery/[^/]+"
)  # of these: what belongs to no one snapshot


@dataclass(slots=True)
class Found:
    """What a folder of the corpus has that no kept snapshot needs, and what is not ours."""

    files: int = 0
    bytes: int = 0
    foreign: int = 0  # files whose names are not those that we write; they stay


@dataclass(frozen=True, slots=True)
class Report:
    """What gc has found, or has deleted."""

    kept: list[int]  # numbers of the kept snapshots, the newest first
    folders: dict[str, Found]
    at_work: bool  # a run, or a process that works on a cell, was seen: since then nothing in HELD has been deleted


@dataclass(frozen=True, slots=True)
class Kept:
    """What the kept snapshots name."""

    log: frozenset[int]  # all snapshots, when the log was read
    numbers: list[int]  # of the kept ones, the newest first
    files: frozenset[str]
    shown: frozenset[str]  # second names that the newest shows
    named: memoryview  # sorted hashes of the folders of the cells, and of the files of galleries, in their manifests

    def names(self, path: str) -> bool:
        """Whether a manifest names it. Two paths of one hash are taken for one: then one too many stays."""
        place = bisect_left(self.named, hash_of(path))
        return place < len(self.named) and self.named[place] == hash_of(path)


def gc(corpus: str, older_than_days: int, keep_last: int, *, apply: bool) -> Report:
    """List what no kept snapshot names; with `apply`, delete it.

    Raises: SourceError("no_snapshot") if this is no corpus; StorageError; as `collect`.
    """
    with explained(corpus):
        store, _ = snapshot_of(corpus)
        return collect(store, older_than_days, keep_last, apply=apply)


def collect(store: Store, older_than_days: int, keep_last: int, *, apply: bool) -> Report:
    """As `gc`. While a run is at work on the corpus, nothing in HELD is deleted: the run may need it.

    Raises: SourceError("damaged_corpus") if it cannot be known what a kept snapshot names; ConfigError("at_work") if
    files of any age are to be deleted while a process works on a cell.
    """
    before = datetime.now(UTC) - timedelta(days=older_than_days)
    sweep = Sweep(store, before, keep_last)
    found = {folder: sweep.look(folder) for folder in OURS}
    if apply:
        if sweep.at_work and not older_than_days:
            raise ConfigError(
                "at_work",
                f"{store.root}: a run is at work, as {sweep.at_work[0]} says. Wait for its end, or give an age of a"
                " day or more.",
            )
        found = {folder: sweep.look(folder, delete=True) for folder in OURS}
        if (shown := newest(store)) is not None:
            turn(store, shown)
    return Report(sweep.kept.numbers, found, bool(sweep.at_work))


class Sweep:
    """The way of gc through the folders of a corpus. `at_work` has the attempts whose processes live."""

    def __init__(self, store: Store, before: datetime, keep_last: int) -> None:
        """Files from `before` on are too young to be deleted."""
        self.kept = keep(store, before, keep_last)
        self._store, self._before, self._keep_last = store, before, keep_last
        self.at_work = self._runs()
        self._folder = local_folder(store.root)

    def look(self, folder: str, *, delete: bool = False) -> Found:
        """What the folder has that is not needed, and which of it has been deleted."""
        found, batch = Found(), dict[str, dict[str, Entry]]()
        for key, files in self._groups(folder):
            ours = {path: entry for path, entry in files.items() if OURS[folder].fullmatch(path)}
            found.foreign += len(files) - len(ours)
            if folder == "cells":
                self.at_work += [path for path, entry in ours.items() if self._lives(path, entry)]
            if not ours or self._is_needed(key, ours):
                continue
            if folder in TABLES and not is_ours(self._store, key):
                found.foreign += 1
                continue
            batch[key] = ours
            if len(batch) >= BATCH:
                self._end(batch, found, delete=delete)
                batch = {}
        self._end(batch, found, delete=delete)
        self._end_drafts(folder, found, delete=delete)
        return found

    def _groups(self, folder: str) -> Iterator[tuple[str, dict[str, Entry]]]:
        """The files of a folder: those of a cell together under its name, any other alone. Listings have them so."""

        def key_of(item: tuple[str, Entry]) -> str:
            cell = CELL.match(item[0])
            return cell[0] if cell else item[0]

        for key, files in groupby(self._store.listing(folder), key_of):
            yield key, dict(files)

    def _is_needed(self, key: str, files: Mapping[str, Entry]) -> bool:
        """Whether a file or a cell stays: a kept snapshot names it, or it is too young.

        The age of a second name says nothing: a command that turns the view deletes it, too.
        """
        folder, _, name = key.partition("/")
        if folder in TABLES:
            return key in self.kept.shown
        if any(entry.modified >= self._before for entry in files.values()):
            return True
        if folder == "cells" or (folder == "gallery" and not STAYS.fullmatch(key)):
            return self.kept.names(key)
        if folder in ("snapshots", "evaluation", "duplicates"):
            return int(name.partition(".")[0]) in self.kept.numbers
        return key in self.kept.files or STAYS.fullmatch(key) is not None

    def _runs(self) -> list[str]:
        """The attempts of the runs that are at work."""
        runs = self._store.entries(f"{ledger.RUNS}/attempts")
        return [path for path, entry in runs.items() if self._lives(path, entry)]

    def _lives(self, path: str, entry: Entry) -> bool:
        """Whether this is the file of an attempt that is at work."""
        if not ATTEMPT.fullmatch(path):
            return False
        return ledger.lives(ledger.read(self._store, path), datetime.now(UTC) - entry.modified)

    def _end(self, batch: Mapping[str, Mapping[str, Entry]], found: Found, *, delete: bool) -> None:
        """Count a batch; delete what of it is still not needed, after a look at the runs and at the log."""
        if delete and batch:
            self.at_work = self.at_work or self._runs()
            if self.at_work:
                batch = {key: files for key, files in batch.items() if key.partition("/")[0] not in HELD}
            if not self.kept.log.issuperset(numbers(self._store)):
                self.kept = keep(self._store, self._before, self._keep_last)
                batch = {key: files for key, files in batch.items() if not self._is_needed(key, files)}
            paths = [path for files in batch.values() for path in files]
            commits = [path for path in paths if path.endswith("/commit.json")]
            self._store.delete(commits)  # first: without it, the parts are those of no cell
            self._store.delete([path for path in paths if path not in set(commits)])
            if self._folder:
                for key in batch:
                    remove_empty(self._folder, key if key.startswith("cells/") else key.rpartition("/")[0])
        found.files += sum(len(files) for files in batch.values())
        found.bytes += sum(entry.bytes for files in batch.values() for entry in files.values())

    def _end_drafts(self, folder: str, found: Found, *, delete: bool) -> None:
        """Those that killed writes have left on a local disk."""
        for path in drafts(self._folder / folder) if self._folder else ():
            with suppress(FileNotFoundError):
                known = path.stat()
                if known.st_mtime < self._before.timestamp():
                    found.files += 1
                    found.bytes += known.st_size
                    if delete:
                        path.unlink()


def keep(store: Store, before: datetime, keep_last: int) -> Kept:
    """What is kept of the log as it is now. A damaged snapshot that a newer sound one follows is not kept.

    Raises: SourceError("damaged_corpus").
    """
    times = store.entries("snapshots")
    log = sorted((int(match[1]) for match in map(NAME.fullmatch, times) if match), reverse=True)
    kept, files, shown, manifests = list[int](), set[str](), set[str](), dict[str, Part]()
    for number in log:
        if len(kept) >= keep_last and times[path_of(number)].modified < before:
            continue
        snapshot = read_snapshot(store, number)
        if snapshot is None and not kept:
            raise SourceError(
                "damaged_corpus",
                f"{store.root}/{path_of(number)} is damaged, so it is not known what it names. Run its shards again.",
            )
        if snapshot is not None:
            shown |= set() if kept else tables(snapshot).keys()
            kept.append(number)
            files |= {file.path for file in snapshot.files}
            manifests |= {one.manifest.path: one.manifest for one in snapshot.partitions.values()}
    return Kept(frozenset(log), kept, frozenset(files), frozenset(shown), named_by(store, list(manifests.values())))


def named_by(store: Store, manifests: Sequence[Part]) -> memoryview:
    """Sorted hashes of the folders of all cells, and of the files of galleries, that these manifests name."""
    hashes = array("Q")
    for manifest in manifests:
        table = sound_table(store, manifest).select(["what", "path"])
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        hashes.extend(hash_of(path) for what, path in rows if what in ("cell", "gallery"))
    unsorted = pa.Array.from_buffers(pa.uint64(), len(hashes), [None, pa.py_buffer(hashes)])
    return memoryview(unsorted.sort().buffers()[1]).cast("B").cast("Q")[: len(hashes)]


def hash_of(folder: str) -> int:
    return int.from_bytes(hashlib.blake2b(folder.encode(), digest_size=8).digest())
