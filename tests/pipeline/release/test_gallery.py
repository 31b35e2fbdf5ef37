"""The data files of the gallery say what the tables say, and go where the manifests say."""

import io
import json
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
from PIL import Image

from anything3d.photo.sheet import CELL_PX, OUTLINE, outlined, sheet
from pipeline.release.corpus import drop
from pipeline.release.gallery import data
from pipeline.release.gallery.page import BESIDE, HERE
from pipeline.release.garbage import gc
from pipeline.release.partition import Partition, read_manifest
from pipeline.release.snapshot import newest
from pipeline.store import Store
from schemas.records import RejectRecord
from tests.pipeline.release.galleries import COLORS, HOSTILE, color_of, make, number_of, pictures, psnr_of

ROOT = Path(__file__).parents[3]


def content(script):
    """What a data file hands to the page."""
    text = script.decode()
    assert text.startswith("anything3d(")
    assert text.endswith(");\n")
    return json.loads(text[11:-3])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Ten objects of two shards, of which two are rejected. For reading only."""
    return make(tmp_path_factory.mktemp("small"), photos=5, per_shard=3, every=5)


def test_an_index_has_what_the_table_has(small):
    store, snapshot = small
    for shard, partition in snapshot.partitions.items():
        index = content(store.read(partition.gallery["objects"].path))
        rows = store.read_table(partition.tables["objects"].path).to_pylist()
        assert index["ids"] == [row["object_id"] for row in rows]
        assert index["captions"] == [row["caption"] for row in rows]
        assert index["numbers"]["mesh_psnr_db"] == [float(f"{row['mesh_psnr_db']:.4g}") for row in rows]
        assert "chamfer" not in index["numbers"]  # it is null for all
        assert index["quality"] is None  # it is null for all
        assert sum(count for count, _ in index["sheets"]) == len(rows) == sum(count for count, _ in index["pages"])
        (page,) = [content(store.read(f"gallery/{shard}/{name}")) for _, name in index["pages"]]
        for at, row in enumerate(rows):
            shown = {**page["same"], **{name: values[at] for name, values in page["columns"].items()}}
            told = {name: value for name, value in row.items() if value is not None and name != "mask_rle"}
            assert {name: value for name, value in shown.items() if value is not None} == {
                name: data.rounded(value, data.EXACT) for name, value in told.items()
            }


def test_a_sheet_has_the_photo_and_the_mesh_of_each_object_in_its_order(small):
    store, snapshot = small
    for shard, partition in snapshot.partitions.items():
        index = content(store.read(partition.gallery["objects"].path))
        ((_, name),) = index["sheets"]
        with Image.open(io.BytesIO(store.read(f"gallery/{shard}/{name}"))) as picture:
            assert picture.size == (2 * data.ACROSS * CELL_PX, -(-len(index["ids"]) // data.ACROSS) * CELL_PX)
            for at, object_id in enumerate(index["ids"]):
                row, column = divmod(at, data.ACROSS)
                color = COLORS[color_of(number_of(object_id))]
                for side in range(2):
                    middle = ((2 * column + side + 0.5) * CELL_PX, (row + 0.5) * CELL_PX)
                    seen = picture.convert("RGB").getpixel(tuple(map(int, middle)))
                    assert max(abs(a - b) for a, b in zip(seen, color, strict=True)) < 12, object_id


def test_rejects_have_their_crops_and_reasons(small):
    store, snapshot = small
    for shard, partition in snapshot.partitions.items():
        shown = content(store.read(partition.gallery["rejects"].path))
        ((stage, kind, reason, ((item, message, place),)),) = shown["causes"]
        assert (stage, kind, reason) == ("mesh", "failed", "empty_surface")
        assert message == f"object {number_of(item)} has no surface <b>at all</b>"
        ((count, name),) = shown["sheets"]
        assert (count, place) == (1, 0)
        with Image.open(io.BytesIO(store.read(f"gallery/{shard}/{name}"))) as picture:
            seen = picture.convert("RGB").getpixel((CELL_PX // 2, CELL_PX // 2))
        assert max(abs(a - b) for a, b in zip(seen, COLORS[color_of(number_of(item))], strict=True)) < 12


def test_of_a_reason_only_some_rejects_are_shown_and_no_other_reason_is_lost():
    many = [RejectRecord(f"sa_1-{n:04d}", "segment", "skipped", "border", "", 1) for n in range(100)]
    one = RejectRecord("sa_2", "index", "failed", "missing_jpg", "", 1)
    assert data.examples([*many, one]) == [*many[: data.REASON_EXAMPLES], one]


def test_a_file_is_ascii_that_ends_no_script_and_numbers_are_what_json_can_hold():
    script = data.script(
        {"caption": HOSTILE, "numbers": [data.rounded(value, 4) for value in (1 / 3, float("nan"), 7)]}
    )
    assert script.isascii()
    assert content(script) == {"caption": HOSTILE, "numbers": [0.3333, None, 7]}


def test_pages_hold_equal_values_once():
    page = data.page([{"a": 1, "b": 2.0, "mask_rle": "x"}, {"a": 1, "b": 3.0, "mask_rle": "y"}])
    assert page == {"count": 2, "same": {"a": 1}, "columns": {"b": [2.0, 3.0]}}


def test_objects_are_cut_into_sheets_and_pages_in_their_order(tmp_path):
    store, snapshot = make(tmp_path, photos=140, per_shard=140)
    (partition,) = snapshot.partitions.values()
    index = content(store.read(partition.gallery["objects"].path))
    assert [count for count, _ in index["sheets"]] == [16] * 17 + [8]
    assert [count for count, _ in index["pages"]] == [128, 128, 24]
    assert [name.rpartition("-")[0] for _, name in index["pages"]] == ["sa_0-0000", "sa_64-0000", "sa_128-0000"]
    assert index["numbers"]["mesh_psnr_db"] == [float(f"{psnr_of(number):.4g}") for number in range(280)]
    again = make(tmp_path / "again", photos=140, per_shard=140)[0]
    assert again.paths("gallery") == store.paths("gallery")  # equal objects have files with equal names


def test_the_outline_is_on_the_edge_of_the_mask():
    picture = outlined(pictures("blue")[0])
    scale = CELL_PX / 96
    assert picture.getpixel((int(48 * scale), int(20 * scale))) == OUTLINE
    assert picture.getpixel((CELL_PX // 2, CELL_PX // 2)) == COLORS["blue"]
    assert picture.getpixel((2, 2)) == (181, 181, 181)  # 55 % of 120 and 45 % of 255


def test_gc_takes_what_no_kept_snapshot_names(tmp_path):
    store, snapshot = make(tmp_path, photos=4, per_shard=2)
    gone, stays = list(snapshot.partitions)
    store.write("gallery/mine.txt", b"mine")
    store.write(f"gallery/{gone}/notes.txt", b"mine")
    drop(store.root, [gone])
    assert gc(store.root, 0, 2, apply=True).folders["gallery"].files == 0  # the first snapshot is kept, too
    found = gc(store.root, 0, 1, apply=True).folders["gallery"]
    assert found.files == 2  # a sheet and a page
    assert store.paths(f"gallery/{gone}") == [f"gallery/{gone}/notes.txt"]
    manifest, _ = read_manifest(store, snapshot.partitions[stays])
    assert all(store.size(row.path) == row.bytes for row in manifest if row.what == "gallery")
    assert store.size("gallery/mine.txt") == 4
    assert not [path for path in store.paths(f"shards/{gone}") if path.endswith(".js")]
    assert all(store.size(path) for path in BESIDE)


def test_a_partition_of_an_older_version_has_no_gallery_and_the_page_says_so(small):
    store, snapshot = small
    body = next(iter(snapshot.partitions.values())).to_json()
    del body["gallery"]
    old = Partition.from_json(body)
    assert old.gallery == {}
    corpus = Store(store.root)
    assert newest(corpus) == snapshot
    from pipeline.release.gallery.page import catalogue
    from pipeline.release.view import about

    partitions = {**snapshot.partitions, old.shard: old}
    shown = catalogue(replace(snapshot, partitions=partitions), about(store.root, snapshot))
    assert [bool(shard["files"]) for shard in shown["shards"]] == [False, True]


def test_a_wheel_has_all_files_of_the_page():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    patterns = declared["pipeline.release.gallery"]
    files = [str(path.relative_to(HERE)) for folder in ("assets", "templates") for path in (HERE / folder).iterdir()]
    assert files
    assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in files)
    assert {name for names in BESIDE.values() for name in names} == {path.name for path in (HERE / "assets").iterdir()}


def test_sheets_of_no_equal_rows_are_white_where_nothing_is():
    picture = Image.new("RGB", (CELL_PX, CELL_PX), (200, 0, 0))
    with Image.open(io.BytesIO(sheet([picture] * 3, 2))) as whole:
        assert whole.size == (2 * CELL_PX, 2 * CELL_PX)
        assert whole.convert("RGB").getpixel((CELL_PX + 64, CELL_PX + 64)) == (255, 255, 255)
