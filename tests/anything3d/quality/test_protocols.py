"""Sets in the layouts of their owners, made of simple meshes, and what the protocols say of known shapes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from anything3d.errors import SourceError
from anything3d.quality.protocols import MEASURES, load_true, measured, true_meshes
from anything3d.space.mesh import Mesh

POINTS = 2**16


def body() -> trimesh.Trimesh:
    """A beam with a block on one end: no turn but none leaves it as it is."""
    beam = trimesh.creation.box((1, 0.2, 0.1))
    block = trimesh.creation.box((0.2, 0.4, 0.3)).apply_translation((0.4, 0.1, 0.1))
    return trimesh.util.concatenate([beam, block])


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    vertices = np.asarray(shape.vertices, np.float32)
    return Mesh(vertices, np.asarray(shape.faces, np.int64), np.full_like(vertices, 0.5))


@pytest.fixture
def gso(tmp_path):
    """As Gazebo Fuel gives Google Scanned Objects."""
    for name, shape in (("Room_Essentials_Mug", body()), ("Toy_Train", trimesh.creation.icosphere())):
        for folder in ("meshes", "materials/textures", "thumbnails"):
            (tmp_path / name / folder).mkdir(parents=True)
        (tmp_path / name / "meshes" / "model.obj").write_text(shape.export(file_type="obj"))
        (tmp_path / name / "meshes" / "model.mtl").write_text("newmtl material_0\nKd 1 1 1\n")
        (tmp_path / name / "model.sdf").write_text("<sdf/>")
        (tmp_path / name / "metadata.pbtxt").write_text(f'name: "{name}"\n')
    return tmp_path


def test_a_set_of_scanned_objects_has_a_mesh_for_each_folder(gso):
    found = true_meshes(gso, "gso")
    assert sorted(found) == ["Room_Essentials_Mug", "Toy_Train"]
    mesh = load_true(found["Room_Essentials_Mug"])
    assert len(mesh.faces) == 24
    np.testing.assert_allclose(mesh.vertices.max(0), [0.5, 0.3, 0.25], atol=1e-6)


def test_a_set_of_artists_objects_has_a_file_for_each_name(tmp_path):
    (tmp_path / "meshes").mkdir()
    body().export(tmp_path / "meshes" / "0017.glb")
    body().export(tmp_path / "meshes" / "0018.ply")
    (tmp_path / "0017.png").write_bytes(b"a photo")
    found = true_meshes(tmp_path, "sa3dao")
    assert sorted(found) == ["0017", "0018"]
    assert [len(load_true(path).faces) for path in found.values()] == [24, 24]
    body().export(tmp_path / "0018.obj")
    with pytest.raises(SourceError, match=r"bad_truth: .*both are the object '0018'"):
        true_meshes(tmp_path, "sa3dao")


def test_a_folder_of_another_layout_and_a_broken_mesh_are_said(gso, tmp_path):
    (tmp_path / "empty").mkdir()
    for protocol in MEASURES:
        with pytest.raises(SourceError, match="no_truth"):
            true_meshes(tmp_path / "empty", protocol)
    (gso / "Toy_Train" / "meshes" / "model.obj").write_text("v 0 0 0\n")
    with pytest.raises(SourceError, match=r"bad_truth: .*Toy_Train"):
        load_true(gso / "Toy_Train" / "meshes" / "model.obj")


@pytest.mark.parametrize("protocol", ["sa3dao", "gso"])
def test_a_shape_in_another_frame_and_size_is_itself(protocol):
    shape = mesh_of(body())
    turn = np.float32([[0, 0, 1], [1, 0, 0], [0, 1, 0]])  # x to y, y to z, z to x
    other = replace(shape, vertices=7 * shape.vertices @ turn.T + np.float32([1, 2, 3]))
    found = measured(protocol, other, shape, torch.Generator().manual_seed(0), POINTS)
    assert set(found) == set(MEASURES[protocol])
    assert found["chamfer"] < 0.01
    assert found.get("f1_001", 1) > 0.95
    assert found.get("voxel_iou", 1) > 0.7  # points near the walls of cells fall on both sides
    assert found.get("volume_iou", 1) > 0.9


def test_the_numbers_of_two_boxes_are_those_of_the_arithmetic():
    """A cube beside a slab of half its height, both centred: the IoU is 1/2. Every length is a share of the side."""
    cube, slab = mesh_of(trimesh.creation.box((1, 1, 1))), mesh_of(trimesh.creation.box((1, 1, 0.5)))
    found = measured("gso", slab, cube, torch.Generator().manual_seed(0), POINTS)
    assert found["volume_iou"] == pytest.approx(0.5, abs=0.03)
    whole = measured("sa3dao", slab, cube, torch.Generator().manual_seed(0), POINTS)
    assert whole["chamfer"] == pytest.approx(2 * found["chamfer"], rel=0.02)


def test_what_icp_turns_out_of_the_cube_counts_in_the_union():
    """A rod, and the same rod turned by 45 degrees, which is larger by 12 % once its own box has been scaled to 1."""
    rod = trimesh.creation.box((1, 0.26, 0.26))
    turned = rod.copy().apply_transform(trimesh.transformations.rotation_matrix(np.pi / 4, (0, 0, 1)))
    found = measured("gso", mesh_of(turned), mesh_of(rod), torch.Generator().manual_seed(0), POINTS)
    inside, both = 32 * 8 * 8, 36 * 10 * 10  # cells of 1/32 whose centres lie in the smaller and in the larger rod
    assert found["volume_iou"] == pytest.approx(inside / both, abs=0.05)
