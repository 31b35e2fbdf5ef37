import io
import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from anything3d.errors import ConfigError, InputError, NumericsError
from anything3d.mesh import checked, extract, resampled
from anything3d.settings.mesh import MeshConfig
from anything3d.settings.reconstruct import FieldConfig
from anything3d.space.atlas import texels_of
from anything3d.space.field import Field, nodes
from anything3d.space.mesh import Mesh, facts, from_glb, signed_volumes, to_glb, vertex_normals
from anything3d.space.paint import Sight
from anything3d.space.viewpoint import ReferenceCamera

R = 40
CONFIG = FieldConfig(resolution=R, half=0.6)
# Every vertex of marching cubes, where it is, with its colour.
DEFAULT = MeshConfig(surface=0.08, fit=0.0, max_faces=0, texture_px=0, palette=0.0)
STEP = 1.2 / (R - 1)  # between two nodes
LEVEL = CONFIG.raw_level(3.2)  # where it rises by 40 per length, a ray has met an opacity of 0.08 there
FRONT = ReferenceCamera(0.0, 0.0, 3.0, (2.5, 2.5, 0.5, 0.5))


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
    np.testing.assert_allclose(mesh.colors, 1 / (1 + np.exp(-4 * mesh.vertices)), atol=0.03)


def two_coloured_ball(outside: float = -0.02) -> Field:
    """Red above, blue below, and green in the space that is farther than `-outside` from the ball."""
    signed = ball(0.4)
    red, blue, green = (torch.tensor(color, dtype=torch.float32) for color in ([1, 0, 0], [0, 0, 1], [0, 1, 0]))
    above = (nodes(R, 0.6)[..., 1] > 0)[..., None]
    color = torch.where((signed < outside)[..., None], green, torch.where(above, red, blue))
    return Field((LEVEL + 60 * signed)[None, None], 8 * (color.permute(3, 0, 1, 2)[None] - 0.5), CONFIG)


def test_colours_are_those_that_eyes_outside_see_and_not_those_of_the_space_around():
    mesh = extract(two_coloured_ball().grids(0), DEFAULT)
    assert isinstance(mesh, Mesh)
    for half, color in ((mesh.vertices[:, 1] > 0.05, [1, 0, 0]), (mesh.vertices[:, 1] < -0.05, [0, 0, 1])):
        errors = np.abs(mesh.colors[half] - color).max(axis=1)
        assert errors.mean() < 0.1
        assert errors.max() < 0.3  # green is one node away


