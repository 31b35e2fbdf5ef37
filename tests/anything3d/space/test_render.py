import dataclasses
import math

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anything3d.settings.reconstruct import FieldConfig, RenderConfig
from anything3d.space import render as module
from anything3d.space.camera import Camera, orbit, rays
from anything3d.space.field import Field, nodes
from anything3d.space.render import composite, render

CONFIG = FieldConfig(resolution=8, half=0.5, density_bias=0.0, density_scale=1.0)


def uniform_field(densities: list[float], rgb: tuple[float, float, float] = (0.5, 0.25, 0.75)) -> Field:
    """One block of constant density for each number."""
    raw = torch.tensor(densities).expm1().log()
    shape = (len(densities), -1, 8, 8, 8)
    color = torch.logit(torch.tensor(rgb))[None, :, None, None, None]
    return Field(raw[:, None, None, None, None].expand(*shape).clone(), color.expand(*shape).clone(), CONFIG)


def look(azimuth_deg: list[float], elevation_deg: float = 0.0, distance: float = 2.0, fov_deg: float = 20.0) -> Camera:
    n = len(azimuth_deg)
    return orbit(
        torch.tensor(azimuth_deg),
        torch.full((n,), elevation_deg),
        torch.full((n,), distance),
        torch.full((n,), fov_deg),
    )


def through_the_middle(azimuth_deg: list[float], distance: float = 2.0) -> Camera:
    """Cameras of which the pixel (1, 1) of 3 by 3 looks through the origin."""
    return look(azimuth_deg, distance=distance, fov_deg=60.0)


def test_a_uniform_slab_stops_one_minus_exp_of_density_times_length():
    rendering = render(uniform_field([0.7]), through_the_middle([0.0]), 3, RenderConfig(samples=16))
    alpha = 1 - math.exp(-0.7 * 1.0)  # the cube's side is 1
    assert rendering.alpha[0, 1, 1].item() == pytest.approx(alpha, rel=1e-5)
    torch.testing.assert_close(rendering.color[0, :, 1, 1], alpha * torch.tensor([0.5, 0.25, 0.75]))
    assert rendering.alpha[0, 0, 0] == 0  # the corner ray misses the cube
    assert rendering.depth[0, 0, 0] == torch.inf


def test_depth_is_the_mean_place_where_light_stops():
    sigma, near, samples = 3.0, 1.5, 64
    rendering = render(uniform_field([sigma]), through_the_middle([0.0]), 3, RenderConfig(samples=samples))
    alpha = 1 - math.exp(-sigma)
    expected = near + (1 - (1 + sigma) * math.exp(-sigma)) / (sigma * alpha)  # mean of the exponential law cut at 1
    assert rendering.depth[0, 1, 1].item() == pytest.approx(expected, abs=1e-3)


def test_depth_runs_along_the_axis_not_along_the_ray():
    rendering = render(uniform_field([3000.0]), look([0.0], distance=2.0, fov_deg=20.0), 9, RenderConfig(samples=2000))
    torch.testing.assert_close(rendering.depth[0], torch.full((9, 9), 1.5), atol=2e-3, rtol=0)


def test_weights_add_up_to_alpha():
    rendering = render(uniform_field([2.0]), look([30.0], 40.0), 8, RenderConfig(samples=12), weights=True)
    torch.testing.assert_close(rendering.weights.sum(-1), rendering.alpha)


