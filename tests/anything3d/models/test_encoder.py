"""Encoders that stand in for the VAE's: what they give, what flows back through them, and which ones are refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from anything3d.errors import WeightsError
from anything3d.mini import taesd
from anything3d.models import encoder
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.weights import Place
from anything3d.settings.reconstruct import SdsConfig

SHIFT = 0.25


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.set_num_threads(1)
    return load_denoiser("diffusion", Place())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    taesd.save(taesd.build(1), tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def its_denoiser(denoiser: Denoiser, folder: Path) -> Denoiser:
    """A denoiser that was trained on the latents of `folder`, as far as its encoder goes."""
    from diffusers import AutoencoderTiny

    network = AutoencoderTiny.from_pretrained(folder, torch_dtype=torch.float32).requires_grad_(False)
    return dataclasses.replace(denoiser, encode=lambda pixels: network.encode(pixels).latents)


def rewrite(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def pixels(rows: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def affine(pictures: torch.Tensor) -> torch.Tensor:
    """Latents that are an affine map of mean colours: four sums, one of them of the colours to the right."""
    red, green, blue = F.avg_pool2d(pictures, 4).unbind(1)
    right = torch.cat([red[..., 1:], red[..., -1:]], -1)
    return torch.stack([red + green, 2 * blue, right - blue, green + SHIFT], 1)


def test_the_linear_map_of_an_encoder_that_is_one_is_that_encoder(denoiser):
    fitted = encoder.fit_linear(dataclasses.replace(denoiser, encode=affine))
    torch.testing.assert_close(fitted(pixels()), affine(pixels()), rtol=0, atol=1e-5)


def test_the_linear_map_explains_most_of_what_the_vae_says_of_pictures_that_it_was_not_fitted_on(denoiser):
    others = encoder.pictures(16, 64, torch.Generator().manual_seed(5)) * 2 - 1
    with torch.no_grad():
        assert encoder.explained(encoder.fit_linear(denoiser)(others), denoiser.encode(others)) > 0.8


def test_the_linear_map_of_a_vae_is_always_the_same(denoiser):
    first, second = encoder.fit_linear(denoiser), encoder.fit_linear(denoiser)
    assert torch.equal(first(pixels()), second(pixels()))


def test_explained_is_one_for_equal_latents_zero_for_their_mean_and_less_for_what_is_worse():
    latents = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    assert encoder.explained(latents, latents) == 1
    assert encoder.explained(torch.full_like(latents, 2), latents) == 0
    assert encoder.explained(4 - latents, latents) == -3


@pytest.mark.parametrize("size", [64, 32])
@pytest.mark.parametrize("name", ["vae", "taesd", "linear"])
def test_every_encoder_gives_latents_of_any_size_and_lets_the_gradient_of_every_pixel_through(
    its_denoiser, folder, name, size
):
    config = SdsConfig(encoder=name, encoder_weights=str(folder))
    picture = pixels(size=size).requires_grad_()
    latents = encoder.load_encoder(config, its_denoiser, Place())(picture)
    assert latents.shape == (2, 4, size // 4, size // 4)
    latents.square().sum().backward()
    assert (picture.grad.abs().sum(1) > 0).float().mean() > 0.99  # a ReLU may stop it somewhere


def test_a_taesd_is_the_encoder_of_its_folder_times_its_scaling_factor(its_denoiser, folder):
    rewrite(folder, scaling_factor=0.9)
    encode = encoder.load_taesd(str(folder), its_denoiser, Place())
    torch.testing.assert_close(encode(pixels()), 0.9 * its_denoiser.encode(pixels()))


def test_the_packaged_vae_is_no_taesd(denoiser, tmp_path):
    from anything3d.models.weights import PACKAGED

    with pytest.raises(WeightsError, match=r"weights_unsupported.*'AutoencoderKL'; supported: AutoencoderTiny"):
        encoder.load_taesd(str(PACKAGED / "diffusion" / "vae"), denoiser, Place())


def test_a_taesd_of_other_latents_is_refused(denoiser, folder):
    with pytest.raises(WeightsError, match=r"explains -?\d.*at least 0.5.*taesd-sd for Stable Diffusion"):
        encoder.load_taesd(str(folder), denoiser, Place())


def test_a_taesd_of_another_number_of_latents_is_refused(denoiser, tmp_path):
    from diffusers import AutoencoderTiny

    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    AutoencoderTiny(**widths, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"4 x 32 x 32 where the denoiser has 4 x 16 x 16; reconstruct.sds.encoder_"):
        encoder.load_taesd(str(tmp_path), denoiser, Place())


def test_a_taesd_whose_latents_are_shifted_is_refused(its_denoiser, folder):
    rewrite(folder, shift_factor=0.1)
    with pytest.raises(WeightsError, match=r"shift_factor is 0.1; supported: latents that are scaled only"):
        encoder.load_taesd(str(folder), its_denoiser, Place())


def test_a_taesd_whose_numbers_are_not_finite_is_refused(its_denoiser, folder):
    from safetensors.torch import load_file, save_file

    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({name: value * float("nan") for name, value in tensors.items()}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="explains nan"):
        encoder.load_taesd(str(folder), its_denoiser, Place())


def test_a_missing_taesd_is_refused_and_the_official_one_has_a_source(denoiser):
    with pytest.raises(WeightsError, match=r"weights_missing.*no weights 'none'.*; looked in none;"):
        encoder.load_taesd("none", denoiser, Place())
    with pytest.raises(WeightsError, match="anything3d weights where taesd-sd"):
        encoder.load_taesd("taesd-sd", denoiser, Place())


def test_half_the_image_has_half_the_latents_and_its_hint_is_made_smaller(denoiser):
    half = denoiser.halved()
    assert (half.image_size, denoiser.image_size) == (32, 64)
    rgb = (pixels() + 1) / 2
    latents, text = half.encode_image(rgb), half.encode_text(["a red mug"] * 2)
    assert latents.shape == (2, 4, 8, 8)
    shrunk = F.interpolate(rgb, (32, 32), mode="bilinear")
    seen = half.predict_noise(latents, torch.tensor([5, 500]), text, rgb)
    assert torch.equal(seen, half.predict_noise(latents, torch.tensor([5, 500]), text, shrunk))
    assert seen.shape == latents.shape
    with pytest.raises(WeightsError, match="15 latents along one side"):
        dataclasses.replace(denoiser, image_size=60).halved()