def disc(radius_px: float, color: tuple[int, int, int]) -> np.ndarray:
    """A crop of 64 px with a disc in the middle, whose mask is the disc."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    inside = np.hypot(rows, columns) < radius_px
    return np.concatenate([np.tile(np.uint8(color), (64, 64, 1)), np.uint8(255 * inside)[..., None]], axis=2)


def test_the_photo_colours_what_it_shows_from_in_front_and_nothing_else():
    """Of a ball, what has a normal within 60 degrees of the line of sight, and lies in the mask by three pixels."""
    yellow = disc(22, (255, 255, 0))  # the ball's own outline has 64 * 2.5 * 0.4 / sqrt(9 - 0.16) = 21.5 px
    grids = two_coloured_ball().grids(0)
    mesh, plain = extract(grids, DEFAULT, Sight(yellow, FRONT)), extract(grids, DEFAULT)
    assert isinstance(mesh, Mesh)
    assert isinstance(plain, Mesh)
    towards = FRONT.eye - mesh.vertices
    cosine = (towards * vertex_normals(mesh.vertices, mesh.faces)).sum(1) / np.linalg.norm(towards, axis=1)
    assert 500 < (cosine > 0.7).sum() < (cosine < 0.15).sum()
    np.testing.assert_allclose(mesh.colors[cosine > 0.7], np.tile([1, 1, 0], ((cosine > 0.7).sum(), 1)), atol=1e-3)
    np.testing.assert_array_equal(mesh.colors[cosine < 0.15], plain.colors[cosine < 0.15])

    small = extract(grids, DEFAULT, Sight(disc(8, (255, 255, 0)), FRONT))
    assert isinstance(small, Mesh)
    beside = np.hypot(mesh.vertices[:, 0], mesh.vertices[:, 1]) > 0.18  # 8 px are 0.14
    np.testing.assert_array_equal(small.colors[beside], plain.colors[beside])


def test_a_mask_that_is_a_little_larger_makes_the_ball_larger_and_colours_stay_where_they_are():
    """The outline has a radius of 21.5 px, that of the mask 23 px. The far side keeps the field's colours."""
    grids, sight = two_coloured_ball().grids(0), Sight(disc(23, (255, 255, 0)), FRONT)
    plain, moved = (extract(grids, replace(DEFAULT, fit=fit), given) for fit, given in ((0.0, None), (0.5, sight)))
    assert isinstance(plain, Mesh)
    assert isinstance(moved, Mesh)
    assert facts(moved).watertight
    assert np.linalg.norm(moved.vertices, axis=1).mean() == pytest.approx(0.4 * 23 / 21.5, rel=0.02)
    behind = plain.vertices[:, 2] < -0.1
    np.testing.assert_array_equal(moved.colors[behind], plain.colors[behind])
    in_front = plain.vertices[:, 2] > 0.3
    np.testing.assert_allclose(moved.colors[in_front], np.tile([1, 1, 0], (in_front.sum(), 1)), atol=1e-3)


def test_a_photo_of_something_larger_gives_no_colour():
    """The ball's outline has a radius of 21.5 px: it covers 96 % of the first mask, and 48 % of the second."""
    grids, seen = two_coloured_ball().grids(0), []
    for radius in (22, 31):
        mesh = extract(grids, DEFAULT, Sight(disc(radius, (255, 255, 0)), FRONT))
        assert isinstance(mesh, Mesh)
        seen.append((np.abs(mesh.colors - [1, 1, 0]).max(1) < 1e-6).any())
    assert seen == [True, False]


@pytest.mark.parametrize("radius", [22, 31], ids=["covered", "not covered"])
def test_colours_that_the_photo_does_not_show_move_to_those_that_it_shows(radius):
    """The ball is a little greener than the photo; then its vertices and texels have the colour of the photo."""
    grids, photo = two_coloured_ball().grids(0), (200, 180, 40)
    green = np.float32([0.5, 0.6, 0.1])
    grids = replace(grids, color=np.broadcast_to(np.log(green / (1 - green))[:, None, None, None], grids.color.shape))
    config, sight = replace(DEFAULT, texture_px=64), Sight(disc(radius, photo), FRONT)
    stained, mesh = extract(grids, config, sight), extract(grids, replace(config, palette=0.06), sight)
    assert isinstance(stained, Mesh)
    assert isinstance(mesh, Mesh)
    assert mesh.texture is not None
    behind = mesh.vertices[:, 2] < 0
    np.testing.assert_allclose(stained.colors[behind], np.tile(green, (behind.sum(), 1)), atol=1e-3)
    texels = mesh.texture.image.reshape(-1, 3) / 255
    for colors in (mesh.colors[behind], texels):
        lifted = colors + 0.02
        shares = lifted / lifted.sum(axis=1, keepdims=True)
        goal = np.divide(photo, 255) + 0.02
        np.testing.assert_allclose(shares, np.tile(goal / goal.sum(), (len(shares), 1)), atol=0.015)
    np.testing.assert_allclose(mesh.colors[behind].sum(axis=1), green.sum(), atol=1e-3)


