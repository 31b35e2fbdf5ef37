"""Row 7: eight fields seen by 64 x 64 rays of 96 samples, forward and backward, against a dense renderer.

nerfacc's own estimator and renderer are no row: `OccGridEstimator.sampling` is a CUDA extension, which does not build
against this torch, and there is none for a CPU. Its functions in plain torch are those that ours calls.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from anything3d.settings.reconstruct import FieldConfig, RenderConfig
from anything3d.space.camera import orbit, rays
from anything3d.space.field import Field, nodes
from anything3d.space.render import composite, render
from tests.bench.row import Pair, Timed

OBJECTS, PIXELS, SAMPLES = {"full": 8, "toy": 2}, {"full": 64, "toy": 12}, {"full": 96, "toy": 24}
RESOLUTION = {"full": 96, "toy": 16}
RADIUS, STEEPNESS = (0.35, 0.5), 60.0  # canonical lengths; raw density per length across the surface
CLEAR = -12.0  # raw density of empty space, as of a field that began as a cloud
SAME = 1e-4  # of the largest value, where both look up every sample
FAR = {"images": 1e-2, "density": 5e-2, "colour": 1e-2}  # the same, where ours leaves out what is as good as empty


@contextmanager
def make(size, folder, device):
    count, side, samples = OBJECTS[size], PIXELS[size], SAMPLES[size]
    config = FieldConfig(resolution=RESOLUTION[size])
    place = nodes(config.resolution, config.half)
    radii = torch.linspace(*RADIUS, count)[:, None, None, None]
    density = ((radii - place.norm(dim=-1)) * STEEPNESS).clamp(CLEAR, 4.0)[:, None]
    color = torch.randn(count, 3, *(config.resolution,) * 3, generator=torch.Generator().manual_seed(0))
    field = Field(density, color, config).to(device)
    turn = torch.arange(count, device=device) * 40.0
    camera = orbit(turn, turn * 0 + 20.0, turn * 0 + 2.0, turn * 0 + 40.0)
    target = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)

    def step(image):
        field.zero_grad(set_to_none=True)
        rendered = image()
        (rendered - target).square().mean().backward()
        return rendered.detach(), field.density_grid.grad, field.color_grid.grad

    def ours(settings):
        return step(lambda: composite(render(field, camera, side, settings), 1.0))

    def check(some, theirs):
        """Ours with every sample is the other side. What it leaves out by default changes little."""
        every = differences(ours(RenderConfig(samples=samples, empty=0)), theirs)
        assert max(every.values()) < SAME, every
        left_out = differences(some, theirs)
        assert all(left_out[name] < FAR[name] for name in FAR), left_out
        return f"{told(every)} with every sample, {told(left_out)} without empty ones"

    yield Pair(
        lambda: ours(RenderConfig(samples=samples)), lambda: step(lambda: dense(field, camera, side, samples)), check
    )


def dense(field, camera, side, samples):
    """A renderer as most code has it: every sample of every ray is looked up, and transmittance is a product."""
    half, count = field.config.half, len(field)
    origins, directions = (one.reshape(count, -1, 3) for one in rays(camera, side, side))
    slabs = torch.stack([(-half - origins) / directions, (half - origins) / directions])
    near, far = slabs.amin(0).amax(-1).clamp_min(1e-3), slabs.amax(0).amin(-1)
    delta = (far - near).clamp_min(0)[..., None] / samples
    depths = near[..., None] + (torch.arange(samples, device=near.device) + 0.5) * delta
    points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
    raw = F.grid_sample(
        torch.cat([field.density_grid, field.color_grid], dim=1),
        (points / half).reshape(count, 1, -1, samples, 3),
        align_corners=True,
    )[:, :, 0]
    inside = (points.abs().amax(-1) <= half * (1 + 1e-5)).float()
    density = field.config.density_scale * F.softplus(raw[:, 0] + field.config.density_bias) * inside
    alpha = 1 - torch.exp(-density * delta)
    kept = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], dim=-1), dim=-1)[..., :-1]
    weights = alpha * kept
    color = (weights[:, None] * raw[:, 1:].sigmoid()).sum(-1)
    return (color + (1 - weights.sum(-1))[:, None]).unflatten(-1, (side, side))


def differences(ours, theirs):
    """Of the images, and of the gradients of density and colour: the largest one, as a share of the largest value."""
    three = zip(FAR, ours, theirs, strict=True)
    return {name: float((one - other).abs().max() / other.abs().max()) for name, one, other in three}


def told(shares):
    return ", ".join(f"{name} {share:.1e}" for name, share in shares.items())


ROW = Timed("7", "8 fields seen and changed, 64 px x 96 samples", "a dense renderer", 3, make, memory=True, gpu=True)
