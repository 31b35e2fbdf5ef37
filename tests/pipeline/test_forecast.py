"""What a plan says of a corpus: what is there, what is missing and why, and what that takes. Cells are real."""

import json
import shutil
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.plan import lines
from pipeline.config import load
from pipeline.forecast import NEW, OTHER, forecast
from pipeline.plan import Selection, shard_unit
from pipeline.price import cost
from pipeline.release.corpus import Corpus, key_of
from pipeline.release.snapshot import MadeBy
from pipeline.stages import recipes
from pipeline.store import Store
from tests.pipeline.conftest import CONFIG, QUICK

PRICES = ("price.cpu_hour=3600", "price.currency=EUR")  # one EUR a second


@pytest.fixture
def finished(world, tmp_path):
    """A corpus whose only shard is finished under CONFIG, as a run would have left it; and the shard."""
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    made_by = MadeBy("run", "mini", json.loads(CONFIG.to_json()), world.snapshot.made_by.weights)
    weights = {name: digest for recipe in recipes(CONFIG).values() for name, digest in recipe.weights.items()}
    publish(store, [world.shard], replace(world.made, made_by=replace(made_by, weights=weights)))
    return store, str(world.shard)


def publish(store, shards, made):
    """One partition for each of the shards, all with the files of `made`, under the key that a run looks for."""
    from pipeline.release.publish import publish_here

    one = publish_here(store, made)
    own = recipes(CONFIG)
    mine = {
        unit.name: replace(
            one,
            shard=unit.name,
            location=unit.inputs["shard"].path,
            key=key_of(unit, own, Selection(), None),
            fingerprints={name: recipe.fingerprint for name, recipe in own.items()},
        )
        for unit in (shard_unit(str(shard), licence=CONFIG.licence) for shard in shards)
    }
    return Corpus(store).publish(made.made_by, mine)


def planned(finished, *settings, **more):
    store, shard = finished
    selection = more.pop("selection", Selection())
    return forecast(load([], [*QUICK, *settings]), [shard], store.root, selection, **more)


def test_of_a_finished_shard_everything_is_used_again(finished, world):
    plan = planned(finished)
    assert (plan.finished, plan.changed, plan.new, plan.leaving) == (1, 0, 0, 0)
    assert all(stage.run == 0 and not stage.why for stage in plan.stages.values())
    assert {name: stage.reuse for name, stage in plan.stages.items()} == {
        name: sum(commit.counts["inputs"] for commit in commits) for name, commits in world.commits.items()
    }
    assert plan.spent.seconds == plan.wall_seconds == 0


def test_a_changed_setting_is_named_and_the_stages_that_read_it_run_again_and_no_other(finished):
    plan = planned(finished, "caption.beams=5")
    assert plan.changed == 1
    beams = CONFIG.caption.beams
    assert list(plan.stages["caption"].why) == [f"changed because caption.beams was {beams} and is 5"]
    assert list(plan.stages["invert"].why) == ["changed because caption has changed"]
    assert plan.stages["index"].run == plan.stages["segment"].run == 0
    assert plan.stages["lift"].why.keys() <= {OTHER}  # its cells of this cut into units are not there
    everything = planned(finished, "seed=7")
    assert next(iter(everything.stages["lift"].why)).startswith("changed because seed was 0 and is 7")
    assert everything.stages["index"].run == 1
    assert all(stage.estimated for name, stage in everything.stages.items() if name != "index")


def test_changed_weights_are_named(finished, tmp_path):
    from anything3d.models.weights import PACKAGED

    shutil.copytree(PACKAGED / "blip", tmp_path / "blip")
    with (tmp_path / "blip" / "config.json").open("a") as file:
        file.write("\n")
    plan = planned(finished, f"caption.weights={tmp_path / 'blip'}")
    (why,) = plan.stages["caption"].why
    assert f'caption.weights was "blip" and is "{tmp_path}/blip"' in why
    assert f"the weights {tmp_path}/blip are others" in why


def test_the_price_is_items_times_what_an_item_took(finished, world):
    plan = planned(finished, *PRICES, "mesh.resolution=24")
    mesh, commits = plan.stages["mesh"], world.commits["mesh"]
    took = sum(commit.seconds for commit in commits) / sum(commit.counts["inputs"] for commit in commits)
    assert mesh.seconds_per_item == pytest.approx(took, abs=1e-3)
    assert mesh.measured_with_other_settings
    assert mesh.run > 0
    price = load([], PRICES).price
    assert mesh.spent.cost == pytest.approx(cost(mesh.run * mesh.seconds_per_item, 0, 1, price))
    slow = planned(finished, *PRICES, "mesh.resolution=24", one_stage_at_a_time=True)
    assert slow.wall_seconds == pytest.approx(plan.spent.seconds, rel=1e-6)
    two = planned(finished, *PRICES, "mesh.resolution=24", "resources.mesh.workers=2", one_stage_at_a_time=True)
    assert two.wall_seconds == pytest.approx(slow.wall_seconds - mesh.spent.seconds / 2, rel=1e-6)
    assert any(line.startswith("in all") and "EUR" in line for line in lines(plan, "EUR"))


def test_photos_and_objects_of_a_new_tar_are_estimated_by_its_bytes(finished, world, tmp_path):
    store, shard = finished
    new = tmp_path / "new.tar"
    new.write_bytes(world.shard.read_bytes() + bytes(world.shard.stat().st_size))  # twice as large
    plan = forecast(CONFIG, [shard, str(new)], store.root, Selection())
    assert (plan.finished, plan.new) == (1, 1)
    segment, rows = plan.stages["segment"], world.commits["segment"][0].counts["rows"]
    assert segment.run == segment.estimated == 2 * len(world.says.images)
    assert plan.stages["lift"].run == plan.stages["lift"].estimated == 2 * rows
    assert list(plan.stages["lift"].why) == [NEW]
    assert any("~" in line for line in lines(plan, ""))
    few = forecast(CONFIG, [str(new)], store.root, Selection(max_objects=2))
    assert few.stages["lift"].run == 2
    assert few.leaving == 1
    assert "1 other shard will leave the corpus" in lines(few, "", only=True)


def test_of_a_corpus_that_is_not_there_nothing_is_known_and_nothing_is_made(world, tmp_path):
    done = CliRunner().invoke(
        app, ["plan", str(world.shard), "--out", str(tmp_path / "no"), "--json", str(tmp_path / "plan.json")]
    )
    assert done.exit_code == 0, done.output
    assert "not in these numbers: what world will have" in done.output
    assert "index. No cell of this corpus says how long they take. --measure 8" in done.output
    assert list(tmp_path.iterdir()) == [tmp_path / "plan.json"]
    said = json.loads((tmp_path / "plan.json").read_text())
    assert said["stages"]["index"]["run"] == said["new"] == 1
    assert said["unmeasured"] == ["index"]


def test_a_thousand_finished_shards_are_planned_in_seconds(finished, world, tmp_path):
    store, _ = finished
    shards = [tmp_path / f"sa_{n:06d}.tar" for n in range(1000)]
    for shard in shards:
        shard.write_bytes(b"x")
    made_by = MadeBy("run", "mini", json.loads(CONFIG.to_json()))
    publish(store, shards, replace(world.made, made_by=made_by))  # their partitions share the files of one
    started = time.process_time()  # whatever else the machine does
    plan = forecast(CONFIG, list(map(str, shards)), store.root, Selection())
    assert plan.finished == 1000
    assert time.process_time() - started < 20
