"""Point-E's own package as the backend of lift, beside ours on the same files."""

import dataclasses
import importlib.util
import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from anything3d.errors import ConfigError, WeightsError
from anything3d.lift import LiftConfig, Lifted, load_lifter
from anything3d.mini import clip as mini_clip
from anything3d.mini import pointe as mini
from anything3d.models import pointe
from anything3d.models.weights import Place

torch.set_num_threads(1)  # two would wait for each other where other tests run beside these

installed = pytest.mark.skipif(importlib.util.find_spec("point_e") is None, reason="needs pip install '.[point-e]'")
ENTRY = {
    "input_channels": 6,
    "output_channels": 12,
    "width": 64,
    "layers": 2,
    "heads": 4,
    "init_scale": 0.25,
    "time_token_cond": True,
}
NETWORKS = {
    "base": {"name": "CLIPImageGridPointDiffusionTransformer", "n_ctx": 64, **ENTRY},
    "upsampler": {
        "name": "CLIPImageGridUpsamplePointDiffusionTransformer",
        "n_ctx": 128,
        "cond_ctx": 64,
        "channel_scales": [2.0, 2.0, 2.0, 0.007843137255, 0.007843137255, 0.007843137255],
        "channel_biases": [0.0, 0.0, 0.0, -1.0, -1.0, -1.0],
        **ENTRY,
    },
    "vector": {"name": "CLIPImagePointDiffusionTransformer", "n_ctx": 64, "token_cond": True, **ENTRY},
    "unconditional": {"name": "PointDiffusionTransformer", "n_ctx": 64, **ENTRY},
}
CONFIG = LiftConfig(
    weights="base",
    upsampler_weights="upsampler",
    clip_weights="clip",
    candidates=2,
    steps=8,
    upsampler_steps=4,
    sigma_max=120.0,
    upsampler_sigma_max=160.0,
    upsampler_around_coarse=False,
    s_churn=3.0,
    guidance=3.0,
    upsampler_guidance=3.0,
    azimuths=6,
    elevations=2,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Random networks as the official ones are made, for the mini CLIP."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, entry in NETWORKS.items():
        network = pointe.build(entry, mini.CLIP)
        torch.nn.init.normal_(network.output_proj.weight, std=0.05)
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps({"config": entry, "clip": mini.CLIP}))
        save_file(network.state_dict(), root / name / "model.safetensors")
    mini.save(mini.build(1), root)
    mini_clip.save(mini_clip.build(1), root)
    return Place(weights_root=str(root))


def lift(place, backend, **changes):
    crops = torch.rand(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    crops[:, 3] = 0
    crops[:, 3, 10:50, 12:44] = 1
    generators = [torch.Generator().manual_seed(b) for b in range(2)]
    return load_lifter(dataclasses.replace(CONFIG, backend=backend, **changes), place)(crops, generators)


@installed
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"s_churn": 0.0},
        {"guidance": 1.0, "upsampler_guidance": 1.0},
        {"weights": "vector"},
        {"weights": "unconditional", "guidance": 1.0},
    ],
)
def test_both_backends_make_the_same_objects(place, changes):
    before = torch.get_rng_state()
    for ours, theirs in zip(lift(place, "anything3d", **changes), lift(place, "point-e", **changes), strict=True):
        assert isinstance(ours, Lifted)
        assert ours.candidate == theirs.candidate
        assert ours.reference.azimuth_deg == pytest.approx(theirs.reference.azimuth_deg, abs=1e-2)
        torch.testing.assert_close(ours.cloud.points, theirs.cloud.points, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours.cloud.colors, theirs.cloud.colors, rtol=0, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), before)


@installed
def test_the_package_takes_no_networks_of_ours(place):
    with pytest.raises(WeightsError, match="pointe is no network of the point-e package"):
        lift(place, "point-e", weights="pointe")


def test_a_missing_package_says_how_to_install_it(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "point_e.models", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[point-e\]'"):
        lift(place, "point-e")


def test_the_package_begins_around_nothing_only():
    with pytest.raises(ConfigError, match="upsampler_around_coarse = false"):
        LiftConfig(backend="point-e")
