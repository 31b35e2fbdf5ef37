"""Files on a local disk. They are written as a whole or not at all, and are synced when the call returns."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

COPIED_BYTES = 8 << 20  # at once, of an open file
TRIES = 5  # to open a file whose folder others remove
DRAFT = re.compile(r"draft#\d+")


def write_local(path: Path, data: bytes | BinaryIO, *, replace: bool) -> None:
    """The whole file or nothing, on the disk with the folders that lead to it when this returns.

    The bytes go to a name that the store's listings leave out (a `#` and a number at the end) and then get theirs.

    Raises: FileExistsError if there is one and it is not to be replaced.
    """
    draft = path.with_name(f"draft#{secrets.randbelow(10**12)}")
    file = _open_new(draft)
    try:
        with file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                shutil.copyfileobj(data, file, COPIED_BYTES)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _open_new(path: Path) -> BinaryIO:
    """A new file. Another process may remove its folder while that is empty; then the folder is made again."""
    for _ in range(TRIES - 1):
        with suppress(FileNotFoundError):
            _make_folder(path.parent)
            return path.open("xb")
    _make_folder(path.parent)
    return path.open("xb")


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such call for folders
            raise
    finally:
        os.close(handle)


def drafts(folder: Path) -> Iterator[Path]:
    """The drafts below a folder: those of writers at work, and those that killed ones have left."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if DRAFT.fullmatch(name))


def remove(root: Path, paths: Sequence[str]) -> None:
    """Remove files below a folder, and then the folders in which they lay, if these are empty."""
    for path in paths:
        (root / path).unlink(missing_ok=True)
    for folder in {path.rpartition("/")[0] for path in paths} - {""}:
        with suppress(OSError):  # has gone, or is in use
            (root / folder).rmdir()


def remove_empty(root: Path, folder: str) -> None:
    """Remove a folder with the empty ones in it, and those that lead to it, as far as nothing lies in them.

    The folders at the root stay.
    """
    place = root / folder
    with suppress(OSError):  # is in use
        for inner in place.iterdir() if place.exists() else ():
            with suppress(OSError):
                inner.rmdir()
        while place.parent != root:
            with suppress(FileNotFoundError):
                place.rmdir()
            place = place.parent
