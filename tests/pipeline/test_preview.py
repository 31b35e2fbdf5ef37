"""A preview says of the first photos what a run says of them, and reads no more than it needs."""

import io
import json
import re
import tarfile

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from anything3d.errors import WeightsError
from anything3d.photo import mask
from jobs.cli import app
from pipeline import preview as module
from pipeline.config import IndexConfig, load
from pipeline.plan import shard_unit
from pipeline.preview import deciding, page, preview
from pipeline.stages.index import IndexStage, look
from pipeline.stages.segment import SegmentStage
from schemas.records import ImageRecord, RejectRecord

SETTINGS = ("segment.crop_size=32", "segment.min_area_px=64", "segment.max_per_image=2")
CONFIG = load([], SETTINGS)
HEIGHT, WIDTH = 100, 150
SQUARES = {  # left, top, side in pixels -> what becomes of it
    (10, 10, 30): "",
    (12, 12, 10): "part",
    (60, 10, 20): "",
    (100, 40, 16): "quota",
    (0, 60, 20): "border",
    (60, 60, 5): "area_small",
}
REASONS = list(SQUARES.values())


def add(tar, name, data):
    entry = tarfile.TarInfo(f"./{name}")
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def entry(number, left, top, side):
    pixels = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    pixels[top : top + side, left : left + side] = True
    return {
        "id": number,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": mask.encode(pixels)},
        "bbox": [left, top, side, side],
        "area": side * side,
        "predicted_iou": 1.0,
        "stability_score": 1.0,
        "point_coords": [[left + 0.5, top + 0.5]],
        "crop_box": [0, 0, WIDTH, HEIGHT],
    }


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """Three photos with the same masks; the photo of the third is damaged."""
    path = tmp_path_factory.mktemp("shard") / "sa_000000.tar"
    with tarfile.open(path, "w") as tar:
        for number in (1, 2, 3):
            photo = io.BytesIO()
            Image.new("RGB", (WIDTH, HEIGHT), (90, 60 * number, 30)).save(photo, "JPEG")
            image = {"image_id": number, "width": WIDTH, "height": HEIGHT, "file_name": f"sa_{number}.jpg"}
            entries = [entry(place, *square) for place, square in enumerate(SQUARES)]
            add(tar, f"sa_{number}.jpg", photo.getvalue() if number < 3 else photo.getvalue()[:200])
            add(tar, f"sa_{number}.json", json.dumps({"image": image, "annotations": entries}).encode())
    return str(path)


@pytest.fixture(scope="module")
def made(shard):
    return preview(CONFIG, [shard], 10)


def test_it_says_what_the_stages_of_a_run_say(shard, made):
    unit = shard_unit(shard)
    (images,) = IndexStage(CONFIG, CONFIG.place())(unit.ids, unit, None)
    first, second, damaged = SegmentStage(CONFIG, CONFIG.place())([(row,) for row in images], unit, None)
    rows = [row for row in (*first, *second) if not isinstance(row, RejectRecord)]
    rejects = {(row.item_id, row.kind, row.reason, row.message) for row in (*first, *second) if row not in rows}
    rejects.add(("sa_3", damaged.kind, damaged.reason, damaged.message))
    assert [one.item_id for one in made.kept.examples] == [row.object_id for row in rows]
    told = [
        (one.item_id, group.kind, group.reason, one.message)
        for group in made.rejects.values()
        for one in group.examples
    ]
    assert len(told) == len(set(told)) == 9
    assert set(told) == rejects


def test_each_mask_has_the_outcome_that_follows_by_hand(made):
    outcomes = {one.item_id: group.reason for group in made.groups() for one in group.examples}
    for image in ("sa_1", "sa_2"):
        assert [outcomes[f"{image}-{place:04d}"] for place in range(len(SQUARES))] == REASONS
    assert made.kept.count == 4
    assert {(shown.image_id, shown.kept, shown.left_out) for shown in made.photos} == {
        ("sa_1", 2, 4),
        ("sa_2", 2, 4),
        ("sa_3", 0, 0),
    }
    assert [example.photo for example in made.kept.examples] == [0, 0, 1, 1]


