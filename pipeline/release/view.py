"""What people open: the newest snapshot of a corpus, as files that other tools know.

    objects/<shard>-<digest>.parquet, rejects/<shard>-<digest>.parquet    the tables of its partitions
    assets/index.json    the tars of its partitions, as wids reads them
    README.md, LICENSE   a dataset card, and the licences that apply
    snapshot.json        the snapshot itself
    index.html, gallery/catalogue.js ...    a gallery, see gallery/

Everything here can be made again from the log and from what lies in shards/ and assets/. So two commands that turn the
view at the same moment lose nothing: the one that looks last sees the newest snapshot, and shows it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.commit import Part
from pipeline.config import Config, changed
from pipeline.release.card import LICENSE, README, About, Source, license_file, readme
from pipeline.release.duplicates import marks_of
from pipeline.release.gallery.page import BESIDE, CATALOGUE, PAGE, gallery_pages
from pipeline.release.snapshot import Snapshot, newest, numbers
from pipeline.release.wids import ASSETS_INDEX, wids_index
from pipeline.store import Store
from schemas.corpus import OBJECT_COLUMNS

TABLES = ("objects", "rejects")  # folders that show one table of every partition
POINTER = "snapshot.json"
PAGES = (ASSETS_INDEX, README, LICENSE, *BESIDE, CATALOGUE, PAGE)  # what describes the snapshot
SHOWN = re.compile(r"(objects|rejects)/(.+)-([0-9a-f]{16}\.parquet)")


def turn(store: Store, snapshot: Snapshot) -> None:
    """Let the view show the newest snapshot of the log, which is `snapshot` unless another command was faster.

    What is deleted are second names of files in shards/, which stay.
    """
    while True:
        shown = tables(snapshot)
        there = {path: entry.bytes for folder in TABLES for path, entry in store.entries(folder).items()}
        for path, table in shown.items():
            if there.get(path) != table.bytes:
                store.copy(table.path, path)
        data = snapshot.to_json()
        if store.find(POINTER) != data or not all(store.size(path) for path in PAGES):
            write_pages(store, snapshot)
            store.write(POINTER, data)
        if next(iter(numbers(store)), 0) == snapshot.number:
            store.delete([path for path in sorted(there.keys() - shown.keys()) if is_ours(store, path)])
            if next(iter(numbers(store)), 0) == snapshot.number:
                return
        snapshot = newest(store) or snapshot


def write_pages(store: Store, snapshot: Snapshot) -> None:
    """Write what describes a snapshot, as far as it differs from what is there."""
    for path, content in pages(store, snapshot).items():
        if store.find(path) != content:
            store.write(path, content)


def tables(snapshot: Snapshot) -> dict[str, Part]:
    """Path in the view -> the table of a partition that it shows."""
    return {
        f"{folder}/{shard}-{partition.tables[folder].path.rpartition('-')[2]}": partition.tables[folder]
        for folder in TABLES
        for shard, partition in snapshot.partitions.items()
    }


def is_ours(store: Store, path: str) -> bool:
    """Whether a file in the view is the second name of a file in shards/."""
    match = SHOWN.fullmatch(path)
    return match is not None and store.size(f"shards/{match[2]}/{match[1]}-{match[3]}") is not None


def pages(store: Store, snapshot: Snapshot) -> dict[str, bytes]:
    """Path -> content of what describes a snapshot."""
    card = about(store.root, snapshot)
    tars = [tar for partition in snapshot.partitions.values() for tar in partition.tars]
    return {
        ASSETS_INDEX: wids_index(tars),
        README: readme(card),
        LICENSE: license_file(card),
        **gallery_pages(snapshot, card, marks_of(store, snapshot.number)),
    }


def about(root: str, snapshot: Snapshot) -> About:
    """What the dataset card says."""
    made_by, partitions = snapshot.made_by, snapshot.partitions.values()
    config = Config.from_json(json.dumps(made_by.settings)) if made_by.settings else Config()
    return About(
        title=root.rstrip("/").rpartition("/")[2],
        snapshot=snapshot.path,
        date=snapshot.date,
        objects=snapshot.objects,
        rejects=snapshot.rejects,
        sources=[Source(one.shard, one.location, one.objects, one.rejects) for one in partitions],
        preset=made_by.preset,
        seed=config.seed,
        settings=dict(_settings("", changed(config, Config()))),
        weights=made_by.weights,
        licences=sorted({licence for one in partitions for licence in one.licences}),
        versions=made_by.versions,
        note=snapshot.note,
        columns={column.name: column.about for column in OBJECT_COLUMNS},
    )


def _settings(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Key -> value of settings that shape rows."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(f"{prefix}{name}.", value)
        elif not prefix.startswith(("resources.", "price.")):
            yield f"{prefix}{name}", value
