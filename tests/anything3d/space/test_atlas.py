"""Textures: triangles whose texels can be counted, pictures that come back from a file, and the parts of the file."""

import io
import json

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anything3d.space.atlas import texels_of, textured, unwrapped, with_gutters
from anything3d.space.camera import Camera
from anything3d.space.mesh import Mesh, Texture, facts, from_glb, to_glb
from anything3d.space.raster import rasterize

SQUARE = np.float32([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])
WHOLE = np.float32([[[0, 1], [1, 1], [1, 0]], [[0, 1], [1, 0], [0, 0]]])  # the picture fills the square, upright
FRONT = Camera(
    torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]]), torch.tensor([[2.0, 2, 0.5, 0.5]])
)  # at z = 2; the square fills the image


def sphere(subdivisions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    made = trimesh.creation.icosphere(subdivisions, radius=0.5)
    return made.vertices.astype(np.float32), made.faces.astype(np.int64)


def by_place(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    del normals
    return points + 0.5


def test_two_triangles_share_the_texels_of_a_square():
    """Of 4 by 4 texels, 6 lie below the diagonal, 6 above it, and the first triangle has the 4 on it."""
    texels = texels_of(WHOLE, 4)
    assert len(texels.row) == 16
    assert np.bincount(texels.face).tolist() == [10, 6]
    first = (texels.row == 3) & (texels.column == 0)  # the bottom left texel, on the diagonal
    np.testing.assert_allclose(texels.weights[first], [[7 / 8, 0, 1 / 8]], atol=1e-6)
    x_y = texels.on(FACES, SQUARE)[:, :2]
    expected = np.stack([(texels.column + 0.5) / 4 - 0.5, 0.5 - (texels.row + 0.5) / 4], 1)
    np.testing.assert_allclose(x_y, expected, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([16, 33]))
def test_texels_are_those_that_a_loop_finds(seed, count, size):
    corners = np.random.default_rng(seed).uniform(-0.1, 1.1, (count, 3, 2)).astype(np.float32)
    texels = texels_of(corners, size)
    found = {*zip(texels.row.tolist(), texels.column.tolist(), strict=True)}
    expected = set()
    for a, b, c in corners.astype(float) * size:
        for row in range(size):
            for column in range(size):
                p = np.array([column, row]) + 0.5
                signs = [np.sign(np.linalg.det(np.stack([v - u, p - u]))) for u, v in ((a, b), (b, c), (c, a))]
                if len({*signs} - {0}) == 1:
                    expected.add((row, column))
    assert found == expected


def test_pieces_do_not_overlap_and_gutters_have_their_colours():
    vertices, faces = sphere()
    size = 128
    corners = unwrapped(vertices, faces, size)
    assert corners.shape == (len(faces), 3, 2)
    assert corners.min() >= 0
    assert corners.max() <= 1
    edges = np.moveaxis(corners[:, 1:] - corners[:, :1], 1, 0).astype(float) * size
    area = np.abs(edges[0][:, 0] * edges[1][:, 1] - edges[0][:, 1] * edges[1][:, 0]).sum() / 2
    texels = texels_of(corners, size)
    assert len(texels.row) == pytest.approx(area, rel=0.05)  # overlapping pieces would have fewer
    assert area > 0.4 * size * size

    even = np.float32([[0.2, 0.4, 0.6]])
    texture = textured(vertices, faces, size, lambda points, normals: even.repeat(len(points), 0))
    np.testing.assert_array_equal(texture.image, np.tile(np.uint8([51, 102, 153]), (size, size, 1)))


def test_a_gutter_has_the_colour_of_the_nearest_texel():
    """Two triangles, in the left and in the right column of five."""
    corners = np.float32([[[0, -9], [0.2, -9], [0.1, 9]], [[0.8, -9], [1, -9], [0.9, 9]]])
    texels = texels_of(corners, 5)
    assert {*texels.column.tolist()} == {0, 4}
    image = np.zeros((5, 5, 3), np.uint8)
    image[:, 0], image[:, 4] = 10, 200
    found = with_gutters(image, texels)
    np.testing.assert_array_equal(found[:, :2], np.full((5, 2, 3), 10))
    np.testing.assert_array_equal(found[:, 3:], np.full((5, 2, 3), 200))


def test_the_rasterizer_shows_the_picture_upright():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1], image[1, 0] = [255, 0, 0], [0, 255, 0], [0, 0, 255]  # the fourth is black
    mesh = Mesh(SQUARE, FACES, np.zeros((4, 3), np.float32), Texture(WHOLE, image))
    seen = rasterize(mesh, FRONT, 32).color[0]
    assert torch.allclose(seen[:, :7, :7], torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 7, 7), atol=1e-6)
    assert torch.allclose(seen[:, 2, -2], torch.tensor([0.0, 1, 0]), atol=1e-6)
    assert torch.allclose(seen[:, -2, 2], torch.tensor([0.0, 0, 1]), atol=1e-6)
    assert not seen[:, -7:, -7:].any()
    assert float(seen[0, 4, 15]) == pytest.approx(
        0.5 + 0.5 / 16, abs=1e-5
    )  # halfway between red and green, less a part


