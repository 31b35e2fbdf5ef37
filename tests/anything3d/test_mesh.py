import io
import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from anything3d.errors import InputError, NumericsError
from anything3d.mesh import checked, colors_at, extract, resampled
from anything3d.settings.mesh import MeshConfig
from anything3d.settings.reconstruct import FieldConfig
from anything3d.space.field import Field, nodes
from anything3d.space.mesh import Mesh, facts, from_glb, signed_volumes, to_glb

R = 40
CONFIG = FieldConfig(resolution=R, half=0.6)
DEFAULT = MeshConfig()
LEVEL = Field(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 3, 2, 2, 2), CONFIG).raw_level(DEFAULT.threshold)


def field_of(signed: torch.Tensor, slope: float = 40.0) -> Field:
    """A field whose default surface is where `signed` [R, R, R] (positive inside) is 0; colour varies with place."""
    color = (4 * nodes(R, 0.6)).permute(3, 0, 1, 2).contiguous()
    return Field((LEVEL + slope * signed)[None, None], color[None], CONFIG)


def ball(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    return radius - (nodes(R, 0.6) - torch.tensor(centre)).norm(dim=-1)


def mesh_of(signed: torch.Tensor, config: MeshConfig = DEFAULT) -> Mesh:
    mesh = extract(field_of(signed).grids(0), config)
    assert isinstance(mesh, Mesh), mesh
    return mesh


def volume(mesh: Mesh) -> float:
    return float(signed_volumes(mesh.vertices, mesh.faces).sum())


def extents(mesh: Mesh) -> list[float]:
    return np.ptp(mesh.vertices, axis=0).tolist()


def test_a_ball_has_the_volume_of_a_ball_and_looks_outwards():
    mesh = mesh_of(ball(0.4))
    assert volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)  # positive: faces look outwards
    assert extents(mesh) == pytest.approx([0.8, 0.8, 0.8], abs=0.01)
    assert facts(mesh).watertight
    assert facts(mesh).components == 1


def test_twice_the_size_is_eight_times_the_volume():
    small, large = (volume(mesh_of(ball(radius))) for radius in (0.25, 0.5))
    assert large / small == pytest.approx(8, rel=0.03)


def test_axes_are_those_of_the_field():
    centre = (0.1, -0.2, 0.3)
    mesh = mesh_of(ball(0.2, centre))
    middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    np.testing.assert_allclose(middle, centre, atol=5e-3)


def test_vertex_colours_are_the_fields():
    mesh = mesh_of(ball(0.4))
    np.testing.assert_allclose(mesh.colors, 1 / (1 + np.exp(-4 * mesh.vertices)), atol=2e-3)


def test_numpy_samples_the_field_as_torch_does():
    """The grid of the mesh is not that of the field, and vertices lie beyond the cube, where the object touches it."""
    noise = torch.Generator().manual_seed(0)
    field = Field(torch.randn(1, 1, 9, 9, 9, generator=noise), torch.randn(1, 3, 9, 9, 9, generator=noise), CONFIG)
    volume = resampled(field.grids(0).density[0], 14)
    with torch.no_grad():
        expected = field.raw_density(nodes(14, CONFIG.half).reshape(1, -1, 3)).reshape(14, 14, 14)
        np.testing.assert_allclose(volume, expected, atol=5e-6)
        assert volume.dtype == np.float32

        points = 1.3 * (torch.rand(500, 3, generator=noise) - 0.5)
        _, colors = field.density_color(points[None].clamp(-CONFIG.half, CONFIG.half))
        np.testing.assert_allclose(colors_at(field.grids(0), points.numpy()), colors[0], atol=5e-6)


def test_specks_and_cavities_are_left_out():
    big, speck, hollow = ball(0.35), ball(0.045, (0.5, 0.5, 0.5)), -ball(0.2)
    both = mesh_of(torch.maximum(big, speck), MeshConfig(min_component_share=0.0))
    assert facts(both).components == 2
    clean = mesh_of(torch.minimum(torch.maximum(big, speck), hollow), MeshConfig(min_component_share=0.05))
    assert facts(clean).components == 1
    assert volume(clean) == pytest.approx(4 / 3 * math.pi * 0.35**3, rel=0.02)
    assert len(clean.vertices) == facts(clean).vertices == len(np.unique(clean.faces))


def test_an_object_that_leaves_the_cube_is_closed_at_its_faces():
    mesh = mesh_of(torch.full((R, R, R), 0.2))
    assert facts(mesh).watertight
    assert extents(mesh) == pytest.approx([1.2, 1.2, 1.2], abs=2 * 1.2 / 63)  # at most one node outside


def test_a_thin_field_is_cut_at_half_its_mean_density():
    field = field_of(ball(0.4).clamp(max=0.04))
    with torch.no_grad():
        field.density_grid.sub_(field.density_grid.amax() - field.raw_level(4.0))  # nowhere more than 4, below 6
    mesh = extract(field.grids(0), DEFAULT)
    assert isinstance(mesh, Mesh)
    assert facts(mesh).components == 1


