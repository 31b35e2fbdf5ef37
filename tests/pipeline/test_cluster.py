"""Actors of a local Ray: what ends a run arrives as it was raised, and GPUs that are not there are said."""

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
import torch

from anything3d.errors import ConfigError, MachineError, WeightsError
from anything3d.mini.world import write_world
from anything3d.models.weights import PACKAGED
from pipeline import actor, cell, nothing
from pipeline.actor import StageActor, weights_digests
from pipeline.cluster import Actors
from pipeline.conduct import conduct
from pipeline.config import load
from pipeline.measured import Measured
from pipeline.plan import image_ids, photo_units, shard_unit
from pipeline.price import Spending
from pipeline.progress import Board, Progress
from pipeline.session import connect, disconnect
from pipeline.stages import load as load_stage
from pipeline.stages import recipes
from pipeline.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        yield
    disconnect()  # and not ray.shutdown(): a command that ends later in this process must not find a session


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "world.tar"
    write_world(path, scenes=1, seed=5, size=96)
    return path


@pytest.fixture
def unit(small, tmp_path):
    shutil.copy(small, tmp_path)
    return shard_unit(str(tmp_path / "world.tar"))


def actors(config, out, said, some=None):
    return Actors(config, some or recipes(config), Store(str(out)), Progress(said.append), Spending(), Measured())


def indexed(unit, config, out, said):
    """The commit of the index cell of `unit`, and whether it was made now."""
    only = {"index": recipes(config)["index"]}
    return conduct(actors(config, out, said, only), lambda own: own.cell("index", unit, (0,)))


def test_weights_that_are_written_while_a_run_goes_on_are_a_weights_error(unit, tmp_path):
    shutil.copytree(PACKAGED / "blip", tmp_path / "blip")
    config = load([], [f"caption.weights={tmp_path / 'blip'}"])
    own = actors(config, tmp_path / "out", [])
    (tmp_path / "blip" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"weights_differ.*blip"):
        conduct(own, lambda own: own.cell("caption", unit, (0,)))


def test_a_limit_of_gpu_hours_is_refused_where_no_gpu_is(unit, tmp_path):
    config = load([], ["resources.index.num_gpus=0.5"])
    only, store = {"index": recipes(config)["index"]}, Store(str(tmp_path / "out"))
    own = Actors(config, only, store, Progress([].append), Spending.allowed(config, 1.0, None), Measured())
    with pytest.raises(ConfigError, match="no_gpu_share"):
        conduct(own, lambda own: own.cell("index", unit, (0,)))


def test_an_actor_whose_weights_differ_says_so_and_works_on_nothing(unit, tmp_path):
    config = load([])
    connect()
    board = ray.remote(Board).remote()
    only = {"caption": recipes(config)["caption"]}
    given = (only, config.to_json(), {"blip": "another"}, str(tmp_path / "out"), "cpu", board)
    actor = StageActor(*given, load_stage)
    for _ in range(2):
        answer = actor.make("caption", unit.to_json())
        assert (answer.commit.reason, answer.made) == ("weights_differ", False)
        assert "blip" in str(answer.commit)


def test_a_shared_actor_uses_the_threads_of_the_stage_that_it_works_for(unit, tmp_path):
    seen = []

    def note(name, config, device):
        stage = nothing.load(name, config, device)

        def call(*given):
            seen.append((name, torch.get_num_threads()))
            return stage(*given)

        return call

    config = load([], ["resources.index.threads=3", "resources.segment.threads=2"])
    both, store, before = recipes(config), Store(str(tmp_path / "out")), torch.get_num_threads()
    connect()
    board = ray.remote(Board).remote()
    weights = weights_digests("segment", config)
    actor = StageActor(both, config.to_json(), weights, store.root, "cpu", board, note)
    try:
        shard = cell.as_input(both["index"], unit, actor.make("index", unit.to_json()).commit)
        (photos,) = photo_units(shard, image_ids(shard, store), store, 8)
        answer = actor.make("segment", photos.to_json())
    finally:
        torch.set_num_threads(before)
    assert (answer.commit.stage, answer.made) == ("segment", True)
    assert seen == [("index", 3), ("segment", 2)]


