"""The stream on a local Ray: what ends a run arrives as it was raised, and GPUs that are not there are said."""

import shutil

import pytest
import ray

from anything3d.errors import MachineError, WeightsError
from anything3d.mini.world import write_world
from anything3d.models.weights import PACKAGED
from pipeline import cluster
from pipeline.config import load
from pipeline.plan import shard_unit
from pipeline.price import Spending
from pipeline.progress import Board, Progress
from pipeline.session import disconnect
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


def stream(unit, stage, config, out, said):
    progress = Progress(said.append)
    progress.expect(stage, 1, 0)
    return cluster.stream([unit], [recipes(config)[stage]], config, str(out), progress, Spending())


def test_weights_that_are_written_while_a_run_goes_on_are_a_weights_error(unit, tmp_path):
    shutil.copytree(PACKAGED / "blip", tmp_path / "blip")
    config = load([], [f"caption.weights={tmp_path / 'blip'}"])
    recipe = recipes(config)["caption"]
    (tmp_path / "blip" / "config.json").write_text("{}")
    progress = Progress([].append)
    progress.expect("caption", 1, 0)
    with pytest.raises(WeightsError, match=r"weights_differ.*blip"):
        cluster.stream([unit], [recipe], config, str(tmp_path / "out"), progress, Spending())


def test_an_actor_whose_weights_differ_tells_the_board_and_works_on_nothing(unit, tmp_path):
    config = load([])
    cluster.connect()
    board = ray.remote(Board).remote()
    given = (recipes(config)["caption"], config.to_json(), {"blip": "another"}, str(tmp_path / "out"), "cpu", board)
    actor = cluster.StageActor(*given)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"weights_differ.*blip"):
            actor({"unit": unit.to_json()})
    assert ray.get(board.read.remote())[1].reason == "weights_differ"


def test_a_fault_of_the_machine_that_does_not_pass_ends_the_stream_and_commits_nothing(unit, tmp_path):
    (tmp_path / "world.tar").unlink()
    with pytest.raises(MachineError, match=r"world\.tar"):
        stream(unit, "index", load([]), tmp_path / "out", [])
    assert not list((tmp_path / "out").rglob("commit.json"))


def test_what_an_actor_logs_is_logged_by_the_driver_and_once(unit, tmp_path, caplog):
    with caplog.at_level("INFO", "pipeline"):
        stream(unit, "index", load([]), tmp_path / "out", [])
    (record,) = [record for record in caplog.records if record.name.startswith("pipeline.")]
    assert (record.name, record.levelname) == ("pipeline.cell", "INFO")
    assert record.message.startswith(f"commit: stage=index unit={unit.name} in=1 out=1 rejects=0 seconds=")


def test_stages_that_want_a_gpu_run_without_one_cost_none_and_say_so(unit, tmp_path):
    config, said = load([], ["resources.index.num_gpus=0.5"]), []
    (done,) = stream(unit, "index", config, tmp_path / "out", said)
    commit = Store(str(tmp_path / "out")).commit_at(done.inputs["index"].path)
    assert commit.gpu_seconds == 0
    assert sum("run on the CPU" in line for line in said) == 1
    (again,) = stream(unit, "index", load([]), tmp_path / "out", quiet := [])
    assert again == done
    assert not any("CPU" in line for line in quiet)
