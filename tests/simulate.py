"""A corpus whose cells are real and whose rows are told: how much memory and time publishing needs, without networks.

    python -m tests.simulate FOLDER --shards 100 --objects 1000

makes the cells of 100 shards of 1,000 objects, then publishes them with the real `run`, in a process of its own, and
prints the seconds and the peak of its memory. Nothing is computed and no Ray is started: every cell is there.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from anything3d.photo.image import encode_png
from pipeline import cell
from pipeline.config import Config, load
from pipeline.plan import shard_unit
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.unit import Unit, slices
from schemas.records import (
    CaptionRecord,
    CloudRecord,
    ConceptRecord,
    FieldRecord,
    ImageRecord,
    MeshRecord,
    ObjectRecord,
    ScoreRecord,
)

PER_PHOTO = 2  # objects
MEASURED = """
import sys, time
from pathlib import Path
from pipeline.config import load
from pipeline.plan import Selection
from pipeline.run import run

def peak_kb():
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1])

before, started = peak_kb(), time.monotonic()
report = run(load([], sys.argv[3:]), sorted(map(str, Path(sys.argv[1]).glob("*.tar"))), sys.argv[2], Selection())
assert report.cells_run == 0 and not report.lost
print(report.snapshot.objects, f"{time.monotonic() - started:.1f}", peak_kb() - before, peak_kb())
"""


class Told:
    """A stage whose rows are told."""

    def __init__(self, rows):
        self._rows = rows

    def __call__(self, items, unit, checkpoint):
        return [self._rows(item if isinstance(item, str) else item[0], unit) for item in items]


def rows_of(stage, photos, crop):
    """The rows of an item of a stage."""

    def images(item, unit):
        digest = "0" * 64
        return [ImageRecord(f"{unit.name}_{n}", unit.name, 0, 1, digest, 0, 1, digest) for n in range(photos)]

    def objects(row, unit):
        return [
            ObjectRecord(f"{row.image_id}-{n:04d}", row.image_id, row.shard, "annotations", 8, 8, "08o0",
                         0, 0, 8, 8, 64, 1.0, 1.0, 0.0, 0.0, 8.0, crop)
            for n in range(PER_PHOTO)
        ]  # fmt: skip

    def of_object(row, unit):
        item, camera = row.object_id, (0.0, 0.0, 2.0, 1.0, 1.0, 0.5, 0.5)
        return [
            {
                "caption": lambda: CaptionRecord(item, "a thing", -1.0, ""),
                "invert": lambda: ConceptRecord(item, b"", 0.5, 0.4, 1),
                "lift": lambda: CloudRecord(item, b"ply", 1, 0, 1.0, *camera),
                "reconstruct": lambda: FieldRecord(item, b"", 1, 1, "field", None, 0.0, 0.0, 0.0, 1.0, 0.0),
                "mesh": lambda: MeshRecord(item, b"glTF" + bytes(2000), 3, 1, 1, True),
                "score": lambda: ScoreRecord(item, 20.0, 0.9, 0.8, None, None, None, None, None, None, None, None,
                                             "", crop, b"webp"),
            }[stage]()
        ]  # fmt: skip

    return {"index": images, "segment": objects}.get(stage, of_object)


def make(folder: Path, shards: int, objects: int, settings: list[str]) -> str:
    """The cells of all shards; where the corpus is."""
    config, store = load([], settings), Store(str(folder / "corpus"))
    known, crop = recipes(config), encode_png(torch.full((8, 8, 4), 255, dtype=torch.uint8))

    def through(stage: str, unit: Unit) -> Unit:
        commit, _ = cell.run(known[stage], unit, store, lambda: Told(rows_of(stage, objects // PER_PHOTO, crop)))
        return cell.as_input(known[stage], unit, commit)

    def ids(unit: Unit, stage: str, column: str) -> list[str]:
        commit = store.commit_at(unit.inputs[stage].path)
        return store.read_column(commit.rows, column)

    for number in range(shards):
        path = folder / f"sa_{number:06d}.tar"
        path.write_bytes(bytes(1024))
        shard = through("index", shard_unit(str(path), licence=Config().licence))
        for images in slices(shard, ids(shard, "index", "image_id"), config.units.images):
            segmented = through("segment", images)
            for unit in slices(segmented, ids(segmented, "segment", "object_id"), config.units.objects):
                for stage in list(known)[2:]:
                    unit = through(stage, unit)
    return store.root


def measure(folder: Path, corpus: str, settings: list[str]) -> list[float]:
    """Objects, seconds, kB of memory that publishing has added, and the peak in kB."""
    line = [sys.executable, "-c", MEASURED, str(folder), corpus, *settings]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--objects", type=int, default=1000, help="of each shard")
    parser.add_argument("--unit", type=int, default=50, help="objects of a unit")
    given = parser.parse_args()
    settings = [f"units.objects={given.unit}", "units.shards=1"]
    given.folder.mkdir(parents=True)
    started = time.monotonic()
    corpus = make(given.folder, given.shards, given.objects, settings)
    print(f"cells of {given.shards} shards: {time.monotonic() - started:.0f} s", flush=True)
    made, seconds, added_kb, peak_kb = measure(given.folder, corpus, settings)
    memory = f"{peak_kb / 1024:.0f} MB, {added_kb / 1024:.0f} MB above the imports"
    print(f"{made:.0f} objects published in {seconds} s; memory {memory}")


if __name__ == "__main__":
    main()
