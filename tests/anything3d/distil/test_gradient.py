"""Score distillation: its gradient by hand, with a real network whose prediction is known."""

import dataclasses

import pytest
import torch
from torch import nn

from anything3d import seed
from anything3d.distil.gradient import Prompt, sample_timesteps, sds_gradient, weight
from anything3d.errors import ConfigError
from anything3d.mini import diffusion as mini
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.weights import Place
from anything3d.settings.reconstruct import SdsConfig, SjcConfig

CONSTANT = 0.25  # exact in float16
T = torch.tensor([20, 400, 980])
BETA = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHA_BAR = torch.cumprod(1 - BETA, 0)[T]  # of the mini schedule


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("diffusion")
    mini.save(mini.build(0), path)
    return load_denoiser(str(path), Place())


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    """A network that predicts the same noise everywhere, so that guidance has no effect."""
    path = tmp_path_factory.mktemp("constant")
    networks = mini.build(0)
    with torch.no_grad():
        networks.unet.conv_out.weight.zero_()
        networks.unet.conv_out.bias.fill_(CONSTANT)
    mini.save(networks, path)
    return load_denoiser(str(path), Place())


class Believer(nn.Module):
    """A network that is sure of the clean latents: the text's first token says their four channels."""

    def __init__(self, alphas_cumprod: torch.Tensor) -> None:
        super().__init__()
        self.alphas_cumprod = alphas_cumprod

    def forward(self, noisy, t, encoder_hidden_states, **_):
        alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        clean = encoder_hidden_states[:, 0, :4, None, None]
        return ((noisy - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt(),)


@pytest.fixture(scope="module")
def believer(denoiser: Denoiser) -> Denoiser:
    """In float64 but for the prediction, which leaves `predict_noise` as float32."""
    alphas_cumprod = torch.cumprod(1 - BETA, 0)
    return dataclasses.replace(
        denoiser, unet=Believer(alphas_cumprod), alphas_cumprod=alphas_cumprod, dtype=torch.float64
    )


def normal(seed_number: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed_number))


def texts(denoiser: Denoiser, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        captions = ["a red mug", "a blue cone", "a white torus"][:rows]
        return denoiser.encode_text(captions), denoiser.encode_text([""] * rows)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("sds", 1 - ALPHA_BAR),
        ("uniform", torch.ones(3, dtype=torch.float64)),
        ("fantasia3d", ALPHA_BAR.sqrt() * (1 - ALPHA_BAR)),
    ],
)
def test_gradient_is_the_weighted_difference_of_predicted_and_added_noise(constant, weighting, expected):
    latents, noise = normal(0, 3, 4, 16, 16), normal(1, 3, 4, 16, 16)
    gradient, _ = sds_gradient(latents, constant, Prompt(*texts(constant), 7.5), T, noise, weighting)
    by_hand = expected.view(3, 1, 1, 1) * (CONSTANT - noise.double())
    torch.testing.assert_close(gradient.double(), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0, 7.5])
def test_gradient_is_the_closed_form_where_the_network_is_sure_of_the_clean_latents(believer, cfg_scale):
    """The noise cancels: w sqrt(alpha_bar / (1 - alpha_bar)) (z - z_guided), with z_guided = z_u + s (z_c - z_u)."""
    latents, noise = normal(0, 3, 4, 16, 16).double(), normal(1, 3, 4, 16, 16).double()
    text, no_text = normal(2, 3, 16, 64).double(), normal(3, 3, 16, 64).double()
    gradient, _ = sds_gradient(latents, believer, Prompt(text, no_text, cfg_scale), T, noise, "sds")
    guided = no_text[:, 0, :4] + cfg_scale * (text[:, 0, :4] - no_text[:, 0, :4])
    slope = ((1 - ALPHA_BAR) * ALPHA_BAR).sqrt().view(3, 1, 1, 1)  # w = 1 - alpha_bar
    assert gradient.dtype == torch.float64
    torch.testing.assert_close(gradient, slope * (latents - guided[:, :, None, None]), rtol=0, atol=1e-5)


def test_gradient_follows_guidance_and_hint(denoiser):
    latents, noise, hint = normal(0, 3, 4, 16, 16), normal(1, 3, 4, 16, 16), normal(2, 3, 3, 64, 64).sigmoid()
    text, no_text = texts(denoiser)
    gradient, _ = sds_gradient(latents, denoiser, Prompt(text, no_text, 5.0, hint, 0.5), T, noise, "sds")
    with torch.no_grad():
        noisy = denoiser.add_noise(latents, noise, T)
        with_text = denoiser.predict_noise(noisy, T, text, hint, 0.5)
        without = denoiser.predict_noise(noisy, T, no_text, hint, 0.5)
    by_hand = (1 - ALPHA_BAR).view(3, 1, 1, 1) * (without + 5 * (with_text - without) - noise)
    torch.testing.assert_close(gradient.double(), by_hand, rtol=1e-4, atol=1e-4)


