"""The arithmetic of growth, stages that do nothing in real cells, and what is seen of a process."""

import subprocess
import sys
from functools import partial
from math import log

import psutil
import pytest

from anything3d.errors import ConfigError
from pipeline import bench, cell, nothing
from pipeline.config import load
from pipeline.plan import image_ids, object_ids, photo_units, shard_unit
from pipeline.release.finished import finished_objects
from pipeline.release.objects import asset_files
from pipeline.stages import STAGES, recipes
from pipeline.store import Store
from pipeline.unit import slices
from schemas.arrow import from_table, to_table


def test_growth_of_powers_and_straight_lines():
    units = [10, 100, 1000]
    assert bench.grow(units, [3.0 * n for n in units]) == bench.Growth(pytest.approx(1.0), pytest.approx(3.0))
    assert bench.grow(units, [0.5 * n**2 for n in units]).exponent == pytest.approx(2.0)
    with_a_start = bench.grow(units, [40.0 + 0.1 * n for n in units])
    assert with_a_start.per_unit == pytest.approx(0.1)
    assert with_a_start.exponent == pytest.approx(log(140 / 41) / log(1000 / 10))  # the middle one has no weight


def test_growth_is_not_known_of_one_size_and_an_exponent_not_of_nothing():
    assert bench.grow([5, 5], [1.0, 2.0]) == bench.Growth(None, None)
    assert bench.grow([5, 10], [0.0, 2.0]) == bench.Growth(None, pytest.approx(0.4))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_a_row_that_survives_its_table(stage):
    row = nothing.least_row(stage.record)
    assert from_table(to_table([row], stage.record), stage.record) == [row]


def test_stages_that_do_nothing_make_real_cells_whose_objects_can_be_published(tmp_path):
    config = load([], ["units.objects=3"])
    store, known, units = Store(str(tmp_path / "corpus")), recipes(config), []

    def through(stage, unit):
        commit, made = cell.run(known[stage], unit, store, partial(nothing.load, stage, config.to_json(), "cpu"))
        assert made
        return cell.as_input(known[stage], unit, commit)

    shards = nothing.write_shards(str(tmp_path / "shards"), 5, 3)
    assert [shard.rpartition("/")[2] for shard in shards] == ["sa_0000000.tar", "sa_0000003.tar"]
    for location in shards:
        shard = through("index", shard_unit(location))
        (images,) = photo_units(shard, image_ids(shard, store), store, 64)
        segmented = through("segment", images)
        for unit in slices(segmented, object_ids(segmented, store), config.units.objects):
            for stage in list(known)[2:]:
                unit = through(stage, unit)
            units.append(unit)
    assert [len(unit.ids) for unit in units] == [3, 3, 3, 1]
    first = [rows for unit in units[:2] for rows in finished_objects(store, [unit], 0)]
    assert [rows.object_id for rows in first] == [f"sa_{photo}-000{n}" for photo in range(3) for n in range(2)]
    assert {"json", "png", "mask.png", "glb"} <= asset_files(first[0]).keys()


def test_a_place_that_has_something_is_left_as_it_is(tmp_path):
    (tmp_path / "units-4").mkdir()
    (tmp_path / "units-4" / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"place_in_use: .*units-4 is not empty: it has letter\.txt"):
        list(bench.bench(load([]), [4], 10, str(tmp_path)))
    assert [path.name for path in (tmp_path / "units-4").iterdir()] == ["letter.txt"]


def test_cpu_time_and_memory_of_processes_that_have_ended_are_kept():
    line = "import os, sys; x = os.urandom(64 << 20); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        tree = bench.Tree(psutil.Process(worker.pid))
        used, weight = tree.cpu_s(), tree.all_mb
        worker.stdin.close()
    tree.look()
    assert tree.cpu_s() == used > 0
    assert 64 < weight == tree.all_mb <= tree.largest_mb
