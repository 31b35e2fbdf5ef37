"""The mini world: the same bytes for the same arguments, SA-1B's format with its quirks, and a truth that is true."""

import json
import shutil
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from anything3d.errors import ConfigError
from anything3d.mini.annotations import crops, grid_points
from anything3d.mini.scene import sample_scene
from anything3d.mini.shapes import HELD_OUT_PAIRS, SYMMETRY_DEG, make_object
from anything3d.mini.solids import distance
from anything3d.mini.trace import closed_surface, sample_surface
from anything3d.mini.words import COLORS, SHAPES
from anything3d.mini.world import DEPTH_STEP, write_world
from anything3d.photo import mask
from anything3d.photo.annotation import Annotation, parse_annotations
from anything3d.photo.image import decode_image, decode_png
from anything3d.quality import truth, truth_file
from anything3d.quality.occupancy import occupancy, volume_iou
from anything3d.quality.world import MINI
from anything3d.seed import generators
from anything3d.settings.segment import ImageLimits
from anything3d.space.camera import project, rays
from anything3d.space.cloud import from_ply
from anything3d.space.mesh import facts

SIZE = 160


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world") / "world.tar"
    write_world(out, scenes=6, seed=3, held_out=True, size=SIZE)
    return out


@pytest.fixture(scope="module")
def members(world) -> dict[str, bytes]:
    with tarfile.open(world) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}


@pytest.fixture(scope="module")
def known(world) -> truth.Truth:
    return truth_file.read((world.with_suffix(".truth") / "truth.json").read_bytes())


