"""Photos that people have: folders, lists, Parquet files and tars under any names, through index and segment."""

import io
import json
import os
import re
import tarfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anything3d.errors import MachineError, SourceError
from anything3d.mini.world import write_world
from anything3d.photo import mask
from pipeline import cell
from pipeline.config import load
from pipeline.input.fetch import Photos
from pipeline.input.ids import MAX_ID, image_of, photo_id
from pipeline.input.source import expand
from pipeline.plan import photo_units, shard_unit
from pipeline.stages import load as load_stage
from pipeline.stages import recipes
from pipeline.store import Store
from schemas.arrow import IDS
from schemas.records import ImageRecord, ObjectRecord, RejectRecord
from tests import s3

GRID = ("segment.source=sam-grid", "segment.grid_points=2", "segment.crop_size=32", "segment.max_edges=4")
ANY = ("segment.min_area_px=1", "segment.min_predicted_iou=0", "segment.min_stability=0", "segment.max_area_share=1")
WIDTH, HEIGHT = 48, 32


def picture(seed: int, kind: str = "JPEG", **options) -> bytes:
    """A photo of its own."""
    pixels = torch.randint(0, 255, (HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(out, kind, **options)
    return out.getvalue()


JPEGS = [picture(seed) for seed in range(12)]


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


class Seen:
    """What index and segment say of a source: rows by id, and (item, stage, reason) of rejects."""

    def __init__(self, location, store, settings=()):
        self.config = load([], settings)
        self.recipes = recipes(self.config)
        self.store, self.images, self.objects, self.rejects, self.made = store, {}, {}, [], 0
        (self.source,) = expand([str(location)])
        self.unit = self._through("index", shard_unit(self.source, licence=self.config.licence))
        self.images = self._rows("index", self.unit, ImageRecord)

    def segment(self):
        self.made = 0
        self.units = [
            self._through("segment", unit) for unit in photo_units(self.unit, list(self.images), self.store, 64)
        ]
        for unit in self.units:
            self.objects |= self._rows("segment", unit, ObjectRecord)
        return self

    @property
    def reasons(self):
        return sorted(reason for _, reason in self.rejects)

    def bytes_of(self, image_id):
        return Photos(self.source).read(self.images[image_id])[0]

    def _through(self, stage, unit):
        load_it = partial(load_stage, stage, self.config.to_json(), "cpu")
        commit, made = cell.run(self.recipes[stage], unit, self.store, load_it)
        self.made += made
        rejects = self.store.read_part(commit.rejects, RejectRecord) if commit.rejects else []
        self.rejects += [(row.item_id, row.reason) for row in rejects]
        return cell.as_input(self.recipes[stage], unit, commit)

    def _rows(self, stage, unit, record):
        rows = self.store.read_part(self.store.commit_at(unit.inputs[stage].path).rows, record)
        return {getattr(row, "object_id" if stage == "segment" else "image_id"): row for row in rows}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "corpus"))


def test_a_folder_gives_its_photos_and_says_what_is_none(tmp_path, store):
    folder = tmp_path / "holiday"
    (folder / "deeper").mkdir(parents=True)
    (folder / "deeper" / "dog.jpg").write_bytes(JPEGS[2])
    (folder / "cup.jpg").write_bytes(JPEGS[0])
    (folder / "IMG-2024.JPEG").write_bytes(JPEGS[1])
    (folder / "notes.txt").write_bytes(b"x")
    seen = Seen(folder, store)
    assert [row.photo_name for row in seen.images.values()] == ["IMG-2024.JPEG", "cup.jpg"]
    assert "holiday__cup" in seen.images
    assert seen.bytes_of("holiday__cup") == JPEGS[0]
    assert seen.rejects == [("holiday@'deeper/'", "not_a_photo"), ("holiday@'notes.txt'", "not_a_photo")]
    (tmp_path / "holiday" / "n\nl %20.jpg").write_bytes(JPEGS[3])
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_bytes(JPEGS[4])
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    odd = Seen(folder, store)
    (new,) = [row for row in odd.images.values() if row.photo_name == "n\nl %20.jpg"]
    assert re.fullmatch(r"holiday__n_l_20_[0-9a-f]{12}", new.image_id)
    assert odd.bytes_of(new.image_id) == JPEGS[3]
    assert sorted({*odd.rejects} - {*seen.rejects}) == [
        ("holiday@'\\udcff.jpg'", "photo_location"),
        ("holiday__loop", "missing_photo"),
        ("holiday__pipe", "missing_photo"),
    ]
    deep = Seen(f"{folder}/deeper/**", store)
    assert [row.photo_name for row in deep.images.values()] == ["dog.jpg"]
    (folder / "n\nl %20.jpg").unlink()
    deep = Seen(f"{folder}/**", store)
    assert sorted(row.photo_name for row in deep.images.values()) == ["IMG-2024.JPEG", "cup.jpg", "deeper/dog.jpg"]


