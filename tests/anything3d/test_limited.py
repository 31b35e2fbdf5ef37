"""Meshes of backends: few enough triangles, and the colours that they had, all through their files."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from anything3d.external.shape import read_mesh
from anything3d.mesh import limited, surface
from anything3d.settings.mesh import MeshConfig
from anything3d.space.atlas import texels_of, textured
from anything3d.space.mesh import Mesh, Texture, facts, from_glb, to_glb, vertex_normals
from anything3d.space.repaint import painter_of
from tests.hull import glb, ply

CONFIG = MeshConfig(max_faces=2000, texture_px=256)


def read(tmp_path, data, suffix):
    path = tmp_path / f"mesh{suffix}"
    path.write_bytes(data)
    return read_mesh(path)


def through_files(mesh: Mesh, config: MeshConfig) -> Mesh:
    """What a corpus has of the mesh of a backend: the file of `reconstruct`, then that of `mesh`."""
    made = surface(from_glb(to_glb(mesh)), config)
    assert isinstance(made, Mesh), made
    return from_glb(to_glb(made))


def shown(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Points on the surface, and the colours that the texture has there; the texels of the file, one by one."""
    assert mesh.texture is not None
    size = len(mesh.texture.image)
    texels = texels_of(mesh.texture.corners, size)
    return texels.on(mesh.faces, mesh.vertices), mesh.texture.image[texels.row, texels.column] / 255


def sphere() -> trimesh.Trimesh:
    """20,480 triangles; red grows with x, green with y, blue with z."""
    made = trimesh.creation.icosphere(5, radius=0.5)
    colors = np.column_stack([np.round((made.vertices + 0.5) * 255), np.full(len(made.vertices), 255)])
    made.visual.vertex_colors = colors.astype(np.uint8)
    return made