def test_the_same_arguments_give_the_same_bytes_whatever_the_threads(world, tmp_path):
    again = tmp_path / "world.tar"
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        write_world(again, scenes=6, seed=3, held_out=True, size=SIZE)
    finally:
        torch.set_num_threads(threads)
    assert again.read_bytes() == world.read_bytes()
    assert files_of(again.with_suffix(".truth")) == files_of(world.with_suffix(".truth"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world.tar", "world.truth"]


def test_the_tar_begins_with_its_folder_and_keeps_no_time_no_owner_and_no_pair_together(world):
    with tarfile.open(world) as tar:
        entries = tar.getmembers()
    assert entries[0].isdir()
    assert all((entry.mtime, entry.uid, entry.gid) == (0, 0, 0) for entry in entries)
    stems = [entry.name.removeprefix("./").split(".")[0] for entry in entries[1:]]
    assert len(stems) == 12
    assert all(one != other for one, other in pairwise(stems))


def test_every_annotation_passes_the_reader_and_the_photo_has_its_size(members):
    ids, sizes = [], set()
    for name, data in members.items():
        if name.endswith(".json"):
            size, entries = parse_annotations(data, name.removeprefix("./").removesuffix(".json"))
            assert all(isinstance(entry, Annotation) for entry in entries), entries
            assert max(size) == SIZE
            sizes.add(size)
            ids += [entry.annotation_id for entry in entries]
            assert decode_image(members[name.replace(".json", ".jpg")], ImageLimits(), size).shape == (*size, 3)
    assert sorted(ids) == list(range(min(ids), min(ids) + len(ids)))  # contiguous over the shard
    assert len(sizes) > 1


def test_boxes_are_one_short_and_the_last_ones_are_integers(members):
    for name, data in members.items():
        if name.endswith(".json"):
            records = json.loads(data)["annotations"]
            integers = [type(record["bbox"][0]) is int for record in records]
            assert integers == sorted(integers)
            assert 1 <= sum(integers) <= 3
            for record in records:
                height, width = record["segmentation"]["size"]
                lengths = mask.runs(record["segmentation"]["counts"], height * width)
                x, y, w, h = mask.box(lengths, height)
                assert [float(v) for v in record["bbox"]] == [x, y, w - 1, h - 1]
                assert record["area"] == mask.area(lengths)


def test_crops_and_prompts_are_those_of_a_real_file():
    # sa_226381.json, 2000 x 1500: 4 x 4 crops of 692 x 567 at x 0 436 872 1308, y 0 311 622 933
    found = crops(4, 2000, 1500)
    assert found[0] == (0, 0, 692, 567)
    assert sorted({x for x, *_ in found}) == [0, 436, 872, 1308]
    assert sorted({y for _, y, *_ in found}) == [0, 311, 622, 933]
    assert crops(2, 2000, 1500)[3][:2] == (744, 494)
    # its first prompt is (911.75, 629.9375) in the crop at (436, 311): column 5, row 4 of 8
    assert grid_points((436, 311, 692, 567), 8)[4 * 8 + 5] == (911.75, 629.9375)


def test_the_truths_surface_lies_where_the_photo_shows_it_and_at_its_depth(world, known):
    folder = world.with_suffix(".truth")
    scales = [
        [item["scale"] for item in image["objects"]]
        for image in json.loads((folder / "truth.json").read_bytes())["images"].values()
    ]
    for (image_id, image), image_scales in zip(known.images.items(), scales, strict=True):
        height, width = image.height, image.width
        depth = _depth(folder / "depth" / f"{image_id}.png")
        for item, scale in zip(image.objects, image_scales, strict=True):
            visible = mask.decode(item.mask, height, width) & (depth > 0)
            points = from_ply((folder / item.surface).read_bytes()).points
            assert (project(item.camera, points)[1] > 0).all()
            # back from pixels and depths to the object's surface
            origin, direction = (part[0] for part in rays(item.camera, height, width))
            forward = -item.camera.pose[0, :3, 2]
            reach = depth / scale / (direction @ forward)
            seen = (origin + direction * reach[..., None])[visible]
            gap = torch.cdist(seen[None], points)[0].min(1).values  # 8192 points lie about 0.02 apart
            assert (gap < 0.04).float().mean() > 0.99
            assert gap.max() < 0.08


def _depth(path: Path) -> torch.Tensor:
    """A depth picture in scene units."""
    with Image.open(path) as picture:
        assert picture.mode == "I;16"
        levels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint16)
        return levels.view(picture.height, picture.width).float() * DEPTH_STEP


def test_surfaces_are_canonical_and_views_show_the_object(world, known):
    for image in known.images.values():
        for item in image.objects:
            folder = world.with_suffix(".truth")
            found = truth.target(
                known.plan, item, (folder / item.surface).read_bytes(), (folder / item.views).read_bytes()
            )
            low, high = found.points.min(0).values, found.points.max(0).values
            assert float((high - low).max()) == pytest.approx(1, abs=0.02)
            assert ((low + high) / 2).abs().max() < 0.02
            shares = (found.views[:, 3] > 0.5).flatten(1).float().mean(1)
            assert (shares > 0.02).all()
            # the first view is from the photo's side: points project into its silhouette
            where, _ = project(found.cameras[:1], found.points[None])
            column, row = (where[0] * found.views.shape[-1]).long().unbind(-1)
            assert (found.views[0, 3][row, column] > 0).float().mean() > 0.97


def test_label_images_number_the_truths_objects(world, known):
    for image_id, image in known.images.items():
        labels = decode_png((world.with_suffix(".truth") / "masks" / f"{image_id}.png").read_bytes())[..., 0]
        for number, item in enumerate(image.objects, start=1):
            assert torch.equal(labels == number, mask.decode(item.mask, image.height, image.width))
        assert int(labels.max()) == len(image.objects)


def test_objects_hide_each_other_somewhere(world):
    truth = json.loads((world.with_suffix(".truth") / "truth.json").read_bytes())
    shares = [item["visible_share"] for image in truth["images"].values() for item in image["objects"]]
    assert min(shares) < 0.95
    assert max(shares) == 1.0


def test_pairs_of_the_held_out_split_are_never_trained_on():
    trained, tested = (
        {
            (placed.item.shape, placed.item.color)
            for number in range(40)
            for placed in sample_scene(generators(1, "x", [str(number)])[0], held_out).objects
        }
        for held_out in (False, True)
    )
    assert not trained & HELD_OUT_PAIRS
    assert tested & HELD_OUT_PAIRS
    assert tested - HELD_OUT_PAIRS
    assert {shape for shape, _ in HELD_OUT_PAIRS} == set(SHAPES)
    assert {color for _, color in HELD_OUT_PAIRS} == set(COLORS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_centred_with_longest_side_one_and_its_surface_is_its_zero_set(shape):
    generator = torch.Generator().manual_seed(5)
    body = make_object(shape, "red", generator).body
    points = sample_surface(body, 4096, generator)
    low, high = points.min(1).values, points.max(1).values
    assert float((high - low).max()) == pytest.approx(1, abs=0.03)
    assert ((low + high) / 2).abs().max() < 0.03
    assert distance(body, points).abs().max() < 2e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_the_solid_of_a_shape_fills_what_is_inside_of_it(shape):
    body = make_object(shape, "red", torch.Generator().manual_seed(5)).body
    mesh = closed_surface(body)
    assert facts(mesh).watertight
    centres = (torch.arange(32) + 0.5) / 32 - 0.5
    inside = distance(body, torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij")).flatten(1)) < 0
    filled = occupancy(mesh.vertices[mesh.faces], 32)
    assert volume_iou(filled, inside.reshape(32, 32, 32).numpy()) > 0.94


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_the_same_after_its_turn_of_symmetry_and_after_no_smaller_one(shape):
    generator = torch.Generator().manual_seed(11)
    body = make_object(shape, "red", generator).body
    points = sample_surface(body, 2048, generator)
    away = {turn: float(distance(body, turned(points, turn)).abs().max()) for turn in (37.0, 90.0, 180.0)}
    same = {turn: most < 4e-3 for turn, most in away.items()}
    assert same == {turn: SYMMETRY_DEG[shape] in (0.0, turn) for turn in away}, away


def turned(points: torch.Tensor, degrees: float) -> torch.Tensor:
    """[3, N] points, turned about y."""
    angle = torch.deg2rad(torch.tensor(degrees))
    x, y, z = points
    return torch.stack([x * angle.cos() + z * angle.sin(), y, z * angle.cos() - x * angle.sin()])


def test_the_truth_says_that_it_is_the_mini_world(known):
    assert known.world == MINI


def test_the_truth_says_each_objects_symmetry(known):
    objects = [item for image in known.images.values() for item in image.objects]
    assert {item.symmetry_deg for item in objects} <= {0.0, 180.0, 360.0}
    assert all(item.symmetry_deg == SYMMETRY_DEG[item.shape] for item in objects)


def test_splits_have_different_photos_and_arguments_have_limits(tmp_path):
    for held_out in (False, True):
        write_world(tmp_path / f"{held_out}.tar", scenes=1, seed=3, held_out=held_out, size=64)
    files = [set(files_of(tmp_path / f"{held_out}.truth")) for held_out in (False, True)]
    assert files[0] & files[1] == {"truth.json"}
    with pytest.raises(ConfigError, match="scenes"):
        write_world(tmp_path / "x.tar", scenes=0, seed=3)


def test_a_shard_of_the_mini_world_may_be_written_again(tmp_path):
    out = tmp_path / "x.tar"
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "thesis.txt").write_text("mine")
    write_world(out, scenes=2, seed=3, size=64)
    before = files_of(tmp_path)
    write_world(out, scenes=1, seed=4, size=64)
    again = files_of(tmp_path)
    assert again.pop("x.partial/thesis.txt") == before.pop("x.partial/thesis.txt") == b"mine"
    assert before.keys() & again.keys() == {"x.tar", "x.truth/truth.json"}
    out.unlink()  # as an interrupted command may leave it
    former = json.loads(again["x.truth/truth.json"])
    del former["world"]
    (out.with_suffix(".truth") / "truth.json").write_text(json.dumps(former | {"format": truth_file.FORMER}))
    write_world(out, scenes=1, seed=4, size=64)
    assert files_of(tmp_path).keys() == {"x.partial/thesis.txt", *again}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small") / "x.tar"
    write_world(out, scenes=1, seed=3, size=64)
    return out


def other_tar(out):
    shutil.rmtree(out.with_suffix(".truth"))


def only_other_tar(out):
    shutil.rmtree(out.with_suffix(".truth"))
    out.write_bytes(b"photos")


def exchanged_tar(out):
    with tarfile.open(out, "w") as tar:
        tar.addfile(tarfile.TarInfo("./sa_223750.jpg"))


def tar_that_is_a_folder(out):
    out.unlink()
    out.mkdir()


def no_truth_json(out):
    out.unlink()
    (out.with_suffix(".truth") / "truth.json").unlink()


def truth_that_is_a_file(out):
    out.unlink()
    shutil.rmtree(out.with_suffix(".truth"))
    out.with_suffix(".truth").write_text("notes")


def one_more_file(out):
    (out.with_suffix(".truth") / "views" / "mine.png").write_bytes(b"mine")


def one_more_folder_with_a_file(out):
    (out.with_suffix(".truth") / "mine").mkdir()
    (out.with_suffix(".truth") / "mine" / ".notes").write_text("mine")


def one_more_link(out):
    (out.with_suffix(".truth") / "mine").symlink_to(out.parent)


def truth_of(**changes):
    def change(out):
        path = out.with_suffix(".truth") / "truth.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))

    return change


@pytest.mark.parametrize(
    "change",
    [
        other_tar,
        only_other_tar,
        exchanged_tar,
        tar_that_is_a_folder,
        no_truth_json,
        truth_that_is_a_file,
        one_more_file,
        one_more_folder_with_a_file,
        one_more_link,
        truth_of(format="mine-1"),
        truth_of(world="scans"),
        truth_of(depth=None),
        truth_of(images=[]),
        truth_of(images={"sa_1": {"objects": [{}]}}),
    ],
)
def test_what_is_not_the_mini_worlds_is_not_replaced(small, tmp_path, change):
    out = shutil.copytree(small.parent, tmp_path, dirs_exist_ok=True) / small.name
    change(out)
    before, entries = files_of(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"not_ours: .*give another name, or move it away") as caught:
        write_world(out, scenes=1, seed=3, size=64)
    assert "\n" not in str(caught.value)
    assert files_of(tmp_path) == before
    assert sorted(tmp_path.rglob("*")) == entries


def test_what_comes_while_a_shard_is_made_is_not_replaced_either(tmp_path):
    out = tmp_path / "x.tar"
    with pytest.raises(ConfigError, match="not_ours"):
        write_world(out, scenes=1, seed=3, size=64, progress=lambda _: out.write_bytes(b"photos"))
    assert files_of(tmp_path) == {"x.tar": b"photos"}
