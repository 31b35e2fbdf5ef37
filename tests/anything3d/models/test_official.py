"""Point-E's own package beside ours, on the same files."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import save_file

from anything3d.mini import pointe as mini
from anything3d.models import pointe
from anything3d.models.weights import Place
from anything3d.settings.lift import SamplerConfig
from tests.anything3d.models import official

torch.set_num_threads(1)  # two would wait for each other where other tests run beside these

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("point_e") is None, reason="needs the package point-e, which is on no index"
)
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
}


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
    return Place(weights_root=str(root))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("base", SamplerConfig(steps=8, s_churn=3.0)),
        ("base", SamplerConfig(steps=8)),
        ("base", SamplerConfig(steps=8, guidance=1.0)),
        ("upsampler", SamplerConfig(steps=4, sigma_max=160.0)),
        ("upsampler", SamplerConfig(steps=4, sigma_max=160.0, guidance=1.0)),
    ],
)
def test_the_package_and_we_make_the_same_clouds(place, name, config):
    before = torch.get_rng_state()
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 6, NETWORKS[name]["n_ctx"], generator=draw)
    grid = torch.randn(4, mini.CLIP["grid_feature_dim"], mini.CLIP["grid_size"] ** 2, generator=draw)
    low_res = torch.rand(4, 6, 64, generator=draw) * 100 if name == "upsampler" else None
    schedule = "upsample" if name == "upsampler" else "base"

    def clouds(sample, network):
        generators = [torch.Generator().manual_seed(b) for b in range(2)]
        return sample(network, schedule, noise, grid, config, low_res=low_res, generators=generators)

    ours = clouds(pointe.sample, pointe.load_point_denoiser(name, place))
    theirs = clouds(official.sample, official.load_network(name, place))
    torch.testing.assert_close(ours[:, :3], theirs[:, :3], rtol=0, atol=1e-3)
    torch.testing.assert_close(ours[:, 3:], theirs[:, 3:], rtol=0, atol=0.25)  # of 255
    assert torch.equal(torch.get_rng_state(), before)
