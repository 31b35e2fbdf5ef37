"""evaluate --protocol on a corpus of real cells, and sets made of the true meshes of its photos."""

import json

import pytest
import trimesh
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.input.ids import image_of
from pipeline.protocol import name_of


def made_set(world, folder, protocol):
    """The true mesh of one object of the first known photo, in the owners' layout, and one that no photo shows."""
    item = world.known[0]
    solid = trimesh.load_mesh(world.truth / world.items[item].solid)
    for name in (image_of(item), "Nobody"):
        path = folder / name / "meshes" / "model.obj" if protocol == "gso" else folder / f"{name}.ply"
        path.parent.mkdir(parents=True, exist_ok=True)
        solid.export(path)
    return item


def evaluate(world, folder, protocol, *more):
    line = ["evaluate", str(world.corpus), "--protocol", protocol, "--truth", str(folder), "--points", "20000", *more]
    return CliRunner().invoke(app, line)


def test_the_objects_of_a_set_are_compared_and_summed_up(world, tmp_path):
    for protocol, measures in (("gso", ["chamfer", "volume_iou"]), ("sa3dao", ["chamfer", "f1_001", "voxel_iou"])):
        item = made_set(world, tmp_path / protocol, protocol)
        out = tmp_path / f"{protocol}.json"
        done = evaluate(world, tmp_path / protocol, protocol, "--json", str(out))
        assert done.exit_code == 0, done.output
        found = json.loads(out.read_text())
        assert (found["protocol"], found["true_meshes"], found["missing"]) == (protocol, 2, ["Nobody"])
        assert len(found["objects"]) + found["others"] == 4
        assert list(found["summary"]) == measures
        own = found["objects"][item]
        assert own["name"] == image_of(item)
        assert own["chamfer"] < 0.1  # its field was made from the true points, with voxels of 0.04
        assert found["summary"]["chamfer"]["n"] == len(found["objects"])
        for other in found["objects"].keys() - {item}:  # another object of the same photo
            assert found["objects"][other]["chamfer"] > own["chamfer"]
        assert [line.split()[0] for line in done.stdout.splitlines()[1:-1]] == measures


def test_a_set_of_other_photos_or_of_another_layout_is_one_line(world, tmp_path):
    item = made_set(world, tmp_path / "gso", "gso")
    (tmp_path / "gso" / image_of(item)).rename(tmp_path / "gso" / "Another")
    (tmp_path / "empty").mkdir()
    for line, says in (
        (evaluate(world, tmp_path / "gso", "gso"), "truth_fits_nothing: None of the 4 objects"),
        (evaluate(world, tmp_path / "empty", "sa3dao"), "no_truth"),
        (evaluate(world, tmp_path / "gso", "gso", "--truth", "second"), "protocol_set"),
    ):
        assert line.exit_code == 2
        assert says in line.stderr
        assert len(line.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("photo", "name"),
    [
        ("mug.jpg", "mug"),
        ("renders/mug/000.png", "mug"),
        ("mug.v2/000.png", "mug.v2"),
        ("train/mug.png", "mug"),
        ("cup.png", None),
        ("sa_17", "sa_17"),
    ],
)
def test_a_photo_has_the_name_of_its_file_or_of_its_folder(photo, name):
    assert name_of(photo, {"mug", "train", "mug.v2", "sa_17"}) == name
