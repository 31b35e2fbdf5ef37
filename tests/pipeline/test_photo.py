"""One photo through all stages, without shard and without Ray."""

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from typer.testing import CliRunner

from anything3d import lift_image
from anything3d.errors import ConfigError, InputError, SourceError
from anything3d.mini.world import write_world
from anything3d.settings.segment import ImageLimits
from anything3d.single import _read
from jobs.cli import app
from pipeline.config import load
from pipeline.photo import files, method_config, pace

QUICK = (
    "invert.steps=2",
    "lift.candidates=1",
    "lift.steps=3",
    "lift.upsampler_steps=2",
    "reconstruct.steps=4",
    "reconstruct.min_opacity=0.0",
    "reconstruct.max_fog=1.0",
    "reconstruct.sds.render_size=16",
    "segment.grid_points=4",
    "mesh.resolution=32",
    "score.points=256",
    "score.size_px=32",
    "score.views=2",
)
SUFFIXES = {"json", "png", "mask.png", "cloud.ply", "glb", "turntable.webp", "html"}


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A mini-world photo, and a point (x, y) in one of its objects."""
    folder = tmp_path_factory.mktemp("photo")
    write_world(folder / "world.tar", scenes=1, seed=2, size=256)
    with tarfile.open(folder / "world.tar") as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
    (jpg,) = (data for name, data in files.items() if name.endswith(".jpg"))
    (record,) = (json.loads(data) for name, data in files.items() if name.endswith(".json"))
    whole = max(record["annotations"], key=lambda entry: entry["area"] * (entry["area"] < 20_000))
    path = folder / "chair & table.jpg"
    path.write_bytes(jpg)
    return path, tuple(whole["point_coords"][0])


def test_the_command_writes_what_a_corpus_has_of_an_object_and_a_report(photo, tmp_path):
    path, (x, y) = photo
    sets = [part for setting in QUICK for part in ("--set", setting)]
    arguments = ["lift-image", str(path), "--point", str(x), str(y), "--out", str(tmp_path), *sets]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "reconstruct" in done.output
    object_id = f"chair & table-p{x:g}x{y:g}".replace(".", "_")
    files = {entry.name.removeprefix(f"{object_id}."): entry for entry in tmp_path.iterdir()}
    assert files.keys() == SUFFIXES
    known = json.loads(files["json"].read_text())
    assert known["source"] == "sam-points"
    assert 0 <= known["doubtful_share"] < 1
    assert known["shard"] == path.name
    mesh = trimesh.load(io.BytesIO(files["glb"].read_bytes()), file_type="glb", force="mesh")
    assert len(mesh.faces) == known["faces"]
    inside = Image.open(files["mask.png"]).convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert inside > 0
    report = files["html"].read_text()
    assert "chair &amp; table.jpg" in report
    assert known["caption"] in report
    assert report.count("data:image/") == 4


def test_without_a_prompt_the_most_prominent_object_is_taken_and_the_same_again(photo):
    path, _ = photo
    said = []
    loose = ("segment.min_predicted_iou=0.0", "segment.min_stability=0.0", "segment.max_edges=4")
    config = load([], [*QUICK, *loose])
    first, again = (
        lift_image(path, config=method_config(config), pace=pace(config), say=said.append) for _ in range(2)
    )
    assert first.segmented.mask.source == "sam-grid"
    assert said[: len(said) // 2] == said[len(said) // 2 :]
    verbs = ["segment", "caption", "invert", "lift", "reconstruct", "reconstruct, checkpoint 1 of 1", "mesh", "score"]
    assert said[: len(said) // 2] == ["load the networks", *verbs]
    assert files(first, path.name, 4, "") == files(again, path.name, 4, "")


def test_what_cannot_be_lifted_says_why(photo, tmp_path):
    path, point = photo
    with pytest.raises(ConfigError, match="give one of them"):
        lift_image(path, point=point, box=(0, 0, 9, 9))
    with pytest.raises(InputError, match="prompt_outside"):
        lift_image(path, point=(256, 0))
    with pytest.raises(SourceError, match=r"no_photo: .*none\.jpg"):
        lift_image(tmp_path / "none.jpg", point=point)
    with pytest.raises(SourceError, match=r"no_photo: .*cannot be read: Is a directory"):
        lift_image(tmp_path, point=point)
    for pixels in (torch.rand(40, 40, 3), torch.zeros(40, 40, dtype=torch.uint8).numpy()):
        with pytest.raises(InputError, match=r"image_mode: pixels are uint8 \[H, W, 3\], sRGB; got"):
            lift_image(pixels, point=point)
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.write(path.read_bytes())
        file.truncate(2**36)  # 64 GiB of nothing, more than a machine can read
    with pytest.raises(InputError, match="image_bytes"):
        lift_image(huge, point=point)
    text = tmp_path / "notes.jpg"
    text.write_text("no photo")
    done = CliRunner().invoke(app, ["lift-image", str(text), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "image_format" in done.output
    assert not (tmp_path / "out").exists()


def test_pixels_may_be_a_view_that_runs_backwards():
    """What OpenCV reads is BGR, and its reader turns it."""
    bgr = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert torch.equal(_read(bgr[..., ::-1], ImageLimits()), torch.from_numpy(bgr).flip(2))


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("gpu", "device: no device 'gpu'; known: cpu, cuda, cuda:0, cuda:1, ..."),
        pytest.param(
            "cuda",
            "device: no CUDA device is visible to torch",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has one"),
        ),
        ("cuda:99", "device: "),
    ],
)
def test_a_device_that_is_not_there_is_one_line_before_anything_loads(photo, tmp_path, device, says):
    for arguments in (["lift-image", str(photo[0]), "--out", str(tmp_path / "out")], ["train", "sam"]):
        done = CliRunner().invoke(app, [*arguments, "--device", device])
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith(f"anything3d: {says}")
        assert len(done.stderr.splitlines()) == 1
        assert "segment" not in done.stdout


def test_a_photo_needs_neither_arrow_nor_storage_nor_ray():
    code = """
import sys
from anything3d import lift_image
from jobs.command import read_settings
from pipeline import photo, remark

read_settings("default", None, None)
print([name for name in ("pyarrow", "obstore", "ray") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "[]"
