"""A finished corpus of a thousand shards and a million objects: the same command says within seconds that it is done.

The shards, partitions and files of the corpus are simulated: every shard has the files of one small real shard, and a
manifest and numbers as a thousand objects have them. No cell is there, so a run that looked for cells would fail.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

from pipeline.config import Config
from pipeline.marker import check
from pipeline.plan import Selection, shard_unit
from pipeline.release import view
from pipeline.release.corpus import key_of
from pipeline.release.partition import Photos, Tally, manifest_bytes
from pipeline.release.snapshot import append
from pipeline.stages import recipes
from pipeline.store import Store
from tests.jobs.conftest import ROOT, environment
from tests.pipeline.conftest import MADE_BY, World

SHARDS, OBJECTS = 1000, 1000
BYTES_A_SHARD = 3500  # of a snapshot; each of its files has about 200
WITHIN_S, WITHIN_KB = 30, 1 << 20
UNITS = OBJECTS // 8


def simulated(folder, world):
    """The corpus, and the pattern of its shards."""
    (real,) = world.snapshot.partitions.values()
    store, recipe = Store(str(folder / "corpus")), recipes(Config())
    check(store)
    commits = [replace(some[0], unit=f"{number}") for some in world.commits.values() for number in range(UNITS)]
    manifest = world.store.read(real.manifest.path), manifest_bytes(commits, {}, MADE_BY.origin)
    tally = Tally(UNITS, OBJECTS, OBJECTS, 0, 0, 0, 1000.0, 500.0)
    partitions = {}
    for number in range(SHARDS):
        name = f"sa_{number:06d}"
        shutil.copy(world.shard, folder / f"{name}.tar") if number == 0 else os.link(
            folder / "sa_000000.tar", folder / f"{name}.tar"
        )
        unit = shard_unit(str(folder / f"{name}.tar"), licence=Config().licence)
        files = {part: replace(part, path=part.path.replace("/world/", f"/{name}/")) for part in real.files}
        for part, own in files.items():
            path = folder / "corpus" / own.path
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(world.corpus / part.path, path)
        own = files[real.manifest]
        (folder / "corpus" / own.path).unlink()
        (folder / "corpus" / own.path).write_bytes(manifest[1])
        partitions[name] = replace(
            real,
            shard=name,
            location=str(folder / f"{name}.tar"),
            key=key_of(unit, recipe, Selection(), None),
            objects=OBJECTS,
            stages=dict.fromkeys(real.stages, tally),
            photos=Photos(f"sa_{number:06d}a", f"sa_{number:06d}z", f"{number}"),
            manifest=replace(own, bytes=len(manifest[1])),
            tables={kind: files[part] for kind, part in real.tables.items()},
            tars=tuple(files[part] for part in real.tars),
            gallery={kind: files[part] for kind, part in real.gallery.items()},
        )
    snapshot = append(store, MADE_BY, lambda before: partitions)
    for path, table in view.tables(snapshot).items():
        (folder / "corpus" / path).parent.mkdir(exist_ok=True)
        os.link(folder / "corpus" / table.path, folder / "corpus" / path)
    for path in (*view.PAGES, view.POINTER):
        store.write(path, snapshot.to_json())
    return store, snapshot


MEASURED = """
import atexit, resource, runpy
from pathlib import Path

def tell():
    used = resource.getrusage(resource.RUSAGE_SELF)
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"MEASURED {used.ru_utime + used.ru_stime:.1f} {peak.split()[1]}")

atexit.register(tell)
runpy.run_module("jobs.run", run_name="__main__")
"""


def test_a_finished_corpus_of_a_million_objects_is_recognised_at_once(tmp_path):
    (tmp_path / "world").mkdir()
    store, snapshot = simulated(tmp_path, World(tmp_path / "world"))
    assert snapshot.objects == SHARDS * OBJECTS
    assert len(snapshot.to_json()) / SHARDS < BYTES_A_SHARD
    line = [sys.executable, "-c", MEASURED, f"{tmp_path}/sa_*.tar", "--out", store.root]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SHARDS * OBJECTS} objects and" in done.stdout
    assert f"snapshot 1 ({snapshot.digest}), 0 cells run" in done.stdout
    cpu_s, peak_kb = map(float, done.stdout.rsplit("MEASURED", 1)[1].split())
    print(f"{cpu_s} s of one core, {peak_kb / 1024:.0f} MB, {len(snapshot.to_json()) / SHARDS:.0f} bytes a shard")  # -s
    assert cpu_s < WITHIN_S  # of one process, whatever else the machine does
    assert peak_kb < WITHIN_KB
