"""Shards that lie: every defect of a tar gets its reason, everything else in it is still found."""

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anything3d.errors import InputError
from pipeline.config import IndexConfig
from pipeline.input.shard import WINDOW, Shard
from pipeline.input.tar import Member, Piece, scan
from pipeline.stages.index import pair
from schemas.records import ImageRecord


def tar_of(members: list[tuple[str, bytes]], *, trailer: bool = True) -> bytearray:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    data = bytearray(sink.getvalue())
    if trailer:
        return data
    while data.endswith(bytes(512)):
        del data[-512:]
    return data


def pairs(numbers: range) -> list[tuple[str, bytes]]:
    """Photos first, then annotations: no pair is adjacent."""
    return [(f"./sa_{n}.{kind}", f"{kind}{n}".encode() * 200) for kind in ("jpg", "json") for n in numbers]


def offset_of(data: bytes, name: str) -> int:
    return bytes(data).index(name.encode())


@pytest.fixture
def index(tmp_path):
    def run(data: bytes, config: IndexConfig | None = None) -> tuple[dict[str, ImageRecord], list[tuple[str, str]]]:
        path = tmp_path / "sa_000000.tar"
        path.write_bytes(data)
        found = list(pair(scan(Shard(str(path))), "sa_000000", config or IndexConfig()))
        images = {row.image_id: row for row in found if isinstance(row, ImageRecord)}
        return images, [(item[0], item[1].reason) for item in found if not isinstance(item, ImageRecord)]

    return run


def test_pairs_are_found_wherever_they_lie_and_their_bytes_are_theirs(tmp_path, index):
    data = tar_of(pairs(range(1, 6)))
    images, rejects = index(data)
    assert (sorted(images), rejects) == ([f"sa_{n}" for n in range(1, 6)], [])
    for n in range(1, 6):
        row = images[f"sa_{n}"]
        assert data[row.jpg_offset : row.jpg_offset + row.jpg_size] == f"jpg{n}".encode() * 200
        assert data[row.json_offset : row.json_offset + row.json_size] == f"json{n}".encode() * 200


def test_a_directory_entry_is_no_defect(tmp_path, index):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("./")
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    assert index(sink.getvalue()) == ({}, [])


@pytest.mark.parametrize("at", [0, 100, 148, 511])
def test_a_flipped_header_byte_costs_that_member_only(index, at):
    data = tar_of(pairs(range(8)))
    data[offset_of(data, "./sa_3.jpg") + at] ^= 0x15
    images, rejects = index(data)
    assert sorted(images) == [f"sa_{n}" for n in range(8) if n != 3]
    assert [reason for _, reason in rejects] == ["damaged_header", "missing_jpg"]


def test_a_cut_inside_data_is_reported_and_all_before_it_is_kept(index):
    data = tar_of([("./sa_1.jpg", b"a" * 600), ("./sa_1.json", b"b" * 600), ("./sa_2.jpg", b"c" * 2000)])
    images, rejects = index(data[: offset_of(data, "./sa_2.jpg") + 512 + 700])
    assert list(images) == ["sa_1"]
    assert [reason for _, reason in rejects] == ["truncated_member"]


def test_a_cut_inside_a_header_is_reported(index):
    data = tar_of(pairs(range(2)))
    images, rejects = index(data[: offset_of(data, "./sa_1.json") + 100])
    assert list(images) == ["sa_0"]
    assert [reason for _, reason in rejects] == ["damaged_header", "missing_json"]


@pytest.mark.parametrize("zeros", [0, 512])
def test_an_end_without_its_mark_is_reported_and_costs_no_photo(index, zeros):
    images, rejects = index(tar_of(pairs(range(2)), trailer=False) + bytes(zeros))
    assert sorted(images) == ["sa_0", "sa_1"]
    assert [reason for _, reason in rejects] == ["truncated_shard"]


@pytest.mark.parametrize("record", [1024, 10240, 20480, 32768, 64512, 1 << 20])
def test_whatever_a_tar_pads_its_end_to_is_no_defect(index, record):
    data = tar_of(pairs(range(2)), trailer=False) + bytes(1024)
    data += bytes(-len(data) % record)
    assert index(data)[1] == []


def test_zeros_for_the_rest_are_a_download_that_is_not_all_there(index):
    data = tar_of(pairs(range(40)))
    half = offset_of(data, "./sa_20.jpg") + 100
    _, rejects = index(data[:half] + bytes(len(data) - half))
    assert [reason for _, reason in rejects][:2] == ["damaged_header", "truncated_shard"]
    at = offset_of(data, "./sa_20.jpg")
    _, rejects = index(data[:at] + bytes(len(data) - at))
    assert rejects[0] == (f"sa_000000@byte {at}", "truncated_shard")


