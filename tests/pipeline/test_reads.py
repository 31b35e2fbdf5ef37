"""What the readers of a unit ask of the storage, at the size of SA-1B: requests and bytes of an S3 on loopback.

`pytest -s tests/pipeline/test_reads.py` prints them. 11,000 photos of a shard are indexed, 64 of them have two objects
each, and a unit has eight of these. A crop has 258 kB. A field has 1 MB instead of the 7 MB of the preset `default`, so
that the test needs less memory. `Requests of the cell` are all of a new cell: also those that look for it and write it.
"""

import os
from dataclasses import asdict, fields

import pytest

from pipeline import cell
from pipeline.config import Config
from pipeline.release.finished import finished_objects, read_objects
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.unit import Input, Unit, slices
from schemas.records import (
    CaptionRecord,
    CloudRecord,
    ConceptRecord,
    FieldRecord,
    ImageRecord,
    MeshRecord,
    ObjectRecord,
    ScoreRecord,
)
from tests.s3 import serve

PHOTOS, PHOTOS_OF_A_UNIT, OBJECTS_OF_A_UNIT = 11_000, 64, 8
JPG, JSON = 900_000, 50_000  # bytes
CROP, CONCEPT, CLOUD, FIELD, GLB, PICTURE = 258_000, 12_000, 61_000, 1_000_000, 300_000, 60_000  # bytes
REQUESTS, TIMES = 20, 1.5  # of a reader of a unit; times the bytes of the rows that it wants
KNOWN = recipes(Config())


class Told:
    """A stage whose rows are told."""

    def __init__(self, rows):
        self._rows = rows

    def __call__(self, items, unit, checkpoint):
        return [self._rows(item if isinstance(item, str) else item[0], unit) for item in items]


def images(item, unit):
    jpg, json = (os.urandom(32).hex() for _ in range(PHOTOS)), (os.urandom(32).hex() for _ in range(PHOTOS))
    return [
        ImageRecord(f"sa_{223_750 + n}", unit.name, 10**6 * n, JPG, next(jpg), 10**6 * n + JPG, JSON, next(json))
        for n in range(PHOTOS)
    ]


def objects(row, unit):
    return [
        ObjectRecord(f"{row.image_id}-{n:04d}", row.image_id, row.shard, "annotations", 1500, 2250, "o" * 300,
                     0, 0, 8, 8, 64, 1.0, 1.0, 0.0, 0.0, 8.0, os.urandom(CROP))
        for n in range(2)
    ]  # fmt: skip


def of_object(row, unit):
    item, camera = row.object_id, (0.0, 0.0, 2.0, 1.0, 1.0, 0.5, 0.5)
    nothing = (None,) * 8
    return {
        CaptionRecord: lambda: [CaptionRecord(item, "a thing", -1.0, "")],
        ConceptRecord: lambda: [ConceptRecord(item, os.urandom(CONCEPT), 0.5, 0.4, 1)],
        CloudRecord: lambda: [CloudRecord(item, os.urandom(CLOUD), 4096, 0, 1.0, *camera, 0)],
        FieldRecord: lambda: [FieldRecord(item, os.urandom(FIELD), 1, 1, "field", None, 0.0, 0.0, 0.0, 1.0, 0.0)],
        MeshRecord: lambda: [MeshRecord(item, os.urandom(GLB), 3, 1, 1, True)],
        ScoreRecord: lambda: [
            ScoreRecord(item, 20.0, 0.9, 0.8, *nothing, "", os.urandom(PICTURE), os.urandom(PICTURE))
        ],
    }


def rows_of(stage):
    if stage in ("index", "segment"):
        return {"index": images, "segment": objects}[stage]
    return lambda row, unit: of_object(row, unit)[KNOWN[stage].record]()


class Counted:
    """A bucket with the cells of one unit, and what its readers have asked of it."""

    def __init__(self, server):
        self.server, self.store, self.commits, self.of_cell = server, Store("s3://b/corpus"), {}, {}
        inputs = {name: Input("", "") for name in ("truth", "world", "md5")}
        shard = Unit("sa_20", ("sa_20",), {**inputs, "shard": Input("sa_20.tar", "d"), "licence": Input("", "SA-1B")})
        indexed = self._through("index", shard)
        ids = [f"sa_{223_750 + n}" for n in range(PHOTOS)]
        self.photos = list(slices(indexed, ids, PHOTOS_OF_A_UNIT))[3]
        segmented = self._through("segment", self.photos)
        ids = self.store.read_column(self.commits["segment"].rows, "object_id")
        self.unit = list(slices(segmented, ids, OBJECTS_OF_A_UNIT))[7]
        for stage in list(KNOWN)[2:]:
            self.unit = self._through(stage, self.unit)

    def _through(self, stage, unit):
        recipe = KNOWN[stage]
        done, self.of_cell[stage], _ = self.cost(
            lambda: cell.run(recipe, unit, self.store, lambda: Told(rows_of(stage)))
        )
        self.commits[stage], _ = done
        return cell.as_input(recipe, unit, self.commits[stage])

    def cost(self, reader):
        """What it gives, its requests and the bytes that it was sent."""
        asked, sent = len(self.server.asked), self.server.sent
        given = reader()
        return given, len(self.server.asked) - asked, self.server.sent - sent