HOSTILE = [
    ("../x.jpg", None, "unsafe_member"),
    ("/x.jpg", None, "unsafe_member"),
    ("a b.jpg", r"t__a_b_[0-9a-f]{12}", None),
    ("tasse-\u00fc.PNG", r"t__tasse_[0-9a-f]{12}", None),
    ("n\nl.jpg", r"t__n_l_[0-9a-f]{12}", None),
    (".jpg", r"t__x_[0-9a-f]{12}", None),
    ("x.y.jpg", r"t__x_y_[0-9a-f]{12}", None),
    ("a/b/cup.png", r"t__cup_[0-9a-f]{12}", None),
    ("000000012.webp", "t__000000012", None),
    ("IMG-20240101-WA0001.jpg", "t__IMG-20240101-WA0001", None),
    ("cup-0001.jpg", r"t__cup_0001_[0-9a-f]{12}", None),  # would be an object of `cup`
    ("x" * 300 + ".jpg", r"t__x{24}_[0-9a-f]{12}", None),
    ("d" * 140 + "/" + "f" * 90 + ".jpg", r"t__f{24}_[0-9a-f]{12}", None),
]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize(("name", "wanted", "reason"), HOSTILE, ids=[ascii(entry[0][:20]) for entry in HOSTILE])
def test_every_name_gives_an_id_that_is_safe_or_a_reject(tmp_path, store, form, name, wanted, reason):
    path = write_tar(tmp_path / "t.tar", [("readme", b"x"), (name, JPEGS[0]), ("other.jpg", JPEGS[1])], form)
    seen = Seen(path, store)
    assert seen.reasons == sorted(["foreign_member", *([reason] if reason else [])])
    assert "t__other" in seen.images
    ids = seen.images.keys() - {"t__other"}
    if wanted is None:
        assert not ids
        return
    (image_id,) = ids
    assert re.fullmatch(wanted, image_id)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", image_id)
    assert image_of(image_id) == image_of(f"{image_id}-0001") == image_of(f"{image_id}-g0001") == image_id
    assert seen.images[image_id].photo_name == name
    assert seen.bytes_of(image_id) == JPEGS[0]


@given(*[st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=80)] * 2), unique=True)])
def test_two_names_never_give_one_id(names):
    ids = [photo_id(*pair) for pair in names]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", one) and len(one) <= MAX_ID and image_of(one) == one for one in ids)


@given(*[st.lists(st.tuples(*[st.text("ab_-01", max_size=8)] * 2), unique=True)])
def test_names_that_are_much_alike_do_not_either(names):
    assert len({photo_id(*pair) for pair in names}) == len(names)


def test_members_that_belong_to_a_photo_are_no_defect_and_a_second_one_of_an_id_is(tmp_path, store):
    members = [
        ("00000012.jpg", JPEGS[0]),
        ("00000012.json", b'{"caption": "a cup"}'),
        ("00000012.txt", b"a cup"),
        ("00000013.json", b"{}"),
        ("00000012.png", picture(1, "PNG")),
        ("00000012.jpg", JPEGS[2]),
    ]
    seen = Seen(write_tar(tmp_path / "00000.tar", members), store)
    assert list(seen.images) == ["00000__00000012"]
    assert seen.bytes_of("00000__00000012") == JPEGS[0]
    assert sorted(seen.rejects) == [
        ("00000@byte 5120", "foreign_member"),
        ("00000__00000012", "duplicate_id"),
        ("00000__00000012", "duplicate_id"),
    ]


def test_a_tar_with_one_member_of_sa_1b_is_an_sa_1b_shard(tmp_path, store):
    members = [("cup.jpg", JPEGS[0]), ("./sa_7.jpg", JPEGS[1])]
    seen = Seen(write_tar(tmp_path / "t.tar", members), store, ["segment.source=sam-grid"])
    assert (seen.images, seen.reasons) == ({}, ["foreign_member", "missing_json"])


