"""The preset `default` at full size, on random weights in the official layouts: it loads, fits and stays finite."""

import tarfile
import time

import pytest
import torch

from anything3d import lift_image
from anything3d.mini.world import write_world
from jobs.command import read_preset
from pipeline.config import load
from pipeline.photo import method_config, pace
from pipeline.stages import weights_of
from tests.full_size import write_random

STEPS = 200


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_default_runs_at_full_size(tmp_path, capsys):
    settings = [
        "segment.source=sam-points",
        "segment.min_region_px=0",
        f"resources.weights_root={tmp_path}",
        f"reconstruct.steps={STEPS}",
        "reconstruct.min_opacity=0.0",
        "reconstruct.max_fog=1.0",
    ]
    config = load([read_preset("default")], settings)
    for name in weights_of(config):
        write_random(tmp_path, name)
    write_world(tmp_path / "world.tar", scenes=1, seed=2, size=256)
    with tarfile.open(tmp_path / "world.tar") as tar:
        (jpg,) = (tar.extractfile(entry).read() for entry in tar if entry.name.endswith(".jpg"))
    (tmp_path / "photo.jpg").write_bytes(jpg)

    begun: dict[str, float] = {}
    lifted = lift_image(
        tmp_path / "photo.jpg",
        point=(128, 160),
        config=method_config(config),
        place=config.place("cuda"),
        pace=pace(config),
        say=lambda stage: begun.setdefault(stage, time.perf_counter()),
    )
    seconds = (begun["mesh"] - begun["reconstruct"]) / STEPS
    with capsys.disabled():
        print(f"\n{seconds:.3f} s a step, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory at most")
    assert len(lifted.mesh.faces) > 0
