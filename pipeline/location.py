"""A location is what a person writes for a corpus, a shard or a truth. It is taken exactly as written, or refused.

A location is a path of the local file system, or `s3://bucket/key`, `gs://bucket/key`, `az://container/key`. Nothing in
it is decoded or cut off: `#`, `?`, `%20`, a space and `[` are characters of the key. `file:///path` means the path
/path, also exactly as written. Credentials, endpoints and the name of an Azure account come from the environment.
"""

import io
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from anything3d.errors import ConfigError, StorageError

SERVICES: dict[str, Literal["s3", "gs", "az"]] = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "az": "az",
    "azure": "az",
    "adl": "az",
    "abfs": "az",
    "abfss": "az",
}  # scheme of a URL -> who stores it
SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
ONE_SLASH = re.compile(rf"^({'|'.join(SERVICES)}|file|https?):", re.IGNORECASE)  # s3:/bucket: a slip, hardly a folder
BUCKET = re.compile(r"^\$?[A-Za-z0-9][A-Za-z0-9._-]*$")
ACCOUNT = re.compile(r"^([A-Za-z0-9._-]+)@([a-z0-9]+)\.(?:dfs|blob)\.core\.windows\.net$")  # abfss://container@account
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control, half a character, ends of lines
SUPPORTED = "a local path, s3://bucket/key, gs://bucket/key or az://container/key"


@dataclass(frozen=True, slots=True)
class Location:
    """A location in its parts. For a local one, `key` is the path and there is no bucket."""

    service: Literal["local", "s3", "gs", "az"]
    bucket: str
    key: str  # without slashes at its ends, if not local; "" is the whole bucket
    account: str = ""  # of Azure, where the location names one


def parse(location: str) -> Location:
    """The parts of a location, each exactly as it is written.

    Raises: ConfigError("location") if it is empty, has a control character, an unknown scheme or no bucket, or its key
    cannot be addressed.
    """
    if not location.strip():
        raise _refused(location, f"is empty; give {SUPPORTED}")
    if any(unicodedata.category(character) in UNPRINTABLE for character in location):
        raise _refused(location, "has a control character, or bytes that are not UTF-8")
    scheme = SCHEME.match(location)
    if scheme is None:
        if ONE_SLASH.match(location):
            raise _refused(location, f"has no // behind its scheme; give {SUPPORTED}")
        return Location("local", "", location)
    rest = location[scheme.end() :]
    if scheme[1].lower() == "file":
        if not rest.startswith("/"):
            raise _refused(location, "names no absolute path; write file:///folder/name, or the path alone")
        return Location("local", "", rest)
    service = SERVICES.get(scheme[1].lower())
    if service is None:
        raise _refused(location, f"{scheme[1]}:// is not supported; give {SUPPORTED}")
    place, _, key = rest.partition("/")
    bucket, account = place, ""
    if service == "az" and (named := ACCOUNT.match(place)):
        bucket, account = named[1], named[2]
    if not BUCKET.match(bucket):
        raise _refused(location, f"{bucket!r} is no name of a bucket; give {SUPPORTED}")
    key = key.removesuffix("/")
    if key and any(part in ("", ".", "..") for part in key.split("/")):
        raise _refused(location, "a key with an empty part, '.' or '..' between slashes cannot be addressed")
    return Location(service, bucket, key, account)


def split(location: str) -> tuple[str, str]:
    """The folder of a file, and its name.

    Raises: ConfigError("location") as `parse`, or if it names no file.
    """
    parsed = parse(location)
    whole = parsed.key if parsed.service == "local" else location
    folder, slash, name = whole.rpartition("/")
    if name in ("", ".", "..") or not parsed.key:
        raise _refused(location, "names no file")
    return folder or slash or ".", name


def open_store(location: str, *, create: bool = False) -> obstore.store.ObjectStore:
    """The object store at a location; credentials come from the environment.

    Raises: ConfigError("location"); FileNotFoundError for a local folder that is not there, unless `create`.
    """
    at = parse(location)
    if at.service == "s3":
        return S3Store(at.bucket, prefix=at.key or None)
    if at.service == "gs":
        return GCSStore(at.bucket, prefix=at.key or None)
    if at.service == "az":
        if at.account:
            return AzureStore(at.bucket, prefix=at.key or None, account_name=at.account)
        return AzureStore(at.bucket, prefix=at.key or None)
    folder = Path(at.key).absolute()
    if not create and not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    return LocalStore(folder, mkdir=create)


def local_folder(location: str) -> Path | None:
    """The folder that a location names on a local disk; None if it lies elsewhere."""
    at = parse(location)
    return Path(at.key).absolute() if at.service == "local" else None


@contextmanager
def explained(location: str) -> Iterator[None]:
    """Turns what the storage says of `location` into one line for people.

    Raises: StorageError("storage").
    """
    try:
        yield
    except (BaseError, OSError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise StorageError(
            "storage",
            f"{location}: {said}."
            " Check that there is such a place, and that the credentials in the environment reach it.",
        ) from error


def _refused(location: str, why: str) -> ConfigError:
    return ConfigError("location", f"{location!r}: {why}")


class StoredFile(io.RawIOBase):
    """obstore's reader as a Python file: Arrow asks for `closed`, which obstore's own lacks."""

    def __init__(self, reader: "obstore.ReadableFile") -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return bytes(self._reader.read(None if size < 0 else size))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()