def test_the_photo_does_not_colour_what_is_hidden_from_it():
    """Two balls in a row: the eye sees the one in front of the other."""
    signed = torch.maximum(ball(0.2, (0.0, 0.0, 0.3)), ball(0.15, (0.0, 0.0, -0.3)))
    mesh = extract(field_of(signed).grids(0), replace(DEFAULT, min_cover=0.0), Sight(disc(31, (255, 255, 0)), FRONT))
    plain = mesh_of(signed)
    assert isinstance(mesh, Mesh)
    behind = mesh.vertices[:, 2] < 0
    np.testing.assert_array_equal(mesh.colors[behind], plain.colors[behind])
    front = mesh.colors[mesh.vertices[:, 2] > 0.45]
    assert len(front) > 100
    np.testing.assert_allclose(front, np.tile([1.0, 1.0, 0.0], (len(front), 1)), atol=1e-6)


def test_a_box_with_thin_walls_is_closed_and_has_its_top():
    """Eyes see its top, which stops 17 % of the light, though it is far less dense than the sides."""
    distance = nodes(R, 0.6).abs() - torch.tensor([11.5, 8.5, 9.5]) * STEP
    wall = (distance.amax(-1).abs() < 0.1 * STEP).float()  # one node thick
    top = (nodes(R, 0.6)[..., 1] - 8.5 * STEP).abs() < 0.1 * STEP
    density = torch.where(top, 6.0, 80.0) * wall  # 6 * 1.2 / 39 = 0.18, and 1 - exp(-0.18) = 0.17
    raw = torch.expm1(density / 30).clamp(min=1e-4).log() + 1
    mesh = extract(Field(raw[None, None], torch.zeros(1, 3, R, R, R), CONFIG).grids(0), replace(DEFAULT, resolution=R))
    assert isinstance(mesh, Mesh)
    assert facts(mesh).watertight
    assert facts(mesh).components == 1
    assert extents(mesh) == pytest.approx([24 * STEP, 18 * STEP, 20 * STEP], abs=STEP)
    assert volume(mesh) == pytest.approx(math.prod(extents(mesh)), rel=0.05)  # no floor is seen through the top


@pytest.mark.parametrize("number", range(4))
def test_every_mesh_is_watertight(number):
    noise = torch.randn(1, 1, 9, 9, 9, generator=torch.Generator().manual_seed(number)) * 4
    raw = torch.nn.functional.interpolate(noise, size=R, mode="trilinear", align_corners=True)
    mesh = extract(Field(raw, torch.zeros(1, 3, R, R, R), CONFIG).grids(0), replace(DEFAULT, min_component_share=0.0))
    assert isinstance(mesh, Mesh)
    assert facts(mesh).watertight
    assert volume(mesh) > 0


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
        grids = field.grids(0)
        numbers = grids.painted(grids.sampled(grids.color, points.numpy()))
        np.testing.assert_allclose(numbers, colors[0], atol=5e-6)


def test_specks_and_cavities_are_left_out():
    big, speck, hollow = ball(0.35), ball(0.075, (0.48, 0.48, 0.48)), -ball(0.2)
    both = mesh_of(torch.maximum(big, speck), replace(DEFAULT, min_component_share=0.0))
    assert facts(both).components == 2
    clean = mesh_of(torch.minimum(torch.maximum(big, speck), hollow), replace(DEFAULT, min_component_share=0.05))
    assert facts(clean).components == 1
    assert volume(clean) == pytest.approx(4 / 3 * math.pi * 0.35**3, rel=0.02)
    assert len(clean.vertices) == facts(clean).vertices == len(np.unique(clean.faces))


def test_an_object_that_leaves_the_cube_is_closed_at_its_faces():
    mesh = mesh_of(torch.full((R, R, R), 0.2))
    assert facts(mesh).watertight
    assert extents(mesh) == pytest.approx([1.2, 1.2, 1.2], abs=2 * 1.2 / 63)  # at most one node outside