def boxed(per_side: int, width: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A box of six squares, each with `per_side`^2 cells and its own column of a picture: corners, faces, uv."""
    vertices, faces, uv = [], [], []
    steps = np.linspace(0, 1, per_side + 1)
    across, up = (grid.reshape(-1) for grid in np.meshgrid(steps, steps))
    number = np.arange((per_side + 1) ** 2).reshape(per_side + 1, -1)
    a, b, c, d = (part.reshape(-1) for part in (number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]))
    for side in range(6):
        axis, end = side % 3, side // 3
        corners = np.zeros((len(across), 3))
        corners[:, axis] = end
        corners[:, (axis + 1) % 3], corners[:, (axis + 2) % 3] = (across, up) if end else (up, across)
        squares = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]) + side * len(across)
        vertices.append(corners - 0.5)
        faces.append(squares)
        uv.append(np.stack([(side + 0.1 + 0.8 * across) / 6, up], 1))
    return np.concatenate(vertices) * [1, width, 1], np.concatenate(faces), np.concatenate(uv)


COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255]], np.uint8)


def picture() -> bytes:
    """Six columns of 64 px, each in one of COLORS."""
    file = io.BytesIO()
    Image.fromarray(np.repeat(COLORS, 64, axis=0)[None].repeat(64, axis=0)).save(file, "PNG")
    return file.getvalue()


def test_a_sphere_with_vertex_colours_gets_few_triangles_and_a_texture(tmp_path):
    given = read(tmp_path, sphere().export(file_type="ply"), ".ply")
    assert len(given.faces) == 20_480
    made = through_files(given, CONFIG)
    assert len(made.faces) == 2000
    assert facts(made).watertight
    assert np.abs(np.linalg.norm(made.vertices, axis=1) - 0.5).max() < 0.005
    points, colors = shown(made)
    assert len(made.texture.image) == pytest.approx(256, abs=8)
    assert np.abs(colors - (points + 0.5)).max(1).mean() < 0.02  # JPEG
    np.testing.assert_allclose(made.colors, made.vertices + 0.5, atol=0.06)


def test_vertex_colours_stay_where_no_texture_is_wanted(tmp_path):
    given = read(tmp_path, sphere().export(file_type="ply"), ".ply")
    made = through_files(given, MeshConfig(max_faces=2000, texture_px=0))
    assert (len(made.faces), made.texture) == (2000, None)
    np.testing.assert_allclose(made.colors, made.vertices + 0.5, atol=0.01)
    again = from_glb(to_glb(given))
    assert limited(again, MeshConfig(max_faces=0, texture_px=0)) is again


def test_a_textured_box_within_the_limit_stays_as_it_is(tmp_path):
    vertices, faces, uv = boxed(4)
    given = read(tmp_path, glb(vertices, faces, {"TEXCOORD_0": uv}, picture()), ".glb")
    assert given.texture is not None
    for config in (CONFIG, MeshConfig(max_faces=192, texture_px=0), MeshConfig(max_faces=0)):
        assert limited(given, config) is given
    made = through_files(given, CONFIG)
    assert made.texture is not None
    assert made.texture.image.shape == (64, 384, 3)
    assert len(made.faces) == 192


def test_a_textured_box_beyond_the_limit_is_painted_anew_in_the_same_colours(tmp_path):
    """Each side has its own colour. Texels that are nearer to an edge than two of them are left out."""
    vertices, faces, uv = boxed(24)
    given = read(tmp_path, glb(vertices, faces, {"TEXCOORD_0": uv}, picture()), ".glb")
    assert len(given.faces) == 6912
    made = through_files(given, CONFIG)
    assert len(made.faces) <= 2000
    assert facts(made).watertight
    points, colors = shown(made)
    sides = np.abs(points).argmax(1) + 3 * (points[np.arange(len(points)), np.abs(points).argmax(1)] > 0)
    clear = np.sort(np.abs(points), axis=1)[:, 1] < 0.48
    assert clear.sum() > 10_000
    assert np.bincount(sides[clear], minlength=6).min() > 1000
    assert np.abs(colors[clear] - COLORS[sides[clear]] / 255).max(1).mean() < 0.02


def test_hard_edges_of_vertex_colours_stay_hard_and_open_no_crack(tmp_path):
    """The corners of the six sides are apart in the file, as each side has its own colour."""
    vertices, faces, _ = boxed(24)
    colors = COLORS.repeat(len(vertices) // 6, axis=0)
    given = read(tmp_path, ply(vertices, faces, colors), ".ply")
    assert not facts(given).watertight
    made = through_files(given, CONFIG)
    assert facts(made).watertight
    points, seen = shown(made)
    sides = np.abs(points).argmax(1) + 3 * (points[np.arange(len(points)), np.abs(points).argmax(1)] > 0)
    clear = np.sort(np.abs(points), axis=1)[:, 1] < 0.48
    assert np.abs(seen[clear] - COLORS[sides[clear]] / 255).max(1).mean() < 0.02


def test_the_two_sides_of_a_thin_wall_do_not_mix():
    """Two sheets that look away from each other and lie 0.004 apart. Points between them take the side they look to."""
    square = np.float32([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    front = np.array([[0, 1, 2], [0, 2, 3]])
    wall = Mesh(
        np.concatenate([square + np.float32([0, 0, 0.002]), square - np.float32([0, 0, 0.002])]),
        np.concatenate([front, front[:, ::-1] + 4]),
        np.float32([[1, 0, 0]] * 4 + [[0, 0, 1]] * 4),
    )
    paint = painter_of(wall)
    points = np.float32(np.random.default_rng(0).uniform(-0.4, 0.4, (500, 3))) * np.float32([1, 1, 0])
    for direction, color in ((1, [1, 0, 0]), (-1, [0, 0, 1])):
        normals = np.tile(np.float32([0, 0, direction]), (500, 1))
        np.testing.assert_allclose(paint(points, normals), np.tile(color, (500, 1)), atol=1e-6)


def test_the_nearest_point_of_a_long_triangle_is_found():
    """One triangle across, and a thousand small ones beside it, whose middles are nearer than its own."""
    long = np.float32([[-0.5, 0, 0], [0.5, 0, 0], [0.5, 0.1, 0]])
    dots = np.random.default_rng(1).uniform([-0.5, -0.03, 0], [0.5, -0.01, 0], (1000, 3))
    small = (dots[:, None] + np.array([[0, 0, 0], [1e-3, 0, 0], [0, 1e-3, 0]])).reshape(-1, 3)
    colors = np.concatenate([[[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.ones((3000, 3))]).astype(np.float32)
    mesh = Mesh(np.concatenate([long, small]).astype(np.float32), np.arange(3003).reshape(-1, 3), colors)
    shares = np.random.default_rng(2).dirichlet([1, 1, 1], 500)
    up = np.tile(np.float32([0, 0, 1]), (500, 1))
    np.testing.assert_allclose(painter_of(mesh)((shares @ long).astype(np.float32), up), shares, atol=1e-4)


def test_its_own_picture_is_what_a_repainted_mesh_shows():
    """The painter reads a texture between texels as a viewer does."""
    square = np.float32([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    faces, places = np.array([[0, 1, 2], [0, 2, 3]]), np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 3)).astype(np.uint8)
    mesh = Mesh(square, faces, np.zeros((4, 3), np.float32), Texture(places[faces], image))
    x, y = np.meshgrid((np.arange(16) + 0.5) / 16 - 0.5, 0.5 - (np.arange(8) + 0.5) / 8)
    points = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3).astype(np.float32)
    up = np.tile(np.float32([0, 0, 1]), (len(points), 1))
    np.testing.assert_allclose(painter_of(mesh)(points, up).reshape(8, 16, 3) * 255, image, atol=0.01)
    again = textured(square, faces, 64, painter_of(mesh))
    assert again.image.std() > 40
    assert vertex_normals(square, faces)[:, 2].tolist() == [1, 1, 1, 1]