@pytest.mark.parametrize("size", [512, 1024, 4096])
def test_zeros_where_a_header_was_cost_that_member_only(index, size):
    data = tar_of(pairs(range(8)))
    at = offset_of(data, "./sa_3.jpg")
    data[at : at + size] = bytes(size)
    lost = {3} if size <= 1024 else {3, 4, 5}
    images, rejects = index(data)
    assert sorted(images) == [f"sa_{n}" for n in range(8) if n not in lost]
    assert rejects[0] == (f"sa_000000@byte {at}", "damaged_header")


def test_a_member_that_is_zeroed_as_a_whole_is_a_defect(index):
    data = tar_of([*pairs(range(3)), ("./sa_9.jpg", b"x" * 512), *pairs(range(5, 7))])
    at = offset_of(data, "./sa_9.jpg")
    data[at : at + 1024] = bytes(1024)
    images, rejects = index(data)
    assert len(images) == 5
    assert rejects == [(f"sa_000000@byte {at}", "zeros_inside")]


def test_tars_that_were_joined_are_read_to_the_end_of_the_last(index):
    images, rejects = index(tar_of(pairs(range(2))) + tar_of(pairs(range(2, 4))) + tar_of(pairs(range(4, 6))))
    assert sorted(images) == [f"sa_{n}" for n in range(6)]
    assert [reason for _, reason in rejects] == ["zeros_inside", "zeros_inside"]


@pytest.mark.parametrize("bytes_more", [1, 100, 511])
def test_bytes_that_were_put_in_or_taken_out_are_reported_and_the_rest_is_found(index, bytes_more):
    data, at = tar_of(pairs(range(8))), offset_of(tar_of(pairs(range(8))), "./sa_3.jpg") + 600
    images, rejects = index(data[:at] + b"#" * bytes_more + data[at:])
    assert sorted(images) == [f"sa_{n}" for n in range(8)]
    assert [reason for _, reason in rejects] == ["damaged_header" if bytes_more == 511 else "zeros_inside"]
    images, rejects = index(data[:at] + data[at + bytes_more :])  # the next header lies inside what sa_3.jpg claims
    assert sorted(images) == [f"sa_{n}" for n in range(8) if n != 4]
    assert [reason for _, reason in rejects] == ["damaged_header", "missing_jpg"]


def test_a_size_field_of_eight_gibibytes_is_not_believed_and_the_next_members_are_found(index):
    data = tar_of(pairs(range(3)))
    at = offset_of(data, "./sa_1.jpg")
    data[at + 124 : at + 136] = b"77777777777\0"
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    images, rejects = index(data)
    assert sorted(images) == ["sa_0", "sa_2"]
    assert [reason for _, reason in rejects] == ["truncated_member", "missing_jpg"]


def test_an_oversize_member_is_skipped_by_its_offset(index):
    data = tar_of([("./sa_1.jpg", b"x" * 2000), ("./sa_1.json", b"{}"), *pairs(range(2, 3))])
    images, rejects = index(data, IndexConfig(max_member_bytes=1000))
    assert (list(images), rejects) == (["sa_2"], [("sa_1", "oversize_member")])


def test_a_duplicate_keeps_the_first_and_names_the_second(index):
    data = tar_of([*pairs(range(2)), ("./sa_0.jpg", b"other")])
    images, rejects = index(data)
    assert images["sa_0"].jpg_size == len(b"jpg0" * 200)
    assert rejects == [("sa_0", "duplicate_id")]


@pytest.mark.parametrize("name", ["../sa_1.jpg", "/sa_1.jpg", "./a/../../sa_1.jpg"])
def test_a_name_that_leaves_the_shard_is_refused(index, name):
    _, rejects = index(tar_of([(name, b"x")]))
    assert [reason for _, reason in rejects] == ["unsafe_member"]


def test_links_and_foreign_names_are_counted_not_fatal(index):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        link = tarfile.TarInfo("./sa_9.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        readme = tarfile.TarInfo("./README")
        readme.size = 3
        tar.addfile(readme, io.BytesIO(b"hey"))
    _, rejects = index(sink.getvalue())
    assert sorted(reason for _, reason in rejects) == ["foreign_member", "unsafe_member"]


TAR = bytes(tar_of(pairs(range(2))))


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("sa_000000.tar", TAR)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(TAR), "a gzip file"),
        (zipped(), "a zip file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>" + b" " * 2000, "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML text"),
        (b"\xef\xbb\xbf" + b'{"message": "not found"}', "a JSON text"),
        (b"PAR1" + bytes(range(256)) * 9, "a Parquet file"),
        (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 9, "a JPEG image"),
        (bytes(range(1, 256)) * 20, "no tar header in 5100 bytes, which begin with b'\\x01"),
        (b"Not Found", "no tar header in 9 bytes, which begin with b'Not Found'"),
        (b"\1" * 1024 + bytes(4096), "no tar header in 5120 bytes"),
    ],
)
def test_what_is_no_tar_says_what_it_is_in_one_reject(tmp_path, data, said):
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    (piece,) = scan(Shard(str(path)))
    assert (piece.what, piece.start, piece.end) == ("unreadable", 0, len(data))
    assert piece.content.reason == "not_a_tar"
    assert said in piece.content.message


