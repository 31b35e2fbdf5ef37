"""The page of the gallery, and the list of shards that it begins with. Both show one snapshot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.release.card import About
from pipeline.release.gallery.data import NUMBERS, REASON_EXAMPLES, script
from pipeline.release.gallery.template import render
from pipeline.release.partition import Partition
from pipeline.release.snapshot import Snapshot

HERE = Path(__file__).parent
PAGE, FOLDER = "index.html", "gallery"
CATALOGUE = f"{FOLDER}/catalogue.js"
DUPLICATES = f"{FOLDER}/duplicates.js"  # is there if somebody has looked for near-duplicates
SCRIPTS = ("load", "state", "find", "cards", "mesh", "detail", "bars", "rejects", "main")  # one file, in this order
BESIDE = {  # path in the corpus -> the files that make it
    f"{FOLDER}/gallery.js": [f"{name}.js" for name in SCRIPTS],
    **{f"{FOLDER}/{name}": [name] for name in ("gallery.css", "three.js", "three-license.txt")},
}


Marks = Mapping[str, tuple[str, float]]  # near-duplicate -> the earlier object, cosine


def gallery_pages(snapshot: Snapshot, about: About, marks: Marks | None = None) -> dict[str, bytes]:
    """Path -> content of the page and of what lies beside it, without the files of the shards.

    `marks` are the near-duplicates; None if nobody has looked for them.
    """
    return {
        **{path: b"".join((HERE / "assets" / name).read_bytes() for name in names) for path, names in BESIDE.items()},
        **({} if marks is None else {DUPLICATES: script(marks)}),
        CATALOGUE: script(catalogue(snapshot, about, None if marks is None else len(marks))),
        PAGE: render("gallery.html", about=about, snapshot=snapshot).encode(),
    }


def catalogue(snapshot: Snapshot, about: About, duplicates: int | None = None) -> dict[str, Any]:
    """What the page knows before it reads the files of a shard."""
    return {
        "snapshot": snapshot.number,
        "digest": snapshot.digest,
        "date": snapshot.date,
        "preset": about.preset,
        "weights": dict(about.weights),
        "versions": dict(about.versions),
        "columns": dict(about.columns),
        "numbers": NUMBERS,
        "examples": REASON_EXAMPLES,
        "duplicates": duplicates,
        "shards": [_shard(one) for one in snapshot.partitions.values()],
    }


def _shard(partition: Partition) -> Mapping[str, Any]:
    """A shard. It has no files of the gallery if an older version of this package published it."""
    files = {kind: part.path for kind, part in partition.gallery.items()}
    return {
        "name": partition.shard,
        "location": partition.location,
        "objects": partition.objects,
        "rejects": partition.rejects,
        "files": files,
        "reasons": [[one.stage, one.kind, one.reason, one.inputs + one.parts] for one in partition.rejected],
    }