def test_a_part_of_an_sa_1b_shard_has_the_columns_that_it_always_had(tmp_path, store):
    write_world(tmp_path / "world.tar", scenes=1, seed=0, size=96)
    seen = Seen(tmp_path / "world.tar", store)
    part = store.read_part_table(store.commit_at(seen.unit.inputs["index"].path).rows)
    assert part.column_names == [
        *("image_id", "shard", "jpg_offset", "jpg_size", "jpg_sha256", "json_offset", "json_size", "json_sha256")
    ]
    about = b"index: one photo of a shard with its annotations, as byte ranges of the shard and digests of their bytes."
    said = {name: value for name, value in part.schema.metadata.items() if name != IDS}
    assert said == {b"record": b"ImageRecord", b"about": about}


LINES = """cup.jpg
ABSOLUTE

s3://b/p/a.jpg
s3://b/p/none.jpg
s3a://b/p/b.jpg
https://host/c.jpg
ftp://host/c.jpg
none.jpg
s3://b/p/../c.jpg
cup.jpg
a\x07b.jpg
PIPE
LONG
"""


def test_a_list_names_photos_on_disk_and_in_buckets_and_what_is_wrong_has_its_line(tmp_path, store):
    (tmp_path / "cup.jpg").write_bytes(JPEGS[0])
    os.mkfifo(tmp_path / "pipe")
    lines = LINES.replace("ABSOLUTE", f"{tmp_path}/cup.jpg").replace("PIPE", "pipe").replace("LONG", "x" * 300 + ".jpg")
    (tmp_path / "wanted.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    with s3.serve() as server:
        server.objects |= {"p/a.jpg": JPEGS[1], "p/b.jpg": JPEGS[2]}
        seen = Seen(tmp_path / "wanted.txt", store, [*GRID, *ANY]).segment()
        assert [seen.bytes_of(image_id) for image_id in seen.images] == [JPEGS[0], JPEGS[0], JPEGS[1], JPEGS[2]]
    assert seen.objects
    assert {row.image_id for row in seen.objects.values()} <= seen.images.keys()
    twice = next(iter(seen.images))
    assert twice.startswith("wanted__cup_")
    index = {item: reason for item, reason in seen.rejects if "@" in item or item in seen.images}
    assert index == {
        "wanted@line 5": "missing_photo",
        "wanted@line 7": "photo_location",
        "wanted@line 8": "photo_location",
        "wanted@line 9": "missing_photo",
        "wanted@line 10": "photo_location",
        twice: "duplicate_id",
        "wanted@line 12": "photo_location",
        "wanted@line 13": "missing_photo",
        "wanted@line 14": "missing_photo",
    }


def test_a_bucket_of_which_nothing_may_be_read_is_no_verdict_on_its_photos(tmp_path, store):
    (tmp_path / "wanted.txt").write_text("s3://b/p/a.jpg\ns3://b/p/b.jpg\n")
    with s3.serve() as server:
        server.objects |= {"p/a.jpg": JPEGS[1], "p/b.jpg": JPEGS[2]}
        server.forbids = {"GET"}
        with pytest.raises(MachineError, match="storage_failed: wanted@line 1: no photo of s3://b/p may be read"):
            Seen(tmp_path / "wanted.txt", store)


def test_folders_and_lists_in_a_bucket_are_read_like_those_on_disk(store):
    with s3.serve() as server:
        server.objects |= {
            "photos/a.jpg": JPEGS[0],
            "photos/deep/b.jpg": JPEGS[1],
            "photos/x.txt": b"",
            "lists/l.txt": b"../photos/a.jpg\n/etc/passwd\nfile:///etc/passwd\nc.jpg\n",
            "lists/c.jpg": JPEGS[2],
            "photos.prompts.jsonl": b'{"name": "a.jpg", "points": [[3, 4]]}\n',
        }
        for spelled in ("s3://b/photos", "s3://b/photos/"):
            seen = Seen(spelled, store)
            assert list(seen.images) == ["photos__a"]
            assert seen.bytes_of("photos__a") == JPEGS[0]
            assert json.loads(seen.images["photos__a"].prompts) == {"boxes": [], "points": [[3, 4]]}
            assert seen.rejects == [("photos@'deep/'", "not_a_photo"), ("photos@'x.txt'", "not_a_photo")]
        assert [row.photo_name for row in Seen("s3://b/photos/**", store).images.values()] == ["a.jpg", "deep/b.jpg"]
        seen = Seen("s3://b/lists/l.txt", store)
        assert [seen.bytes_of(image_id) for image_id in seen.images] == [JPEGS[2]]
        assert seen.reasons == ["photo_location"] * 3


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"bytes": data, "path": None} for data in JPEGS[:5]] + [None]),
        pa.array([*JPEGS[:5], b""]),
    ],
    ids=["hugging face", "bytes"],
)
@pytest.mark.parametrize("name", ["image", "jpg"])
def test_photos_in_the_rows_of_a_parquet_file_are_found_again_by_row(tmp_path, store, column, name):
    pq.write_table(pa.table({"caption": ["x"] * 6, name: column}), tmp_path / "set.parquet", row_group_size=2)
    seen = Seen(tmp_path / "set.parquet", store)
    assert list(seen.images) == [f"set__{row:09d}" for row in range(5)]
    assert [seen.bytes_of(image_id) for image_id in reversed(seen.images)] == JPEGS[4::-1]
    assert seen.rejects == [("set@row 5", "missing_photo")]


