"""The members of a shard. The scan trusts no byte, extracts nothing and copies nothing.

Damage makes ordinary tar readers stop early without an error. So the headers are scanned here, and a member is what
this scan says it is. The scan reads every byte of a shard once, in order, and says what each byte belongs to.

Format: POSIX.1-1988 ustar, 512-byte blocks, two zero blocks at the end.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from anything3d.errors import Bug, InputError
from pipeline.input.shard import Shard

BLOCK = 512  # bytes; ustar
END = 2 * BLOCK  # bytes of zeros: the mark of a tar's end
RECORD = 20 * BLOCK  # bytes; what tars pad their ends to a multiple of
OTHER_RECORDS = tuple(
    size << doublings for size in (BLOCK, RECORD, 126 * BLOCK) for doublings in range(13)
)  # bytes; on request
MAGIC_AT = 257  # byte of a header at which b"ustar" stands
REGULAR, DIRECTORY = (b"0", b"\0"), b"5"
FORMATS = {
    b"\x1f\x8b\x08": "a gzip file",
    b"\x1f\x9d": "a compress file",
    b"PK\x03\x04": "a zip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"\x04\x22\x4d\x18": "an LZ4 file",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip file",
    b"Rar!\x1a\x07": "a RAR file",
    b"PAR1": "a Parquet file",
    b"ARROW1\0\0": "an Arrow file",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG\r\n": "a PNG image",
    b"\x89HDF\r\n": "an HDF5 file",
    b"%PDF-": "a PDF file",
    b"07070": "a cpio archive",
    b"!<arch>\n": "an ar archive",
}  # first bytes -> what is taken for a shard now and then
TEXTS = {
    b"version https://git-lfs.github.com/": "a Git LFS pointer (git lfs pull fetches what it stands for)",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML text, as storage services answer with an error",
    b"<error": "an XML text, as storage services answer with an error",
    b"{": "a JSON text",
    b"[": "a JSON text",
}  # the same of texts, in small letters
EXTENSION = (b"x", b"g", b"L", b"K")  # pax and GNU headers: they describe the next member
LONG_NAME = (b"x", b"L")  # those that may hold its name, if that is too long for a header
MAX_EXTENSION = 1 << 20  # bytes; of a longer one no name is read
PAX_PATH = re.compile(rb"(?:^|\n)\d+ path=([^\n]*)\n")


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file of a shard."""

    name: str
    offset: int  # byte of the shard at which its data begin
    size: int  # bytes
    sha256: str  # of its data


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a shard. The pieces of a shard follow each other without a gap from its first byte to its last."""

    what: Literal["member", "other", "zeros", "unreadable"]  # other: a sound header that is none of a regular file
    start: int  # byte of the shard
    end: int  # byte behind the last one; of a member, with its header and its padding
    content: Member | InputError | None = None  # the member, or what is wrong; None if there is nothing to say


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Pass:
    """The bytes of a shard from the first to the last: each is fetched once, and none is gone back to."""

    def __init__(self, shard: Shard, whole: Digest | None) -> None:
        self.offset, self.size = 0, shard.size
        self._windows, self._whole = shard.windows(), whole
        self._held, self._at = b"", 0  # what is in memory, and where in it `offset` is
        self.first = self.ahead(BLOCK)

    def ahead(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end of the shard; they stay the next ones."""
        self._fetch(size)
        return self._held[self._at : self._at + size]

    def skip(self, size: int, digest: Digest | None = None) -> None:
        """Leave the next `size` bytes behind, fewer at the end of the shard, and feed them to `digest`."""
        end = min(self.offset + size, self.size)
        while self.offset < end:
            self._fetch(1)
            data = self._held[self._at : self._at + end - self.offset]
            if digest is not None:
                digest.update(data)
            self._move(len(data))

    def to_header(self) -> int:
        """Go to the next sound header with ustar magic, at whatever byte it begins, or to the end.

        Returns: the byte behind the last one on the way that is not zero.
        """
        last = self.offset
        while self.offset < self.size:
            self._fetch(END)
            header = self._header_held()
            ends = self.offset + len(self._held) - self._at == self.size
            stop = header if header is not None else len(self._held) if ends else len(self._held) - BLOCK + 1
            passed = self._held[self._at : stop]
            if passed.count(0) < len(passed):
                last = self.offset + len(passed.rstrip(b"\0"))
            self._move(len(passed))
            if header is not None:
                break
        return last

    def _header_held(self) -> int | None:
        """Where in what is held the next sound header begins."""
        magic = self._held.find(b"ustar", self._at + MAGIC_AT)
        while magic >= 0:
            start = magic - MAGIC_AT
            if _is_header(self._held[start : start + BLOCK]):
                return start
            magic = self._held.find(b"ustar", magic + 1)
        return None

    def _fetch(self, size: int) -> None:
        while len(self._held) - self._at < size and (window := next(self._windows, b"")):
            if self._whole is not None:
                self._whole.update(window)
            self._held, self._at = self._held[self._at :] + window, 0

    def _move(self, size: int) -> None:
        self._at += size
        self.offset += size


