"""The driver, publishing and the stages index and mesh load neither torch nor the libraries of the networks.

A wrong argument loads not even Ray.
"""

import json
import pickle
import shutil
import subprocess
import sys

from PIL import Image

from schemas.records import CloudRecord, FieldRecord, ObjectRecord
from tests.pipeline.conftest import CONFIG

# A fresh interpreter. It says after every step which of the heavy libraries it has loaded since the step before.
PROGRAM = """
import importlib, json, pickle, sys

HEAVY = {"torch", "transformers", "diffusers", "pandas"}
corpus, shard, pickled, config = sys.argv[1:]
found = {}


def step(name, action, *given):
    before = HEAVY & sys.modules.keys()
    result = action(*given)
    found[name] = sorted((HEAVY & sys.modules.keys()) - before)
    return result


for module in ("anything3d", "pipeline.config", "pipeline.stages", "pipeline.forecast", "pipeline.status"):
    step(module, importlib.import_module, module)
for module in ("release.publish", "release.garbage", "release.export", "release.delta", "release.retries"):
    step(module, importlib.import_module, f"pipeline.{module}")
for module in ("pipeline.run", "pipeline.cluster", "pipeline.spread", "pipeline.retry", "pipeline.nightly"):
    step(module, importlib.import_module, module)

from pipeline.batch import NoCheckpoint, release_memory
from pipeline.release.publish import publish_here
from pipeline.stages import load
from pipeline.store import Store

rows_of_mesh, made = pickle.load(open(pickled, "rb"))
index = step("build index", load, "index", config, "cpu")
rows = step("call index", index, (), made.shard, NoCheckpoint())
mesh = step("build mesh", load, "mesh", config, "cpu")
meshes = step("call mesh", mesh, rows_of_mesh, made.units[0], NoCheckpoint())
assert rows[0] and meshes and all(type(one) is list for one in meshes), meshes
step("after a lack of memory", release_memory)
HEAVY.discard("pandas")  # Arrow itself imports it, where it is installed, when it makes an array
assert step("publish a shard", publish_here, Store(corpus), made).objects > 0

from jobs.cli import app

for command in (["status", corpus], ["gc", corpus], ["export", corpus, "--format", "delta"], ["drop", corpus, "world"]):
    step(command[0], lambda: app(command, standalone_mode=False))
step("plan", lambda: app(["plan", shard, "--out", corpus], standalone_mode=False))
print(json.dumps(found))
"""


def test_only_a_stage_with_networks_loads_torch(world, tmp_path):
    corpus = shutil.copytree(world.corpus, tmp_path / "corpus")
    read = (("segment", ObjectRecord), ("reconstruct", FieldRecord), ("lift", CloudRecord))
    parts = [world.store.read_part(world.commits[stage][0].rows, record) for stage, record in read]
    by_id = [{row.object_id: row for row in rows} for rows in parts]
    items = [tuple(rows[name] for rows in by_id) for name in by_id[1]]
    (tmp_path / "made").write_bytes(pickle.dumps((items, world.made)))
    given = [str(corpus), str(world.shard), str(tmp_path / "made"), CONFIG.to_json()]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    loaded = {name: heavy for name, heavy in found.items() if heavy}
    assert len(found) > 20
    assert loaded == {}


WRONG = """
import sys

from jobs.cli import app

wrong = (
    ("run", "x.tar", "--out", "out", "--preset", "none"),
    ("run", "none.tar", "--out", "out"),
    ("plan", "none.tar", "--out", "out"),
    ("ablate", "none.tar", "--out", "out", "--truth", "none"),
    ("evaluate", "none", "--truth", "none"),
    ("evaluate", sys.argv[1], "--truth", "none"),
    ("preview", "photos"),
)
for command in wrong:
    try:
        app(command)
    except SystemExit as ended:
        assert ended.code == 2, command
    loaded = {"torch", "transformers", "diffusers", "ray"} & sys.modules.keys()
    assert not loaded, (command, loaded)
"""


def test_a_wrong_argument_loads_neither_torch_nor_ray(world, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "cup.png")
    done = subprocess.run(
        [sys.executable, "-c", WRONG, str(world.corpus)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 7
    assert "no_annotations: The photos of " in done.stderr
    assert "segment.source=sam-grid" in done.stderr
    assert not (tmp_path / "preview.html").exists()
