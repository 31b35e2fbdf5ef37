import math

import pytest
import torch

from anything3d.errors import InputError
from anything3d.seed import generators
from anything3d.settings.reconstruct import EMPTY, FieldConfig
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field, Solid, nodes

CONFIG = FieldConfig(resolution=24)


def sphere_cloud(n: int = 2048, radius: float = 0.5, seed: int = 0) -> Cloud:
    points = torch.randn(1, n, 3, generator=torch.Generator().manual_seed(seed))
    points = points / points.norm(dim=-1, keepdim=True) * radius
    colors = torch.where(points[..., :1] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9]))
    return Cloud(points, colors)


def linear_field(config: FieldConfig) -> Field:
    """Raw density x + 2 y + 3 z, raw colour (x, y, z): trilinear interpolation repeats them exactly."""
    grid = nodes(config.resolution, config.half)
    density = (grid * torch.tensor([1.0, 2.0, 3.0])).sum(-1)
    return Field(density[None, None], grid.permute(3, 0, 1, 2)[None].contiguous(), config)


def test_density_is_scaled_softplus_of_the_interpolated_grid_plus_bias():
    field = linear_field(FieldConfig(resolution=5, half=0.6, density_bias=-1.0, density_scale=30.0))
    points = torch.tensor([[[0.1, 0.2, -0.05], [-0.33, 0.0, 0.59]]])
    raw = torch.tensor([0.1 + 0.4 - 0.15, -0.33 + 1.77])
    density, color = field.density_color(points)
    torch.testing.assert_close(density[0], 30 * torch.log1p(torch.exp(raw - 1)))
    torch.testing.assert_close(color, torch.sigmoid(points))
    torch.testing.assert_close(field.density(points), density)


def test_outside_the_cube_there_is_nothing():
    field = Field(torch.full((1, 1, 4, 4, 4), 5.0), torch.zeros(1, 3, 4, 4, 4), FieldConfig(resolution=4, half=0.6))
    points = torch.tensor([[[0.6, 0.6, 0.6], [0.61, 0.0, 0.0], [0.0, -2.0, 0.0]]])
    assert field.density(points)[0, 0] > 100
    assert field.density(points)[0, 1:].tolist() == [0, 0]


def test_raw_level_inverts_the_activation():
    field = linear_field(CONFIG)
    for density in (0.05, 3.0, 300.0):
        raw = torch.tensor(field.raw_level(density), dtype=torch.float64)
        activated = CONFIG.density_scale * torch.nn.functional.softplus(raw + CONFIG.density_bias)
        assert activated.item() == pytest.approx(density, rel=1e-9)


def test_a_field_from_a_sphere_of_points_is_a_solid_ball_of_their_colours():
    field = Field.from_cloud(sphere_cloud(), CONFIG)
    radii = torch.tensor([0.0, 0.3, 0.42, 0.58])
    points = torch.tensor([[0.6, 0.5, math.sqrt(1 - 0.61)]])[:, None] * radii[:, None]
    density, color = field.density_color(points)
    assert (density[0, :3] > 25).all()  # opaque from the centre to just under the points
    assert density[0, 3] < 1  # clear 0.08 beyond them
    _, color = field.density_color(torch.tensor([[[0.49, 0.0, 0.0], [-0.49, 0.0, 0.0]]]))
    torch.testing.assert_close(color[0], torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]]), atol=0.02, rtol=0)


def test_a_sparse_ball_that_fills_the_cube_is_solid_and_does_not_swell():
    field = Field.from_cloud(sphere_cloud(200), CONFIG)  # gaps of 0.15, the cube's faces 0.1 away
    directions = sphere_cloud(300, radius=1.0, seed=1).points
    assert (field.density(0.35 * directions) > 25).float().mean() > 0.95
    assert (field.density(0.58 * directions) < 3).float().mean() > 0.95


def test_an_open_bowl_of_points_is_not_filled():
    cloud = sphere_cloud(4096)
    bowl = cloud.points[0, cloud.points[0, :, 1] < 0]
    field = Field.from_cloud(Cloud(bowl[None], torch.full_like(bowl, 0.5)[None]), CONFIG)
    density = field.density(torch.tensor([[[0.0, -0.2, 0.0], [0.0, -0.5, 0.0]]]))
    assert density[0, 0] < 1
    assert density[0, 1] > 3


def test_the_order_of_the_points_does_not_matter():
    cloud = sphere_cloud(512)
    order = torch.randperm(512, generator=torch.Generator().manual_seed(1))
    first = Field.from_cloud(cloud, CONFIG)
    second = Field.from_cloud(Cloud(cloud.points[:, order], cloud.colors[:, order]), CONFIG)
    torch.testing.assert_close(first.density_grid, second.density_grid)
    torch.testing.assert_close(first.color_grid, second.color_grid)


@pytest.mark.parametrize("n_points", [1, 2, 5])
def test_few_points_still_make_a_field(n_points):
    field = Field.from_cloud(sphere_cloud(n_points), CONFIG)
    assert field.density_grid.isfinite().all()
    assert field.color_grid.isfinite().all()