def scan(shard: Shard, whole: Digest | None = None) -> Iterator[Piece]:
    """Every byte of the shard in some piece, in order: members, defects, and what is neither.

    Zeros are the end only at the end. After damage the scan goes on at the next sound header, wherever that lies. All
    bytes of the shard are fed to `whole`.

    Raises: Bug if the pieces do not add up to the shard: a bug in here.
    """
    end = 0
    for piece in _pieces(_Pass(shard, whole)):
        if piece.start != end:
            break
        end = piece.end
        yield piece
    if end != shard.size:
        raise Bug("not_balanced", f"{shard.location}: of {shard.size} bytes, {end} are accounted for.")


def _pieces(data: _Pass) -> Iterator[Piece]:
    if not _is_header(data.first) and (what := _format(data.first)):
        data.skip(data.size)
        yield Piece("unreadable", 0, data.size, InputError("not_a_tar", f"no tar, but {what}"))
        return
    in_member = False  # whether the piece before is the last one with a header
    long_name = ""  # what an extension says of the next member
    while data.offset < data.size:
        start, block = data.offset, data.ahead(BLOCK)
        size = _size(block) if _is_header(block) else None
        in_member = size is not None and start + BLOCK + size <= data.size
        if size is not None and in_member:
            extended = _long_name(block, size, data) if block[156:157] in LONG_NAME else ""
            yield _member(block, size, data, long_name)
            long_name = extended or long_name if block[156:157] in EXTENSION else ""
        elif size is None:
            yield from _gap(start, data.to_header(), data, InputError("damaged_header", f"byte {start}: no tar header"))
        else:  # the size may be the damage: a sound header before the claimed end is a member that would be lost
            data.skip(BLOCK)
            claim = f"byte {start}: {_name(block)!r} claims {size} bytes, the shard ends before that"
            yield from _gap(start, data.to_header(), data, InputError("truncated_member", claim))
    if in_member:
        yield Piece("zeros", data.size, data.size, _wrong_end(0, data.size))
    elif data.size == 0:
        yield Piece("zeros", 0, 0, InputError("empty_shard", "byte 0: the file is empty"))


def _long_name(block: bytes, size: int, data: _Pass) -> str:
    """The name of the next member, from the pax or GNU header at which `data` is; "" if it says nothing of that."""
    said = data.ahead(BLOCK + size)[BLOCK:] if size <= MAX_EXTENSION else b""
    if block[156:157] == b"x":
        paths = PAX_PATH.findall(said)
        said = paths[-1] if paths else b""
    return said.rstrip(b"\0").decode("utf-8", "replace")


