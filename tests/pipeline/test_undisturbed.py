"""A cell that was torn by kills says what an undisturbed one says: every stage, with its real networks."""

import json
from functools import partial

from anything3d.mini.world import write_world
from pipeline import cell, ledger
from pipeline.plan import shard_unit
from pipeline.stages import load as load_stage
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.unit import slices
from tests.soak import CONFIG

DEAD = {**ledger.whoami(), "process_started": "1"}  # what a process leaves behind that was killed


def through(store, shard, deaths):
    """Digests of the cells of all stages, on one unit of two objects; each finds so many deaths before it."""
    digests, unit = [], shard
    for name, recipe in recipes(CONFIG).items():
        if name == "segment":
            (unit,) = slices(unit, store.read_column(commit.rows, "image_id"), 64)
        if name == "caption":
            (unit,) = slices(unit, store.read_column(commit.rows, "object_id")[:2], 64)
        folder = cell.folder_of(recipe, unit)
        for death in range(deaths):
            store.write(f"{folder}/attempts/{death}.json", json.dumps(DEAD).encode())
        commit, made = cell.run(recipe, unit, store, partial(load_stage, name, CONFIG.to_json(), "cpu"))
        assert (made, commit.attempts, commit.counts["rows"] > 0) == (True, deaths + 1, True)
        digests.append((name, commit.digest))
        unit = cell.as_input(recipe, unit, commit)
    return digests


def test_in_a_process_of_their_own_all_stages_say_the_same(tmp_path):
    write_world(tmp_path / "world.tar", scenes=1, seed=5, size=128)
    shard = shard_unit(str(tmp_path / "world.tar"))
    whole, torn = (
        through(Store(str(tmp_path / name)), shard, deaths)
        for name, deaths in (("whole", 0), ("torn", cell.DEATHS_BEFORE_ISOLATION))
    )
    assert torn == whole
