"""Input: locations to shards, shards to members. Trusts no byte, extracts nothing, copies nothing.

Damage makes ordinary tar readers stop early without an error, so the headers are scanned here, and a member is what
this scan says it is. The scan reads every byte of a shard once, in order, and says of every byte what it belongs to.
SA-1B's members are `./sa_<number>.jpg` and `.json`, in any order.
Format: POSIX.1-1988 ustar, 512-byte blocks, two zero blocks at the end.
"""

import glob
import hashlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Protocol

import obstore
from braceexpand import braceexpand
from obstore.exceptions import PermissionDeniedError

from anything3d.errors import Bug, ConfigError, InputError, MachineError, SourceError
from pipeline.location import SCHEME, explained, open_store, parse, split
from schemas.records import ImageRecord

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of what `ray job submit` starts
BLOCK = 512  # bytes; ustar
END = 2 * BLOCK  # bytes of zeros: the mark of a tar's end
RECORD = 20 * BLOCK  # bytes; what tars pad their ends to a multiple of
OTHER_RECORDS = tuple(
    size << doublings for size in (BLOCK, RECORD, 126 * BLOCK) for doublings in range(13)
)  # bytes; on request
WINDOW = 8 << 20  # bytes fetched at once while a shard is read from end to end
WINDOWS_AHEAD = 3  # fetched while one is looked at
MAGIC_AT = 257  # byte of a header at which b"ustar" stands
MAX_NAME_BYTES = 200  # of a shard's name; cells are named after it, and file systems allow 255
MAX_LIST_BYTES = 64 << 20  # of a list of MD5s; SA-1B's has 1,000 lines
MEMBER_NAME = re.compile(r"^(sa_\d{1,10})\.(jpg|json)$")
REGULAR, DIRECTORY = (b"0", b"\0"), b"5"
MAGIC = re.compile(r"[*?\[]")  # what makes a file name a pattern
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
MD5_LINE = re.compile(r"([0-9a-fA-F]{32}) [ *](?:.*/)?([^/]+)")  # what md5sum prints
EXTENSION = (b"x", b"g", b"L", b"K")  # pax and GNU headers: they describe the next member, no name of ours needs them


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """What a shard may hold."""

    max_member_bytes: int = 64 << 20  # bytes of one photo or one JSON; SA-1B's largest are a few MB


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
    found: Member | InputError | None = None  # the member, or what is wrong; None if there is nothing to say


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def expand(patterns: list[str]) -> list[str]:
    """Shard locations (absolute paths or URLs) of paths, URLs, globs and brace ranges, each once, in order.

    What exists under the very name that is written is meant literally, with its brackets and braces. In a URL, only the
    file name may be a pattern.

    Raises: ConfigError if a pattern is no location, or is relative inside a Ray job; SourceError if it matches nothing,
    or two shards have the same file name (ids would collide).
    """
    shards = [shard for pattern in patterns for shard in _spelled(pattern)]
    unique = list(dict.fromkeys(shards))
    by_stem: dict[str, str] = {}
    for shard in unique:
        if not 0 < len(stem(shard).encode()) <= MAX_NAME_BYTES:
            raise SourceError(
                "shard_names", f"{shard}: shards are known by their names, of 1 to {MAX_NAME_BYTES} bytes before .tar"
            )
        if (other := by_stem.setdefault(stem(shard), shard)) != shard:
            raise SourceError("shard_names", f"{other} and {shard} have the same name; shards are known by their names")
    return unique


def absolute(location: str) -> str:
    """The location as every node and every later command knows it: an absolute path, or the URL that it is.

    Raises: ConfigError for what is no location (`pipeline.location`), or for a relative path inside a Ray job: the
    job's working folder vanishes with it.
    """
    at = parse(location)
    if at.service != "local":
        return location.removesuffix("/")
    if JOB in os.environ and not at.key.startswith("/"):
        raise ConfigError(
            "relative_path",
            f"{location!r} inside a Ray job, whose working folder is a temporary copy; give an absolute path that all"
            " nodes see, or a URL",
        )
    return str(Path(at.key).absolute())


def stem(location: str) -> str:
    """The shard's name: its file name without .tar."""
    return file_name(location).removesuffix(".tar")


def file_name(location: str) -> str:
    """The last part of a location."""
    return location.rsplit("/", 1)[-1]


def digest(location: str) -> str:
    """What changes when the bytes at `location` do, and is had without reading them: of size and entity tag.

    It also changes when they are copied, moved or touched. It is "" if nothing is there.
    """
    folder, name = split(location)
    try:
        meta = obstore.head(open_store(folder), name)
    except FileNotFoundError:
        return ""
    return hashlib.sha256(f"{meta['size']} {meta['e_tag']}".encode()).hexdigest()


