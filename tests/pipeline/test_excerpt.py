"""Some rows of a large part, wherever it is damaged, and whichever ids are wanted."""

import json
import random
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anything3d.errors import DamagedCell
from pipeline.commit import Commit, sealed, unsealed
from pipeline.store import WHOLE_BYTES, Store
from schemas.arrow import GROUP_BYTES, parquet_bytes, to_table
from schemas.records import CloudRecord

DICE = random.Random(0)
PLY = 70_000  # bytes; four of them are more than a row group should have
ROWS = [
    CloudRecord(f"sa_{n:03d}", DICE.randbytes(PLY), n, 0, *(DICE.random() for _ in range(8)), 0)
    for n in DICE.sample(range(100), 26)  # in no order
]
WANTED = [row for row in ROWS[9:14] if row is not ROWS[11]]
IDS = [row.object_id for row in WANTED]


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def committed(store):
    part = store.write_part("cells/x", "rows", ROWS, CloudRecord)
    commit = Commit("x", "u", "f", "d", part, None, {}, {"inputs": 1}, "a", 1, 0.5, 0.0, {"torch": "2"})
    store.create("cells/x/commit.json", commit.to_json())
    return commit


@contextmanager
def flipped(path, place, bit):
    """One bit of a file is another one for a while."""
    with path.open("r+b", buffering=0) as file:
        file.seek(place)
        (sound,) = file.read(1)
        for byte in (sound ^ (1 << bit), sound):
            file.seek(place)
            file.write(bytes([byte]))
            if byte != sound:
                yield


def test_row_groups_have_about_as_many_bytes_as_they_should_and_the_footer_has_the_ids():
    about = pq.read_metadata(pa.BufferReader(parquet_bytes(to_table(ROWS, CloudRecord))))
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    sizes = [group.total_byte_size for group in groups]
    assert len(sizes) == 7
    assert all(GROUP_BYTES <= size < GROUP_BYTES + 2 * PLY for size in sizes[:-1])
    assert json.loads(about.metadata[b"ids"]) == [row.object_id for row in ROWS]


def test_any_ids_give_their_rows_in_the_order_of_the_part(store):
    part = committed(store).rows
    assert part.bytes > WHOLE_BYTES
    older = replace(part, footer_bytes=0, footer_sha256="")  # of a version that wrote no digest of the footer
    for count in (0, 1, 2, 5, 15, 25, 26):
        ids = {row.object_id for row in DICE.sample(ROWS, count)} | {"nobody", "sa_0"}
        expected = [row for row in ROWS if row.object_id in ids]
        assert store.read_part(part, CloudRecord, ids) == expected
        assert store.read_part(older, CloudRecord, ids) == expected
        light = [replace(row, cloud_ply=None) for row in expected]
        assert store.read_part(part, CloudRecord, ids, heavy=()) == light
    assert store.read_part(part, CloudRecord) == ROWS
    assert store.read_column(part, "points") == [row.points for row in ROWS]


def test_a_flipped_bit_is_found_or_changes_nothing_that_is_returned(store, tmp_path, caplog):
    """Every byte of the page headers and of the light pages of a row group that is read, some of all else."""
    part = committed(store).rows
    path, heavy = tmp_path / part.path, {"cloud_ply"}
    about = pq.read_metadata(path)
    first = about.row_group(2)
    starts = [first.column(number).data_page_offset for number in range(first.num_columns)]
    light = [place for place in range(starts[0], starts[-1] + 60) if not starts[1] + 90 < place < starts[2] - 9]
    footer = range(part.bytes - part.footer_bytes, part.bytes)
    found = dict.fromkeys(("light", "footer", "elsewhere"), 0)
    for where, places in (
        ("light", light[::5]),
        ("footer", [*footer[::97], *footer[-12:]]),
        ("elsewhere", range(0, footer.start, part.bytes // 61)),
    ):
        for place in places:
            with flipped(path, place, DICE.randrange(8)):
                try:
                    assert store.read_part(part, CloudRecord, IDS, heavy) == WANTED, place
                except DamagedCell:
                    found[where] += 1
    assert found["footer"] == len([*footer[::97], *footer[-12:]])
    assert found["light"] > 50
    assert 0 < found["elsewhere"] < 61  # row groups that nobody wanted are not read
    assert store.read_part(part, CloudRecord, IDS) == WANTED


@pytest.mark.parametrize("keeps", [0, 100, 500_000, -1])
def test_a_large_part_that_was_cut_off_is_damaged(store, tmp_path, keeps):
    commit = committed(store)
    path = tmp_path / commit.rows.path
    path.write_bytes(path.read_bytes()[:keeps])
    with pytest.raises(DamagedCell, match="is damaged"):
        store.read_part(commit.rows, CloudRecord, IDS)
    assert store.commit_at("cells/x") is None


def test_a_sound_part_with_other_rows_is_not_taken_for_this_one(store, tmp_path):
    """It has the same size and the same layout, but not the wanted objects."""
    part = committed(store).rows
    others = [replace(row, object_id=f"sb_{row.object_id[3:]}") for row in ROWS]
    other = parquet_bytes(to_table(others, CloudRecord))
    assert abs(len(other) - part.bytes) < 9
    (tmp_path / part.path).write_bytes(other)
    with pytest.raises(DamagedCell):
        store.read_part(part, CloudRecord, IDS)


def test_a_commit_from_before_the_digests_of_footers_is_read_and_set_aside_like_any_other(store, tmp_path):
    commit = committed(store)
    body = unsealed(commit.to_json())
    body["rows"] = {name: value for name, value in body["rows"].items() if not name.startswith("footer")}
    (tmp_path / "cells/x/commit.json").write_bytes(sealed(body))
    known = store.commit_at("cells/x")
    assert known.rows == replace(commit.rows, footer_bytes=0, footer_sha256="")
    (tmp_path / known.rows.path).write_bytes(b"")
    with pytest.raises(DamagedCell):
        store.read_part(known.rows, CloudRecord, IDS)
    assert store.commit_at("cells/x") is None