def test_the_page_shows_each_mask_its_reason_and_what_decides(made):
    html = page(made, CONFIG, ["<b>.tar"], "untrained & random")
    assert "<b>" not in html
    assert "untrained &amp; random" in html
    assert "<code>segment.min_area_px=64</code>" in html
    assert html.count('role="img"') == 12  # of the damaged photo there is no picture
    assert html.count("<figure") == 3
    assert html.count("data:image/webp;base64,") == 2 + 5  # two photos; a sheet of each outcome but the damaged photo
    for reason in REASONS:
        assert f">{reason or 'object'}</a>" in html
    assert "12 masks in the first 3 photos" in html


def test_pictures_lie_in_the_sheet_where_the_page_looks_for_them(made):
    assert module._places(made.kept) == [(0, 0), (128, 0), (256, 0), (384, 0)]
    with Image.open(io.BytesIO(module.sheet([one.picture for one in made.kept.examples], module.ACROSS))) as sheet:
        green = [sheet.getpixel((at + 64, 64))[1] for at, _ in module._places(made.kept)]
    assert [round(level / 60) for level in green] == [1, 1, 2, 2]  # the colours of the photos


def test_of_many_masks_the_first_are_shown_and_all_are_counted(shard, made, monkeypatch):
    monkeypatch.setattr(module, "EXAMPLES", 1)
    few = preview(CONFIG, [shard], 10)
    assert [group.count for group in few.groups()] == [group.count for group in made.groups()]
    assert {len(group.examples) for group in few.groups()} == {1}
    assert "object: 4, of which the first 1 are shown" in page(few, CONFIG, ["a.tar"], "")


def test_each_reason_of_the_selection_names_the_settings_that_decide_it():
    own = CONFIG.segment
    assert deciding("border", own) == {"segment.max_edges": 0, "segment.border_px": 2}
    assert deciding("area_small", own) == {"segment.min_area_px": 64, "segment.min_area_share": 0.001}
    for reason in ("area_large", "thin", "predicted_iou", "stability", "duplicate", "part", "quota"):
        assert len(deciding(reason, own)) == 1, reason


def test_masks_of_annotations_need_no_network(shard):
    assert preview(load([], [*SETTINGS, "segment.weights=none"]), [shard], 1).kept.count == 2
    with pytest.raises(WeightsError):
        preview(load([], [*SETTINGS, "segment.weights=none", "segment.source=sam-boxes"]), [shard], 1)


def test_nothing_behind_the_wanted_photos_is_looked_at(shard, tmp_path):
    with tarfile.open(shard) as tar:
        end = tar.getmembers()[2].offset  # where the second photo begins
    cut = tmp_path / "sa_000000.tar"
    with open(shard, "rb") as whole:
        cut.write_bytes(whole.read(end) + b"x" * 5000)
    (one,) = look(str(cut), IndexConfig(), most=1)
    assert isinstance(one, ImageRecord)
    assert not all(isinstance(found, ImageRecord) for found in look(str(cut), IndexConfig()))
    assert len(preview(CONFIG, [shard, "no.tar"], 3).photos) == 3  # the second source is not opened


def test_a_folder_is_read_up_to_the_wanted_photo(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    made = preview(CONFIG, [f"{folder}/"], 2)
    assert [shown.image_id for shown in made.photos] == ["photos__a", "photos__b"]
    (group,) = made.rejects.values()
    assert (group.reason, group.count) == ("no_annotations", 2)


def test_the_command_writes_a_page_and_says_the_counts(shard, tmp_path):
    out, sets = tmp_path / "in" / "look.html", [part for setting in SETTINGS for part in ("--set", setting)]
    done = CliRunner().invoke(app, ["preview", shard, "--out", str(out), *sets])
    assert done.exit_code == 0, done.output
    assert re.search(r"^object +4 ", done.output, re.MULTILINE)
    assert re.search(r"^quota +2 +segment.max_per_image=2$", done.output, re.MULTILINE)
    more = CliRunner().invoke(app, ["preview", shard, "--out", str(out), *sets, "--set", "segment.max_per_image=9"])
    assert re.search(r"^object +6 ", more.output, re.MULTILINE)
    assert "quota" not in more.output
    assert out.read_text().rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_source_that_is_not_there_is_said(tmp_path):
    done = CliRunner().invoke(app, ["preview", str(tmp_path / "none.tar")])
    assert done.exit_code == 2
    assert "no_shard" in done.output
