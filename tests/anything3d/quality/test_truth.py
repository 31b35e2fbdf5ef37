"""truth.json: what is read, what is refused, and which true object a mask shows."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from anything3d.errors import SourceError
from anything3d.photo import mask as masks
from anything3d.photo.image import encode_png
from anything3d.quality import truth, truth_file
from anything3d.quality.world import MINI
from anything3d.space.camera import orbit
from anything3d.space.cloud import Cloud, to_ply
from anything3d.space.mesh import Mesh, to_glb


def square(top: int, left: int, side: int = 4) -> torch.Tensor:
    mask = torch.zeros(12, 20, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def true_object(annotation: int, mask: torch.Tensor) -> dict:
    camera = orbit(*(torch.tensor([value]) for value in (30.0, 20.0, 2.5, 40.0)))
    return {
        "annotation": annotation,
        "shape": "mug",
        "color": "red",
        "caption": "a red mug",
        "azimuth_deg": 30.0,
        "elevation_deg": 20.0,
        "distance": 2.5,
        "camera": {"pose": camera.pose[0].tolist(), "intrinsics": camera.intrinsics[0].tolist()},
        "mask_rle": masks.encode(mask),
        "points": f"points/sa_1-{annotation:04d}.ply",
        "views": f"views/sa_1-{annotation:04d}.png",
        "sha256": {"points": "0" * 64, "views": "0" * 64},
        "held_out": False,
    }


def record() -> dict:
    return {
        "format": "anything3d-truth-2",
        "shard": "mini-000000",
        "views": {
            "count": 4,
            "size": 16,
            "azimuth_offsets_deg": [0, 90, 180, 270],
            "elevation_deg": 20.0,
            "distance": 2.0,
            "fov_deg": 39.6,
        },
        "images": {
            "sa_1": {"width": 20, "height": 12, "objects": [true_object(0, square(0, 0)), true_object(3, square(6, 9))]}
        },
    }


def read(root: dict) -> truth.Truth:
    return truth_file.read(json.dumps(root).encode())


def named(item: truth.TrueObject, surface: bytes, views: bytes) -> truth.TrueObject:
    """The object, as a truth.json has it that names these files."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in (("surface", surface), ("views", views))}
    return dataclasses.replace(item, surface_sha256=digests["surface"], views_sha256=digests["views"])


def target(found: truth.Truth, item: truth.TrueObject, surface: bytes, views: bytes) -> truth.Target:
    return truth.target(found.plan, named(item, surface, views), surface, views)


