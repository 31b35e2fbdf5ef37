"""The files of a shard with several tars are written by tasks of a real Ray, and are those that one process writes."""

import shutil

import pytest
import ray

from anything3d.errors import DamagedCell
from pipeline import spread
from pipeline.progress import Board
from pipeline.release import publish as publishing
from pipeline.release.publish import publish_here
from pipeline.session import connect, disconnect
from pipeline.store import Store

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")
def test_tasks_of_ray_write_the_files_that_one_process_writes(world, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "TAR_BYTES", 1)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    roots = [tmp_path / name for name in ("here", "spread", "damaged")]
    for root in roots:
        shutil.copytree(world.corpus / "cells", root / "cells")
    here, spread_out, damaged = (Store(str(root)) for root in roots)
    said: list[str] = []
    try:
        expected = publish_here(here, world.made)
        connect()
        actors = ray.remote(num_cpus=ray.cluster_resources()["CPU"])(Board).remote()
        ray.get(actors.read.remote())  # no CPU is left, and none becomes free
        monkeypatch.setattr(spread, "PER_NODE", 1)
        assert spread.is_wide(world.made)
        assert spread.publish(spread_out, world.made, said.append) == expected
        assert len(expected.tars) == 2
        assert said == ["writing 3 tars of world"]  # no object of the last one is finished
        for file in expected.files:
            assert spread_out.read(file.path) == here.read(file.path)
        part = world.commits["mesh"][0].rows.path
        damaged.write(part, damaged.read(part)[:-1])
        with pytest.raises(DamagedCell, match="damaged_part"):
            spread.publish(damaged, world.made, said.append)
    finally:
        disconnect()