def test_renderings_are_those_of_the_plain_sum_and_of_nerfacc():
    """A random field, some of it empty: every ray marched by itself, through all of its samples."""
    from nerfacc import rendering as nerfacc_rendering

    generator = torch.Generator().manual_seed(0)
    density = torch.randn(1, 1, 8, 8, 8, generator=generator) * 6 - 3
    field = Field(
        density, torch.randn(1, 3, 8, 8, 8, generator=generator), dataclasses.replace(CONFIG, density_scale=9.0)
    )
    camera, size, samples = look([30.0], 20.0, fov_deg=50.0), 12, 40
    seen = render(field, camera, size, RenderConfig(samples=samples))

    origins, directions = (value.reshape(-1, 3) for value in rays(camera, size, size))
    inverse = 1 / directions
    faces = torch.stack([(-CONFIG.half - origins) * inverse, (CONFIG.half - origins) * inverse])
    near, far = faces.amin(0).amax(-1), faces.amax(0).amin(-1)
    ends = near[:, None] + (far - near).clamp_min(0)[:, None] * torch.arange(samples + 1) / samples
    middle = (ends[:, 1:] + ends[:, :-1]) / 2
    points = origins[:, None] + middle[..., None] * directions[:, None]
    sigma, color = (value[0].unflatten(0, (-1, samples)) for value in field.density_color(points.flatten(0, 1)[None]))
    kept = (-sigma * (ends[:, 1:] - ends[:, :-1])).exp()
    before = torch.cat([torch.ones_like(kept[:, :1]), kept.cumprod(1)[:, :-1]], dim=1)
    weights = before * (1 - kept)

    def flat(image: torch.Tensor) -> torch.Tensor:
        return image[0].reshape(-1, size * size).T

    torch.testing.assert_close(flat(seen.color), (weights[..., None] * color).sum(1), rtol=0, atol=2e-5)
    torch.testing.assert_close(flat(seen.alpha[:, None])[:, 0], weights.sum(1), rtol=0, atol=2e-5)
    theirs, alpha, _, _ = nerfacc_rendering(
        ends[:, :-1], ends[:, 1:], rgb_sigma_fn=lambda starts, stops, rays_of_samples: (color, sigma)
    )
    torch.testing.assert_close(flat(seen.color), theirs, rtol=0, atol=2e-5)
    torch.testing.assert_close(flat(seen.alpha[:, None]), alpha, rtol=0, atol=2e-5)
    assert seen.alpha.max() > 0.9
    assert seen.alpha.min() == 0


def test_samples_are_summed_up_alike_with_and_without_a_look_at_how_many_are_seen(monkeypatch: pytest.MonkeyPatch):
    """The way of a GPU, whose shapes are fixed, against a CPU's, and hidden samples, too: pictures and gradients."""
    generator = torch.Generator().manual_seed(0)
    density = torch.randn(2, 1, 9, 9, 9, generator=generator) * 6 - 3
    density[1, :, 2:7, 2:7, 2:7] = 4.0  # opaque, at least in part of a ray
    field = Field(density, torch.randn(2, 3, 9, 9, 9, generator=generator), FieldConfig(resolution=9, half=0.5))
    found = []
    for march, dark in ((module._march_some, module.DARK), (module._march_all, module.DARK), (module._march_all, 1e9)):
        monkeypatch.setattr(module, "_march_some", march)  # the tensors are on a CPU
        monkeypatch.setattr(module, "DARK", dark)
        field.zero_grad()
        seen = render(field, look([20.0, 80.0, 140.0, 10.0], 25.0), 12, RenderConfig(samples=20), weights=True)
        (seen.color.square().sum() + seen.alpha.sum()).backward()
        found.append((seen.color, seen.alpha, seen.depth, seen.weights, field.density_grid.grad, field.color_grid.grad))
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, another, rtol=1e-5, atol=2e-6)


def test_what_stands_behind_an_opaque_block_is_not_looked_up():
    """An optical depth of 34 comes before the first cell with a NaN, and 14 stop all light but 8e-7 of it."""
    field = uniform_field([80.0, 80.0])
    with torch.no_grad():
        field.color_grid[:, :, :4] = torch.nan  # z < 0; a camera at azimuth 0 looks from z > 0
        field.density_grid[1, :, :4] = -20.0  # and there may be nothing at all
    seen = render(field, through_the_middle([0.0, 0.0]), 3, RenderConfig(samples=200))
    torch.testing.assert_close(seen.color[:, :, 1, 1], torch.tensor([[0.5, 0.25, 0.75]] * 2))
    seen.color[:, :, 1, 1].sum().backward()
    assert field.density_grid.grad is not None
    assert field.density_grid.grad.isfinite().all()
    assert (
        render(field, through_the_middle([180.0, 180.0]), 3, RenderConfig(samples=200)).color[0, :, 1, 1].isnan().all()
    )


def test_a_ray_that_hits_infinite_density_leaves_the_others_as_they_are():
    field = uniform_field([2.0])
    with torch.no_grad():
        field.density_grid[..., :2] = torch.inf  # x < -0.35
    alone = render(uniform_field([2.0]), look([0.0], fov_deg=20.0), 9, RenderConfig(samples=16)).alpha
    seen = render(field, look([0.0], fov_deg=20.0), 9, RenderConfig(samples=16)).alpha
    torch.testing.assert_close(seen[..., 2:], alone[..., 2:])


