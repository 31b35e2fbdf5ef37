"""Input: locations to shards, shards to members. Trusts no byte, extracts nothing, copies nothing.

A damaged header makes ordinary tar readers stop early without an error, so the headers are scanned here, and a member
is what this scan says it is. SA-1B's members are `./sa_<number>.jpg` and `.json`, in any order.
Format: POSIX.1-1988 ustar, 512-byte blocks, two zero blocks at the end.
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import obstore
from braceexpand import braceexpand
from obstore.exceptions import PermissionDeniedError

from anything3d.errors import ConfigError, InputError
from pipeline.location import SCHEME, explained, open_store, parse, split
from schemas.records import ImageRecord

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of what `ray job submit` starts
BLOCK = 512  # bytes; ustar
RECORD = 20 * BLOCK  # what tar pads a shard's end to
WINDOW = 1 << 20  # bytes fetched at once while scanning headers
MEMBER_NAME = re.compile(r"^(sa_\d{1,10})\.(jpg|json)$")
REGULAR, DIRECTORY = (b"0", b"\0"), b"5"
MAGIC = re.compile(r"[*?\[]")  # what makes a file name a pattern
EXTENSION = (b"x", b"g", b"L", b"K")  # pax and GNU headers: they describe the next member, no name of ours needs them


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """What a shard may hold."""

    max_member_bytes: int = 64 << 20  # bytes of one photo or one JSON; SA-1B's largest are a few MB


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file of a shard."""

    name: str
    offset: int
    size: int


def expand(patterns: list[str]) -> list[str]:
    """Shard locations (absolute paths or URLs) of paths, URLs, globs and brace ranges, each once, in order.

    What exists under the very name that is written is meant literally, with its brackets and braces. In a URL, only the
    file name may be a pattern.

    Raises: ConfigError if a pattern is no location, matches nothing, is relative inside a Ray job, or two shards have
    the same file name (ids would collide).
    """
    shards = [shard for pattern in patterns for shard in _spelled(pattern)]
    unique = list(dict.fromkeys(shards))
    by_stem: dict[str, str] = {}
    for shard in unique:
        if not stem(shard):
            raise ConfigError("shard_names", f"{shard} has no name before .tar; shards are known by their names")
        if (other := by_stem.setdefault(stem(shard), shard)) != shard:
            raise ConfigError("shard_names", f"{other} and {shard} have the same name; shards are known by their names")
    return unique


def absolute(location: str) -> str:
    """The location as every node and every later command knows it: an absolute path, or the URL that it is.

    Raises: ConfigError for what is no location (`pipeline.location`), or for a relative path inside a Ray job: the
    job's working folder vanishes with it.
    """
    at = parse(location)
    if at.service != "local":
        return location
    if JOB in os.environ and not at.key.startswith("/"):
        raise ConfigError(
            "relative_path",
            f"{location!r} inside a Ray job, whose working folder is a temporary copy; give an absolute path that all"
            " nodes see, or a URL",
        )
    return str(Path(at.key).absolute())


def stem(location: str) -> str:
    """The shard's name: its file name without .tar."""
    return location.rsplit("/", 1)[-1].removesuffix(".tar")


def digest(location: str) -> str:
    """What identifies the bytes at `location` without reading them: size and the store's entity tag; "" if absent."""
    folder, name = split(location)
    try:
        meta = obstore.head(open_store(folder), name)
    except FileNotFoundError:
        return ""
    return hashlib.sha256(f"{meta['size']} {meta['e_tag']}".encode()).hexdigest()


def read(location: str) -> bytes:
    """All bytes at a location."""
    folder, name = split(location)
    return bytes(obstore.get(open_store(folder), name).bytes())


class Shard:
    """Random access to one tar: a window while scanning, byte ranges afterwards."""

    def __init__(self, location: str) -> None:
        folder, self._name = split(location)
        self._store = open_store(folder)
        self.size = int(obstore.head(self._store, self._name)["size"])
        self._window = (0, b"")

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer at the end of the shard."""
        size = min(size, self.size - offset)
        return bytes(obstore.get_range(self._store, self._name, start=offset, length=size)) if size > 0 else b""

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Several (offset, size) at once; near ones are fetched together."""
        starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]
        return [bytes(data) for data in obstore.get_ranges(self._store, self._name, starts=starts, lengths=lengths)]

    def block(self, offset: int) -> bytes:
        """The 512-byte block at `offset` (shorter at the end), through the window."""
        start, data = self._window
        if not start <= offset <= offset + BLOCK <= start + len(data):
            start, data = offset, self.read(offset, WINDOW)
            self._window = (start, data)
        return data[offset - start : offset - start + BLOCK]