def content_digest(location: str) -> str:
    """SHA-256 of the bytes at `location`; "" if nothing is there. For small files: all of it is read."""
    return content(location)[1]


def content(location: str) -> tuple[bytes, str]:
    """All bytes at `location` and their SHA-256; none and "" if nothing is there."""
    try:
        data = read(location)
    except FileNotFoundError:
        return b"", ""
    return data, hashlib.sha256(data).hexdigest()


def read(location: str) -> bytes:
    """All bytes at a location."""
    folder, name = split(location)
    return bytes(obstore.get(open_store(folder), name).bytes())


def read_md5(location: str) -> dict[str, str]:
    """File name -> MD5 in hexadecimal, of a list as md5sum prints it (SA-1B's checklist.chk is one).

    Raises: SourceError if a line of the list is no MD5 and name, or contradicts another one; StorageError if there is
    no such list.
    """
    location = absolute(location)
    with explained(location):
        listed = Shard(location)
        if listed.size > MAX_LIST_BYTES:
            raise SourceError("md5_list", f"{location} has {listed.size} bytes; a list has {MAX_LIST_BYTES} at most")
        data = listed.read(0, listed.size)
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        match = MD5_LINE.fullmatch(line.rstrip())
        if match is None:
            raise SourceError(
                "md5_list",
                f"{location}, line {number}: {line[:100]!r} is not <MD5, 32 hexadecimal digits>  <file name>",
            )
        if found.setdefault(match[2], match[1].lower()) != match[1].lower():
            raise SourceError("md5_list", f"{location}, line {number}: {match[2]} has another MD5 in an earlier line")
    if not found:
        raise SourceError("md5_list", f"{location} names no file")
    return found


class Shard:
    """One tar: all of it in order, or byte ranges of it."""

    def __init__(self, location: str) -> None:
        self.location = location
        folder, self._name = split(location)
        self._store = open_store(folder)
        self.size = int(obstore.head(self._store, self._name)["size"])

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer at the end of the shard."""
        size = min(size, self.size - offset)
        return bytes(obstore.get_range(self._store, self._name, start=offset, length=size)) if size > 0 else b""

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Several (offset, size) at once; near ones are fetched together."""
        filled = [(start, length) for start, length in ranges if length]  # obstore refuses a range without bytes
        starts, lengths = [start for start, _ in filled], [length for _, length in filled]
        found = obstore.get_ranges(self._store, self._name, starts=starts, lengths=lengths) if filled else []
        data = iter(found)
        return [bytes(next(data)) if length else b"" for _, length in ranges]

    def windows(self) -> Iterator[bytes]:
        """All bytes in order; the next few windows are fetched meanwhile.

        Raises: MachineError("shard_changed") if the shard has become shorter.
        """
        with ThreadPoolExecutor(WINDOWS_AHEAD) as threads:
            ahead: deque[tuple[int, Future[bytes]]] = deque()
            for offset in range(0, self.size, WINDOW):
                ahead.append((offset, threads.submit(self.read, offset, WINDOW)))
                if len(ahead) > WINDOWS_AHEAD:
                    yield self._whole(*ahead.popleft())
            while ahead:
                yield self._whole(*ahead.popleft())

    def _whole(self, offset: int, fetched: Future[bytes]) -> bytes:
        data, wanted = fetched.result(), min(WINDOW, self.size - offset)
        if len(data) != wanted:
            raise MachineError(
                "shard_changed", f"{self.location}: {len(data)} bytes at byte {offset} instead of {wanted}; run again"
            )
        return data


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
            found = self._header_held()
            ends = self.offset + len(self._held) - self._at == self.size
            stop = found if found is not None else len(self._held) if ends else len(self._held) - BLOCK + 1
            passed = self._held[self._at : stop]
            if passed.count(0) < len(passed):
                last = self.offset + len(passed.rstrip(b"\0"))
            self._move(len(passed))
            if found is not None:
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
        raise Bug("not_balanced", f"{shard.location}: of {shard.size} bytes, {end} are accounted for")


def _pieces(data: _Pass) -> Iterator[Piece]:
    if not _is_header(data.first) and (what := _format(data.first)):
        data.skip(data.size)
        yield Piece("unreadable", 0, data.size, InputError("not_a_tar", f"no tar, but {what}"))
        return
    in_member = False  # whether the piece before is the last one with a header
    while data.offset < data.size:
        start, block = data.offset, data.ahead(BLOCK)
        size = _size(block) if _is_header(block) else None
        in_member = size is not None and start + BLOCK + size <= data.size
        if size is not None and in_member:
            yield _member(block, size, data)
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