@pytest.mark.parametrize("zeros", [0, 100, 10240, WINDOW + 5])
def test_a_file_of_nothing_or_of_zeros_is_a_defect(index, zeros):
    assert index(bytes(zeros)) == ({}, [("sa_000000@byte 0", "empty_shard")])


def pieces_of(path, data: bytes) -> list[Piece]:
    path.write_bytes(data)
    whole = hashlib.md5(usedforsecurity=False)
    pieces = list(scan(Shard(str(path)), whole))
    assert whole.digest() == hashlib.md5(data, usedforsecurity=False).digest()
    return pieces


WHOLE = bytes(
    tar_of([(f"./sa_{n}.{kind}", f"{kind}{n}|".encode() * 150) for n in range(6) for kind in ("jpg", "json")])
)
STARTS = [match.start() for match in re.finditer(rb"\./sa_", WHOLE)]
END_OF_MEMBERS = STARTS[-1] + 1536
DAMAGE = st.one_of(
    st.tuples(st.just("put over"), st.integers(0, len(WHOLE)), st.binary(max_size=3000)),
    st.tuples(
        st.just("put over"),
        st.sampled_from(STARTS),
        st.builds(lambda byte, size: byte * size, st.sampled_from([b"\0", b"\xff"]), st.integers(1, 9000)),
    ),
    st.tuples(st.just("put in"), st.integers(0, len(WHOLE)), st.binary(min_size=1, max_size=1500)),
    st.tuples(st.just("put in"), st.sampled_from(STARTS), st.sampled_from([bytes(512), bytes(1024), WHOLE])),
    st.tuples(st.just("take out"), st.integers(0, len(WHOLE)), st.integers(1, 5000).map(bytes)),
    st.tuples(st.just("cut"), st.integers(0, len(WHOLE)), st.just(b"")),
    st.tuples(st.just("go on with"), st.just(0), st.sampled_from([WHOLE, bytes(512), bytes(20000), b"\xff" * 700])),
)


def damaged(data: bytes, how: str, at: int, with_bytes: bytes) -> bytes:
    behind = at + len(with_bytes)
    return {
        "put over": (data[:at] + with_bytes + data[behind:])[: len(data)],
        "put in": data[:at] + with_bytes + data[at:],
        "take out": data[:at] + data[behind:],
        "cut": data[:at],
        "go on with": data + with_bytes,
    }[how]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(DAMAGE, min_size=1, max_size=3))
def test_whatever_happens_to_a_shard_every_byte_is_accounted_for_and_no_member_is_lost_in_silence(tmp_path, damages):
    data = WHOLE
    for damage in damages:
        data = damaged(data, *damage)
    pieces = pieces_of(tmp_path / "x.tar", data)
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    sums = Counter[str]()
    for piece in pieces:
        sums[piece.what] += piece.end - piece.start
        if isinstance(piece.content, Member):
            member = piece.content
            assert hashlib.sha256(data[member.offset : member.offset + member.size]).hexdigest() == member.sha256
    assert sum(sums.values()) == len(data)
    found = Counter(piece.content.sha256 for piece in pieces if isinstance(piece.content, Member))
    defects = [piece for piece in pieces if isinstance(piece.content, InputError)]
    assert all(piece.what != "unreadable" or piece in defects for piece in pieces)
    whole = Counter(
        piece.content.sha256 for piece in pieces_of(tmp_path / "whole.tar", WHOLE) if piece.what == "member"
    )
    padding = pieces[-1].end - pieces[-1].start  # a last member that is zeroed as a whole looks like more of it
    shorter = len(data) < len(WHOLE) and data.endswith(bytes(1024))  # cut behind two zeroed blocks
    more = padding > len(WHOLE) - END_OF_MEMBERS
    assert defects or found >= whole or found.total() == whole.total() or more or shorter
    if {how for how, _, _ in damages} == {"put over"}:
        intact = [start for start in STARTS if data[start : start + 1512] == WHOLE[start : start + 1512]]
        assert set(intact) <= {piece.start for piece in pieces if piece.what == "member"}


def test_what_is_found_does_not_depend_on_where_windows_end(tmp_path, monkeypatch):
    broken = WHOLE[:5000] + b"#" * 700 + WHOLE[5000:12000] + bytes(3000) + WHOLE[12000:] + WHOLE
    expected = pieces_of(tmp_path / "x.tar", broken)
    assert Counter(piece.what for piece in expected) == {"member": 23, "unreadable": 2, "zeros": 2}
    for window in (511, 512, 1025, 4097):
        monkeypatch.setattr("pipeline.input.shard.WINDOW", window)
        assert list(map(str, pieces_of(tmp_path / "x.tar", broken))) == list(map(str, expected))


def test_a_range_without_bytes_is_read_as_none(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    shard = Shard(str(tmp_path / "a.tar"))
    assert shard.read_ranges([(2, 3), (5, 0), (9, 1)]) == [b"234", b"", b"9"]
    assert shard.read_ranges([(5, 0)]) == [b""]