def test_the_denoiser_is_not_differentiated(denoiser):
    latents = normal(0, 3, 4, 16, 16).requires_grad_()
    gradient, _ = sds_gradient(latents, denoiser, Prompt(*texts(denoiser), 2.5), T, normal(1, 3, 4, 16, 16), "sds")
    assert not gradient.requires_grad
    assert latents.grad is None


def test_descending_the_gradient_leads_to_what_the_denoiser_believes(constant):
    """Noise predicted as a constant c: the mean gradient is w c, so latents move by exactly that, on average."""
    latents = torch.zeros(3, 4, 16, 16)
    prompt, total = Prompt(*texts(constant), 2.5), torch.zeros(3)
    for draw in range(40):
        noise = normal(draw, 3, 4, 16, 16)
        total += sds_gradient(latents, constant, prompt, T, noise, "uniform")[0].mean((1, 2, 3))
    standard_error = 1 / (40 * 1024) ** 0.5
    torch.testing.assert_close(total / 40, torch.full((3,), CONSTANT), rtol=0, atol=4 * standard_error)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_gives_no_gradient_and_leaves_the_others_alone(denoiser, broken):
    latents, noise = normal(0, 3, 4, 16, 16), normal(1, 3, 4, 16, 16)
    sound, _ = sds_gradient(latents, denoiser, Prompt(*texts(denoiser), 2.5), T, noise, "sds")
    latents[1, 0, 3, 3] = broken
    guarded, dropped = sds_gradient(latents, denoiser, Prompt(*texts(denoiser), 2.5), T, noise, "sds")
    assert (guarded[1] == 0).all()
    torch.testing.assert_close(guarded[[0, 2]], sound[[0, 2]])
    assert dropped.tolist() == [False, True, False]


class OneBadValue(nn.Module):
    """A network whose answer to the second row has a single Inf."""

    def forward(self, noisy, t, encoder_hidden_states, **_):
        answer = torch.zeros_like(noisy)
        answer[1::3, 2, 5, 5] = torch.inf
        return (answer,)


def test_a_prediction_is_dropped_as_a_whole(denoiser):
    latents, noise = normal(0, 3, 4, 16, 16), normal(1, 3, 4, 16, 16)
    network = dataclasses.replace(denoiser, unet=OneBadValue())
    gradient, dropped = sds_gradient(latents, network, Prompt(*texts(denoiser), 2.5), T, noise, "sds")
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2]] != 0).all()
    assert dropped.tolist() == [False, True, False]


@pytest.mark.parametrize(("progress", "highest"), [(0.0, 599), (0.5, 425), (1.0, 250)])
def test_timesteps_fill_a_range_whose_top_falls(progress, highest):
    t = sample_timesteps(SdsConfig().t_limits(progress), 1000, seed.generators(0, "t", ["a", "b"]), views=4000)
    assert t.shape == (8000,)
    assert t.min() == 20
    assert t.max() == highest
    assert len(t.unique()) == highest - 20 + 1
    torch.testing.assert_close(t.float().mean(), torch.tensor((20.0 + highest) / 2), rtol=0.02, atol=0)


def test_timesteps_of_an_object_are_its_own():
    both = sample_timesteps(SdsConfig().t_limits(0.3), 1000, seed.generators(0, "t", ["a", "b"]), views=3)
    alone = sample_timesteps(SdsConfig().t_limits(0.3), 1000, seed.generators(0, "t", ["b"]), views=3)
    assert both[3:].tolist() == alone.tolist()


def test_weights_at_the_ends_of_the_schedule():
    alpha_bar = torch.tensor([1.0, 0.25, 0.0])
    assert weight("sds", alpha_bar).tolist() == [0.0, 0.75, 1.0]
    assert weight("uniform", alpha_bar).tolist() == [1.0, 1.0, 1.0]
    assert weight("fantasia3d", alpha_bar).tolist() == [0.0, 0.375, 0.0]


@pytest.mark.parametrize(
    "setting", [{"t_min": 0.3}, {"t_min": -0.1}, {"t_max": 1.1}, {"cfg_scale": -1.0}, {"background": (1.0, 0.0)}]
)
def test_settings_of_sds_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match="setting"):
        SdsConfig(**setting)


@pytest.mark.parametrize("setting", [{"t_min": 0.98}, {"lr": 0.0}, {"cfg_scale": -1.0}])
def test_settings_of_sjc_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match="setting"):
        SjcConfig(**setting)