def test_each_empty_or_broken_field_has_its_own_error():
    clear, broken, sound = field_of(ball(0.4) - 2), field_of(ball(0.4)), field_of(ball(0.3))
    with torch.no_grad():
        broken.density_grid[0, 0, 3, 4, 5] = torch.nan
    first, second, third = (extract(field.grids(0), DEFAULT) for field in (clear, broken, sound))
    assert isinstance(first, NumericsError)
    assert first.reason == "empty_surface"
    assert isinstance(second, NumericsError)
    assert second.reason == "field_not_finite"
    assert isinstance(third, Mesh)


def test_glb_has_equal_bytes_each_time_and_keeps_the_mesh():
    mesh = mesh_of(ball(0.4))
    data = to_glb(mesh)
    assert data == to_glb(mesh_of(ball(0.4)))
    again = from_glb(data)
    np.testing.assert_array_equal(again.vertices, mesh.vertices)
    np.testing.assert_array_equal(again.faces, mesh.faces)
    np.testing.assert_allclose(again.colors, mesh.colors, atol=1e-4)  # 16 bits of linear light, dark end


def test_every_srgb_level_survives_in_a_glb():
    levels = np.arange(256)
    colors = (np.stack([levels, levels[::-1], levels // 2], axis=1) / 255).astype(np.float32)
    mesh = Mesh(colors, np.arange(255).reshape(-1, 3), colors)
    np.testing.assert_array_equal((from_glb(to_glb(mesh)).colors * 255).round(), (colors * 255).round())


@pytest.mark.parametrize(("depth", "highest"), [("<u1", 255), ("<u2", 65535), ("<f4", 1)])
def test_colours_of_a_glb_are_read_in_every_depth_that_gltf_has(depth, highest):
    """The same file with another component type of its colours, as other programs write it."""
    mesh = Mesh(np.eye(4, 3, dtype=np.float32), np.array([[0, 1, 2], [1, 3, 2]]), np.ones((4, 3), np.float32))
    data = to_glb(mesh)
    length = int.from_bytes(data[12:16], "little")
    tree, body = json.loads(data[20 : 20 + length]), data[20 + length + 8 :]
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    view = tree["bufferViews"][accessor["bufferView"]]
    assert (accessor["componentType"], accessor["normalized"], view["byteOffset"] % 4) == (5123, True, 0)
    colors = (np.array([[0.25, 0.5, 1.0, 1.0]] * 4) * highest).astype(depth).tobytes()
    tree["bufferViews"].append({"buffer": 0, "byteOffset": len(body), "byteLength": len(colors)})
    accessor |= {"componentType": {"<u1": 5121, "<u2": 5123, "<f4": 5126}[depth], "normalized": highest > 1}
    accessor["bufferView"] = len(tree["bufferViews"]) - 1
    tree["buffers"][0]["byteLength"] = len(body) + len(colors)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    body += colors
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
    found = from_glb(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    expected = [[0.5371, 0.7354, 1.0]] * 4  # sRGB of 0.25, 0.5, 1
    np.testing.assert_allclose(found.colors, expected, atol=0.003)


def test_glb_colours_are_linear_light_on_a_matte_material():
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    mesh = Mesh(vertices, np.array([[0, 1, 2]]), np.float32([[0.5, 1.0, 0.0]] * 3))
    (loaded,) = trimesh.load_scene(io.BytesIO(to_glb(mesh)), file_type="glb").geometry.values()
    linear = round(((0.5 + 0.055) / 1.055) ** 2.4 * 65535)
    assert loaded.visual.vertex_attributes["color"][0].tolist() == [linear, 65535, 0, 65535]
    assert loaded.visual.material.metallicFactor == 0
    assert loaded.vertices[:, 1].max() == 1  # y stays up


def test_bytes_that_are_no_mesh_are_refused():
    with pytest.raises(InputError, match="bad_glb"):
        from_glb(b"no glb")


def tetrahedron(side: float = 1.0, shift: float = 0.0) -> Mesh:
    """The corners of a cube of this side, every second one; its bounding box is the cube."""
    corners = np.float32([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) * side / 2 + shift
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return Mesh(corners.astype(np.float32), faces, np.full((4, 3), 0.5, np.float32))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (tetrahedron(), None),
        (tetrahedron(1.015), None),
        (tetrahedron(1.5), "mesh_frame"),
        (tetrahedron(shift=0.1), "mesh_frame"),
        (replace(tetrahedron(), faces=np.zeros((0, 3), int)), "empty_surface"),
        (replace(tetrahedron(), faces=np.array([[0, 1, 4]])), "mesh_broken"),
        (replace(tetrahedron(), faces=np.array([[0, 1, -1]])), "mesh_broken"),
        (replace(tetrahedron(), vertices=tetrahedron().vertices * np.float32(np.nan)), "mesh_broken"),
        (replace(tetrahedron(), colors=np.full((4, 3), np.inf, np.float32)), "mesh_broken"),
        (replace(tetrahedron(), colors=np.full((4, 3), 1.5, np.float32)), "mesh_broken"),
    ],
)
def test_a_given_mesh_is_taken_as_it_is_or_refused(given, reason):
    result = checked(given)
    if reason is None:
        assert result is given
    else:
        assert isinstance(result, NumericsError)
        assert result.reason == reason
