"""An S3 on loopback that keeps keys exactly as they come over the wire, and whose faults can be switched on."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import md5
from html import escape, unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from re import findall, fullmatch
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

from sortedcontainers import SortedDict

BUCKET = "b"


class Server(ThreadingHTTPServer):
    """`objects` has what lies in the bucket, by key; `asked` every request as method, path and query.

    `sent` counts the bytes of all answers, without their headers.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: SortedDict = SortedDict()  # key -> bytes
        self.written: dict[str, datetime] = {}  # key -> when; a key that a test has put there itself has none
        self.started = datetime.now(UTC)
        self.asked: list[tuple[str, str, str]] = []
        self.sent = 0
        self.pieces: dict[str, dict[int, bytes]] = {}  # of files that are uploaded in pieces, by upload and number
        self.honours_if_none_match = True
        self.forbids: set[str] = set()  # methods that are answered with 403
        self.busy = 0  # so many of the next requests are answered with 503
        self.silent = 0  # so many of the next requests are not answered
        self.loses_answer_to = ""  # the next PUT of a key with this end is done, and its connection is closed
        self.ending = threading.Event()

    def keep(self, key: str, data: bytes) -> None:
        """Put the object there, or another one in its place."""
        self.objects[key], self.written[key] = data, datetime.now(UTC)

    def date(self, key: str) -> datetime:
        """When the object was put there."""
        return self.written.get(key, self.started)


@contextmanager
def serve() -> Iterator[Server]:
    """The server, with its address and made-up keys in the environment."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        settings = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ALLOW_HTTP": "true",
        }
        try:
            with patch.dict(os.environ, settings):
                yield server
        finally:
            server.ending.set()
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body: in two, the second one waits for the client's system
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: object) -> None: ...

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        parts = urlsplit(self.path)
        self.key, self.query = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/"), parse_qs(parts.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, parts.path, parts.query))
        if self.command in self.server.forbids:
            self._answer(403, _error("AccessDenied"))
            return False
        if self.server.busy:
            self.server.busy -= 1
            self._answer(503, _error("SlowDown"))
            return False
        if self.server.silent:
            self.server.silent -= 1
            self.server.ending.wait()
            self.close_connection = True
            return False
        return True

    def do_GET(self) -> None:
        if "list-type" in self.query:
            return self._answer(200, self._listing())
        data = self.server.objects.get(self.key)
        if data is None:
            return self._answer(404, _error("NoSuchKey"))
        date = format_datetime(self.server.date(self.key), usegmt=True)
        headers = {"ETag": f'"{md5(data).hexdigest()}"', "Last-Modified": date}
        wanted = fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._answer(200, data, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        return self._answer(
            206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}
        )

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        if self.headers.get("If-None-Match") and self.server.honours_if_none_match and self.key in self.server.objects:
            return self._answer(412, _error("PreconditionFailed"))
        if source := self.headers.get("x-amz-copy-source"):
            self.body = self.server.objects[unquote(source).lstrip("/").removeprefix(f"{BUCKET}/")]
            self.server.keep(self.key, self.body)
            tag = f'<ETag>"{md5(self.body).hexdigest()}"</ETag>'
            answer = f"<CopyObjectResult><LastModified>{self._date(self.key)}</LastModified>{tag}</CopyObjectResult>"
            return self._answer(200, answer.encode())
        if "uploadId" in self.query:
            return self._answer(200, headers={"ETag": f'"{self._keep_piece()}"'})
        self.server.keep(self.key, self.body)
        if self.server.loses_answer_to and self.key.endswith(self.server.loses_answer_to):
            self.server.loses_answer_to = ""
            self.close_connection = True
            return None
        return self._answer(200, headers={"ETag": f'"{md5(self.body).hexdigest()}"'})

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self._answer(204)

    def _keep_piece(self) -> str:
        """Of an upload in several pieces; the digest of this one."""
        self.server.pieces.setdefault(self.query["uploadId"][0], {})[int(self.query["partNumber"][0])] = self.body
        return md5(self.body).hexdigest()

    def do_POST(self) -> None:
        if parse_qs(urlsplit(self.path).query, keep_blank_values=True).keys() & {"uploads"}:
            upload = f"<UploadId>{len(self.server.asked)}</UploadId>"
            return self._answer(
                200, f"<InitiateMultipartUploadResult>{upload}</InitiateMultipartUploadResult>".encode()
            )
        if "uploadId" in self.query:
            pieces = self.server.pieces.pop(self.query["uploadId"][0])
            self.server.keep(self.key, b"".join(pieces[number] for number in sorted(pieces)))
            answer = "<CompleteMultipartUploadResult><ETag>&quot;x&quot;</ETag></CompleteMultipartUploadResult>"
            return self._answer(200, answer.encode())
        keys = [unescape(key) for key in findall("<Key>(.*?)</Key>", self.body.decode())]
        for key in keys:
            self.server.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def _listing(self) -> bytes:
        prefix, delimiter = self.query.get("prefix", [""])[0], self.query.get("delimiter", [""])[0]
        keys = list(takewhile(lambda key: key.startswith(prefix), self.server.objects.irange(prefix)))
        rests = {key: key.removeprefix(prefix) for key in keys}
        folders = {prefix + rest.split(delimiter)[0] for rest in rests.values() if delimiter and delimiter in rest}
        here = [key for key in keys if not delimiter or delimiter not in rests[key]]
        text = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{self._date(key)}</LastModified>"
            f"<ETag>&quot;x&quot;</ETag><Size>{len(self.server.objects[key])}</Size></Contents>"
            for key in here
        )
        text += "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}{delimiter}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{text}</ListBucketResult>".encode()

    def _date(self, key: str) -> str:
        return self.server.date(key).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _answer(self, code: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.server.sent += len(body)
            self.wfile.write(body)
        self.wfile.flush()


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code></Error>".encode()