def test_more_views_take_no_more_memory_but_for_their_images():
    class Watch(TorchDispatchMode):
        """The most bytes that are held at one time by what is made."""

        def __init__(self) -> None:
            super().__init__()
            self.held: dict[StorageWeakRef, int] = {}
            self.most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for value in tree_leaves(made):
                if isinstance(value, torch.Tensor):
                    self.held[StorageWeakRef(value.untyped_storage())] = value.untyped_storage().nbytes()
            self.held = {storage: size for storage, size in self.held.items() if not storage.expired()}
            self.most = max(self.most, sum(self.held.values()))
            return made

    def most(n_views: int, weights: bool) -> int:
        with torch.no_grad(), Watch() as watch:
            render(field, look([0.0] * n_views), 16, RenderConfig(samples=50), max_points=12800, weights=weights)
        return watch.most

    field = uniform_field([1.0])
    few, many = most(2, False), most(22, False)
    pixels = 20 * 16 * 16
    assert many - few < 12 * 4 * pixels  # colour, opacity, length and depth, once in pieces and once as a whole
    assert most(22, True) - many > 50 * 4 * pixels  # the weights of 50 samples


def test_each_view_sees_the_field_of_its_object():
    fields, azimuths = [0.2, 4.0], [0.0, 45.0]
    together = render(uniform_field(fields), look(azimuths * 2, 20.0), 6, RenderConfig(samples=8))
    for b, density in enumerate(fields):
        alone = render(uniform_field([density]), look(azimuths, 20.0), 6, RenderConfig(samples=8))
        torch.testing.assert_close(together.alpha[2 * b : 2 * b + 2], alone.alpha)
        torch.testing.assert_close(together.color[2 * b : 2 * b + 2], alone.color)


def test_cameras_that_cannot_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="3 cameras"):
        render(uniform_field([1.0, 2.0]), look([0.0, 1.0, 2.0]), 4, RenderConfig())


def test_gradients_equal_finite_differences():
    grid = nodes(3, 0.5)
    density = (1 - grid.norm(dim=-1))[None, None].double()
    color = grid.permute(3, 0, 1, 2)[None].double().contiguous()
    camera = look([20.0], 10.0)
    camera = Camera(camera.pose.double(), camera.intrinsics.double())
    config = FieldConfig(resolution=3, half=0.5, density_scale=2.0)

    def image(density: torch.Tensor, color: torch.Tensor) -> tuple[torch.Tensor, ...]:
        field = Field(density, color, config)
        del field.density_grid, field.color_grid  # a Parameter would cut the graph
        field.density_grid, field.color_grid = density, color
        seen = render(field, camera, 2, RenderConfig(samples=5))
        return seen.color, seen.alpha, seen.depth

    assert torch.autograd.gradcheck(image, (density.requires_grad_(), color.requires_grad_()))


def test_pieces_do_not_change_the_picture():
    field, camera = uniform_field([0.5, 3.0]), look([0.0, 50.0, 100.0, 150.0], 30.0)
    whole = render(field, camera, 10, RenderConfig(samples=6))
    pieces = render(field, camera, 10, RenderConfig(samples=6), max_points=100)
    torch.testing.assert_close(pieces.color, whole.color)
    torch.testing.assert_close(pieces.depth, whole.depth)


def test_jitter_is_the_objects_own():
    field = uniform_field([0.5, 0.5])
    with torch.no_grad():
        field.density_grid.mul_(torch.linspace(0, 3, 8))
    camera, config = look([0.0, 0.0], 30.0), RenderConfig(samples=4)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = render(field, camera, 8, config, generators)
    second = render(field.row(1), camera[1:], 8, config, [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(both.alpha[1:], second.alpha)
    assert not torch.allclose(both.alpha[0], both.alpha[1])


def test_composite_puts_the_background_where_nothing_is():
    rendering = render(uniform_field([5.0, 5.0]), through_the_middle([0.0, 0.0]), 3, RenderConfig())
    over = composite(rendering, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert over[0, :, 0, 0].tolist() == [1, 0, 0]
    alpha = 1 - math.exp(-5.0)
    expected = alpha * torch.tensor([0.5, 0.25, 0.75]) + (1 - alpha) * torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(over[1, :, 1, 1], expected)
    torch.testing.assert_close(composite(rendering, 0.0), rendering.color)
