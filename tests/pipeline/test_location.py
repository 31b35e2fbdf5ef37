"""Locations mean exactly what is written, on a local disk and on S3 (a real server on loopback), or are refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anything3d.errors import ConfigError, SourceError, StorageError
from pipeline.input.shard import Shard
from pipeline.input.source import absolute, content_digest, digest, expand, read
from pipeline.location import Location, parse, split
from pipeline.store import Store
from tests import s3

ODD = [
    "run#2",
    "run?2",
    "run%232",
    "run%20x",
    "run x",
    "a+b",
    "ü/日本",
    "a[1]",
    "a{b}",
    "a*b",
    "a\\b",
    "a&b=c;d",
    "%",
    "~",
]


@pytest.fixture(scope="module")
def server():
    with s3.serve() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server):
    server.objects.clear()


@pytest.fixture(params=["local", "file", "s3"])
def root(request, tmp_path) -> str:
    return {"local": str(tmp_path), "file": f"file://{tmp_path}", "s3": "s3://b"}[request.param]


@pytest.fixture
def put(server, tmp_path):
    """Writes files below the root, under exactly these names, past all that is tested."""

    def write(root: str, *names: str) -> None:
        for name in names:
            server.objects[name] = name.encode()
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(name.encode())

    return write


@pytest.mark.parametrize("name", ODD)
def test_a_corpus_lies_where_its_location_says_and_sees_no_other(server, tmp_path, name):
    server.objects["run/objects/old.parquet"] = b"the release of another corpus"
    store = Store(f"s3://b/{name}")
    store.write("snapshot.json", b"{}")
    assert set(server.objects) == {"run/objects/old.parquet", f"{name}/snapshot.json"}
    assert store.paths("objects") == []
    assert (store.paths(""), store.read("snapshot.json")) == (["snapshot.json"], b"{}")
    Store(f"{tmp_path}/{name}").write("snapshot.json", b"{}")
    assert (tmp_path / name / "snapshot.json").read_bytes() == b"{}"


@pytest.mark.parametrize("name", ODD)
def test_a_shard_is_the_one_that_is_named_whatever_characters_its_folder_and_name_have(root, put, name):
    put(root, "run/sa_1.tar", "sa_.tar", f"{name}/sa_1.tar", f"{name}.tar")
    for shard in (f"{name}/sa_1.tar", f"{name}.tar"):
        (location,) = expand([f"{root}/{shard}"])
        assert read(location) == Shard(location).read(0, 1000) == shard.encode()
        assert digest(location) != ""
    assert content_digest(f"{root}/{name}/none.tar") == ""


def test_what_exists_under_the_very_name_is_meant_literally_and_all_else_is_a_pattern(root, put):
    put(
        root, "sa_[1].tar", "sa_1.tar", "sa_2.tar", "q_{1..2}.tar", "q_1.tar", "q_2.tar", "a*b.tar", "abb.tar", "c{.tar"
    )

    def found(pattern: str) -> list[str]:
        return [location.rsplit("/", 1)[-1] for location in expand([f"{root}/{pattern}"])]

    assert found("sa_[1].tar") == ["sa_[1].tar"]
    assert found("sa_[12].tar") == ["sa_1.tar", "sa_2.tar"]
    assert found("sa_[[]1].tar") == ["sa_[1].tar"]
    assert found("q_{1..2}.tar") == ["q_{1..2}.tar"]
    assert found("q_{2,1}.tar") == ["q_2.tar", "q_1.tar"]
    assert found("a*b.tar") == ["a*b.tar"]
    assert found("a*.tar") == ["a*b.tar", "abb.tar"]
    assert found("c{.tar") == ["c{.tar"]


def test_a_folder_that_exists_under_the_very_name_is_meant_literally(root, put):
    put(root, "day[1]/sa_7.tar", "day1/sa_8.tar")
    assert [read(shard) for shard in expand([f"{root}/day[1]/*.tar"])] == [b"day[1]/sa_7.tar"]


def test_a_local_folder_may_be_a_pattern(tmp_path, put):
    put("", "day[1]/sa_7.tar", "day1/sa_8.tar", "day1/deep/sa_9.tar")
    assert expand([f"{tmp_path}/day[1-2]/*.tar"]) == [f"{tmp_path}/day1/sa_8.tar"]
    assert expand([f"{tmp_path}/*/deep/*.tar"]) == [f"{tmp_path}/day1/deep/sa_9.tar"]


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("corpus\n", "control character"),
        ("s3://b/x\x00y", "control character"),
        ("/data/\udcff", "not UTF-8"),
        ("s3://", "no name of a bucket"),
        ("s3:///run", "no name of a bucket"),
        ("s3://b#x/run", "no name of a bucket"),
        ("s3://key:secret@b/run", "no name of a bucket"),
        ("s3://b:9000/run", "no name of a bucket"),
        ("s3://b//run", "cannot be addressed"),
        ("s3://b/x/../run", "cannot be addressed"),
        ("s3://b/./run", "cannot be addressed"),
        ("s3:/b/run", "no // behind its scheme"),
        ("https://host/run", "https:// is not supported; give a local path, s3://bucket/key"),
        ("memory:///", "memory:// is not supported"),
        ("hdfs://host/run", "hdfs:// is not supported"),
        ("file://host/run", "names no absolute path"),
    ],
)
def test_what_cannot_be_taken_exactly_is_refused_with_one_line(location, said):
    for refuse in (parse, absolute, Store, digest, read, Shard, lambda given: expand([given])):
        with pytest.raises(ConfigError, match=rf"^location: .*{re.escape(said)}") as caught:
            refuse(location)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["s3://b", "s3://b/", "/", "/data/", "x/.."])
def test_what_names_no_file_is_no_shard(location):
    with pytest.raises(ConfigError, match="names no file"):
        Shard(location)


def test_a_bucket_may_be_a_corpus_and_schemes_have_their_other_names(server):
    Store("s3://b/").write("snapshot.json", b"{}")
    assert set(server.objects) == {"snapshot.json"}
    assert parse("S3A://b/run/") == parse("s3://b/run") == Location("s3", "b", "run")
    assert parse("gs://b/run#2") == Location("gs", "b", "run#2")
    assert parse("az://c/run?2") == parse("abfss://c/run?2") == Location("az", "c", "run?2")
    assert parse("abfss://c@account.dfs.core.windows.net/x%20y") == Location("az", "c", "x%20y", "account")


def test_a_file_url_is_the_path_as_it_is_written(tmp_path):
    assert absolute(f"file://{tmp_path}/a%20b#c") == f"{tmp_path}/a%20b#c"


def test_braces_work_where_one_may_read_but_not_list(server, put):
    put("", "sa_1.tar", "sa_2.tar")
    server.forbids = {"HEAD"}  # how S3 answers for what is absent to those who may not list
    try:
        assert expand(["s3://b/sa_{1..2}.tar"]) == ["s3://b/sa_1.tar", "s3://b/sa_2.tar"]
    finally:
        server.forbids = set()


@pytest.mark.parametrize("name", [".tar", "x" * 201 + ".tar", "日" * 67 + ".tar"])
def test_a_shard_needs_a_name_that_cells_can_be_named_after(root, put, name):
    put(root, name)
    with pytest.raises(SourceError, match="shard_names: "):
        expand([f"{root}/{name}"])


@pytest.mark.parametrize("pattern", ["sa_{1.tar", "sa_*.tar", "x" * 300 + "*", ".tar*"])
def test_a_pattern_that_stands_for_nothing_is_one_line(root, pattern):
    with pytest.raises((SourceError, StorageError), match=r"matches no file|braces|too long"):
        expand([f"{root}/{pattern}"])


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1))
def test_a_key_is_what_is_written_or_refused(key):
    try:
        parsed = parse(f"s3://b/{key}")
    except ConfigError:
        assert {"", ".", ".."} & set(key.split("/"))
        return
    assert parsed.key == key.removesuffix("/")
    if not key.endswith("/"):
        folder, name = split(f"s3://b/{key}")
        assert f"{folder}/{name}" == f"s3://b/{key}"
