"""Latent fields and the RGB that they are told in."""

import dataclasses

import pytest
import torch
from torch import nn

from anything3d import seed
from anything3d.distil.latents import to_rgb
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.weights import Place
from anything3d.reconstruct import Distiller, Evidence, Reconstructed
from anything3d.settings.reconstruct import (
    POINT_E_DISTANCE,
    POINT_E_FOV_DEG,
    FieldConfig,
    ReconstructConfig,
    RenderConfig,
)
from anything3d.space.camera import orbit
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field, nodes
from anything3d.space.render import composite, render

FIELD = FieldConfig(resolution=16)
RENDER = RenderConfig(samples=24)
CONFIG = ReconstructConfig(backend="sjc", steps=4, min_opacity=0.0, max_fog=1.0, field=FIELD, render=RENDER)
IDS = ["sa_1-0000", "sa_1-0001"]


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.set_num_threads(1)
    return load_denoiser("diffusion", Place())


def balls(latents: torch.Tensor) -> Field:
    """Balls of radius 0.45 with these latents, "B 4 R R R"."""
    inside = nodes(FIELD.resolution, FIELD.half).norm(dim=-1) < 0.45
    density = torch.where(inside, 6.0, -6.0).expand(len(latents), 1, -1, -1, -1)
    return Field(density.clone(), latents, FIELD, latent=True)


def test_colours_are_exact_if_the_decoder_is_affine(denoiser):
    generator = torch.Generator().manual_seed(0)
    matrix, offset = torch.randn(3, 4, generator=generator) * 0.1, torch.tensor([0.1, -0.2, 0.3])

    def decode(latents: torch.Tensor) -> torch.Tensor:
        rgb = torch.einsum("dc,bchw->bdhw", matrix, latents) + offset[:, None, None]
        return nn.functional.interpolate(rgb, scale_factor=4.0, mode="nearest")

    latents = torch.randn(2, 4, 16, 16, 16, generator=generator) * 0.5
    latents[1] += 0.5
    found = to_rgb(balls(latents), dataclasses.replace(denoiser, decode=decode), 1.0, RENDER)
    expected = torch.einsum("dc,bczyx->bdzyx", matrix, latents) + offset[:, None, None, None]
    torch.testing.assert_close(found.color_grid.sigmoid(), expected / 2 + 0.5, rtol=0, atol=2e-3)
    assert not found.latent
    assert torch.equal(found.density_grid, balls(latents).density_grid)


def test_views_resemble_the_decoded_ones(denoiser):
    """Halves of balls hold the latents of two pictures each, through the mini VAE, which is no affine map."""
    colors = torch.tensor([[0.85, 0.15, 0.1], [0.15, 0.3, 0.85], [0.9, 0.8, 0.2], [0.2, 0.7, 0.3]])
    with torch.no_grad():
        pictures = denoiser.encode_image(colors[:, :, None, None].expand(-1, -1, 64, 64))
    west, east = pictures.mean((2, 3))[:, :, None, None, None].unflatten(0, (2, 2)).unbind(1)
    field = balls(torch.where(nodes(16, FIELD.half)[..., 0] < 0, west, east).contiguous())
    found = to_rgb(field, denoiser, 1.0, RENDER)
    front = orbit(*(torch.full((2,), value) for value in (0.0, 0.0, POINT_E_DISTANCE, POINT_E_FOV_DEG)))
    with torch.no_grad():
        decoded = denoiser.decode_latents(composite(render(field, front, 16, RENDER), 1.0))
        seen = render(found, front, 64, RENDER)
    error = ((composite(seen, 1.0) - decoded).abs().mean(1) * seen.alpha).sum((1, 2)) / seen.alpha.sum((1, 2))
    assert (error < 0.1).all()
    west, east = seen.color[:, :, 28:36, 24], seen.color[:, :, 28:36, 40]
    assert ((west - east).mean(2)[:, [0, 1]] > 0.2).any(1).all()  # what was red or yellow is not blue or green


def evidence_of(denoiser: Denoiser) -> Evidence:
    value = torch.ones(2)
    camera = orbit(0 * value, 20 * value, POINT_E_DISTANCE * value, POINT_E_FOV_DEG * value)
    points = torch.randn(2, 256, 3, generator=torch.Generator().manual_seed(0))
    points = points / points.norm(dim=-1, keepdim=True) * 0.5
    crops = torch.zeros(2, 4, 64, 64)
    crops[:, [0, 3], 16:48, 16:48] = 1.0
    return Evidence(crops, denoiser.embed_prompts(["a red sphere"] * 2), Cloud(points, 0 * points + 0.5), camera)


def test_a_latent_field_is_distilled_without_the_vae_and_leaves_in_rgb(denoiser):
    def no_encoder(pixels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("latents are rendered, not encoded")

    reconstructor = Distiller(CONFIG, dataclasses.replace(denoiser, encode=no_encoder), None)
    evidence = evidence_of(denoiser)
    states = list(reconstructor.run(evidence, seed.generators(0, "reconstruct", IDS), checkpoint_every=2))
    assert states[-1].color_grid.shape == (2, 4, 16, 16, 16)
    (resumed,) = reconstructor.run(
        evidence, seed.generators(1, "reconstruct", IDS), states[0].to_bytes(), checkpoint_every=2
    )
    assert torch.equal(resumed.color_grid, states[-1].color_grid)
    for found in reconstructor.finish(evidence, states[-1]):
        assert isinstance(found, Reconstructed)
        assert found.field.color_grid.shape == (1, 3, 16, 16, 16)
        assert found.losses["reference_rgb"] == 0
        assert found.losses["sds"] > 0
        assert not Field.from_bytes(found.field.to_bytes(0)).latent
