"""Point-E against the official networks and sampler (tests/golden/point_e), and its loader."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from anything3d.errors import WeightsError
from anything3d.mini import pointe as mini
from anything3d.models import pointe
from anything3d.models.pointe.config import OFFICIAL, OFFICIAL_CLIP, parse_network
from anything3d.models.pointe.diffusion import karras_sigmas
from anything3d.models.pointe.schedule import alphas_cumprod, discrete_time
from anything3d.models.pointe.surface import FLAT, SURFACE_CELLS, THICKNESS, CoarseShape, Discs, KnownSurface
from anything3d.models.weights import Place
from anything3d.settings.lift import SamplerConfig

GOLDEN = Path(__file__).parents[2] / "golden" / "point_e"
META = json.loads((GOLDEN / "meta.json").read_text())
NETWORK_TOLERANCE = 1e-4  # of the largest value; float32 through two layers
SAMPLER_TOLERANCE = 1e-3  # 23 calls of the network, each of which amplifies rounding


@pytest.fixture(scope="module")
def io():
    return load_file(GOLDEN / "io.safetensors")


def official(name):
    network = pointe.build(META["configs"][name], META["clip"])
    network.load_state_dict(load_file(GOLDEN / f"{name}.safetensors"))
    return network


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def levels(schedule):
    return torch.tensor(alphas_cumprod(schedule), dtype=torch.float64)


@torch.inference_mode()
def test_networks_equal_the_official_ones(io):
    grid = {"embeddings": io["clip_grid"]}
    outputs = {
        "base": official("base")(io["x"], io["t"], **grid),
        "upsample": official("upsample")(io["x_up"], io["t"], low_res=io["low_res"], **grid),
    }
    errors = {name: relative_error(output, io[f"out_{name}"]) for name, output in outputs.items()}
    assert max(errors.values()) < NETWORK_TOLERANCE, errors


def test_noise_schedules_equal_the_official_ones(io):
    torch.testing.assert_close(levels("base"), io["alphas_cumprod_base"], rtol=1e-9, atol=0)
    torch.testing.assert_close(levels("upsample"), io["alphas_cumprod_upsample"], rtol=1e-9, atol=0)
    sigmas = torch.tensor(karras_sigmas(64, 1e-3, 120.0, 7.0), dtype=torch.float64)
    torch.testing.assert_close(sigmas, io["karras_sigmas_64_base"], rtol=1e-5, atol=1e-12)


def test_base_samples_equal_the_official_ones(io):
    options = META["sampler"]
    config = SamplerConfig(
        options["steps"], options["sigma_min"], options["sigma_max_base"], guidance=options["guidance_base"]
    )
    cloud = pointe.sample(official("base"), "base", io["noise_base"], io["clip_grid"], config)
    assert relative_error(cloud[:, :3], io["sample_base"][:, :3]) < SAMPLER_TOLERANCE
    assert relative_error(cloud[:, 3:], io["sample_base"][:, 3:]) < SAMPLER_TOLERANCE


def test_upsampled_clouds_equal_the_official_ones(io):
    options = META["sampler"]
    config = SamplerConfig(
        options["steps"], options["sigma_min"], options["sigma_max_upsample"], guidance=options["guidance_upsample"]
    )
    network, low_res = official("upsample"), io["low_res"]
    cloud = pointe.sample(network, "upsample", io["noise_up"], io["clip_grid"], config, low_res=low_res)
    assert relative_error(cloud[:, :3], io["sample_upsample"][:, :3]) < SAMPLER_TOLERANCE
    assert relative_error(cloud[:, 3:], io["sample_upsample"][:, 3:]) < SAMPLER_TOLERANCE


def test_a_noise_level_becomes_the_discrete_time_below_it():
    alphas_bar = [0.9, 0.5, 0.2]

    def time(alpha_bar):
        return discrete_time((1 / alpha_bar - 1) ** 0.5, alphas_bar)

    assert [time(0.95), time(0.7), time(0.51), time(0.3), time(0.05)] == [0, 0, 0, 1, 2]


OFFICIAL_SIZES = {  # tensors, parameters in millions
    "base_40m.pt": (160, 40.467),
    "base_300m.pt": (304, 311.778),
    "base_1b.pt": (304, 1244.312),
    "upsample_40m.pt": (164, 40.471),
}


@pytest.mark.parametrize("file", OFFICIAL)
def test_official_configurations_have_the_official_sizes(file):
    with torch.device("meta"):
        network = pointe.build(OFFICIAL[file], OFFICIAL_CLIP)
    millions = round(sum(p.numel() for p in network.parameters()) / 1e6, 3)
    assert (len(network.state_dict()), millions) == OFFICIAL_SIZES[file]


def small(**changes):
    """A base network of the toy design, small."""
    return {**mini.BASE, "width": 32, "layers": 2, "n_ctx": 20, **changes}


def build_small(seed=0, **changes):
    torch.manual_seed(seed)
    network = pointe.build(small(**changes), mini.CLIP)
    torch.nn.init.normal_(network.output_proj.weight, std=0.3)
    return network


def inputs(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, 20, generator=generator), torch.randn(rows, 128, 64, generator=generator)


def test_the_last_step_of_x0_prediction_is_the_networks_output():
    network = build_small()
    noise, grid = inputs(2)
    found = pointe.sample(network, "base", noise, grid, SamplerConfig(steps=1, sigma_max=2.0, guidance=1.0))
    t = discrete_time(2.0, alphas_cumprod("base"))
    expected = network(noise * 2 / 5**0.5, torch.full((2,), t), embeddings=grid).clamp(-1, 1)
    torch.testing.assert_close(found[:, :3], expected[:, :3] / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, 3:], (expected[:, 3:] + 1) * 127.5, atol=1e-3, rtol=1e-4)


class OfGaussianData(pointe.PointDenoiser):
    """What a perfect network says where every channel is normal with MEAN and SPREAD: known in closed form."""

    MEAN, SPREAD = 0.2, 0.15  # model units

    def __init__(self, prediction):
        nn.Module.__init__(self)
        self.config = parse_network(small(prediction=prediction, shape_cells=0, known_reach=0.0))
        self.input_proj = nn.Linear(6, 1)
        self.sigmas = (1 / levels("base") - 1).sqrt()

    def forward(self, x, t, *, embeddings, low_res=None):
        sigma = float(self.sigmas[t[0]])
        noisy = x * (1 + sigma**2) ** 0.5
        clean = self.MEAN + self.SPREAD**2 / (self.SPREAD**2 + sigma**2) * (noisy - self.MEAN)
        return clean if self.config.prediction == "x0" else (noisy - clean) / sigma


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize(("steps", "error"), [(16, 0.35), (64, 0.05), (256, 0.025)])
def test_sampling_gaussian_data_follows_the_analytic_solution(prediction, steps, error):
    """x - mean shrinks with the total spread, sqrt(spread^2 + sigma^2), along the probability flow (Song et al. 2021).

    What is left at 256 steps (`error` is in units of the spread) is that noise levels become one of 1,024 times.
    """
    network, sigma_max = OfGaussianData(prediction), 20.0
    noise = torch.randn(2, 6, 50, generator=torch.Generator().manual_seed(0))
    config = SamplerConfig(steps=steps, sigma_max=sigma_max, guidance=1.0)
    found = pointe.sample(network, "base", noise, torch.zeros(2, 128, 64), config)[:, :3] * 2
    mean, spread = network.MEAN, network.SPREAD
    expected = mean + (noise[:, :3] * sigma_max - mean) * spread / (spread**2 + sigma_max**2) ** 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=error * spread)


def test_clouds_do_not_depend_on_their_batch_even_with_churn():
    network = build_small().double()  # untrained, it blows rounding up
    noise, grid = inputs(3)

    def draw(rows):
        generators = [torch.Generator().manual_seed(b) for b in range(3)][rows]
        config = SamplerConfig(steps=4, s_churn=3.0)
        return pointe.sample(network, "base", noise[rows], grid[rows], config, generators=generators)

    together = draw(slice(None))
    for b in range(3):
        torch.testing.assert_close(draw(slice(b, b + 1))[0], together[b], rtol=1e-3, atol=0.1)  # of 255


def test_churn_changes_the_cloud_and_the_seed_decides_how():
    network = build_small()
    noise, grid = inputs(1)
    config = SamplerConfig(steps=4, s_churn=3.0)
    first, again, other = (
        pointe.sample(network, "base", noise, grid, config, generators=[torch.Generator().manual_seed(seed)])
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_points_are_a_set_to_the_networks():
    network = build_small(shape_cells=0, known_reach=0.0)
    noise, grid = inputs(1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500])
    straight = network(noise, t, embeddings=grid)
    torch.testing.assert_close(network(noise[:, :, order], t, embeddings=grid), straight[:, :, order])


def test_pooled_image_features_reach_every_point():
    network = build_small()
    torch.nn.init.zeros_(network.clip_embed[1].weight)  # blind tokens: the pooled vector is the only way
    noise, grid = inputs(1)
    t = torch.tensor([500])
    moved = (network(noise, t, embeddings=grid) - network(noise, t, embeddings=-grid)).abs().amax(1)
    assert moved.min() > 1e-4


def test_the_surface_of_a_plane_is_that_plane():
    shape = CoarseShape(4, 10)
    _, y, x = torch.meshgrid(*[(torch.arange(10) + 0.5) / 10 - 0.5] * 3, indexing="ij")
    discs = shape.surface((0.6 * x + 0.8 * y - 0.1)[None])
    torch.testing.assert_close(discs.centre[..., :2] @ torch.tensor([0.6, 0.8]), torch.full((1, SURFACE_CELLS), 0.2))
    torch.testing.assert_close(discs.normal, torch.tensor([0.6, 0.8, 0.0]).expand(1, SURFACE_CELLS, 3))
    nearest = discs.log_weight > -0.5 * (0.05 / THICKNESS) ** 2  # half a cell away
    assert 80 <= nearest.sum() <= 160  # of 10 x 10 cells a layer, the plane leaning


def test_a_sphere_has_discs_all_around():
    shape = CoarseShape(4, 12)
    axis = (torch.arange(12) + 0.5) / 12 - 0.5
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0).sqrt()
    discs = shape.surface((radius - 0.4)[None])
    near = discs.centre[0, discs.log_weight[0] > -2]
    torch.testing.assert_close(near[:, :3].norm(dim=1), torch.full((len(near),), 0.8), atol=0.02, rtol=0)
    assert near[:, :3].mean(0).abs().max() < 1e-3
    assert (near[:, 3:] == 0).all()


def test_discs_around_the_points_of_a_ball_face_outwards():
    points = torch.randn(1, 400, 6, generator=torch.Generator().manual_seed(0))
    points[..., :3] /= points[..., :3].norm(dim=-1, keepdim=True)
    discs = Discs.around(points)
    assert (discs.normal * points[..., :3]).sum(-1).abs().min() > 0.8
    assert (discs.normal * points[..., :3]).sum(-1).abs().mean() > 0.98


def test_an_upsampler_that_begins_around_the_coarse_points_stays_there():
    upsampler = mini.build(0).upsampler
    coarse = torch.tensor([[0.3, 0.0, 0.1, 200.0, 20.0, 20.0], [-0.3, 0.1, 0.0, 20.0, 20.0, 200.0]]).mT[None]
    coarse = coarse.repeat(1, 1, upsampler.config.cond_ctx // 2)
    noise = torch.randn(1, 6, 1024, generator=torch.Generator().manual_seed(0))
    grid = torch.randn(1, mini.CLIP["grid_feature_dim"], 64, generator=torch.Generator().manual_seed(1))
    config = SamplerConfig(steps=4, sigma_max=0.05, guidance=1.0, around_low_res=True)
    found = pointe.sample(upsampler, "upsample", noise, grid, config, low_res=coarse)
    own = coarse.repeat(1, 1, 2)[:, :3]
    assert (found[:, :3] - own).abs().max() < 0.1
    assert torch.cdist(own[..., :2].mT, own[..., :2].mT).max() > 0.6  # the two places are far apart


def disc(normal=(0.0, 0.0, 1.0), centre=(0.5, 0.0, 0.0), color=(0.0, 0.0, 0.0)):
    return Discs(torch.tensor([[[*centre, *color]]]), torch.tensor([[normal]]), torch.zeros(1, 1))


@pytest.mark.parametrize("sigma", [0.01, 0.2, 5.0])
def test_noise_along_a_disc_is_kept_more_than_noise_across(sigma):
    seen, level = torch.tensor([[[0.6, 0.0, 0.3]]]), torch.full((1, 1, 1), sigma)
    place, _ = KnownSurface(8, "base", 0.04).expect(disc(), seen, level)
    along, across = 0.04**2 / (0.04**2 + sigma**2), FLAT**2 / (FLAT**2 + sigma**2)  # Wiener's gain in each direction
    torch.testing.assert_close(place[0, 0], torch.tensor([0.5 + 0.1 * along, 0.0, 0.3 * across]))


def test_of_two_discs_the_nearer_and_the_heavier_one_counts_more():
    one, other = disc(centre=(0.1, 0.0, 0.0), color=(1.0, 0.0, 0.0)), disc(centre=(-0.2, 0.0, 0.0))
    both = Discs(*(torch.cat(parts, 1) for parts in zip(
        *((d.centre, d.normal, d.log_weight) for d in (one, other)), strict=True)))  # fmt: skip
    both.log_weight[0, 1] = math.log(3)
    sigma, reach = 0.1, 0.04
    _, color = KnownSurface(8, "base", reach).expect(both, torch.zeros(1, 1, 3), torch.full((1, 1, 1), sigma))
    near, far = (math.exp(-(d**2) / (2 * (sigma**2 + reach**2))) for d in (0.1, 0.2))
    assert color[0, 0, 0].item() == pytest.approx(near / (near + 3 * far), rel=1e-5)


def test_without_noise_points_stay_in_their_disc_and_with_much_they_come_from_its_middle():
    part, beside = KnownSurface(8, "upsample", 0.04), torch.tensor([0.55, 0.0, 0.0, 0.0, 0.0, 0.0]).view(1, 6, 1)
    for t, where in ((0, 0.55), (1023, 0.5)):
        alpha_bar = alphas_cumprod("upsample")[t]
        guess, _ = part(disc(), beside * math.sqrt(alpha_bar), torch.tensor([t]))
        assert guess[0, 0, 0].item() == pytest.approx(where, abs=0.005)


def test_the_coarse_shape_reaches_every_point_and_changes_no_order():
    network = build_small()
    noise, grid = inputs(1)
    t, order = torch.tensor([500]), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    straight = network(noise, t, embeddings=grid)
    torch.testing.assert_close(network(noise[:, :, order], t, embeddings=grid), straight[:, :, order])
    with torch.no_grad():
        network.shape.grid.bias += 0.05
    assert (network(noise, t, embeddings=grid) - straight).abs().amax(1).min() > 1e-4


def write(folder, config, network):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"config": config, "clip": mini.CLIP}))
    save_file(network.state_dict(), folder / "model.safetensors")
    return str(folder)


def test_saved_mini_networks_load_as_they_were(tmp_path):
    networks = mini.build(3)
    mini.save(networks, tmp_path)
    for name, network in (("pointe", networks.base), ("pointe-upsampler", networks.upsampler)):
        loaded = pointe.load_point_denoiser(str(tmp_path / name), Place(weights_root=str(tmp_path)))
        for key, value in loaded.state_dict().items():
            torch.testing.assert_close(value, network.state_dict()[key].half().float())


def test_mini_networks_come_from_their_seed_alone():
    before = torch.get_rng_state()
    one, other = mini.build(5), mini.build(5)
    assert torch.equal(one.base.input_proj.weight, other.base.input_proj.weight)
    assert not torch.equal(one.base.input_proj.weight, mini.build(6).base.input_proj.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_official_checkpoint_loads_by_its_file_name(tmp_path, monkeypatch):
    tiny = {**OFFICIAL["base_40m.pt"], "width": 64, "layers": 2, "heads": 4}
    monkeypatch.setattr("anything3d.models.pointe.loading.OFFICIAL", {"base_40m.pt": tiny})
    monkeypatch.setattr("anything3d.models.pointe.loading.OFFICIAL_CLIP", META["clip"])
    tensors = load_file(GOLDEN / "base.safetensors")
    torch.save(tensors, tmp_path / "base_40m.pt")
    network = pointe.load_point_denoiser(str(tmp_path), Place())
    assert torch.equal(network.output_proj.weight, tensors["output_proj.weight"])


def test_wrong_weights_say_what_is_wrong(tmp_path):
    network = build_small()
    wider = write(tmp_path / "wider", small(width=64), network)
    unknown = write(tmp_path / "unknown", small(name="PointNet"), network)
    untyped = write(tmp_path / "untyped", small(width="32"), network)
    predicting = write(tmp_path / "predicting", small(prediction="v"), network)
    shapeless = write(tmp_path / "shapeless", small(prediction="eps"), network)
    unknowing = write(tmp_path / "unknowing", small(known_reach=0.1, shape_cells=0), network)
    damaged = write(tmp_path / "damaged", small(), network)
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "other.pt").write_bytes(b"")
    for folder, reason, message in (
        (wider, "weights_mismatch", r"(?s)wider/model\.safetensors: .*time_embed"),
        (unknown, "weights_config", "PointNet"),
        (untyped, "weights_config", "width"),
        (predicting, "weights_config", "eps, x0"),
        (shapeless, "weights_config", "known_reach is for"),
        (unknowing, "weights_config", "something known"),
        (damaged, "weights_broken", "damaged"),
        (str(tmp_path / "empty"), "weights_missing", "base_1b.pt"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            pointe.load_point_denoiser(folder, Place())
        assert caught.value.reason == reason
