"""Shards that lie: every defect of a tar gets its reason, everything else in it is still found."""

import io
import tarfile
from pathlib import Path

import pytest

from anything3d.errors import ConfigError, InputError
from pipeline.source import IndexConfig, Shard, absolute, digest, expand, pair, scan, stem
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


def test_an_end_without_zero_blocks_exactly_after_a_member_is_an_end(index):
    images, rejects = index(tar_of(pairs(range(2)), trailer=False))
    assert sorted(images) == ["sa_0", "sa_1"]
    assert rejects == []


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


def test_bytes_that_are_no_tar_at_all_end_in_one_reject(index):
    images, rejects = index(bytes(range(1, 256)) * 20)
    assert images == {}
    assert [reason for _, reason in rejects] == ["damaged_header"]


def test_globs_and_brace_ranges_name_shards_once_and_in_order(tmp_path):
    for n in range(3):
        (tmp_path / f"sa_00{n}.tar").touch()
    assert [stem(shard) for shard in expand([f"{tmp_path}/sa_0{{00..01}}.tar", f"{tmp_path}/*.tar"])] == [
        "sa_000",
        "sa_001",
        "sa_002",
    ]


def test_a_pattern_without_a_match_and_two_shards_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="matches no file"):
        expand([f"{tmp_path}/*.tar"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sa_0.tar").touch()
    with pytest.raises(ConfigError, match="same name"):
        expand([f"{tmp_path}/a/sa_0.tar", f"{tmp_path}/b/sa_0.tar"])


def test_a_location_is_absolute_and_inside_a_ray_job_has_to_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("corpus", "/corpus", "s3://bucket/corpus")
    assert [absolute(location) for location in given] == [f"{tmp_path}/corpus", "/corpus", "s3://bucket/corpus"]
    (tmp_path / "sa_0.tar").touch()
    assert expand(["sa_*.tar"]) == [f"{tmp_path}/sa_0.tar"]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert [absolute(location) for location in given[1:]] == list(given[1:])
    assert expand([f"{tmp_path}/sa_*.tar"]) == [f"{tmp_path}/sa_0.tar"]
    with pytest.raises(ConfigError, match="relative_path: 'corpus' inside a Ray job"):
        absolute("corpus")
    with pytest.raises(ConfigError, match="relative_path"):
        expand(["sa_*.tar"])


def test_the_digest_of_a_location_changes_with_its_bytes_and_is_empty_where_nothing_lies(tmp_path):
    path = tmp_path / "x.tar"
    assert digest(str(path)) == ""
    path.write_bytes(b"a")
    first = digest(str(path))
    path.write_bytes(b"ab")
    assert first != digest(str(path)) != ""


def test_errors_of_a_shard_are_input_errors(tmp_path):
    path: Path = tmp_path / "x.tar"
    path.write_bytes(b"\1" * 1024)
    assert [type(found) for found in scan(Shard(str(path)))] == [InputError]


def test_what_is_not_there_has_no_digest_and_its_folder_is_not_made(tmp_path):
    assert digest(str(tmp_path / "world.truth" / "truth.json")) == ""
    assert digest(str(tmp_path / "truth.json")) == ""
    assert list(tmp_path.iterdir()) == []