def test_an_actor_tells_the_board_of_a_step_every_five_seconds(unit, tmp_path, monkeypatch):
    now = 1000.0

    def counting(name, config, device):
        stage = nothing.load(name, config, device)

        def call(items, unit, checkpoint):
            nonlocal now
            for step in range(1, 120):
                now += 0.25
                checkpoint.at(step, 120)
            return stage(items, unit, checkpoint)

        return call

    monkeypatch.setattr("pipeline.actor.time", SimpleNamespace(monotonic=lambda: now))
    config = load([])
    connect()
    board = ray.remote(Board).remote()
    only = {"index": recipes(config)["index"]}
    actor = StageActor(only, config.to_json(), {}, str(tmp_path / "out"), "cpu", board, counting)
    folder = actor.make("index", unit.to_json()).commit.folder
    assert ray.get(board.read.remote()) == ([], {folder: {"step": 100, "steps": 120}})  # 20 steps take 5 s
    assert ray.get(board.read.remote()) == ([], {})


def test_a_fault_of_the_machine_that_does_not_pass_ends_the_run_and_commits_nothing(unit, tmp_path):
    (tmp_path / "world.tar").unlink()
    with pytest.raises(MachineError, match=r"world\.tar"):
        indexed(unit, load([]), tmp_path / "out", [])
    assert not list((tmp_path / "out").rglob("commit.json"))


def test_what_an_actor_logs_is_logged_by_the_driver_and_once(unit, tmp_path, caplog):
    with caplog.at_level("INFO", "pipeline"):
        indexed(unit, load([]), tmp_path / "out", [])
    (record,) = [record for record in caplog.records if record.name.startswith("pipeline.")]
    assert (record.name, record.levelname) == ("pipeline.cell", "INFO")
    assert record.message.startswith(f"commit: stage=index unit={unit.name} in=1 out=1 rejects=0 seconds=")


def test_stages_that_want_a_gpu_run_without_one_cost_none_and_say_so(unit, tmp_path):
    config, said = load([], ["resources.index.num_gpus=0.5"]), []
    commit, made = indexed(unit, config, tmp_path / "out", said)
    assert made
    assert commit.gpu_seconds == 0
    assert sum("runs on the CPU" in line for line in said) == 1
    again, made = indexed(unit, load([]), tmp_path / "out", quiet := [])
    assert (again, made) == (commit, False)
    assert not any("CPU" in line for line in quiet)


class Unready:
    """A stage whose process dies while it loads."""

    def __init__(self, *_):
        os._exit(1)


@pytest.fixture
def by_value():
    """What this file defines goes to the actors as it is. They cannot import the tests."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def stepping(heard, name, config, device):
    """A stage that tells a step, and goes on when it is said in `heard` that this has come to the driver."""
    actor.STEP_S = 0.0
    stage = nothing.load(name, config, device)

    def call(items, unit, checkpoint):
        checkpoint.at(3400, 10_000)
        Path(heard).read_text()  # a pipe
        return stage(items, unit, checkpoint)

    return call


def test_the_driver_knows_the_step_of_a_cell_and_ray_what_each_process_does(unit, tmp_path, by_value):
    os.mkfifo(tmp_path / "heard")
    seen, titles = [], []

    def note(at_work, **_):
        for one in at_work:
            if one["step"] and not seen:
                seen.append((one["stage"], one["unit"], one["step"], one["steps"]))
                titles.append(psutil.Process(one["pid"]).cmdline()[0])
                (tmp_path / "heard").write_text("")

    for workers in (0, 1):  # the actors are shared, or not
        config = load([], [f"resources.index.workers={workers}"])
        only, store = {"index": recipes(config)["index"]}, Store(str(tmp_path / f"out{workers}"))
        progress, stage = Progress([].append, note), partial(stepping, str(tmp_path / "heard"))
        own = Actors(config, only, store, progress, Spending(), Measured(), load=stage)
        conduct(own, lambda own: own.cell("index", unit, (0,)))
        assert seen == [("index", unit.name, 3400, 10_000)]
        assert titles.pop().strip() == "ray::index"
        seen.clear()
    known = {one["ActorClassName"] for one in ray._private.state.actors().values()}
    assert {"shared", "index"} <= known


def test_actors_that_die_while_they_start_end_the_run(unit, tmp_path, by_value):
    config = load([])
    only = {"index": recipes(config)["index"]}
    own = Actors(config, only, Store(str(tmp_path)), Progress([].append), Spending(), Measured(), load=Unready)
    with pytest.raises(MachineError, match="The actors of index die while they start"):
        conduct(own, lambda own: own.cell("index", unit, (0,)))