def test_a_sound_file_is_read():
    found = read(record())
    assert (found.shard, found.world) == ("mini-000000", "")
    assert read(record() | {"world": "mini"}).world == MINI
    assert found.vocabulary == truth.Vocabulary()
    words = {"shapes": ["mug", "box"], "colors": ["red"]}
    assert read(record() | {"vocabulary": words}).vocabulary == truth.Vocabulary(("mug", "box"), ("red",))
    with pytest.raises(SourceError, match=r"vocabulary\.colors is '3', expected str"):
        read(record() | {"vocabulary": {"shapes": [], "colors": [3]}})
    assert found.plan.azimuth_offsets_deg == (0.0, 90.0, 180.0, 270.0)
    first, second = found.images["sa_1"].objects
    assert (first.caption, second.annotation, second.views) == ("a red mug", 3, "views/sa_1-0003.png")
    expected = orbit(*(torch.tensor([value]) for value in (30.0, 20.0, 2.5, 40.0)))
    torch.testing.assert_close(first.camera.pose, expected.pose)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("format", "anything3d-truth-1", "lacks the sha256 of its files: write the truth again"),
        ("format", "anything3d-truth-3", "truth-2"),
        ("shard", 7, "expected str"),
        ("world", 7, "expected str"),
        ("views.size", 16.5, "expected int"),
        ("views.size", True, "expected int"),
        ("views.count", 3, "has 4 values, expected 3"),
        ("views.azimuth_offsets_deg", [0, 90, "x", 270], r"azimuth_offsets_deg\[2\]"),
        ("views.fov_deg", 180.0, "allowed are 1.0 to 170"),
        ("images.sa_1.width", 0, "allowed are 1"),
        ("images.sa_1.objects", None, "expected list"),
        ("images.sa_1.objects.0.azimuth_deg", float("nan"), "finite"),
        ("images.sa_1.objects.0.held_out", 0, "expected bool"),
        ("images.sa_1.objects.1.points", "../../etc/passwd", "below truth.json's folder"),
        ("images.sa_1.objects.1.views", "/views/a.png", "below truth.json's folder"),
        ("images.sa_1.objects.1.sha256", None, "expected dict"),
        ("images.sa_1.objects.1.sha256.points", "0" * 63, r"sha256\.points.*64 hexadecimal digits"),
        ("images.sa_1.objects.1.sha256.views", 0, "expected str"),
        ("images.sa_1.objects.1.mesh", "meshes/a.glb", "both 'points' and 'mesh'"),
        ("images.sa_1.objects", [7], r"objects\[0\].*expected dict"),
        ("images.sa_1.objects.0.symmetry_deg", 361, "allowed are 0.0 to 360"),
        ("images.sa_1.objects.0.symmetry_deg", 100, "360 over a whole number"),
        ("images.sa_1.objects.0.symmetry_deg", True, "expected float"),
        ("images.sa_1.objects.0.symmetry_deg", 10**400, "expected float"),
        ("images.sa_1.objects.0.view_cameras", [], "0 cameras, allowed are 1 to 64"),
        ("images.sa_1.objects.0.view_cameras", [7], r"view_cameras\[0\].*expected dict"),
        ("images.sa_1.objects.0.view_cameras", [{"intrinsics": [1, 1, 0.5, 0.5]}], r"view_cameras\[0\] has no 'pose'"),
        ("images.sa_1.objects.1.camera.pose", [[1, 0, 0, 0]] * 4, "not a rotation"),
        ("images.sa_1.objects.1.camera.pose", [[1, 0, 0, 0]] * 3, "3 rows"),
        ("images.sa_1.objects.1.camera.intrinsics", [1, 1, 0.5], "expected 4"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(path: str, value: object, says: str):
    root = record()
    *parents, last = path.split(".")
    place = root
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    with pytest.raises(SourceError, match=says) as caught:
        read(root)
    assert caught.value.reason == "bad_truth"


def test_a_missing_value_and_no_json_at_all_are_refused():
    for name in ("format", "shard", "views", "images"):
        root = record()
        del root[name]
        with pytest.raises(SourceError, match=name):
            read(root)
    root = record()
    del root["images"]["sa_1"]["objects"][0]["mask_rle"]
    with pytest.raises(SourceError, match=r"objects\[0\].*mask_rle"):
        read(root)
    root = record()
    del root["images"]["sa_1"]["objects"][1]["points"]
    with pytest.raises(SourceError, match=r"objects\[1\].*points"):
        read(root)
    for data in (b"", b"{", b"[]", b"\xff\xfe"):
        with pytest.raises(SourceError, match="bad_truth"):
            truth_file.read(data)


def test_a_mask_shows_the_object_it_overlaps_by_half_or_none():
    image = read(record()).images["sa_1"]
    assert truth.match(image, square(6, 9)) == 1
    assert truth.match(image, square(1, 0)) == 0  # 12 of 20 pixels
    assert truth.match(image, square(2, 0)) is None  # 8 of 24
    torch.testing.assert_close(truth.mask_ious(image, square(1, 0)), torch.tensor([0.6, 0.0]))
    assert truth.match(truth.TrueImage(20, 12, ()), square(0, 0)) is None


def test_a_mask_of_another_size_or_a_damaged_true_mask_is_refused():
    root = record()
    with pytest.raises(SourceError, match="bad_truth"):
        truth.match(read(root).images["sa_1"], square(0, 0).T)
    root["images"]["sa_1"]["objects"][0]["mask_rle"] = "0"
    with pytest.raises(SourceError):
        truth.match(read(root).images["sa_1"], square(0, 0))


def test_a_target_holds_the_views_in_order_with_their_cameras():
    found = read(record())
    item = found.images["sa_1"].objects[0]
    cloud = Cloud(torch.rand(1, 50, 3) - 0.5, torch.rand(1, 50, 3))
    strip = torch.zeros(16, 64, 4, dtype=torch.uint8)
    strip[:, 16:32] = 255
    made = target(found, item, to_ply(cloud), encode_png(strip))
    torch.testing.assert_close(made.points, cloud.points[0])
    assert made.views.mean(dim=(1, 2, 3)).tolist() == [0, 1, 0, 0]
    expected = orbit(*(torch.tensor([value]) for value in (120.0, 20.0, 2.0, 39.6)))  # the photo's 30, and 90
    torch.testing.assert_close(made.cameras.pose[1:2], expected.pose)
    with pytest.raises(SourceError, match="expected"):
        target(found, item, to_ply(cloud), encode_png(strip[:, :48]))


def test_files_that_are_not_the_ones_named_are_refused_by_name():
    found = read(record())
    ply, views = to_ply(Cloud(torch.rand(1, 50, 3), torch.rand(1, 50, 3))), encode_png(torch.zeros(16, 64, 4).byte())
    item = named(found.images["sa_1"].objects[0], ply, views)
    other = to_ply(Cloud(torch.rand(1, 50, 3), torch.rand(1, 50, 3)))
    white = encode_png(torch.full((16, 64, 4), 255).byte())
    assert truth.target(found.plan, item, ply, views)
    for surface, strip, says in ((other, views, r"sa_1-0000\.ply"), (ply, white, r"sa_1-0000\.png")):
        with pytest.raises(SourceError, match=rf"bad_truth: .*{says} is not the file"):
            truth.target(found.plan, item, surface, strip)


def test_a_named_file_that_is_broken_is_the_truths_fault():
    found = read(record())
    item, views = found.images["sa_1"].objects[0], encode_png(torch.zeros(16, 64, 4).byte())
    with pytest.raises(SourceError, match=r"bad_truth: points/sa_1-0000\.ply: bad_ply"):
        target(found, item, b"ply?", views)


def test_a_solid_is_optional_and_a_mesh_is_its_own():
    root = record()
    first, second = root["images"]["sa_1"]["objects"]
    first |= {"solid": "solids/a.glb", "sha256": {"points": "0" * 64, "views": "0" * 64, "solid": "0" * 64}}
    del second["points"]
    second |= {"mesh": "meshes/b.glb", "sha256": {"mesh": "0" * 64, "views": "0" * 64}}
    found = read(root)
    one, two = found.images["sa_1"].objects
    assert (one.solid, two.solid) == ("solids/a.glb", "")
    corners = np.float32([[0, 0, 0], [1, 0, 0], [0, 0.5, 0]])
    glb = to_glb(Mesh(corners, np.array([[0, 1, 2]]), np.full((3, 3), 0.5, np.float32)))
    views = encode_png(torch.zeros(16, 64, 4).byte())
    ply = to_ply(Cloud(torch.rand(1, 50, 3), torch.rand(1, 50, 3)))
    item = dataclasses.replace(named(one, ply, views), solid_sha256=hashlib.sha256(glb).hexdigest())
    whole = truth.target(found.plan, item, ply, views, glb).solid
    assert whole is not None
    assert whole.vertices.tolist() == corners.tolist()
    assert truth.target(found.plan, item, ply, views).solid is None
    assert target(found, two, glb, views).solid.vertices.tolist() == corners.tolist()
    with pytest.raises(SourceError, match=r"bad_truth: solids/a\.glb is not the file"):
        truth.target(found.plan, item, ply, views, glb + b" ")
    del first["sha256"]["solid"]
    with pytest.raises(SourceError, match=r"sha256 has no 'solid'"):
        read(root)


def test_symmetry_is_optional_and_none_without_it_and_words_may_be_unknown():
    root = record()
    first = root["images"]["sa_1"]["objects"][0]
    first |= {"symmetry_deg": 72, "shape": "", "color": "", "caption": ""}
    one, two = read(root).images["sa_1"].objects
    assert (one.symmetry_deg, two.symmetry_deg) == (72.0, 360.0)
    assert (one.shape, one.color, one.caption) == ("", "", "")


def test_a_mesh_and_cameras_of_its_own_make_a_target_too():
    root = record()
    item = root["images"]["sa_1"]["objects"][1]
    del item["points"]
    eyes = orbit(torch.tensor([10.0, 77.0]), *(torch.full((2,), value) for value in (5.0, 1.7, 45.0)))
    item |= {
        "mesh": "meshes/a.glb",
        "sha256": {"mesh": "0" * 64, "views": "0" * 64},
        "view_cameras": [
            {"pose": eyes.pose[view].tolist(), "intrinsics": eyes.intrinsics[view].tolist()} for view in range(2)
        ],
    }
    found = read(root)
    item = found.images["sa_1"].objects[1]
    assert (item.surface, item.surface_kind) == ("meshes/a.glb", "mesh")
    # a triangle in the plane z = 0.25 with legs 1 and 0.5
    corners = torch.tensor([[0.0, 0, 0.25], [1, 0, 0.25], [0, 0.5, 0.25]])
    glb = to_glb(Mesh(corners.numpy(), np.array([[0, 1, 2]]), np.full((3, 3), 0.5, np.float32)))
    strip = torch.zeros(16, 32, 4, dtype=torch.uint8)
    made = target(found, item, glb, encode_png(strip))
    assert made.points.shape == (truth.MESH_POINTS, 3)
    assert bool(((made.points[:, 0] + 2 * made.points[:, 1]) <= 1 + 1e-5).all())
    torch.testing.assert_close(made.points.mean(0), torch.tensor([1 / 3, 1 / 6, 0.25]), rtol=0, atol=0.01)
    assert torch.equal(made.points, target(found, item, glb, encode_png(strip)).points)
    torch.testing.assert_close(made.cameras.pose, eyes.pose)
    torch.testing.assert_close(made.cameras.intrinsics, eyes.intrinsics)
    with pytest.raises(SourceError, match=r"expected \(16, 32, 4\)"):
        target(found, item, glb, encode_png(torch.zeros(16, 64, 4, dtype=torch.uint8)))
    flat = to_glb(Mesh(corners[[0, 0, 0]].numpy(), np.array([[0, 1, 2]]), np.full((3, 3), 0.5, np.float32)))
    with pytest.raises(SourceError, match=r"a\.glb has no surface"):
        target(found, item, flat, encode_png(strip))
