"""The store on local disk and on S3 (a real server on loopback): put-if-absent, parts, partial reads."""

import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from anything3d.errors import ConfigError
from pipeline import source
from pipeline.config import Config
from pipeline.location import open_store
from pipeline.run import Selection, run
from pipeline.store import ROWS_PER_GROUP, Part, Store
from schemas.records import CaptionRecord

ROWS = [CaptionRecord(f"sa_{n:03d}", f"caption {n}", -n / 7, "") for n in range(3 * ROWS_PER_GROUP + 2)]


@pytest.fixture(scope="module")
def s3():
    """An S3 server of moto's in a thread, with a bucket; its address and made-up keys go into the environment."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    address = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
        "AWS_ALLOW_HTTP": "true",
    }
    boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    ).create_bucket(Bucket="corpora")
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield "s3://corpora"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    server.stop()


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return Store(str(tmp_path / "corpus"))
    return Store(f"{request.getfixturevalue('s3')}/{tmp_path.name}")


def test_of_many_writers_exactly_one_creates_and_all_see_its_bytes(store):
    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(lambda n: store.create("commit.json", b"writer %d" % n), range(8)))
    assert len(set(seen)) == 1
    assert store.read("commit.json") == seen[0]


def test_a_part_gives_back_its_rows_whole_or_by_id(store):
    part = store.write_part("cells/x", "rows", ROWS, CaptionRecord)
    assert store.read_part(part, CaptionRecord) == ROWS
    wanted = ["sa_001", f"sa_{2 * ROWS_PER_GROUP:03d}", "nobody"]
    assert [row.object_id for row in store.read_part(part, CaptionRecord, wanted)] == wanted[:2]
    assert store.read_column(part, "object_id") == [row.object_id for row in ROWS]


def test_equal_rows_make_equal_bytes_under_another_name(store):
    first, second = (store.write_part("cells/x", "rows", ROWS, CaptionRecord) for _ in range(2))
    assert first.path != second.path
    assert (first.sha256, first.bytes, first.rows) == (second.sha256, second.bytes, len(ROWS))


def test_a_part_without_rows_reads_as_no_rows(store):
    part = store.write_part("cells/x", "rows", [], CaptionRecord)
    assert store.read_part(part, CaptionRecord) == []


def test_what_is_not_there_is_none_or_an_error(store):
    assert store.find("nothing") is None
    assert store.commit_at("nowhere") is None
    with pytest.raises(FileNotFoundError):
        store.read_part(Part("nowhere.parquet", 0, "", 0), CaptionRecord)


def test_paths_are_sorted_and_deleting_nothing_is_fine(store):
    for name in ("b/2", "a/1", "b/1"):
        store.write(name, b"x")
    assert store.paths("b") == ["b/1", "b/2"]
    store.delete([])
    store.delete(["b/1"])
    assert store.paths("b") == ["b/2"]


def test_a_bucket_that_is_not_there_is_one_line(s3, tmp_path):
    with pytest.raises(ConfigError, match=r"storage: s3://no-such-bucket/corpus: .*credentials"):
        run(Config(), [], "s3://no-such-bucket/corpus", Selection())
    with pytest.raises(ConfigError, match="storage: s3://no-such-bucket: "):
        source.expand(["s3://no-such-bucket/sa_*.tar"])
    with pytest.raises(ConfigError, match=r"no_shard: s3://corpora/shards/none\.tar is not there"):
        run(Config(), ["s3://corpora/shards/none.tar"], str(tmp_path / "corpus"), Selection())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"storage: {tmp_path}/file/corpus: "):
        run(Config(), [], f"{tmp_path}/file/corpus", Selection())


def test_a_shard_on_s3_is_found_by_glob_and_read_by_range(s3):
    store = open_store(f"{s3}/shards")
    store.put("sa_000000.tar", b"0123456789" * 100)
    store.put("sa_000001.tar", b"x")
    assert source.expand([f"{s3}/shards/sa_*.tar"]) == [f"{s3}/shards/sa_00000{n}.tar" for n in range(2)]
    shard = source.Shard(f"{s3}/shards/sa_000000.tar")
    assert shard.read(995, 20) == b"56789"
    assert shard.read_ranges([(0, 3), (500, 2)]) == [b"012", b"01"]
    assert source.digest(f"{s3}/shards/none.tar") == ""


def test_a_glob_on_s3_asks_for_its_own_folder_and_not_for_what_lies_below(s3, caplog):
    """A bucket that holds a corpus too has millions of cells; the server's log says what it was asked."""
    store = open_store(s3)
    for name in ("sa_000007.tar", "corpus/cells/x/commit.json", "nested/sa_000008.tar"):
        store.put(name, b"x")
    with caplog.at_level(logging.INFO, "werkzeug"):
        assert source.expand([f"{s3}/sa_*.tar"]) == [f"{s3}/sa_000007.tar"]
    asked = [record.getMessage() for record in caplog.records if "list-type=2" in record.getMessage()]
    assert asked
    assert all("delimiter=" in line for line in asked)