def test_a_haze_is_an_object_if_it_hides_half_of_what_lies_behind():
    """A ball of radius 0.4 and density 2 stops 1 - exp(-1.6) = 80 % of the light, one of density 0.5 only 33 %."""
    for density, seen in ((2.0, True), (0.5, False)):
        raw = torch.where(ball(0.4) > 0, CONFIG.raw_level(density), -9.0)
        mesh = extract(Field(raw[None, None], torch.zeros(1, 3, R, R, R), CONFIG).grids(0), DEFAULT)
        assert isinstance(mesh, Mesh) is seen
        assert seen or mesh.reason == "empty_surface"


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
    np.testing.assert_allclose(again.colors, mesh.colors, atol=1e-6)


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
    assert (accessor["componentType"], accessor["type"], view["byteOffset"] % 4) == (5126, "VEC3", 0)
    colors = (np.array([[0.25, 0.5, 1.0, 1.0]] * 4) * highest).astype(depth).tobytes()
    tree["bufferViews"].append({"buffer": 0, "byteOffset": len(body), "byteLength": len(colors)})
    accessor |= {"componentType": {"<u1": 5121, "<u2": 5123, "<f4": 5126}[depth], "normalized": highest > 1}
    accessor["type"] = "VEC4"
    accessor["bufferView"] = len(tree["bufferViews"]) - 1
    tree["buffers"][0]["byteLength"] = len(body) + len(colors)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    body += colors
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
    found = from_glb(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    expected = [[0.5371, 0.7354, 1.0]] * 4  # sRGB of 0.25, 0.5, 1
    np.testing.assert_allclose(found.colors, expected, atol=0.003)


def test_vertex_colours_are_linear_light_on_a_matte_material():
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    mesh = Mesh(vertices, np.array([[0, 1, 2]]), np.float32([[0.5, 1.0, 0.0]] * 3))
    (loaded,) = trimesh.load_scene(io.BytesIO(to_glb(mesh)), file_type="glb").geometry.values()
    linear = ((0.5 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(loaded.visual.vertex_attributes["color"][0], [linear, 1, 0], atol=1e-6)
    assert loaded.visual.material.metallicFactor == 0
    (colored,) = trimesh.load_scene(
        io.BytesIO(to_glb(mesh)), file_type="glb", skip_materials=True
    ).geometry.values()  # trimesh shows no vertex colours beside a material
    assert colored.visual.vertex_colors[0].tolist() == [round(255 * linear), 255, 0, 255]


def test_glb_has_unit_normals_that_look_outwards():
    (loaded,) = trimesh.load_scene(
        io.BytesIO(to_glb(mesh_of(ball(0.4)))), file_type="glb", process=False
    ).geometry.values()
    assert "vertex_normals" in loaded._cache.cache  # read from the file, not computed
    outwards = loaded.vertices / np.linalg.norm(loaded.vertices, axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(loaded.vertex_normals, axis=1), 1, atol=1e-5)
    assert ((loaded.vertex_normals * outwards).sum(1) > 0.95).all()


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


@pytest.mark.parametrize("number", range(4))
def test_fewer_faces_keep_the_shape_and_its_watertightness(number):
    """Blobs of noise: 500 faces of about 8,000, whose corners lie within a node of vertices of the surface."""
    noise = torch.randn(1, 1, 7, 7, 7, generator=torch.Generator().manual_seed(number))
    blobs = torch.nn.functional.interpolate(noise, size=R, mode="trilinear", align_corners=True)[0, 0]
    signed = torch.minimum(ball(0.45), 0.05 * blobs + ball(0.35))
    full, small = mesh_of(signed), mesh_of(signed, replace(DEFAULT, max_faces=500))
    assert len(full.faces) > 4000
    assert len(small.faces) <= 500
    assert facts(small).watertight
    assert facts(small).components == facts(full).components
    assert volume(small) == pytest.approx(volume(full), rel=0.02)
    assert cKDTree(full.vertices).query(small.vertices)[0].max() < 0.75 * STEP
    np.testing.assert_allclose(small.colors, 1 / (1 + np.exp(-4 * small.vertices)), atol=0.06)


@pytest.mark.parametrize(("name", "value"), [("max_faces", 99), ("texture_px", 63)])
def test_a_mesh_of_hardly_any_triangle_or_texel_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"mesh.{name} is {value}; must be 0 or at least {value + 1}"):
        MeshConfig(**{name: value})
    MeshConfig(**{name: 0})
    MeshConfig(**{name: value + 1})


def test_a_mesh_within_the_budget_stays_as_it_is():
    full = mesh_of(ball(0.4))
    same = mesh_of(ball(0.4), replace(DEFAULT, max_faces=len(full.faces)))
    np.testing.assert_array_equal(same.faces, full.faces)
    np.testing.assert_array_equal(same.vertices, full.vertices)


def test_the_texture_has_the_fields_colours_between_vertices():
    """A ball of 100 faces: its texture changes where the field does, which is between the vertices."""
    config = replace(DEFAULT, max_faces=100, texture_px=256)
    mesh = extract(two_coloured_ball().grids(0), config)
    assert isinstance(mesh, Mesh)
    assert mesh.texture is not None
    assert facts(mesh).watertight
    texels = texels_of(mesh.texture.corners, 256)
    seen = mesh.texture.image[texels.row, texels.column] / 255
    points = texels.on(mesh.faces, mesh.vertices)
    for half, color in ((points[:, 1] > 0.05, [1, 0, 0]), (points[:, 1] < -0.05, [0, 0, 1])):
        assert half.sum() > 5000
        assert np.abs(seen[half] - color).mean() < 0.1


def test_the_photo_colours_the_texture_too():
    config = replace(DEFAULT, max_faces=5000, texture_px=128)
    mesh = extract(two_coloured_ball().grids(0), config, Sight(disc(22, (255, 255, 0)), FRONT))
    assert isinstance(mesh, Mesh)
    assert mesh.texture is not None
    texels = texels_of(mesh.texture.corners, 128)
    towards = FRONT.eye - texels.on(mesh.faces, mesh.vertices)
    cosine = (texels.on(mesh.faces, vertex_normals(mesh.vertices, mesh.faces)) * towards).sum(1)
    facing = cosine / np.linalg.norm(towards, axis=1) > 0.75
    assert facing.sum() > 500
    np.testing.assert_array_equal(
        mesh.texture.image[texels.row, texels.column][facing], np.tile([255, 255, 0], (facing.sum(), 1))
    )


def test_up_is_plus_y_and_the_front_is_plus_z_in_the_file():
    """The camera in front, at azimuth 0, gives its colours to the side whose z is positive."""
    tall = torch.maximum(ball(0.2), ball(0.1, (0.0, 0.4, 0.0)))
    tall = torch.maximum(tall, 0.08 - (nodes(R, 0.6) - torch.tensor([0.0, 0.3, 0.0])).norm(dim=-1))
    mesh = extract(field_of(tall).grids(0), replace(DEFAULT, min_cover=0.0), Sight(disc(31, (255, 0, 255)), FRONT))
    assert isinstance(mesh, Mesh)
    (loaded,) = trimesh.load_scene(io.BytesIO(to_glb(mesh)), file_type="glb", process=False).geometry.values()
    scene = trimesh.load_scene(io.BytesIO(to_glb(mesh)), file_type="glb")
    np.testing.assert_allclose(scene.bounds, [[-0.2, -0.2, -0.2], [0.2, 0.5, 0.2]], atol=0.02)  # no node turns it
    purple = (np.abs(loaded.visual.vertex_attributes["color"] - [1, 0, 1]).max(1) < 1e-3) & (
        loaded.vertices[:, 1] < 0.1
    )
    assert purple.sum() > 100
    assert loaded.vertices[purple, 2].min() > 0
