"""Distillation through a denoiser of 16 bits, on random weights: every prediction is finite."""

import dataclasses

import pytest
import torch

from anything3d import seed
from anything3d.mini import diffusion as mini_diffusion
from anything3d.models.diffusion import load_denoiser
from anything3d.models.weights import Place
from anything3d.reconstruct import Distiller, Evidence, Reconstructed
from anything3d.settings.reconstruct import FieldConfig, ReconstructConfig, RenderConfig, SdsConfig
from anything3d.space.camera import orbit
from anything3d.space.cloud import Cloud

CONFIG = ReconstructConfig(
    field=FieldConfig(resolution=16),
    render=RenderConfig(samples=8),
    sds=SdsConfig(  # as rough as it gets
        render_size=16, cfg_scale=100.0, t_min=0.01, t_max=0.98, t_max_end=0.98, weighting="uniform"
    ),
    min_opacity=0.0,
    max_fog=1.0,
)


def ball(denoiser) -> Evidence:
    points = torch.nn.functional.normalize(torch.randn(1, 256, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    crop = torch.zeros(1, 4, 64, 64)
    crop[:, (0, 3), 16:48, 16:48] = 1
    one = torch.ones(1)
    camera = orbit(30 * one, 20 * one, 2 * one, 39.6 * one)
    return Evidence(
        crop, denoiser.embed_prompts(["a red cube"]), Cloud(points * 0.5, torch.full_like(points, 0.5)), camera
    )


on_gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize(
    ("device", "dtype", "steps"),
    [
        ("cpu", "bfloat16", 100),
        ("cpu", "float16", 30),  # six times as slow a step: CPUs have no such numbers
        pytest.param("cuda", "bfloat16", 1000, marks=on_gpu),
        pytest.param("cuda", "float16", 1000, marks=on_gpu),
    ],
)
def test_all_steps_of_16_bits_stay_finite(tmp_path, device, dtype, steps):
    mini_diffusion.save(mini_diffusion.build(0), tmp_path)
    denoiser = load_denoiser(str(tmp_path), Place(device, dtype))
    finite: list[torch.Tensor] = []
    # The gradient's own guard would hide a NaN from the field: look at what the network says
    denoiser.unet.register_forward_hook(lambda _, __, out: finite.append(out[0].isfinite().all()))
    evidence = ball(denoiser)
    reconstructor = Distiller(dataclasses.replace(CONFIG, steps=steps), denoiser, None)
    *_, last = reconstructor.run(evidence, seed.generators(0, "reconstruct", ["object"]))
    assert denoiser.dtype == getattr(torch, dtype)
    assert len(finite) == steps
    assert torch.stack(finite).all()
    (made,) = reconstructor.finish(evidence, last)
    assert isinstance(made, Reconstructed)
    assert all(abs(value) < float("inf") for value in made.losses.values())
