"""A corpus over HTTP for a browser on the same machine: read only, by byte ranges, from a disk or an object store.

What is served are the files that the newest snapshot names, those that show it, and the pictures and pages of the
gallery that the manifests of its shards name. Everything else is unknown. With `against`, there is one more page, which
shows the objects of two snapshots beside each other.
"""

import logging
import mimetypes
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, unquote, urlsplit

from obstore.exceptions import BaseError

from anything3d.errors import Anything3DError, ConfigError
from pipeline.release.against import Against, asked_for
from pipeline.release.gallery.page import DUPLICATES, FOLDER, PAGE
from pipeline.release.partition import read_manifest
from pipeline.release.snapshot import newest, snapshot_of
from pipeline.release.view import PAGES, POINTER, tables

HOST = "127.0.0.1"
AGAINST = "against"  # path of the page of two snapshots
CHUNK_BYTES = 4 << 20  # of a file; what is in memory of an answer
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")  # one range; any other header is as if there was none
NAMED_BY_CONTENT = re.compile(r".*-[0-9a-f]{16}\.\w+")
POLICY = "default-src 'self'; img-src 'self' blob: data:; connect-src 'self' blob:; style-src 'self' 'unsafe-inline'"

log = logging.getLogger(__name__)


class Shown:
    """The paths of a corpus that may be read, and their sizes."""

    def __init__(self, corpus: str, against: int | None = None) -> None:
        """`against` is the number of a second snapshot. Raises: SourceError("no_snapshot"); StorageError."""
        self.store, self._snapshot = snapshot_of(corpus)
        self.against = None
        if against is not None:
            self.against = Against(self.store, snapshot_of(corpus, against)[1], self._snapshot)
        self._lock = Lock()
        self._sizes: dict[str, int] = {}  # path -> bytes, of files whose names say their content
        self._shards: set[str] = set()  # whose manifests have been read
        self._learn()

    def refresh(self) -> None:
        """Show the newest snapshot."""
        now = newest(self.store)
        with self._lock:
            if now is not None and now != self._snapshot:
                self._snapshot = now
                self._sizes, self._shards = {}, set()
                self._learn()

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if nobody may read it, or it has gone."""
        if path in (*PAGES, DUPLICATES, POINTER):
            return self.store.size(path)
        folder, _, name = path.partition("/")
        shard = name.rpartition("/")[0]
        with self._lock:
            if folder == FOLDER and shard not in self._shards:
                both = (self.against.before, self.against.now) if self.against else ()
                known = [one.partitions[shard] for one in (self._snapshot, *both) if shard in one.partitions]
                self._shards.update([shard] if known else [])
                for partition in {one.manifest.path: one for one in known}.values():
                    manifest, _ = read_manifest(self.store, partition)
                    self._sizes |= {row.path: row.bytes or 0 for row in manifest if row.what == "gallery"}
            return self._sizes.get(path)

    def _learn(self) -> None:
        self._sizes |= {file.path: file.bytes for file in self._snapshot.files}
        self._sizes |= {path: table.bytes for path, table in tables(self._snapshot).items()}


class Server(ThreadingHTTPServer):
    """The server of one corpus, on loopback."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, corpus: str, port: int = 0, against: int | None = None) -> None:
        """Bind to the port; 0 is any free one. Raises: as `Shown`; ConfigError("port_in_use")."""
        self.shown = Shown(corpus, against)
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                "port_in_use",
                f"port {port} of {HOST} cannot be used: {error}. Give another --port, or 0 for a free one.",
            ) from error

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/{AGAINST if self.shown.against else ''}"


class Handler(BaseHTTPRequestHandler):
    """The answer to one request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s %s", self.address_string(), format % args)

    def _answer(self, *, with_body: bool) -> None:
        if not self._is_for_us():
            return self.send_error(HTTPStatus.FORBIDDEN, "This server answers to its own address only")
        path = unquote(urlsplit(self.path).path.removeprefix("/")) or PAGE
        try:
            if path == AGAINST and self.server.shown.against:
                return self._send_page(self.server.shown.against, with_body=with_body)
            if path == PAGE:
                self.server.shown.refresh()
            size = self.server.shown.size(path)
            if size is None:
                return self.send_error(HTTPStatus.NOT_FOUND, "The newest snapshot has no such file")
            self._send(path, size, with_body=with_body)
        except (Anything3DError, BaseError, FileNotFoundError) as error:
            log.warning("%s: %s", path, error)
            self.send_error(HTTPStatus.BAD_GATEWAY, "The corpus cannot be read")
        except (BrokenPipeError, ConnectionResetError):  # the browser wants no more of it
            self.close_connection = True
        return None

    def _is_for_us(self) -> bool:
        """Whether the request names this server. A page of another host could have its name point here."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        return host in (HOST, "localhost")

    def _send_page(self, against: Against, *, with_body: bool) -> None:
        try:
            asked = asked_for(parse_qs(urlsplit(self.path).query))
        except ConfigError as error:
            return self.send_error(HTTPStatus.BAD_REQUEST, "There is no such page", error.message)
        data = against.html(asked).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if with_body:
            self.wfile.write(data)
        return None

    def _send(self, path: str, size: int, *, with_body: bool) -> None:
        asked = RANGE.fullmatch(self.headers.get("Range", "").strip()) if size else None
        start, end = _range(asked[1], asked[2], size) if asked else (0, size)
        if start >= end and asked:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Type", _type_of(path))
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        lasts = NAMED_BY_CONTENT.fullmatch(path)
        self.send_header("Cache-Control", "max-age=31536000, immutable" if lasts else "no-cache")
        self.end_headers()
        for at in range(start, end, CHUNK_BYTES) if with_body else ():
            self.wfile.write(self.server.shown.store.ranges(path, [at], [min(CHUNK_BYTES, end - at)])[0])
        return None


def _range(first: str, last: str, size: int) -> tuple[int, int]:
    """The first byte and the one after the last of a range (RFC 9110, 14.1.2). No byte: the file has no such range."""
    if first:
        return int(first), min(size, int(last) + 1) if last else size
    return (max(0, size - int(last)), size) if last else (size, size)


def _type_of(path: str) -> str:
    kind, _ = mimetypes.guess_type(path)
    known = {".js": "text/javascript; charset=utf-8", ".tar": "application/x-tar", ".webp": "image/webp"}
    text = {"": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8", ".html": "text/html; charset=utf-8"}
    ending = path[path.rfind(".") :] if "." in path.rpartition("/")[2] else ""
    return {**known, **text}.get(ending) or kind or "application/octet-stream"