def _member(block: bytes, size: int, data: _Pass, long_name: str) -> Piece:
    """The piece that the header `block` begins, at which `data` is; `data` is behind it afterwards."""
    start, kind, digest = data.offset, block[156:157], hashlib.sha256()
    name = (long_name or _name(block)).removeprefix("./")
    data.skip(BLOCK)
    data.skip(size, digest)
    data.skip(_padded(size) - size)
    if kind in EXTENSION or kind == DIRECTORY:
        return Piece("other", start, data.offset)
    if kind not in REGULAR:
        error = InputError("unsafe_member", f"byte {start}: {name!r} is a link or a device (type {kind!r})")
        return Piece("other", start, data.offset, error)
    if name.startswith("/") or ".." in name.split("/"):
        leaves = InputError("unsafe_member", f"byte {start}: {name!r} leaves the shard")
        return Piece("member", start, data.offset, leaves)
    return Piece("member", start, data.offset, Member(name, start + BLOCK, size, digest.hexdigest()))


def _gap(start: int, last: int, data: _Pass, error: InputError) -> Iterator[Piece]:
    """What lies from `start` up to where `data` is now: `error`, up to the byte `last`, and zeros behind that."""
    end = data.offset
    if end < data.size:
        if last > start:
            yield Piece("unreadable", start, end, _up_to(end, error))
        else:
            lost = f"byte {start}: zeros up to byte {end}, where the shard goes on; lost bytes, or several tars in one"
            yield Piece("zeros", start, end, InputError("zeros_inside", lost))
        return
    tail = min(end, start + _padded(last - start))
    if start == 0 and error.reason == "damaged_header":  # no header at all
        begin = f"no tar header in {end} bytes, which begin with {data.first[:40]!r}"
        zeros = InputError("empty_shard", f"byte 0: {end} bytes of zeros and no member")
        yield Piece("unreadable", 0, end, InputError("not_a_tar", begin)) if tail else Piece("zeros", 0, end, zeros)
        return
    if tail > start:
        yield Piece("unreadable", start, tail, _up_to(tail, error))
    if tail < end:
        yield Piece("zeros", tail, end, _wrong_end(end - tail, end) if tail == start or end - tail >= END else None)


def _wrong_end(zeros: int, size: int) -> InputError | None:
    """What is wrong with a shard of `size` bytes that ends in so many zeros."""
    if zeros < END:
        return InputError("truncated_shard", f"byte {size}: the shard ends without the mark of its end")
    if zeros < RECORD + END or any(size % record == 0 and zeros < record + END for record in OTHER_RECORDS):
        return None
    many = f"byte {size - zeros}: {zeros} bytes of zeros up to the end, more than any padding; cut or not all there"
    return InputError("truncated_shard", many)


def _up_to(end: int, error: InputError) -> InputError:
    return InputError(error.reason, f"{error.message}; bytes up to {end} are unreadable")


def _is_header(block: bytes) -> bool:
    """Whether the block is a tar header: the sum of its bytes, the checksum field as spaces, is what it states."""
    if len(block) < BLOCK:
        return False
    stated = _octal(block[148:156])
    return stated is not None and stated == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _octal(field: bytes) -> int | None:
    if field[:1] == b"\x80":  # GNU: base 256 for sizes over 8 GiB
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    return int(text, 8) if text and set(text) <= set(b"01234567") else (0 if not text else None)


def _size(block: bytes) -> int:
    size = _octal(block[124:136])
    return size if size is not None else 1 << 62


def _name(block: bytes) -> str:
    name, folder = block[:100].rstrip(b"\0"), block[345:500].rstrip(b"\0")
    if folder and block[MAGIC_AT : MAGIC_AT + 6] == b"ustar\0":  # GNU's own headers have other things there
        name = folder + b"/" + name
    return name.decode("utf-8", "replace")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _format(first: bytes) -> str | None:
    """What begins like this, if it is something that is known and no tar."""
    for begin, what in FORMATS.items():
        if first.startswith(begin):
            return what
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for begin, what in TEXTS.items() if text.startswith(begin) and b"\0" not in text), None)