def test_objects_of_a_batch_get_the_field_they_get_alone():
    a, b = sphere_cloud(seed=0), sphere_cloud(radius=0.3, seed=1)
    both = Field.from_cloud(Cloud(torch.cat([a.points, b.points]), torch.cat([a.colors, b.colors])), CONFIG)
    assert torch.equal(both.row(1).density_grid, Field.from_cloud(b, CONFIG).density_grid)
    assert len(both) == 2


def least_at(solid: Solid, points: torch.Tensor) -> torch.Tensor:
    """`least` of the cells of points [B N 3]."""
    origins = points.movedim(-1, 0)
    return solid.least_along(origins, torch.zeros_like(origins), torch.zeros(points.shape[:2]))


def test_cells_leave_out_nothing_but_empty_space_and_promise_no_more_than_there_is():
    clouds = Cloud(torch.cat([sphere_cloud(512, 0.3).points, sphere_cloud(512, 0.45, seed=1).points]),
                   torch.full((2, 512, 3), 0.25))  # fmt: skip
    field = Field.from_cloud(clouds, CONFIG)
    points = 1.3 * (torch.rand(2, 4000, 3, generator=torch.Generator().manual_seed(2)) - 0.5)  # some outside the cube
    inside = points.abs().amax(-1) < CONFIG.half
    least, density = least_at(field.solid(), points), field.density(points)
    empty = least == 0
    assert density[empty].max() < EMPTY
    assert 0.3 < empty.float().mean() < 0.9
    assert (least <= density * (1 + 1e-5) + 1e-5)[inside].all()
    assert least[inside].max() > 20
    assert (least_at(field.solid(empty=0), points) > 0).all()


def test_what_is_seen_of_the_grids_is_the_field():
    field = Field.from_cloud(sphere_cloud(512, 0.3), CONFIG)
    points = 1.3 * (torch.rand(1, 4000, 3, generator=torch.Generator().manual_seed(2)) - 0.5)
    seen = torch.arange(4000)[None] % 3 > 0
    density, color = field.solid().look_up(points, seen)
    all_density, all_color = field.density_color(points)
    torch.testing.assert_close(density, all_density * seen)
    torch.testing.assert_close(color.mT[seen], all_color[seen])


def test_the_least_density_of_a_cell_is_that_of_a_corner():
    raw = torch.full((1, 1, 3, 3, 3), 2.0)
    raw[0, 0, 0, 0, 0] = 0.5  # the corner of one of eight cells
    field = Field(raw, torch.zeros(1, 3, 3, 3, 3), FieldConfig(resolution=3, density_bias=0.0, density_scale=3.0))
    least = [3 * math.log1p(math.exp(value)) for value in (0.5, 2.0)]
    assert field.solid().least[0].tolist() == pytest.approx([least[0], *[least[1]] * 7])


def test_a_surface_can_grow_into_the_cells_beside_it():
    raw = torch.full((1, 1, 5, 5, 5), -8.0)
    raw[0, 0, 2, 2, 2] = 3.0  # the node in the middle
    field = Field(raw, torch.zeros(1, 3, 5, 5, 5), FieldConfig(resolution=5))
    points, solid = torch.tensor([[[0.2, 0.2, 0.2], [0.5, 0.5, 0.5]]]), field.solid()
    seen = least_at(solid, points) != 0
    assert seen.tolist() == [[True, False]]  # the first is in a cell that has the node as a corner
    density, _ = solid.look_up(points, seen)
    density.sum().backward()
    assert field.density_grid.grad is not None
    assert field.density_grid.grad[0, 0, 3, 3, 3] > 0  # the clear corner across the cell


def test_a_nan_is_not_taken_for_empty_space():
    field = Field(torch.full((1, 1, 4, 4, 4), torch.nan), torch.zeros(1, 3, 4, 4, 4), FieldConfig(resolution=4))
    assert least_at(field.solid(), torch.zeros(1, 1, 3)).isnan().tolist() == [[True]]


def test_bytes_keep_the_field_to_half_precision():
    field = Field.from_cloud(sphere_cloud(), CONFIG)
    data = field.to_bytes(0)
    again = Field.from_bytes(data)
    assert again.config == CONFIG
    assert torch.equal(again.density_grid, field.density_grid.half().float())
    assert torch.equal(again.color_grid, field.color_grid.half().float())
    assert again.to_bytes(0) == data
    assert len(data) < 2 * 4 * 24**3 + 1000


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:100], lambda d: d.replace(b"field-1", b"field-9")])
def test_bytes_that_are_no_field_are_refused(damage):
    data = Field.from_cloud(sphere_cloud(8), FieldConfig(resolution=4)).to_bytes(0)
    with pytest.raises(InputError, match="bad_field"):
        Field.from_bytes(damage(data))


def test_a_fog_has_one_density_and_colours_of_its_generators():
    config = FieldConfig(resolution=4, density_scale=2.0)
    fog = Field.fog(config, generators(0, "reconstruct", ["a", "b"]), channels=4)
    assert (fog.latent, fog.color_grid.shape[1]) == (True, 4)
    density, color = fog.density_color(nodes(4, 0.3).reshape(1, -1, 3).expand(2, -1, -1))
    assert density.unique().tolist() == pytest.approx([2 * math.log1p(math.exp(-1))])
    assert not torch.equal(color[0], color[1])
    again = Field.fog(config, generators(0, "reconstruct", ["b"]), channels=4)
    assert torch.equal(again.color_grid[0], fog.color_grid[1])