@pytest.fixture(scope="module")
def bucket():
    with serve() as server:
        yield Counted(server)


def size(row):
    """Bytes of the values of a record."""
    values = [getattr(row, column.name) for column in fields(row)]
    return sum(len(value) if isinstance(value, str | bytes) else 8 for value in values if value is not None)


def tell(reader, requests, sent, own, more=""):
    print(f"{reader:12} {requests:3} requests {sent / 1e6:7.2f} MB, {sent / own:5.2f} times what it wants{more}")


@pytest.mark.parametrize("stage", list(KNOWN)[2:])
def test_a_stage_of_objects_reads_little_more_than_its_objects(bucket, stage):
    (ids, items), requests, sent = bucket.cost(lambda: cell.join(KNOWN[stage], bucket.unit, bucket.store))
    assert ids == list(bucket.unit.ids)
    own = sum(size(row) for item in items for row in item)
    tell(stage, requests, sent, own, f"; {bucket.of_cell[stage]} requests of the cell")
    assert requests <= REQUESTS
    assert sent <= TIMES * own


def test_the_ids_of_a_large_part_are_one_request(bucket):
    part = bucket.commits["segment"].rows
    ids, requests, sent = bucket.cost(lambda: bucket.store.read_column(part, "object_id"))
    assert len(ids) == part.rows
    print(f"{'ids':12} {requests:3} requests {sent / 1e6:7.2f} MB")
    assert requests == 1
    assert sent < part.bytes / 100


def test_segment_reads_little_beside_its_photos(bucket):
    (ids, items), requests, sent = bucket.cost(lambda: cell.join(KNOWN["segment"], bucket.photos, bucket.store))
    assert ids == list(bucket.photos.ids)
    photos = sum(row.jpg_size + row.json_size for (row,) in items)  # of the shard, which is no cell
    tell("segment", requests, sent + photos, photos, f"; {bucket.of_cell['segment']} requests of the cell")
    assert requests <= REQUESTS
    assert sent + photos <= TIMES * photos


def test_publishing_reads_what_becomes_files_and_no_field(bucket):
    known = {commit.folder: commit for commit in bucket.commits.values()}  # as the driver knows them
    rows, requests, sent = bucket.cost(lambda: list(finished_objects(bucket.store, [bucket.unit], 0, known)))
    assert [one.object_id for one in rows] == list(bucket.unit.ids)
    assert all(one.reconstruct.field is None and one.reconstruct.kept == "field" for one in rows)
    own = sum(size(getattr(one, stage)) for one in rows for stage in objects_of(bucket))
    tell("publishing", requests, sent, own)
    assert requests <= REQUESTS
    assert sent <= TIMES * own


def test_who_needs_no_bytes_gets_all_other_columns_and_reads_almost_nothing(bucket):
    rows, requests, sent = bucket.cost(lambda: read_objects(bucket.store, objects_of(bucket), bucket.unit.ids, ()))
    whole = read_objects(bucket.store, objects_of(bucket), bucket.unit.ids, BYTES)
    for light, full in zip(rows, whole, strict=True):
        for stage in objects_of(bucket):
            one, other = (asdict(getattr(which, stage)) for which in (light, full))
            heavy = [name for name, value in other.items() if isinstance(value, bytes)]
            assert one == {**other, **dict.fromkeys(heavy)}
    tell("no bytes", requests, sent, sum(size(getattr(one, stage)) for one in whole for stage in objects_of(bucket)))
    assert requests < 25  # seven stages: one for a small part; a footer and a piece of every row group of a large one
    assert sent < OBJECTS_OF_A_UNIT * CROP


BYTES = ("crop_png", "unseen_png", "concept", "cloud_ply", "field", "own_mesh", "glb", "render_png", "turntable_webp")


def objects_of(bucket):
    """Stage -> commit, of the stages whose rows are objects."""
    return {stage: commit for stage, commit in bucket.commits.items() if stage != "index"}
