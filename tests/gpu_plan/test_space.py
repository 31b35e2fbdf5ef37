"""Rendering, scoring and first fields at the sizes of the preset `default`, on CUDA tensors without numbers.

`FakeTensorMode` needs no GPU and computes nothing. It refuses what mixes devices, what makes a shape out of numbers,
and what brings a number to the host. Each of these would fail on a real GPU, or would make it wait for Python.
"""

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from anything3d.quality.likeness import turntable
from anything3d.quality.looks import GPU_POINTS
from anything3d.score import to_uint8
from anything3d.settings.reconstruct import FieldConfig, RenderConfig
from anything3d.space import lattice
from anything3d.space import render as module
from anything3d.space.camera import Camera, orbit
from anything3d.space.field import Field
from anything3d.space.render import composite, render

RESOLUTION, SAMPLES, MAX_POINTS = 96, 128, 1 << 22
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fake_cuda() -> Iterator[None]:
    with FakeTensorMode(), torch.device("cuda"):
        yield


def fields(n: int) -> Field:
    grid = (RESOLUTION,) * 3
    return Field(torch.zeros(n, 1, *grid), torch.zeros(n, 3, *grid), FieldConfig(resolution=RESOLUTION))


def cameras(n: int) -> Camera:
    value = torch.ones(n)
    return orbit(30 * value, 10 * value, 2 * value, 40 * value)


def test_a_step_of_eight_objects_is_rendered_without_a_host_read():
    generators = [torch.Generator("cpu").manual_seed(b) for b in range(8)]
    seen = render(fields(8), cameras(16), 128, RenderConfig(samples=SAMPLES), generators, MAX_POINTS)
    assert (seen.color.shape, seen.color.device, seen.color.dtype) == ((16, 3, 128, 128), CUDA, torch.float32)
    assert seen.color.requires_grad
    assert seen.weights is None


def test_the_views_of_a_score_are_rendered_without_a_host_read():
    with torch.inference_mode():
        around = turntable(cameras(1), 2, 15.0)  # 2 of 24 views, which are all alike
        views = composite(render(fields(1), around, 512, RenderConfig(samples=SAMPLES), max_points=GPU_POINTS), 1.0)
        pictures = to_uint8(views)
    assert (pictures.shape, pictures.device, pictures.dtype) == ((2, 512, 512, 3), CUDA, torch.uint8)


def test_the_parts_of_a_first_field_are_computed_where_the_cloud_is():
    """The reach, and whether the walker has come to an end, are read by the host. Between them nothing is."""
    points, wide = torch.zeros(4096, 3), RESOLUTION + 2 * 7
    assert lattice.spacings(points, 5).device == CUDA
    axis = torch.linspace(-0.7, 0.7, wide, device=CUDA)
    distances, rows = lattice.neighbours(axis, points, 4)
    assert (distances.shape, distances.dtype, rows.device) == ((wide**3, 4), torch.float32, CUDA)
    solid = distances[:, 0].view(wide, wide, wide) < 0.1
    assert lattice.sweep(~solid, solid).device == CUDA
    assert lattice.depth_inside(solid, 9).device == CUDA


def test_a_host_read_would_be_refused(monkeypatch: pytest.MonkeyPatch):
    """The way of a CPU gathers the samples that are seen: this is what the first test rules out."""
    monkeypatch.setattr(module, "_march_all", module._march_some)
    with pytest.raises(DynamicOutputShapeException):
        render(fields(1), cameras(1), 2, RenderConfig(samples=4))
