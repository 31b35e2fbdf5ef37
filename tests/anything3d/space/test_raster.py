"""Meshes seen through cameras: squares whose pixels can be counted, and a ball beside its own field."""

from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
import torch

from anything3d.space import raster
from anything3d.space.camera import Camera, orbit, project
from anything3d.space.mesh import Mesh
from anything3d.space.raster import rasterize
from anything3d.space.render import composite

FRONT = Camera(
    torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]]), torch.tensor([[1.0, 1, 0.5, 0.5]])
)  # at z = 2, looks at the origin; a square of side 2 there fills the image


def mesh_of(vertices: torch.Tensor, faces: torch.Tensor, colors: torch.Tensor) -> Mesh:
    return Mesh(vertices.numpy(), faces.numpy(), colors.numpy())


def square(z: float, color: list[float], half: float = 0.5) -> Mesh:
    corners = [[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]]
    return mesh_of(torch.tensor(corners), torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([color] * 4))


def joined(*meshes: Mesh) -> Mesh:
    counts = [0, *accumulate(len(mesh.vertices) for mesh in meshes)]
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, counts, strict=False)]),
        np.concatenate([mesh.colors for mesh in meshes]),
    )


def ball(rings: int) -> Mesh:
    """A unit ball of radius 0.5, coloured by position."""
    polar = torch.linspace(0, torch.pi, rings + 1)
    around = torch.arange(2 * rings) * (torch.pi / rings)
    t, p = (grid.flatten() for grid in torch.meshgrid(polar, around, indexing="ij"))
    vertices = 0.5 * torch.stack([t.sin() * p.sin(), t.cos(), t.sin() * p.cos()], 1)
    i, j = (grid.flatten() for grid in torch.meshgrid(torch.arange(rings), torch.arange(2 * rings), indexing="ij"))
    corner = [(i + di) * 2 * rings + (j + dj) % (2 * rings) for di, dj in ((0, 0), (1, 0), (1, 1), (0, 1))]
    faces = torch.cat([torch.stack([corner[k] for k in three], 1) for three in ((0, 1, 2), (0, 2, 3))])
    return mesh_of(vertices, faces, vertices + 0.5)


def test_a_square_covers_its_share_of_the_pixels_and_no_more():
    seen = rasterize(square(0.0, [1.0, 0.0, 0.0]), FRONT, 16)
    expected = torch.zeros(16, 16)
    expected[4:12, 4:12] = 1  # half the image's side
    assert torch.equal(seen.alpha[0], expected)
    assert torch.equal(seen.color[0, 0], expected)
    assert not seen.color[0, 1:].any()
    assert torch.allclose(seen.depth[0][4:12, 4:12], torch.tensor(2.0))
    assert seen.depth[0][0, 0] == torch.inf


def test_half_a_pixel_is_half_opaque():
    shifted = square(0.0, [0.0, 1.0, 0.0])
    seen = rasterize(replace(shifted, vertices=shifted.vertices + np.float32([1 / 16, 0, 0])), FRONT, 16)
    assert seen.alpha[0, 8, 3:13].tolist() == [0.0, 0.5, 1, 1, 1, 1, 1, 1, 1, 0.5]
    assert seen.color[0, 1, 8, 4] == 0.5  # premultiplied


def test_the_nearer_square_is_seen_whatever_comes_first():
    near, far = square(0.5, [1.0, 0.0, 0.0], 0.25), square(-0.5, [0.0, 0.0, 1.0], 1.0)
    for mesh in (joined(near, far), joined(far, near)):
        seen = rasterize(mesh, FRONT, 32)
        assert seen.color[0, :, 16, 16].tolist() == [1, 0, 0]
        assert seen.depth[0, 16, 16] == pytest.approx(1.5)
        assert seen.color[0, :, 16, 8].tolist() == [0, 0, 1]


def test_colours_lie_evenly_in_space_and_not_on_the_screen():
    # a square that leans away from the eye: red grows from 0 at its near edge (depth 1) to 1 at its far one (depth 3)
    corners = torch.tensor([[-0.5, -0.2, 1.0], [0.5, -0.2, 1.0], [0.5, 0.2, -1.0], [-0.5, 0.2, -1.0]])
    colors = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    seen = rasterize(mesh_of(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), colors), FRONT, 64)
    inside = seen.alpha[0, :, 32] == 1
    depth = seen.depth[0, :, 32][inside]
    assert torch.allclose(seen.color[0, 0, :, 32][inside], (depth - 1) / 2, atol=0.01)


def test_a_ball_is_as_large_as_its_outline_and_coloured_by_place():
    camera = orbit(torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([2.5]), torch.tensor([40.0]))
    seen = rasterize(ball(48), camera, 128)
    # the outline of a ball of radius r at distance d is a disc of radius f r / sqrt(d^2 - r^2)
    radius = float(camera.intrinsics[0, 0]) * 0.5 / (2.5**2 - 0.25) ** 0.5 * 128
    assert float(seen.alpha.sum()) == pytest.approx(torch.pi * radius**2, rel=0.005)
    point = 0.5 * camera.pose[0, :3, 2]  # what is nearest to the eye
    (u, v) = project(camera, point[None, None])[0][0, 0] * 128
    assert torch.allclose(seen.color[0, :, int(v), int(u)], point + 0.5, atol=0.02)
    assert composite(seen, 1.0)[0, :, 0, 0].tolist() == [1, 1, 1]


def test_pieces_of_any_size_give_the_same_picture(monkeypatch):
    mesh = joined(ball(12), square(0.1, [0.2, 0.4, 0.6]))
    whole = rasterize(mesh, FRONT, 48)
    monkeypatch.setattr(raster, "MAX_PAIRS", 100)
    pieces = rasterize(mesh, FRONT, 48)
    assert torch.equal(whole.color, pieces.color)
    assert torch.equal(whole.depth, pieces.depth)


def test_what_is_behind_the_camera_or_without_area_is_not_drawn():
    flat = mesh_of(torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]]), torch.tensor([[0, 1, 2]]), torch.zeros(3, 3))
    for mesh in (square(3.0, [1.0, 1.0, 1.0]), flat):
        assert not rasterize(mesh, FRONT, 16).alpha.any()


def test_each_camera_has_its_picture():
    turned = orbit(torch.tensor([0.0, 90.0]), torch.zeros(2), torch.full((2,), 2.0), torch.full((2,), 53.13))
    seen = rasterize(square(0.0, [1.0, 0.0, 0.0]), turned, 16)
    assert seen.alpha[0].sum() > 60
    assert seen.alpha[1].sum() == 0
