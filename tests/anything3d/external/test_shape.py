"""Files of meshes as other programs write them: hand arithmetic for places, colours and seams."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from anything3d.errors import InputError
from anything3d.external.shape import read_mesh, texels
from anything3d.mesh import checked
from anything3d.space.mesh import from_glb, to_glb
from anything3d.space.raster import rasterize
from anything3d.space.reference import stack
from anything3d.space.viewpoint import ReferenceCamera
from tests.hull import glb, ply

TRIANGLE = np.array([[0, 0, 0], [2, 0, 0], [0, 4, 0]], float)
FACE = np.array([[0, 1, 2]])
FRAMED = np.array([[-0.25, -0.5, 0], [0.25, -0.5, 0], [-0.25, 0.5, 0]])  # centre (1, 2, 0), longest side 4


def png(colors):
    file = io.BytesIO()
    Image.fromarray(np.array(colors, np.uint8)).save(file, "PNG")
    return file.getvalue()


def read(tmp_path, data, suffix):
    path = tmp_path / f"mesh{suffix}"
    path.write_bytes(data)
    return read_mesh(path)


def ordered(mesh):
    """Vertices and colours of the corners of its triangles, from the corner that comes first."""
    (face,) = mesh.faces
    first = int(np.lexsort(mesh.vertices[face].T[::-1])[0])
    face = np.roll(face, -first)
    return mesh.vertices[face], mesh.colors[face]


def test_a_ply_has_srgb_colours_and_keeps_its_axes(tmp_path):
    colors = [[255, 0, 0], [0, 51, 0], [0, 0, 102]]
    mesh = read(tmp_path, ply(TRIANGLE, FACE, np.array(colors)), ".ply")
    vertices, found = ordered(mesh)
    np.testing.assert_allclose(vertices, FRAMED, atol=1e-6)
    np.testing.assert_allclose(found, np.array(colors) / 255, atol=1e-6)
    assert checked(mesh) is mesh


@pytest.mark.parametrize("channels", [3, 4])
def test_a_glb_has_linear_colours_and_its_nodes_move_it(tmp_path, channels):
    """0.2140 is linear light of sRGB 0.5; the node of `glb` shrinks and moves, which the frame undoes."""
    linear = np.full((3, channels), 0.21404)
    vertices, colors = ordered(read(tmp_path, glb(TRIANGLE, FACE, {"COLOR_0": linear}), ".glb"))
    np.testing.assert_allclose(vertices, FRAMED, atol=1e-6)
    np.testing.assert_allclose(colors, 0.5, atol=1e-4)


def test_a_texture_gives_each_vertex_the_colour_where_it_lies(tmp_path):
    """uv of glTF begin at the upper left corner: the picture's four colours in the middles of its texels."""
    picture = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]
    uv = np.array([[0.25, 0.75], [0.75, 0.25], [0.25, 0.25]])  # lower left, upper right, upper left
    mesh = read(tmp_path, glb(TRIANGLE, FACE, {"TEXCOORD_0": uv}, png(picture)), ".glb")
    np.testing.assert_allclose(ordered(mesh)[1], [[0, 0, 1], [0, 1, 0], [1, 0, 0]], atol=1e-6)


def test_the_texture_of_a_single_mesh_is_kept_through_the_file_of_the_corpus(tmp_path):
    """Between its corners the triangle has the picture's colours, which no vertex has."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:48, 16:48] = (255, 128, 0)
    uv = np.array([[0.02, 0.98], [0.98, 0.98], [0.02, 0.02]])
    data = glb(TRIANGLE, FACE, {"TEXCOORD_0": uv}, png(picture))
    mesh = read(tmp_path, data, ".glb")
    assert mesh.texture is not None
    np.testing.assert_array_equal(mesh.texture.image, picture)
    np.testing.assert_allclose(mesh.colors, 0, atol=1e-6)
    again = from_glb(to_glb(mesh))
    camera = stack([ReferenceCamera(0.0, 0.0, 5.0, (5.0, 5.0, 0.5, 0.5))])
    seen = rasterize(again, camera, 64)
    assert float(seen.alpha[0, 40, 20]) == 1
    assert seen.color[0, :, 36, 26].tolist() == pytest.approx([1, 128 / 255, 0], abs=0.03)


def test_a_texture_that_repeats_or_is_tinted_becomes_colours_of_the_vertices(tmp_path):
    uv = np.array([[0.25, 0.75], [1.75, 0.25], [0.25, 0.25]])
    mesh = read(tmp_path, glb(TRIANGLE, FACE, {"TEXCOORD_0": uv}, png(np.full((2, 2, 3), 90))), ".glb")
    assert mesh.texture is None
    np.testing.assert_allclose(mesh.colors, 90 / 255, atol=1e-4)
    both = {"TEXCOORD_0": uv.clip(0, 1), "COLOR_0": np.full((3, 3), 0.5)}
    assert read(tmp_path, glb(TRIANGLE, FACE, both, png(np.full((2, 2, 3), 255))), ".glb").texture is None


def test_texels_between_centres_are_mixed_and_the_picture_repeats():
    picture = np.array([[[0] * 3, [200] * 3]], np.uint8)
    places = np.array([[0.25, 0.5], [0.5, 0.5], [0.0, 0.5], [1.25, 0.5]])
    np.testing.assert_allclose(texels(picture, places)[:, 0] * 255, [0, 100, 100, 0])


def test_several_meshes_are_one_and_a_mirrored_one_still_looks_outwards(tmp_path):
    scene, moved = trimesh.Scene(), np.diag([-1.0, 1, 1, 1])
    moved[0, 3] = 3.0
    for name, where in (("a", np.eye(4)), ("b", moved)):
        box = trimesh.creation.box()
        box.visual.vertex_colors = [255, 0, 0, 255]
        scene.add_geometry(box, name, name, transform=where)
    mesh = read(tmp_path, scene.export(file_type="glb"), ".glb")
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert len(mesh.faces) == 24
    assert solid.extents.tolist() == pytest.approx([1, 0.25, 0.25])
    assert solid.volume == pytest.approx(2 / 4**3)  # a box that looks inwards would count as less than nothing


def test_a_seam_of_a_texture_is_closed_and_a_hard_edge_of_colours_is_not(tmp_path):
    box = trimesh.creation.box()
    corners, faces = box.vertices[box.faces].reshape(-1, 3), np.arange(36).reshape(12, 3)
    soup = read(tmp_path, ply(corners, faces, np.full((36, 3), 128)), ".ply")
    assert (len(soup.vertices), len(soup.faces)) == (8, 12)
    colors = np.repeat([[255, 0, 0], [0, 0, 255]], 18, axis=0)
    assert len(read(tmp_path, ply(corners, faces, colors), ".ply").vertices) > 8


def test_what_is_no_mesh_says_so(tmp_path):
    for data, suffix, said in (
        (b"o cube", ".obj", "is no .glb or .ply"),
        (b"glTF", ".glb", "cannot be read"),
        (ply(np.zeros((1, 3)), [], np.zeros((1, 3), int)), ".ply", "has no triangle"),
        (ply(np.zeros((3, 3)), FACE, np.zeros((3, 3), int)), ".ply", "the longest side of its bounding box is 0.0"),
        (ply(np.full((3, 3), np.nan), FACE, np.zeros((3, 3), int)), ".ply", "the longest side"),
        (ply(TRIANGLE, np.array([[0, 1, 7]]), np.zeros((3, 3), int)), ".ply", "mesh.ply"),
    ):
        with pytest.raises(InputError, match=said) as error:
            read(tmp_path, data, suffix)
        assert error.value.reason == "external_bad_output"