def test_a_textured_mesh_comes_back_from_its_file():
    """Vertices and faces are equal, and so is where their corners lie. JPEG changes colours a little."""
    vertices, faces = sphere()
    texture = textured(vertices, faces, 128, by_place)
    mesh = Mesh(vertices, faces, by_place(vertices, vertices).astype(np.float32), texture)
    data = to_glb(mesh)
    assert data == to_glb(mesh)
    again = from_glb(data)
    np.testing.assert_array_equal(again.vertices, vertices)
    np.testing.assert_array_equal(again.faces, faces)
    assert facts(again) == facts(mesh)
    assert again.texture is not None
    np.testing.assert_allclose(again.texture.corners, texture.corners, atol=1e-6)
    difference = again.texture.image.astype(int) - texture.image
    assert np.sqrt((difference**2).mean()) < 3
    np.testing.assert_allclose(again.colors, mesh.colors, atol=0.06)  # of the texel below the vertex
    camera = Camera(FRONT.pose, torch.tensor([[1.5, 1.5, 0.5, 0.5]]))
    seen, direct = rasterize(again, camera, 64), rasterize(Mesh(vertices, faces, mesh.colors), camera, 64)
    assert torch.equal(seen.alpha, direct.alpha)
    assert (seen.color - direct.color).abs().max() < 0.05
    assert (seen.color - direct.color).abs().mean() < 0.004


def test_trimesh_shows_the_colours():
    """A user opens the file and asks for colours: they are the surface's, in sRGB."""
    vertices, faces = sphere()
    mesh = Mesh(vertices, faces, vertices + np.float32(0.5), textured(vertices, faces, 256, by_place))
    (loaded,) = trimesh.load(io.BytesIO(to_glb(mesh)), file_type="glb").geometry.values()
    colors = loaded.visual.to_color().vertex_colors
    np.testing.assert_allclose(colors[:, :3] / 255, loaded.vertices + 0.5, atol=0.05)
    assert (colors[:, 3] == 255).all()


@pytest.mark.parametrize("size", [0, 64])
def test_the_file_is_what_gltf_demands(size):
    """Sections 3.6.2, 3.7.2.1 and 3.8 of the specification. tests/validate_glb.js asks Khronos' own validator."""
    vertices, faces = sphere(2)
    texture = textured(vertices, faces, size, by_place) if size else None
    data = to_glb(Mesh(vertices, faces, vertices + np.float32(0.5), texture))
    assert data[:8] == b"glTF\x02\0\0\0"
    assert int.from_bytes(data[8:12], "little") == len(data)
    length = int.from_bytes(data[12:16], "little")
    assert (length % 4, data[16:20]) == (0, b"JSON")
    tree, body = json.loads(data[20 : 20 + length]), data[28 + length :]
    assert int.from_bytes(data[20 + length : 24 + length], "little") == len(body) == tree["buffers"][0]["byteLength"]

    end = 0
    for view in tree["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert end <= view["byteOffset"] < end + 4  # without overlap
        end = view["byteOffset"] + view["byteLength"]
    assert end <= len(body) < end + 4

    (primitive,) = tree["meshes"][0]["primitives"]
    arrays = {}
    for name, number in (*primitive["attributes"].items(), ("indices", primitive["indices"])):
        accessor = tree["accessors"][number]
        view = tree["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        kind = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
        assert view["byteLength"] == accessor["count"] * width * 4
        assert view["target"] == (34963 if name == "indices" else 34962)
        arrays[name] = np.frombuffer(body, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)
    positions = tree["accessors"][primitive["attributes"]["POSITION"]]
    assert arrays["POSITION"].min(0).tolist() == positions["min"]
    assert arrays["POSITION"].max(0).tolist() == positions["max"]
    assert {len(array) for name, array in arrays.items() if name != "indices"} == {len(arrays["POSITION"])}
    assert arrays["indices"].max() == len(arrays["POSITION"]) - 1
    np.testing.assert_allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1, atol=1e-4)
    if size:
        view = tree["bufferViews"][tree["images"][0]["bufferView"]]
        with Image.open(io.BytesIO(body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])) as picture:
            assert (picture.format, picture.size) == ("JPEG", (size, size))
        assert "COLOR_0" not in arrays  # it would be multiplied with the texture
        assert 0 <= arrays["TEXCOORD_0"].min() <= arrays["TEXCOORD_0"].max() <= 1
    else:
        assert 0 <= arrays["COLOR_0"].min() <= arrays["COLOR_0"].max() <= 1
