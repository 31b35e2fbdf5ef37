"""The store on local disk and on S3 (a real server on loopback): put-if-absent, parts, partial reads."""

import gc
import http.server
import json
import logging
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from anything3d.errors import ConfigError, DamagedCell, SourceError, StorageError
from pipeline.commit import CellPart, Commit, sealed, unsealed
from pipeline.config import Config
from pipeline.input import source
from pipeline.location import open_store
from pipeline.marker import FORMAT, check
from pipeline.plan import Selection
from pipeline.run import run
from pipeline.store import Store
from schemas.records import CaptionRecord, ConceptRecord

S3_KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
ROWS = [CaptionRecord(f"sa_{n:03d}", f"caption {n}", -n / 7, "") for n in range(26)]


@pytest.fixture(scope="module")
def s3():
    """An S3 server of moto's in a thread, with a bucket; its address and made-up keys go into the environment."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    settings = {**S3_KEYS, "AWS_ENDPOINT_URL": address}
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
    wanted = ["sa_001", "sa_016", "nobody"]
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
    with pytest.raises(DamagedCell, match=r"nowhere\.parquet has gone"):
        store.read_part(CellPart("nowhere.parquet", 0, "", 0), CaptionRecord)


def committed(store):
    """A cell with ROWS, and its commit."""
    rows, rejects = (
        store.write_part("cells/x", "rows", ROWS, CaptionRecord),
        store.write_part("cells/x", "no", [], CaptionRecord),
    )
    commit = Commit("x", "u", "f", "d", rows, rejects, {}, {"inputs": 1}, "a", 1, 0.5, 0.0, {"torch": "2"})
    store.create("cells/x/commit.json", commit.to_json())
    return commit


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


@pytest.mark.parametrize("damage", ["flipped", "first", "last", "cut", "emptied", "gone", "swapped"])
def test_a_damaged_part_is_named_and_its_cell_has_no_commit_any_more(tmp_path, damage):
    store = Store(str(tmp_path))
    commit = committed(store)
    path, sound = tmp_path / commit.rows.path, store.read(commit.rows.path)
    match damage:
        case "flipped":
            path.write_bytes(flipped(sound, len(sound) // 2))
        case "first":
            path.write_bytes(flipped(sound, 0))
        case "last":
            path.write_bytes(flipped(sound, len(sound) - 1))
        case "cut":
            path.write_bytes(sound[:-9])
        case "emptied":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case "swapped":
            path.write_bytes(store.read(store.write_part("cells/x", "rows", ROWS[1:], CaptionRecord).path))
    with pytest.raises(DamagedCell, match=r"cells/x/rows-\w+\.parquet .* cells/x has to be computed again"):
        store.read_part(commit.rows, CaptionRecord, [ROWS[0].object_id])
    assert store.commit_at("cells/x") is None
    (aside,) = tmp_path.glob("cells/x/damaged-*.json")
    assert Commit.from_json(aside.read_bytes()) == commit


def test_a_part_that_somebody_has_computed_again_costs_no_second_commit(tmp_path):
    store = Store(str(tmp_path))
    old = committed(store)
    store.write(old.rows.path, b"")
    store.delete(["cells/x/commit.json"])
    new = committed(store)
    with pytest.raises(DamagedCell):  # of a reader who still holds the old commit
        store.read_part(old.rows, CaptionRecord)
    assert store.commit_at("cells/x") == new


@pytest.mark.parametrize(
    "says", [b"", b"{", b"[]", b"null", b"{}", b'{"stage": 1}', b"\xff\x00", "one letter", "other layout"]
)
def test_a_damaged_commit_is_none_and_another_one_can_be_made(tmp_path, says, caplog):
    store = Store(str(tmp_path))
    sound = committed(store).to_json()
    changed = {"one letter": sound.replace(b'"rows": 26', b'"rows": 27'), "other layout": sound.replace(b"\n", b"\r\n")}
    store.write("cells/x/commit.json", changed.get(says, says))
    assert store.commit_at("cells/x") is None
    assert "cells/x/commit.json is damaged" in caplog.text
    commit = committed(store)
    assert store.commit_at("cells/x") == commit


def test_an_empty_place_becomes_a_corpus_and_one_in_use_is_left_alone(tmp_path):
    for _ in range(2):
        check(Store(str(tmp_path / "empty")))
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["corpus.json", "probe.txt"]
    used = tmp_path / "used"
    (used / "objects").mkdir(parents=True)
    (used / "objects" / "mine.obj").write_text("mine")
    with pytest.raises(ConfigError, match=r"place_in_use: .*used is no corpus and not empty: it has objects/mine\.obj"):
        check(Store(str(used)))
    assert sorted(path.name for path in used.rglob("*")) == ["mine.obj", "objects"]
    for theirs in ('{"name": "my web site"}', '{"format": 1, "documents": []}'):
        (used / "corpus.json").write_text(theirs)
        with pytest.raises(ConfigError, match="place_in_use"):
            check(Store(str(used)))
    (used / "corpus.json").unlink()
    Store(str(used)).write("cells/index/their.txt", b"theirs")
    with pytest.raises(ConfigError, match="place_in_use"):
        check(Store(str(used)))
    marker = json.loads((tmp_path / "empty" / "corpus.json").read_text())
    (tmp_path / "empty" / "corpus.json").write_text(json.dumps({**marker, "format": 9}))
    with pytest.raises(SourceError, match="corpus_format"):
        check(Store(str(tmp_path / "empty")))


def test_a_corpus_from_before_the_marker_is_one(tmp_path):
    Store(str(tmp_path)).write("cells/index/f/u/commit.json", b"{}")
    for marker in (None, b"", b"{", b"[]"):  # none yet, or a damaged one
        if marker is not None:
            (tmp_path / "corpus.json").write_bytes(marker)
        check(Store(str(tmp_path)))
        assert json.loads((tmp_path / "corpus.json").read_bytes())["format"] == FORMAT


def test_a_file_reaches_the_disk_whole_or_not_at_all_and_its_folder_with_it(tmp_path, monkeypatch):
    """What is synced, in order: the draft, then the folder in which it got its name."""
    store, synced, fsync = Store(str(tmp_path)), [], os.fsync

    def seen(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", seen)
    store.write("a/b/file", b"data")
    names = [path.removeprefix(str(tmp_path)).partition("#")[0] for path in synced]
    assert names == ["", "/a", "/a/b/draft", "/a/b"]
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        store.write("a/b/file", b"other")
    assert (store.read("a/b/file"), store.paths("a")) == (b"data", ["a/b/file"])
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["file"]


def test_a_folder_that_another_process_has_removed_meanwhile_is_made_again(tmp_path, monkeypatch):
    """An attempt that ends removes its folder while it is empty, and the next one may be about to write there."""
    store, open_file, removed = Store(str(tmp_path)), Path.open, []

    def open_late(path, mode):
        if not removed:
            path.parent.rmdir()
            removed.append(path.parent)
        return open_file(path, mode)

    monkeypatch.setattr(Path, "open", open_late)
    store.write("a/b/file", b"data")
    assert (store.read("a/b/file"), removed) == (b"data", [tmp_path / "a/b"])


def full(handle):
    raise OSError(28, "disk full")


def test_deleting_what_has_gone_is_no_error_and_the_rest_goes(store):
    for name in ("d/1", "d/3"):
        store.write(name, b"x")
    store.delete(["d/0", "d/1", "d/2", "d/3"])
    assert store.paths("d") == []


@pytest.mark.parametrize("promise", ["kept", "ignored", "refused"])
def test_a_storage_without_put_if_absent_is_refused(promise, monkeypatch):
    """A real server on loopback, which keeps, ignores or refuses If-None-Match."""
    with ConditionalPuts(promise) as address:
        for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        store = Store("s3://b/corpus")
        if promise == "kept":
            assert [store.create("commit.json", word) for word in (b"one", b"two")] == [b"one", b"one"]
        else:
            with pytest.raises(StorageError, match="put_if_absent: s3://b/corpus: this storage has no put-if-absent"):
                store.create("commit.json", b"one")


class ConditionalPuts:
    """As much of S3 as two puts and a get need."""

    def __init__(self, promise):
        files = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def answer(self, status, body=b""):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"x"')
                self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("If-None-Match") and promise == "refused":
                    return self.answer(501, b"<Error><Code>NotImplemented</Code></Error>")
                if self.headers.get("If-None-Match") and promise == "kept" and self.path in files:
                    return self.answer(412)
                files[self.path] = data
                return self.answer(200)

            def do_GET(self):
                return self.answer(200, files[self.path]) if self.path in files else self.answer(404)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *error):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_paths_are_sorted_and_deleting_nothing_is_fine(store):
    for name in ("b/2", "a/1", "b/1"):
        store.write(name, b"x")
    assert store.paths("b") == ["b/1", "b/2"]
    store.delete([])
    store.delete(["b/1"])
    assert store.paths("b") == ["b/2"]


def test_a_bucket_that_is_not_there_is_one_line(s3, tmp_path):
    with pytest.raises(StorageError, match=r"storage: s3://no-such-bucket/corpus: .*credentials"):
        run(Config(), [], "s3://no-such-bucket/corpus", Selection())
    with pytest.raises(StorageError, match="storage: s3://no-such-bucket: "):
        source.expand(["s3://no-such-bucket/sa_*.tar"])
    with pytest.raises(SourceError, match=r"no_shard: s3://corpora/shards/none\.tar is not there"):
        run(Config(), ["s3://corpora/shards/none.tar"], str(tmp_path / "corpus"), Selection())
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"storage: {tmp_path}/file/corpus: "):
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


AFTER = ("backend", "weights", "licences", "reasons")  # what commits have had since


def test_a_commit_from_before_backends_is_read_as_it_is(store):
    commit = committed(store)
    body = unsealed(commit.to_json())
    older = {name: value for name, value in body.items() if name not in AFTER}
    assert Commit.from_json(sealed(older)) == commit


def test_a_commit_from_when_they_had_many_lines_is_read_and_is_set_aside_if_its_part_is_damaged(tmp_path):
    store = Store(str(tmp_path))
    commit = committed(store)
    store.write("cells/x/commit.json", sealed(unsealed(commit.to_json())))
    assert store.commit_at("cells/x") == commit
    store.write(commit.rows.path, b"")
    with pytest.raises(DamagedCell):
        store.read_part(commit.rows, CaptionRecord)
    assert store.commit_at("cells/x") is None


READS = {
    "caption": ("segment",),
    "invert": ("segment", "caption"),
    "lift": ("segment",),
    "reconstruct": ("segment", "caption", "invert", "lift"),
    "mesh": ("reconstruct",),
    "score": ("segment", "reconstruct", "mesh", "lift"),
}


def commits_of(units):
    """The commits of so many units of one shard, as files."""
    versions = dict.fromkeys(("anything3d", "torch", "transformers", "diffusers"), "1.2.3")
    weights = {f"network {n}": sha256(b"%d" % n).hexdigest() for n in range(3)}
    counts = {"inputs": 8, "rows": 8, "skipped": 0, "failed": 0, "crashed": 0}
    for unit in range(units):
        name, digests = f"sa_{unit:06d}-0000+8-01234567", {"segment": sha256(b"%d" % (unit // 16)).hexdigest()}
        for stage, reads in READS.items():
            digests[stage] = digest = sha256(f"{stage} {unit}".encode()).hexdigest()
            path = f"cells/{stage}/0123456789ab/{name}-0123456789/rows-{digest[:32]}.parquet"
            rows, inputs = CellPart(path, 10_000 + unit, digest[::-1], 8), {read: digests[read] for read in reads}
            made = (digest[32:], 1, unit / 7, unit / 14, versions, "sds", weights, ("MIT", "Apache-2.0"))
            yield Commit(stage, name, "0123456789ab", digest, rows, None, inputs, counts, *made).to_json()


def weight(things):
    """Bytes of all objects that these are made of, each counted once."""
    sizes, todo = {}, list(things)
    while todo:
        one = todo.pop()
        if id(one) not in sizes and not isinstance(one, type):
            sizes[id(one)] = sys.getsizeof(one)
            todo += gc.get_referents(one)
    return sum(sizes.values())


@pytest.mark.parametrize("arrive", ["from files", "from another process"])
def test_a_hundred_thousand_commits_have_room_in_a_hundred_megabytes(arrive):
    files = list(commits_of(200))
    kept = [Commit.from_json(data) for data in files]
    if arrive == "from another process":
        kept = [pickle.loads(pickle.dumps(commit)) for commit in kept]
    assert weight(kept) / len(kept) < 1000
    assert [commit.to_json() for commit in kept] == files


@pytest.mark.parametrize("ids", [None, ["sa_001"]])
def test_a_part_that_lacks_a_column_of_its_record_is_of_another_version(tmp_path, ids):
    part = Store(str(tmp_path)).write_part("cells/x", "rows", ROWS, CaptionRecord)
    with pytest.raises(
        SourceError, match=r"corpus_format: .*another version: ConceptRecord has .*: concept, loss_before"
    ):
        Store(str(tmp_path)).read_part(part, ConceptRecord, ids)
