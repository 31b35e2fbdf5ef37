"""The server of a corpus: real requests on loopback. It gives what the newest snapshot names, and nothing else."""

import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

from anything3d.errors import ConfigError, SourceError
from pipeline.release.corpus import drop
from pipeline.release.partition import read_manifest
from pipeline.release.serve import Server
from pipeline.store import Store
from tests import s3
from tests.pipeline.release.galleries import make


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A corpus of two shards, and a server of it."""
    store, snapshot = make(tmp_path_factory.mktemp("served"), photos=4, per_shard=2)
    with running(store, snapshot) as told:
        yield told


@contextmanager
def running(store, snapshot):
    """The store, the snapshot and a server of them on a free port."""
    server = Server(store.root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield store, snapshot, server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server, path, method="GET", **headers):
    """Status, headers and body of an answer; the path goes out exactly as it is."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_everything_that_the_snapshot_names_is_given(served):
    store, snapshot, server = served
    named = {file.path for file in snapshot.files}
    for partition in snapshot.partitions.values():
        named |= {row.path for row in read_manifest(store, partition)[0] if row.what == "gallery"}
    view = {"index.html", "snapshot.json", "gallery/catalogue.js", "gallery/three.js", "README.md", "assets/index.json"}
    assert {path.rpartition(".")[2] for path in named} == {"parquet", "js", "webp", "tar"}
    for path in named | view | set(store.paths("objects")):
        status, headers, body = ask(server, f"/{path}")
        assert (status, body) == (200, store.read(path)), path
        assert headers["Content-Length"] == str(len(body))
        assert ("immutable" in headers["Cache-Control"]) == (path in named or path.startswith("objects/"))
    assert ask(server, "/")[2] == store.read("index.html")
    assert ask(server, "/index.html?x#y")[2] == store.read("index.html")


def test_ranges_of_bytes(served):
    store, snapshot, server = served
    tar = next(iter(snapshot.partitions.values())).tars[0]
    whole = store.read(tar.path)
    for asked, start, end in [("0-0", 0, 1), ("512-1023", 512, 1024), ("-100", tar.bytes - 100, tar.bytes),
                              (f"{tar.bytes - 1}-", tar.bytes - 1, tar.bytes), ("5-99999999", 5, tar.bytes),
                              ("-99999999", 0, tar.bytes)]:  # fmt: skip
        status, headers, body = ask(server, f"/{tar.path}", Range=f"bytes={asked}")
        assert (status, body) == (206, whole[start:end]), asked
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{tar.bytes}"
    for asked in (f"{tar.bytes}-", "9-8", "-0", "-", "99999999-"):
        status, headers, body = ask(server, f"/{tar.path}", Range=f"bytes={asked}")
        assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{tar.bytes}"), asked
    for asked in ("bytes=0-1,4-5", "lines=0-1", "bytes=a-b"):  # as if there was none
        status, headers, body = ask(server, f"/{tar.path}", Range=asked)
        assert (status, body, headers["Content-Range"]) == (200, whole, None), asked


def test_a_head_has_no_body(served):
    store, _, server = served
    status, headers, body = ask(server, "/gallery/three.js", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == store.size("gallery/three.js")


@pytest.mark.parametrize(
    "path",
    [
        "/corpus.json",
        "/probe.txt",
        "/snapshots/000001.json",
        "/cells",
        "/gallery/",
        "/gallery/sa_0000000/",
        "/gallery/mine.js",
        "/gallery/sa_0000000/mine.webp",
        "/gallery/unknown/a-0123456789abcdef.webp",
        "/../secret.txt",
        "/gallery/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "//etc/passwd",
        "/index.html%00",
    ],
)
def test_nothing_else_is_given(served, path):
    store, _, server = served
    for mine in ("gallery/mine.js", "gallery/sa_0000000/mine.webp", "../secret.txt", "cells/mine.json"):
        file = store._folder / mine
        file.write_bytes(b"secret")
    status, _, body = ask(server, path)
    assert status == 404
    assert b"secret" not in body


def test_cells_are_not_given(served):
    store, _, server = served
    commit = next(path for path in store.paths("cells") if path.endswith("commit.json"))
    assert ask(server, f"/{commit}")[0] == 404


def test_a_page_of_another_host_gets_nothing(served):
    _, _, server = served
    assert ask(server, "/", Host="evil.example:8000")[0] == 403
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_nothing_can_be_changed(served):
    store, _, server = served
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, "/index.html", method)[0] == 501
    assert store.size("index.html")


def test_it_listens_on_loopback_only(served):
    _, _, server = served
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_a_folder_that_is_no_corpus_is_refused():
    with pytest.raises(SourceError, match="no_snapshot"):
        Server("/nothing/here")


def test_the_next_page_shows_the_next_snapshot_and_a_taken_port_is_said(tmp_path):
    store, snapshot = make(tmp_path, photos=4, per_shard=2)
    gone, stays = snapshot.partitions.values()
    with running(store, snapshot) as (_, _, server):
        with pytest.raises(ConfigError, match=f"port_in_use: port {server.server_port} of 127"):
            Server(store.root, server.server_port)
        assert ask(server, f"/{gone.tars[0].path}")[0] == 200
        drop(store.root, [gone.shard])
        assert b"1\nshard," in ask(server, "/")[2]
        assert ask(server, f"/{gone.tars[0].path}")[0] == 404
        assert ask(server, f"/{stays.tars[0].path}")[0] == 200
        store.delete(["index.html"])
        assert ask(server, "/")[0] == 404


def test_a_corpus_in_a_bucket_is_served_by_ranges(served):
    store, snapshot, _ = served
    with s3.serve() as bucket:
        remote = Store("s3://b/corpus")
        for path in store.paths(""):
            if not path.startswith("cells/"):
                remote.write(path, store.read(path))
        with running(remote, snapshot) as (_, _, server):
            tar = next(iter(snapshot.partitions.values())).tars[0]
            before = bucket.sent
            status, _, body = ask(server, f"/{tar.path}", Range="bytes=512-1535")
            assert (status, body) == (206, store.read(tar.path)[512:1536])
            assert bucket.sent - before < 2048  # not the whole tar
            assert ask(server, "/")[2] == store.read("index.html")
            assert ask(server, "/corpus.json")[0] == 404
