"""Folders of photos: what lies in one, on a local disk or in a bucket.

The location of a folder ends with `/`, or with `/**` if the folders in it are meant, too.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import PermissionDeniedError

from pipeline.location import local_folder, open_store, parse

FOLDER, DEEP = "/", "/**"  # how the location of a folder ends


@dataclass(frozen=True, slots=True)
class File:
    """A file in a folder."""

    name: str  # below the folder, with `/` between its parts
    size: int  # bytes
    tag: str  # changes when the file is written again


def is_folder(location: str) -> bool:
    """Whether the location is written as that of a folder."""
    return location.endswith((FOLDER, DEEP)) and not location.endswith("://")


def folder_of(location: str) -> str:
    """The folder itself, without its ending."""
    return location.removesuffix(DEEP).removesuffix(FOLDER)


def files(location: str) -> list[File]:
    """The files of a folder, by name. Folders in it are looked into only if its location ends with `/**`; otherwise
    their names are given, with `/` at the end.

    Raises: FileNotFoundError if there is no such folder on a local disk.
    """
    deep, local = location.endswith(DEEP), local_folder(folder_of(location))
    found = _on_disk(local, "", deep) if local else _in_bucket(folder_of(location), deep)
    return sorted(found, key=lambda file: file.name)


def has_any(folder: str) -> bool:
    """Whether a folder of a bucket has a file, in whatever depth. One that may not be listed seems to have none."""
    try:
        return bool(parse(folder).key) and bool(next(iter(obstore.list(open_store(folder))), []))
    except PermissionDeniedError:
        return False


def digest(location: str) -> str:
    """What changes when a file of the folder is added, removed or written again; "" if there is no folder."""
    try:
        known = files(location)
    except FileNotFoundError:
        return ""
    said = "".join(f"{file.name!r} {file.size} {file.tag}\n" for file in known)
    return hashlib.sha256(said.encode()).hexdigest()


def _on_disk(folder: Path, inside: str, deep: bool) -> Iterator[File]:
    for entry in os.scandir(folder / inside):
        name = f"{inside}/{entry.name}" if inside else entry.name
        link_to_folder = deep and entry.is_symlink()  # it could lead back to this one
        if os.path.isdir(entry.path) and not link_to_folder:
            yield from _on_disk(folder, name, deep) if deep else [File(f"{name}/", 0, "")]
        elif os.path.isfile(entry.path):
            said = entry.stat()
            yield File(name, said.st_size, str(said.st_mtime_ns))
        else:
            yield File(name, 0, "no file")


def _in_bucket(folder: str, deep: bool) -> Iterator[File]:
    store = open_store(folder)
    here = None if deep else obstore.list_with_delimiter(store)
    for inner in here["common_prefixes"] if here else ():
        yield File(f"{inner}/", 0, "")
    for page in [here["objects"]] if here else obstore.list(store):
        for entry in page:
            yield File(entry["path"], entry["size"], str(entry["e_tag"]))
