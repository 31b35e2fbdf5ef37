"""The examples that a report shows, and their pictures.

Of an object, its crop and its turntable are read from its tar, by their bytes. Rejects and their crops come from the
files of the gallery, which have some of every reason. Nothing else of a shard is read.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from anything3d.errors import InputError
from anything3d.photo.sheet import cut, outlined, sheet, turns
from pipeline.release.columns import read_columns
from pipeline.release.gallery import data as gallery
from pipeline.release.gallery.page import FOLDER
from pipeline.release.partition import Partition
from pipeline.release.snapshot import Snapshot
from pipeline.report.distributions import Ranked
from pipeline.report.yields import Cause, Example
from pipeline.store import Store
from schemas.corpus import ASSET_TAR, OBJECT_ID, span_names

EXAMPLES = 6  # rejects of each reason
VIEWS = 3  # of a turntable, all round
CROP, TURNTABLE = span_names("png"), span_names("turntable.webp")

log = logging.getLogger(__name__)
Pictures = dict[str, bytes]  # id of what is shown -> WebP


@dataclass(frozen=True, slots=True)
class Shown:
    """One of the best or worst objects."""

    object_id: str
    shard: str
    value: float  # of the number by which the objects are ranked
    caption: str
    quality: str  # "" if it has none
    asset_tar: str


def objects(store: Store, snapshot: Snapshot, ranked: Sequence[Ranked], pictures: Pictures) -> list[Shown]:
    """The ranked objects in their order; their pictures are added to `pictures`.

    Raises: SourceError("damaged_corpus") if a table is damaged or has gone.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for shard in {one.shard for one in ranked}:
        ids = {one.object_id for one in ranked if one.shard == shard}
        columns = [OBJECT_ID.name, "caption", gallery.QUALITY, ASSET_TAR.name, *CROP, *TURNTABLE]
        table = read_columns(store, snapshot.partitions[shard].tables["objects"], columns)
        places = [place for place, own in enumerate(table[OBJECT_ID.name].to_pylist()) if own in ids]
        rows |= {row[OBJECT_ID.name]: row for row in table.take(places).to_pylist()}
    found = []
    for one in ranked:
        row = rows[one.object_id]
        picture = _of_object(store, row)
        if picture is not None:
            pictures[one.object_id] = picture
        says = row.get("caption") or "", row.get(gallery.QUALITY) or ""
        found.append(Shown(one.object_id, one.shard, one.value, *says, row[ASSET_TAR.name]))
    return found


def _of_object(store: Store, row: Mapping[str, Any]) -> bytes | None:
    """The crop and VIEWS of the mesh side by side; None if they cannot be read, which is said."""
    tar = row[ASSET_TAR.name]
    spans = [(row.get(first), row.get(size)) for first, size in (CROP, TURNTABLE)]
    if any(None in span for span in spans):  # of a version whose tables did not say where the files lie
        return None
    try:
        crop, turntable = store.ranges(tar, *zip(*spans, strict=True))
        views = [outlined(crop), *turns(turntable, VIEWS)]
    except (FileNotFoundError, InputError) as error:
        log.warning("%s/%s: there is no picture of %s: %s", store.root, tar, row[OBJECT_ID.name], error)
        return None
    return sheet(views, len(views))


def add_examples(store: Store, snapshot: Snapshot, causes: Sequence[Cause], pictures: Pictures) -> None:
    """Give every cause its first EXAMPLES; their pictures are added to `pictures`.

    Only shards are looked at that have a reject of a reason which wants more examples.
    """
    wanting = {(one.stage, one.kind, one.reason): one for one in causes if one.count}
    for partition in snapshot.partitions.values():
        if any((own.stage, own.kind, own.reason) in wanting for own in partition.rejected):
            _add(store, partition, wanting, pictures)
        wanting = {name: one for name, one in wanting.items() if len(one.examples) < EXAMPLES}


def _add(store: Store, partition: Partition, wanting: Mapping[tuple[str, str, str], Cause], pictures: Pictures) -> None:
    """The examples of one shard. It has none if a version without the gallery published it."""
    part = partition.gallery.get("rejects")
    file = store.read_whole(part) if part else None
    if file is None:
        return
    listed = gallery.unscript(file)
    sheets: dict[str, bytes | None] = {}  # file name -> the file
    for stage, kind, reason, some in listed["causes"]:
        cause = wanting.get((stage, kind, reason))
        if cause is None:
            continue
        for item, message, place in some[: EXAMPLES - len(cause.examples)]:
            key = ""
            if place >= 0:
                name = listed["sheets"][place // gallery.PER_SHEET][1]
                path = f"{FOLDER}/{partition.shard}/{name}"
                sheets[name] = sheets[name] if name in sheets else store.find(path)
                key = _cut(sheets[name], place % gallery.PER_SHEET, path, f"{stage} {reason} {item}", pictures)
            cause.examples.append(Example(item, partition.shard, message, key))


def _cut(file: bytes | None, place: int, path: str, key: str, pictures: Pictures) -> str:
    """Add one picture of a sheet under `key`; "" if it cannot be read, which is said."""
    try:
        if file is None:
            raise FileNotFoundError("it has gone")
        picture: Image.Image = cut(file, place, gallery.ACROSS)
    except (FileNotFoundError, InputError) as error:
        log.warning("%s: there is no picture of %s: %s", path, key, error)
        return ""
    pictures[key] = sheet([picture], 1)
    return key
