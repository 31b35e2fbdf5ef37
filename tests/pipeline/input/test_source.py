"""Locations: which shards a command names, the digests of what lies there, and lists of MD5s."""

import re
import tarfile

import pytest

from anything3d.errors import ConfigError, SourceError
from pipeline.input.source import absolute, digest, expand, read_md5, stem

MD5S = "78d0f487c735a3de86ae6e1b0ff24ea9  sa_000000.tar\n\nD41D8CD98F00B204E9800998ECF8427E *./day/sa_000001.tar\r\n"


def test_a_list_of_md5s_is_what_md5sum_prints(tmp_path):
    path = tmp_path / "checklist.chk"
    path.write_bytes(b"\xef\xbb\xbf" + MD5S.encode())
    assert read_md5(str(path)) == {
        "sa_000000.tar": "78d0f487c735a3de86ae6e1b0ff24ea9",
        "sa_000001.tar": "d41d8cd98f00b204e9800998ecf8427e",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no file"),
        ("\n \n", "names no file"),
        (MD5S + "MD5 (sa_000002.tar) = 78d0f487c735a3de86ae6e1b0ff24ea9\n", "line 4: 'MD5 "),
        ("78d0f487c735a3de86ae6e1b0ff24ea  sa_000000.tar", "line 1"),
        ("78d0f487c735a3de86ae6e1b0ff24ea9\tsa_000000.tar", "line 1"),
        ("78d0f487c735a3de86ae6e1b0ff24ea9  day/", "line 1"),
        (MD5S + "00000000000000000000000000000000  sa_000000.tar", "line 4: sa_000000.tar has another MD5"),
        (tarfile.TarInfo("sa_1.jpg").tobuf(tarfile.USTAR_FORMAT).decode("latin-1"), "line 1"),
    ],
)
def test_a_list_that_is_none_is_refused_with_the_line(tmp_path, text, said):
    path = tmp_path / "checklist.chk"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=f"^md5_list: .*{re.escape(said)}") as caught:
        read_md5(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match=r"^md5_list: There is no list at "):
        read_md5(str(tmp_path / "none.chk"))


def test_globs_and_brace_ranges_name_shards_once_and_in_order(tmp_path):
    for n in range(3):
        (tmp_path / f"sa_00{n}.tar").touch()
    assert [stem(shard) for shard in expand([f"{tmp_path}/sa_0{{00..01}}.tar", f"{tmp_path}/*.tar"])] == [
        "sa_000",
        "sa_001",
        "sa_002",
    ]


def test_a_pattern_without_a_match_and_two_shards_of_one_name_are_refused(tmp_path):
    with pytest.raises(SourceError, match="matches no file"):
        expand([f"{tmp_path}/*.tar"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sa_0.tar").touch()
    with pytest.raises(SourceError, match="same name"):
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


def test_what_is_not_there_has_no_digest_and_its_folder_is_not_made(tmp_path):
    assert digest(str(tmp_path / "world.truth" / "truth.json")) == ""
    assert digest(str(tmp_path / "truth.json")) == ""
    assert list(tmp_path.iterdir()) == []