@pytest.mark.parametrize("name", ["url", "path", "image"])
def test_a_parquet_file_of_locations_is_a_list(tmp_path, store, name):
    (tmp_path / "cup.jpg").write_bytes(JPEGS[0])
    pq.write_table(pa.table({name: ["cup.jpg", None, "http://host/x.jpg"]}), tmp_path / "set.parquet")
    seen = Seen(tmp_path / "set.parquet", store)
    assert [seen.bytes_of(image_id) for image_id in seen.images] == [JPEGS[0]]
    assert seen.rejects == [("set@row 1", "missing_photo"), ("set@row 2", "photo_location")]


def test_a_parquet_file_that_is_none_or_has_no_photos_is_one_reject(tmp_path, store):
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"text": ["x"]}), path)
    assert Seen(path, store).rejects == [("set", "no_photo_column")]
    pq.write_table(pa.table({"image": JPEGS}), path, write_page_checksum=True)
    sound = path.read_bytes()
    for data in (b"", b"<html>", sound[:-9], sound[:400] + bytes(9) + sound[409:]):
        path.write_bytes(data)
        assert Seen(path, store).rejects == [("set", "damaged_parquet")]


def test_photos_without_annotations_name_the_setting_to_change(tmp_path, store):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cup.jpg").write_bytes(JPEGS[0])
    seen = Seen(tmp_path / "photos", store).segment()
    assert seen.rejects == [("photos__cup", "no_annotations")]
    for source in ("sam-boxes", "sam-points"):
        assert Seen(tmp_path / "photos", store, [f"segment.source={source}"]).segment().reasons == ["no_prompts"]


def test_boxes_and_points_of_the_side_file_are_where_sam_looks(tmp_path, store):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cup.jpg").write_bytes(JPEGS[0])
    (folder / "dog.jpg").write_bytes(JPEGS[1])
    lines = [
        {"name": "cup.jpg", "boxes": [[4, 5, 20, 10], [40, 5, 20, 10]], "points": [[7, 8.5]]},
        {"name": "cat.jpg", "boxes": []},
        {"name": "cup.jpg"},
        {"name": "dog.jpg", "boxes": [[1, 2, 3]]},
        {"name": "dog.jpg", "points": [[float("nan"), 1]]},
        {"name": "dog.jpg", "box": []},
        [],
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"name\n'
    before = shard_unit(expand([str(folder)])[0]).inputs["shard"]
    (tmp_path / "photos.prompts.jsonl").write_text(text)
    assert shard_unit(before.path).inputs["shard"] != before
    seen = Seen(folder, store, [*GRID, *ANY, "segment.source=sam-boxes"]).segment()
    assert list(seen.objects) == ["photos__cup-0000"]
    assert seen.objects["photos__cup-0000"].source == "sam-boxes"
    assert sorted(seen.rejects) == [
        ("photos.prompts.jsonl", "prompts_unused"),
        *((f"photos.prompts.jsonl@line {number}", "bad_prompts") for number in range(3, 9)),
        ("photos__cup-0001", "prompt_outside"),
        ("photos__dog", "no_prompts"),
    ]
    seen = Seen(folder, store, [*GRID, *ANY, "segment.source=sam-points"]).segment()
    assert list(seen.objects) == ["photos__cup-0000"]


def test_prompts_for_photos_with_annotations_are_not_taken_in_silence(tmp_path, store):
    write_world(tmp_path / "world.tar", scenes=1, seed=0, size=96)
    (tmp_path / "world.prompts.jsonl").write_text('{"name": "sa_1.jpg", "boxes": [[1, 1, 9, 9]]}')
    assert Seen(tmp_path / "world.tar", store).rejects == [("world.prompts.jsonl", "prompts_unused")]


def test_photos_are_read_as_lift_image_reads_them(tmp_path, store):
    """Turned as EXIF says, CMYK and transparency as viewers show them; limits hold, and damage is a reject."""
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = Image.new("RGB", (WIDTH, HEIGHT), "red")
    files = {"turned.jpg": ("JPEG", rgb, {"exif": exif}), "cmyk.jpg": ("JPEG", rgb.convert("CMYK"), {})}
    files["webp.webp"] = ("WEBP", rgb, {"exif": exif})
    files["alpha.png"] = ("PNG", Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)), {})
    files["large.png"] = ("PNG", Image.new("1", (2100, 100)), {})
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (kind, image, options) in files.items():
        image.save(folder / name, kind, **options)
    (folder / "torn.jpg").write_bytes(JPEGS[0][:-300])
    (folder / "text.jpg").write_text("no photo")
    (folder / "heavy.jpg").write_bytes(JPEGS[0] + bytes(9000))
    limits = ["segment.limits.max_side_px=2000", "index.max_member_bytes=9000"]
    seen = Seen(folder, store, [*GRID, *ANY, *limits]).segment()
    sizes = {row.image_id: (row.image_height, row.image_width) for row in seen.objects.values()}
    assert sizes["photos__turned"] == sizes["photos__webp"] == (WIDTH, HEIGHT)
    assert sizes["photos__cmyk"] == sizes["photos__alpha"] == (HEIGHT, WIDTH)
    assert {item: reason for item, reason in seen.rejects if item in seen.images or "heavy" in item} == {
        "photos__torn": "image_truncated",
        "photos__text": "image_format",
        "photos__large": "image_bomb",
        "photos__heavy": "oversize_member",
    }
    row = next(row for row in seen.objects.values() if row.image_id == "photos__turned")
    assert mask.decode(row.mask_rle, row.image_height, row.image_width).shape == (WIDTH, HEIGHT)


