"""A run whose meshes an external command makes: one command for each actor, and no process of it afterwards."""

import json
import shlex
import sys
import tarfile
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from anything3d.space.mesh import from_glb
from tests import hull
from tests.jobs.conftest import OBJECTS, run, wait_for


def meshes_in(path):
    with tarfile.open(path) as file:
        return [from_glb(file.extractfile(one).read()) for one in file if one.name.endswith(".glb")]


@pytest.mark.slow
def test_a_run_with_a_command_starts_no_stage_that_it_does_not_need_and_leaves_nothing(shard, tmp_path):
    started = tmp_path / "started"
    command = shlex.join([sys.executable, hull.__file__, "--kind", "textured", "--child", "--started", str(started)])
    external = {"command": command, "version": hull.VERSION, "licence": hull.LICENCE}
    settings = [f"reconstruct.external.{name}={value}" for name, value in external.items()]
    made = run(shard, tmp_path / "corpus", ["reconstruct.backend=external", "mesh.max_faces=400", *settings])
    assert set(made.cells_now()) == {"index", "segment", "reconstruct", "mesh", "score"}
    rows = ds.dataset(made.path / "objects").to_table().to_pylist()
    assert len(rows) == OBJECTS
    for row in rows:
        assert (row["reconstruct_backend"], row["lift_backend"], row["kept"]) == ("external (hull 1.2)", None, "mesh")
        assert row["licence"] == "Apache-2.0; CC0-1.0"
        assert row["mesh_mask_iou"] > 0.5
        assert row["repainted"] == (row["given_faces"] > 400)
        assert row["faces"] <= row["given_faces"]
    assert any(row["repainted"] for row in rows)
    meshes = [mesh for path in (made.path / "assets").rglob("*.tar") for mesh in meshes_in(path)]
    assert sorted(len(mesh.faces) for mesh in meshes) == sorted(row["faces"] for row in rows)
    assert all(mesh.texture is not None for mesh in meshes)
    starts = [json.loads(line) for line in started.read_text().splitlines()]
    assert starts
    pids = [pid for start in starts for pid in start["pids"]]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the command")