def pair(pieces: Iterable[Piece], shard: str, config: IndexConfig) -> Iterator[ImageRecord | tuple[str, InputError]]:
    """Photos with their annotations, by stem, in the order of the stems' first appearance; all else as (id, defect)."""
    halves: dict[str, dict[str, Member]] = {}
    oversize: set[str] = set()  # stems whose half is there, but unusable
    for piece in pieces:
        member = piece.found
        if member is None:
            continue
        if isinstance(member, InputError):
            yield f"{shard}@byte {piece.start}", member
            continue
        match = MEMBER_NAME.match(member.name)
        if match is None:
            yield (
                f"{shard}@byte {member.offset}",
                InputError("foreign_member", f"{member.name!r} is not sa_<number>.jpg|json"),
            )
        elif member.size > config.max_member_bytes:
            oversize.add(match[1])
            yield (
                match[1],
                InputError(
                    "oversize_member",
                    f"{member.name}: {member.size} bytes, at most {config.max_member_bytes} (index.max_member_bytes)",
                ),
            )
        elif match[2] in halves.setdefault(match[1], {}):
            yield (
                match[1],
                InputError("duplicate_id", f"second {member.name} at byte {member.offset}; the first one counts"),
            )
        else:
            halves[match[1]][match[2]] = member
    for image_id, half in halves.items():
        if missing := {"jpg", "json"} - half.keys():
            if half and image_id not in oversize:
                yield image_id, InputError(f"missing_{missing.pop()}", f"{image_id} has only its {next(iter(half))}")
            continue
        jpg, json = half["jpg"], half["json"]
        yield ImageRecord(image_id, shard, jpg.offset, jpg.size, jpg.sha256, json.offset, json.size, json.sha256)


def _spelled(pattern: str) -> list[str]:
    """The shards of one argument: the file of that very name, or what its braces and wildcards stand for."""
    if "{" not in pattern or _exists(pattern):
        return _matches(pattern)
    try:
        spelled = list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise SourceError("no_shard", f"{pattern!r}: no such file, and its braces are no range: {error}") from error
    return [shard for location in spelled for shard in _matches(location)]


def _matches(pattern: str) -> list[str]:
    location = absolute(pattern)
    url = SCHEME.match(location)
    if url and not MAGIC.search(file_name(location)):
        return [location]
    if _exists(location):
        return [location]
    found = _listed(location) if url else _globbed(location)
    if not found:
        raise SourceError("no_shard", f"{pattern!r} matches no file")
    return found


def _exists(location: str) -> bool:
    """Whether a file lies under the very name that is written."""
    location = absolute(location)
    folder, name = split(location)
    with explained(location):
        if not SCHEME.match(location):
            return Path(location).is_file()
        try:
            obstore.head(open_store(folder), name)
        except (FileNotFoundError, PermissionDeniedError):  # S3 denies what is absent to those who may not list
            return False
        return True


def _listed(url: str) -> list[str]:
    """What matches the last part of a URL; what lies in folders below is not looked at."""
    folder, pattern = split(url)
    with explained(folder):
        entries = obstore.list_with_delimiter(open_store(folder))["objects"]
    return [f"{folder}/{name}" for name in sorted(entry["path"] for entry in entries) if fnmatchcase(name, pattern)]


def _globbed(path: str) -> list[str]:
    """The files that match an absolute path; folders that exist under the very name are meant literally."""
    literal, parts = "/", path.split("/")[1:]
    with explained(path):
        while len(parts) > 1 and Path(literal, parts[0]).is_dir():
            literal = str(Path(literal, parts.pop(0)))
        matches = [str(Path(literal, match)) for match in sorted(glob.glob("/".join(parts), root_dir=literal))]
        return [match for match in matches if Path(match).is_file()]


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
    return block[:100].rstrip(b"\0").decode("utf-8", "replace")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _format(first: bytes) -> str | None:
    """What begins like this, if it is something that is known and no tar."""
    for begin, what in FORMATS.items():
        if first.startswith(begin):
            return what
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for begin, what in TEXTS.items() if text.startswith(begin) and b"\0" not in text), None)


def _member(block: bytes, size: int, data: _Pass) -> Piece:
    """The piece that the header `block` begins, at which `data` is; `data` is behind it afterwards."""
    start, name, kind, digest = data.offset, _name(block).removeprefix("./"), block[156:157], hashlib.sha256()
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
