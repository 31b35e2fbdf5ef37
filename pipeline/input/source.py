"""Locations: which sources a command names, and the bytes and digests of what lies at a path or a URL.

A source is a tar, a folder of photos, a Parquet file or a list of photos. Its location says which: that of a folder
ends with `/` or `/**`, that of a Parquet file with `.parquet`, and that of a list with `.txt`. All else is a tar.
"""

import glob
import hashlib
import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import obstore
from braceexpand import braceexpand
from obstore.exceptions import PermissionDeniedError

from anything3d.errors import ConfigError, SourceError
from pipeline.input import listing
from pipeline.input.listing import DEEP, FOLDER, folder_of, is_folder
from pipeline.input.shard import Shard
from pipeline.input.text import text_of
from pipeline.location import SCHEME, explained, open_store, parse, split

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of what `ray job submit` starts
MAX_NAME_BYTES = 200  # of a shard's name; cells are named after it, and file systems allow 255
MAX_LIST_BYTES = 64 << 20  # of a list of MD5s; SA-1B's has 1,000 lines
MAGIC = re.compile(r"[*?\[]")  # what makes a file name a pattern
PHOTOS = (".jpg", ".jpeg", ".png", ".webp")  # endings of names of photos, in small letters
ENDINGS = (".tar", ".parquet", ".txt")  # of names that are no folder's
PROMPTS = ".prompts.jsonl"  # ending of the file of boxes and points that lies beside a source
MD5_LINE = re.compile(r"([0-9a-fA-F]{32}) [ *](?:.*/)?([^/]+)")  # what md5sum prints


Kind = Literal["tar", "folder", "parquet", "list"]


def kind(location: str) -> Kind:
    """What a source is, as its location says."""
    if is_folder(location):
        return "folder"
    name = location.lower()
    return "parquet" if name.endswith(".parquet") else "list" if name.endswith(".txt") else "tar"


def is_photo(name: str) -> bool:
    """Whether a file or a member has the name of a photo."""
    return name.lower().endswith(PHOTOS)


def expand(patterns: list[str]) -> list[str]:
    """Locations of sources (absolute paths or URLs) of paths, URLs, globs and brace ranges, each once, in order.

    What exists under the very name that is written is meant literally, with its brackets and braces. In a URL, only the
    file name may be a pattern. A pattern stands for files, and for folders if it ends with `/`.

    Raises: ConfigError if a pattern is no location, or is relative inside a Ray job; SourceError if it matches nothing,
    or two shards have the same file name (ids would collide).
    """
    shards = [shard for pattern in patterns for shard in _spelled(pattern)]
    unique = list(dict.fromkeys(shards))
    by_stem: dict[str, str] = {}
    for shard in unique:
        if not 0 < len(stem(shard).encode()) <= MAX_NAME_BYTES:
            raise SourceError(
                "shard_names",
                f"{shard} has no usable name."
                f" A shard is known by its name, of 1 to {MAX_NAME_BYTES} bytes without its ending.",
            )
        if (other := by_stem.setdefault(stem(shard), shard)) != shard:
            raise SourceError(
                "shard_names", f"{other} and {shard} have the same name. A shard is known by its name: rename one."
            )
    return unique


def absolute(location: str) -> str:
    """The location as every node and every later command knows it: an absolute path, or the URL that it is.

    A path that begins with `~/` is in the home folder.

    Raises: ConfigError for what is no location (`pipeline.location`), or for a relative path inside a Ray job: the
    job's working folder vanishes with it.
    """
    at = parse(location)
    if at.service != "local":
        return location.removesuffix("/")
    path = os.path.expanduser(at.key)  # as a shell does where no quotes are
    if JOB in os.environ and not path.startswith("/"):
        raise ConfigError(
            "relative_path",
            f"{location!r} inside a Ray job is in a temporary copy of the working folder. Give an absolute path that"
            " all nodes see, or a URL.",
        )
    return str(Path(path).absolute())


def stem(location: str) -> str:
    """The source's name: the name of its file without the ending, or that of its folder."""
    name = file_name(folder_of(location))
    match kind(location):
        case "folder":
            return name
        case "tar":
            return name.removesuffix(".tar")
        case _:
            return name.rpartition(".")[0]