def scan(shard: Shard) -> Iterator[Member | InputError]:
    """Every member in the order of the tar, and every defect of the tar itself, named by its byte offset.

    After a damaged header the scan goes on at the next block that is a sound header.
    """
    offset, ended = 0, False
    while offset < shard.size:
        block = shard.block(offset)
        if block == bytes(BLOCK):
            if shard.block(offset + BLOCK) == bytes(BLOCK) or offset + BLOCK == shard.size:
                ended = True
                break
            offset += BLOCK
            continue
        if not _is_header(block):
            resumed = _next_header(shard, offset + BLOCK)
            yield InputError("damaged_header", f"byte {offset}: no tar header; bytes up to {resumed} are unreadable")
            offset = resumed
            continue
        size = _size(block)
        if offset + BLOCK + size > shard.size:
            yield InputError(
                "truncated_member", f"byte {offset}: {_name(block)!r} claims {size} bytes, the shard ends before that"
            )
            # the size may be the damage: a sound header before the claimed end is a member that would be lost
            offset = _next_header(shard, offset + BLOCK)
            ended = offset >= shard.size
            continue
        if block[156:157] not in EXTENSION:
            yield _member(block, offset, size)
        offset += BLOCK + -(-size // BLOCK) * BLOCK
    if not ended and offset != shard.size:
        yield InputError("truncated_shard", f"the shard ends at byte {shard.size}, inside a member")


def pair(
    members: Iterable[Member | InputError], shard: str, config: IndexConfig
) -> Iterator[ImageRecord | tuple[str, InputError]]:
    """Photos with their annotations, by stem, in the order of the stems' first appearance; all else as (id, defect)."""
    halves: dict[str, dict[str, Member]] = {}
    oversize: set[str] = set()  # stems whose half is there, but unusable
    for member in members:
        if isinstance(member, InputError):
            yield f"{shard}@{member.message.split(':')[0]}", member
            continue
        if not member.name:
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
        yield ImageRecord(image_id, shard, jpg.offset, jpg.size, json.offset, json.size)


def _spelled(pattern: str) -> list[str]:
    """The shards of one argument: the file of that very name, or what its braces and wildcards stand for."""
    if "{" not in pattern or _exists(pattern):
        return _matches(pattern)
    try:
        spelled = list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise ConfigError("no_shard", f"{pattern!r}: no such file, and its braces are no range: {error}") from error
    return [shard for location in spelled for shard in _matches(location)]


def _matches(pattern: str) -> list[str]:
    location = absolute(pattern)
    url = SCHEME.match(location)
    if url and not MAGIC.search(location.rsplit("/", 1)[-1]):
        return [location]
    if _exists(location):
        return [location]
    found = _listed(location) if url else _globbed(location)
    if not found:
        raise ConfigError("no_shard", f"{pattern!r} matches no file")
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


def _next_header(shard: Shard, offset: int) -> int:
    """Offset of the next block that is a sound header with ustar magic, or of the end marker, or the shard's size."""
    while offset < shard.size:
        block = shard.block(offset)
        if block[257:262] == b"ustar" and _is_header(block):
            return offset
        if block == bytes(BLOCK) and offset + 2 * BLOCK >= shard.size - RECORD and _only_zeros(shard, offset):
            return offset
        offset += BLOCK
    return shard.size


def _only_zeros(shard: Shard, offset: int) -> bool:
    return not any(shard.read(offset, shard.size - offset))


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


def _member(block: bytes, offset: int, size: int) -> Member | InputError:
    name, kind = _name(block).removeprefix("./"), block[156:157]
    if kind == DIRECTORY:
        return Member("", offset, 0)
    if kind not in REGULAR:
        return InputError("unsafe_member", f"byte {offset}: {name!r} is a link or a device (type {kind!r})")
    if name.startswith("/") or ".." in name.split("/"):
        return InputError("unsafe_member", f"byte {offset}: {name!r} leaves the shard")
    return Member(name, offset + BLOCK, size)
