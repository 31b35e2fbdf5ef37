"""Rows 9 and 11: the whole pipeline, preset mini, against one sequential script, and how it grows with the objects."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import psutil
import pyarrow.parquet as pq

from anything3d.mini.world import write_world
from pipeline.bench import Tree, grow
from tests.bench.row import Grown, Pair, Timed

SCENES, SEED = 12, 7
OBJECTS, PER_SCENE = (8, 32, 128), 2
QUICK = ("reconstruct.steps=16", "invert.steps=8", "score.views=4")  # row 11: what grows does so with fewer steps, too
FAR_DB = 0.1  # of PSNR: objects are in other batches, which rounds otherwise


@contextmanager
def make(size, folder, device):
    shard, runs = folder / "world.tar", iter(range(1000))
    write_world(shard, scenes=SCENES, seed=SEED, held_out=True)

    def ours():
        corpus = folder / f"corpus-{next(runs)}"
        subprocess.run(command(shard, corpus), check=True, stdout=subprocess.DEVNULL)
        return objects(corpus)

    def peer():
        out = folder / f"script-{next(runs)}"
        subprocess.run([sys.executable, "-m", "tests.bench.sequential", shard, out], check=True)
        return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}

    yield Pair(ours, peer, check)


def command(shard, corpus, *more):
    run = [sys.executable, "-m", "jobs.cli", "run", "--out", corpus, shard, "--max-failed", "1.0"]
    return [*map(str, run), *more]


def objects(corpus):
    rows = [row for path in sorted(corpus.rglob("objects/**/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["object_id"]: row for row in rows}


def check(ours, theirs):
    assert ours.keys() == theirs.keys(), f"other objects: {sorted(ours.keys() ^ theirs.keys())}"
    assert all(ours[name]["caption"] == theirs[name]["caption"] for name in ours), "other captions"
    most = max(abs(ours[name]["reference_psnr_db"] - theirs[name]["reference_psnr_db"]) for name in ours)
    assert most < FAR_DB, f"PSNR differs by {most} dB"
    return f"the same {len(ours)} objects and captions; PSNR differs by at most {most:.3f} dB"


def growth(folder):
    sizes = []
    for count in OBJECTS:
        shard = folder / f"world-{count}.tar"
        write_world(shard, scenes=count // PER_SCENE, seed=SEED, held_out=True)
        more = [word for setting in QUICK for word in ("--set", setting)]
        arguments = command(shard, folder / f"corpus-{count}", "--max-objects", str(count), *more)
        sizes.append({"objects": count, "load": os.getloadavg()[0], **watched(arguments)})
    exponent = partial(grow, [one["objects"] for one in sizes])
    return {
        "sizes": sizes,
        "exponent": exponent([one["cpu_s"] for one in sizes]).exponent,
        "cpu_s_per_object": exponent([one["cpu_s"] for one in sizes]).per_unit,
        "exponent_of_memory": exponent([one["all_mb"] for one in sizes]).exponent,
    }


def watched(arguments):
    """Seconds, CPU seconds and memory of a command with all that it starts."""
    started = time.monotonic()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    tree = Tree(psutil.Process(process.pid))
    while process.poll() is None:
        tree.look()
        time.sleep(0.2)
    assert process.returncode == 0, f"{arguments} ended with {process.returncode}"
    seconds = time.monotonic() - started
    return {"seconds": seconds, "cpu_s": tree.cpu_s(), "all_mb": tree.all_mb, "largest_mb": tree.largest_mb}


ROW = Timed("9", "the pipeline, preset mini, 12 scenes", "the same calls in one script, batch 1", 1.5, make, pairs=1)
GROWTH = Grown("11", "CPU of the pipeline with 8, 32 and 128 objects", growth)