def beside(location: str, ending: str) -> str:
    """The file beside a source that has its name with another ending."""
    return f"{folder_of(location).rpartition('/')[0]}/{stem(location)}{ending}"


def file_name(location: str) -> str:
    """The last part of a location."""
    return location.rsplit("/", 1)[-1]


def digest(location: str) -> str:
    """What changes when the bytes at `location` do, and is had without reading them: of size and entity tag.

    It also changes when they are copied, moved or touched. It is "" if nothing is there.
    """
    if is_folder(location):
        return listing.digest(location)
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


def read_text(location: str) -> str:
    """The text of a small file. Raises: SourceError("no_file") if there is none; StorageError."""
    with explained(location):
        try:
            return text_of(read(location))
        except FileNotFoundError as error:
            raise SourceError("no_file", f"There is no file at {location}.") from error


def read_md5(location: str) -> dict[str, str]:
    """File name -> MD5 in hexadecimal, of a list as md5sum prints it (SA-1B's checklist.chk is one).

    Raises: SourceError if a line of the list is no MD5 and name, or contradicts another one, or there is
    no list; StorageError if its storage cannot be reached.
    """
    location = absolute(location)
    with explained(location):
        try:
            listed = Shard(location)
        except FileNotFoundError as error:
            raise SourceError("md5_list", f"There is no list at {location}.") from error
        if listed.size > MAX_LIST_BYTES:
            raise SourceError("md5_list", f"{location} has {listed.size} bytes. A list may have {MAX_LIST_BYTES}.")
        data = listed.read(0, listed.size)
    md5s: dict[str, str] = {}
    for number, line in enumerate(text_of(data).splitlines(), 1):
        if not line.strip():
            continue
        match = MD5_LINE.fullmatch(line.rstrip())
        if match is None:
            raise SourceError(
                "md5_list",
                f"{location}, line {number}: {line[:100]!r} is not <MD5, 32 hexadecimal digits>  <file name>",
            )
        if md5s.setdefault(match[2], match[1].lower()) != match[1].lower():
            raise SourceError("md5_list", f"{location}, line {number}: {match[2]} has another MD5 in an earlier line")
    if not md5s:
        raise SourceError("md5_list", f"{location} names no file. Give a list as md5sum prints it.")
    return md5s


def _spelled(pattern: str) -> list[str]:
    """The shards of one argument: the file of that very name, or what its braces and wildcards stand for."""
    if "{" not in pattern or _exists(pattern):
        return _matches(pattern)
    try:
        spelled = list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise SourceError("no_shard", f"{pattern!r} is no file, and its braces are no range: {error}") from error
    return [shard for location in spelled for shard in _matches(location)]


def _matches(pattern: str) -> list[str]:
    ending = DEEP if pattern.endswith(DEEP) else FOLDER if pattern.endswith(FOLDER) else ""
    location = absolute(pattern).removesuffix(DEEP)
    url, magic = SCHEME.match(location), MAGIC.search(file_name(location))
    if ending:
        matches = [f"{folder}{ending}" for folder in _folders(location)]
    elif (url and not magic and location.lower().endswith(ENDINGS)) or _exists(location):
        matches = [location]
    elif Path(location).is_dir() if not url else not magic and _folders(location):
        matches = [f"{location}{FOLDER}"]
    elif url:
        matches = _listed(location) if magic else [location]
    else:
        matches = _globbed(location)
    if not matches:
        what = "folder with a file in it" if ending else "file"
        raise SourceError("no_shard", f"{pattern!r} matches no {what}. Correct the path or the pattern.")
    if photos := [match for match in matches if is_photo(match)]:
        raise SourceError(
            "no_shard",
            f"{photos[0]} is a single photo. Give its folder, or a list of photos: docs/input.md says how."
            " anything3d lift-image is for one object of one photo.",
        )
    return matches


def _folders(location: str) -> list[str]:
    """The folder of that very name; on a local disk, if there is none, those that match the pattern."""
    with explained(location):
        if SCHEME.match(location):
            return [location] if listing.has_any(location) else []
        found = [location] if Path(location).is_dir() else sorted(glob.glob(location))
        return [folder for folder in found if Path(folder).is_dir()]


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