def test_a_folder_that_grows_costs_the_unit_that_the_photo_comes_into_and_no_other(tmp_path, store):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = JPEGS[0]
    for number in range(40):
        (folder / f"{number:03d}.jpg").write_bytes(photo)
    first = Seen(folder, store).segment()
    assert first.made == len(first.units) > 3
    again = Seen(folder, store).segment()
    assert (again.made, again.rejects) == (0, first.rejects)
    (folder / "0205.jpg").write_bytes(photo)
    grown = Seen(folder, store).segment()
    assert grown.made <= 2
    assert len(grown.images) == 41
    (folder / "007.jpg").write_bytes(JPEGS[1])
    assert Seen(folder, store).segment().made == 1
    moved = folder.rename(tmp_path / "moved")
    moved.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(folder)
    assert Seen(folder, store).segment().made == 0


def test_a_photo_that_changed_since_it_was_indexed_is_no_verdict_on_it(tmp_path, store):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cup.jpg").write_bytes(JPEGS[0])
    seen = Seen(folder, store)
    (folder / "cup.jpg").write_bytes(JPEGS[1])
    with pytest.raises(MachineError, match=r"shard_changed: .*the bytes of photos__cup are not"):
        seen.segment()


def test_what_is_no_source_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "cup.jpg").write_bytes(JPEGS[0])
    (tmp_path / "set").mkdir()
    (tmp_path / "set.tar").touch()
    with pytest.raises(SourceError, match=r"^no_shard: .*cup.jpg is a single photo. Give its folder"):
        expand([f"{tmp_path}/*.jpg"])
    with pytest.raises(SourceError, match="have the same name"):
        expand([f"{tmp_path}/set", f"{tmp_path}/set.tar"])
    assert expand([f"{tmp_path}/*"[:-1] + "set*"]) == [f"{tmp_path}/set.tar"]
    assert expand([f"{tmp_path}/s*/"]) == [f"{tmp_path}/set/"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand(["~/set.tar"]) == [f"{tmp_path}/set.tar"]
    assert expand(["~/set/**"]) == [f"{tmp_path}/set/**"]
    monkeypatch.chdir(tmp_path / "set")
    assert expand(["."]) == [f"{tmp_path}/set/"]
    with pytest.raises(SourceError, match="matches no folder"):
        expand([f"{tmp_path}/none/"])


def test_the_licence_of_sa_1b_is_not_put_on_other_photos(tmp_path, store):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cup.jpg").write_bytes(JPEGS[0])
    assert {unit.inputs["licence"].digest for unit in Seen(folder, store).segment().units} == {"not stated"}
    mine = Seen(folder, store, ["licence=CC-BY-4.0"]).segment()
    assert {unit.inputs["licence"].digest for unit in mine.units} == {"CC-BY-4.0"}
