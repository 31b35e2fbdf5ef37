"""What runs on a GPU is compared with SciPy, on random clouds and random solids; torch computes it on a CPU as well."""

import pytest
import torch

from anything3d.settings.reconstruct import FieldConfig
from anything3d.space import lattice
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from anything3d.space.lattice import depth_inside, fill_holes, neighbours, spacings


def random_cloud(seed: int, n_points: int) -> Cloud:
    """A lumpy shell, a bar, or points all over the cube."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(1, n_points, 3, generator=generator)
    if seed % 3 < 2:
        points = points / points.norm(dim=-1, keepdim=True)
    points = points * torch.tensor([0.5, 0.5, 0.1 if seed % 3 else 0.4]) * (1 + 0.1 * (5 * points).sin())
    return Cloud(points.clamp(-0.5, 0.5), torch.rand(1, n_points, 3, generator=generator))


@pytest.mark.parametrize("seed", range(12))
def test_the_first_field_of_a_device_is_that_of_scipy(seed: int, monkeypatch: pytest.MonkeyPatch):
    cloud, config = random_cloud(seed, (1, 8, 40, 60, 200, 500)[seed % 6]), FieldConfig(resolution=9 + seed // 2)
    scipy = Field.from_cloud(cloud, config)
    monkeypatch.setattr(lattice, "MAX_PAIRS", 1 << 20)  # several pieces
    for name in ("neighbours", "spacings", "fill_holes", "depth_inside"):
        monkeypatch.setattr(lattice, name, getattr(lattice, f"{name}_on_device"))
    ours = Field.from_cloud(cloud, config)
    torch.testing.assert_close(ours.density_grid, scipy.density_grid, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.color_grid, scipy.color_grid, rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7])
def test_holes_of_random_solids_are_filled_as_scipy_fills_them(share: float):
    for seed in range(8):
        solid = torch.rand(17, 17, 17, generator=torch.Generator().manual_seed(seed)) < share
        assert torch.equal(lattice.fill_holes_on_device(solid), fill_holes(solid))


def test_a_walker_finds_the_way_through_a_long_corridor():
    """A serpentine of 23 lines, open at one end: more turns than the sweeps between two looks can follow."""
    solid = torch.ones(49, 49, 49, dtype=torch.bool)
    corridor = solid[24]
    for line in range(1, 47, 2):
        corridor[line, 1:48] = False
        corridor[line + 1, 47 if line % 4 == 1 else 1] = False
    corridor[0, 1] = False
    filled = lattice.fill_holes_on_device(solid)
    assert torch.equal(filled, fill_holes(solid))
    assert not filled[24, 45, 24]


@pytest.mark.parametrize("share", [0.6, 0.97, 0.999])
def test_depth_inside_random_solids_is_scipys_as_far_as_it_was_asked_for(share: float):
    solid = torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(1)) < share
    solid[0] = False
    ours, scipy = lattice.depth_inside_on_device(solid, 6), depth_inside(solid, 6)
    torch.testing.assert_close(ours.clamp(max=6), scipy.clamp(max=6))
    assert scipy.max() > 1


def test_neighbours_are_scipys_with_points_that_almost_coincide():
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(2)) - 0.5
    points = torch.cat([points, points[:50] + 3e-5])
    axis = torch.linspace(-0.7, 0.7, 15)
    for count in (1, 4):
        (ours, our_rows), (scipy, rows) = (f(axis, points, count) for f in (lattice.neighbours_on_device, neighbours))
        torch.testing.assert_close(ours, scipy)
        assert torch.equal(our_rows, rows)
    torch.testing.assert_close(lattice.spacings_on_device(points, 5), spacings(points, 5))
