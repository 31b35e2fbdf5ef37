"""A step of distillation, and one of inversion, at the sizes of a preset, on devices that have no numbers.

`FakeTensorMode` plays a CUDA device. It refuses operations on mixed devices, shapes that depend on numbers, and numbers
that the host reads. `HostMemory` refuses what it lets through. Autograd's engine needs a real device to run on: on fake
CUDA, the forward part and the optimiser are covered, with gradients made by hand. The device `meta` refuses host reads,
too, and has an engine: there the whole step runs, backward included.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anything3d import seed
from anything3d.distil.guide import Guide
from anything3d.distil.losses import LossTerms
from anything3d.distil.sds import Sds
from anything3d.distil.sjc import Sjc
from anything3d.distil.step import Step
from anything3d.invert import Inverter
from anything3d.models.concept import Concept
from anything3d.models.diffusion import Denoiser
from anything3d.space.camera import orbit
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from jobs.command import read_preset
from pipeline.config import Config, load
from tests import full_size

B, TOKENS, DIM, POINTS = 8, 77, 768, 4096
IDS = [f"sa_1-{b:04}" for b in range(B)]
CONFIGS = {preset: load([read_preset(preset)]) for preset in ("default", "paper")}


class HostMemory(TorchDispatchMode):
    """Refuses tensors of the host, but for those that `seed` draws into pinned memory."""

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors) and not _called_from(seed.__file__):
            raise AssertionError(f"{func} reads or makes a tensor of the host")
        return out


def _called_from(path: str) -> bool:
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code.co_filename == path:
            return True
    return False


@dataclasses.dataclass(frozen=True)
class Machine:
    """A device without numbers, and SD 1.5 on it, in bfloat16."""

    name: str
    mode: Any

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """New tensors lie on the device. What is tested runs in `mode` alone, and has to say where its own lie."""
        with self.mode, torch.device(self.name):
            yield

    def hold(self, network: nn.Module) -> nn.Module:
        """The frozen network, its tensors made anew on this device."""
        for module in network.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    empty = torch.empty(value.shape, dtype=value.dtype)
                    module._parameters[name] = nn.Parameter(empty, requires_grad=False)
            for name, value in module._buffers.items():
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype)
        return network.eval()

    def denoiser(self) -> Denoiser:
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device("meta"):  # it draws no weights
                parts = [full_size.unet(), full_size.controlnet(), full_size.vae(), full_size.text_encoder()]
        finally:
            torch.set_default_dtype(torch.float32)
        unet, controlnet, vae, text_encoder = (self.hold(part) for part in parts)
        return Denoiser(
            unet=unet,
            controlnet=controlnet,
            encode=lambda pixels: vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor,
            decode=lambda latents: vae.decode(latents / vae.config.scaling_factor).sample,
            text_encoder=text_encoder,
            table=text_encoder.get_input_embeddings(),
            tokenize=lambda prompts: torch.zeros(len(prompts), TOKENS, dtype=torch.int64),
            alphas_cumprod=torch.linspace(0.999, 0.005, 1000, device=self.name),
            latent_channels=4,
            latent_scale=8,
            image_size=512,
            start_token=49406,
            end_token=49407,
            predicts_velocity=False,
            device=torch.device(self.name),
            dtype=torch.bfloat16,
        )


@pytest.fixture(scope="module")
def cuda() -> tuple[Machine, Denoiser]:
    machine = Machine("cuda", FakeTensorMode())
    with machine():
        return machine, machine.denoiser()


@pytest.fixture(scope="module")
def meta() -> tuple[Machine, Denoiser]:
    machine = Machine("meta", nullcontext())
    with machine():
        return machine, machine.denoiser()


def method_of(config: Config, denoiser: Denoiser) -> Sds | Sjc:
    step = Step(config.reconstruct, denoiser, config.resources.reconstruct.max_points)
    return Sjc(step) if config.reconstruct.backend == "sjc" else Sds(step, denoiser.encode)


def guide_of(method: Sds | Sjc) -> Guide:
    """As `prepare` makes it."""
    n_views, size, one = B * method.shared.config.views.count, method.size, torch.ones(B)
    text = torch.zeros(n_views, TOKENS, DIM, dtype=torch.bfloat16)
    cloud = Cloud(torch.zeros(n_views, POINTS, 3), torch.zeros(n_views, POINTS, 3))
    target, known = torch.zeros(B, 4, size, size), torch.zeros(B, size, size)
    return Guide(cloud, orbit(one, one, one, one), target, known, text.expand(4, -1, -1, -1), text, None)


def field_of(method: Sds | Sjc) -> Field:
    config, channels = method.shared.config.field, 4 if isinstance(method, Sjc) else 3
    grids = (torch.zeros(B, count, *(config.resolution,) * 3) for count in (1, channels))
    return Field(*grids, config, latent=isinstance(method, Sjc))


def generators() -> list[torch.Generator]:
    return seed.generators(0, "reconstruct", IDS)


def inputs_of_invert(denoiser: Denoiser) -> tuple[Tensor, Concept, Tensor]:
    tokens = torch.zeros(B, TOKENS, dtype=torch.int64)
    concept = Concept(tokens, torch.zeros(B, TOKENS, DIM, dtype=denoiser.dtype))
    return torch.zeros(B, 4, 64, 64), concept, tokens == 0


@pytest.mark.parametrize(("preset", "progress"), [("default", 0.0), ("default", 0.9), ("paper", 0.0)])
def test_the_forward_part_of_a_step_waits_for_nothing(cuda, preset, progress):
    machine, denoiser = cuda
    with machine():
        method = method_of(CONFIGS[preset], denoiser)
        field, guide, drawn = field_of(method), guide_of(method), generators()
    with machine.mode, HostMemory():
        loss, terms, lost = method.loss(guide, field, progress, drawn)
    assert (loss.shape, loss.device.type, loss.dtype, loss.requires_grad) == ((B,), "cuda", torch.float32, True)
    assert {(term.shape, term.device.type) for term in terms} == {((B,), "cuda")}
    assert (lost.shape, lost.device.type) == ((B,), "cuda")


def test_a_step_of_adam_waits_for_nothing(cuda):
    """The fused one counts its steps on the GPU. Adamax, of `paper`, counts them on the host: it is run on `meta`."""
    machine, denoiser = cuda
    with machine():
        method = method_of(CONFIGS["default"], denoiser)
        field = field_of(method)
        optimizer = method.optimizer(field)
        for grid in field.parameters():
            grid.grad = torch.ones_like(grid)
        with HostMemory():
            optimizer.step()
            optimizer.step()
    assert [sorted(kept) for kept in optimizer.state.values()] == 2 * [["exp_avg", "exp_avg_sq", "step"]]
    assert {value.device.type for kept in optimizer.state.values() for value in kept.values()} == {"cuda"}


@pytest.mark.parametrize("preset", CONFIGS)
def test_a_whole_step_reads_no_number(meta, preset):
    machine, denoiser = meta
    method = method_of(CONFIGS[preset], denoiser)
    with machine():
        field, guide = field_of(method), guide_of(method)
    optimizer = method.optimizer(field)
    terms, lost = method.update(guide, field, optimizer, 0.3, generators())
    assert (terms.shape, terms.device.type) == ((B, len(LossTerms._fields)), "meta")
    assert (lost.shape, lost.device.type) == ((B,), "meta")
    assert all(grid.grad is not None for grid in field.parameters())


def test_the_losses_of_inversion_wait_for_nothing(cuda):
    machine, denoiser = cuda
    inverter = Inverter(denoiser, CONFIGS["default"].invert)
    with machine():
        latents, concept, _ = inputs_of_invert(denoiser)
    with machine.mode, HostMemory():
        noises = inverter._draw(latents, generators(), inverter.config.samples, inverter.config.t_max)
        losses = inverter._losses(latents, concept, noises)
    assert (losses.shape, losses.device.type) == ((B,), "cuda")


def test_whole_steps_of_inversion_read_no_number(meta):
    machine, denoiser = meta
    inverter = Inverter(denoiser, dataclasses.replace(CONFIGS["paper"].invert, steps=2))
    with machine():
        latents, concept, moving = inputs_of_invert(denoiser)
        found = inverter._fit(latents, concept, moving, generators(), lambda step, steps: None)
    assert (found.embeddings.shape, found.embeddings.device.type) == ((B, TOKENS, DIM), "meta")


def test_what_these_tests_rule_out_is_refused(cuda):
    machine, _ = cuda
    with machine():
        number = torch.zeros(3)
        with pytest.raises(DataDependentOutputException):
            number.sum().item()
        with HostMemory(), pytest.raises(AssertionError, match="tensor of the host"):
            number + torch.tensor([1.0, 2.0, 3.0], device="cpu").to("cuda")
