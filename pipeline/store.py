"""The corpus root: immutable parts and the commits that make them exist, on local disk, S3, GCS or Azure.

A commit is written put-if-absent, so of any number of writers exactly one wins and the others adopt what it wrote.
Readers start from commits, never from listings of parts. Nothing here deletes a part.

What is read is compared with the digests that the commit states. A cell that is found damaged loses its commit, which
is kept beside it as damaged-*.json, and so is computed again. On a local disk a file counts when it and its folder have
reached the disk.
"""

import errno
import hashlib
import io
import json
import logging
import os
import re
import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, BaseError

from anything3d.errors import ConfigError, DamagedCell, SourceError, StorageError
from pipeline.location import local_folder, open_store
from schemas.arrow import from_table, to_table

log = logging.getLogger(__name__)
R = TypeVar("R")
ROWS_PER_GROUP = 8  # of a part: what a reader of a few objects has to decode around them
WHOLE_BYTES = 4 << 20  # of a part; a larger one is not read whole for one column
SEAL = "sha256"  # key of a JSON file's digest of itself
MARKER = "corpus.json"  # what makes a place a corpus
ABOUT = "a corpus of anything3d"
PROBE, PROBED = "probe.txt", b"This file was written to see that the storage has put-if-absent.\n"
FORMAT = 1  # of the corpus, as MARKER says it
FIRST_CELLS = "cells/index/"  # what any corpus has, with or without a sound marker


@dataclass(frozen=True, slots=True)
class Part:
    """An immutable Parquet file of one cell."""

    path: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The small JSON that makes a cell exist. `digest` covers what the cell says, not when or how it was made."""

    stage: str
    unit: str
    fingerprint: str
    digest: str
    rows: Part
    rejects: Part
    inputs: dict[str, str]  # what was read -> its digest
    counts: dict[str, int]  # inputs, rows, skipped, failed, crashed
    attempt: str
    attempts: int
    seconds: float
    gpu_seconds: float
    versions: dict[str, str]

    @property
    def folder(self) -> str:
        """Where its cell lies."""
        return self.rows.path.rsplit("/", 1)[0]

    def to_json(self) -> bytes:
        """With a digest of itself, so that damage is seen."""
        return sealed(dict(sorted(asdict(self).items())))

    @classmethod
    def from_json(cls, data: bytes) -> "Commit":
        """Raises: ValueError if `data` is not, bit for bit, what `to_json` has made."""
        try:
            values = unsealed(data)
            commit = cls(**{**values, "rows": Part(**values["rows"]), "rejects": Part(**values["rejects"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no commit: {error!r}") from error
        if commit.to_json() != data:
            raise ValueError("its layout has been changed")
        return commit


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing says of a file."""

    bytes: int
    modified: datetime  # by the store's clock


class Store:
    """One corpus. All paths are relative to its root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._store = open_store(root, create=True)
        self._folder = local_folder(root)  # None: not on a local disk
        self._probed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.root,)

    def check(self) -> None:
        """Make an empty place a corpus; see that any other one is a corpus, and that it keeps its promises.

        Raises: ConfigError("place_in_use") if something else lies here, SourceError("corpus_format") if it is a corpus
        of another format, StorageError("put_if_absent") if the storage has no put-if-absent; whatever the storage
        raises if nothing can be seen here: no such bucket, no right, no network.
        """
        marker = self.find(MARKER)
        if marker is None or not _is_ours(marker):
            names = {str(entry["path"]) for entry in next(iter(obstore.list(self._store)), [])} - {PROBE}
            if names and not any(path.endswith("/commit.json") for path in self._some(FIRST_CELLS)):
                marker = self.find(MARKER)  # of another run, that began just now
                if marker is None or not _is_ours(marker):
                    raise ConfigError(
                        "place_in_use",
                        f"{self.root} is no corpus and not empty: it has {', '.join(sorted(names)[:3])}"
                        f"{', ...' if len(names) > 3 else ''}; give a new or an empty folder as --out",
                    )
            else:
                marker = json.dumps({"about": ABOUT, "format": FORMAT}).encode() + b"\n"
                self.write(MARKER, marker)
        if (known := json.loads(marker)["format"]) != FORMAT:
            raise SourceError(
                "corpus_format", f"{self.root} has format {known}, this version writes {FORMAT}; give another --out"
            )
        self._probe()

    # plain objects

    def read(self, path: str) -> bytes:
        return bytes(obstore.get(self._store, path).bytes())

    def find(self, path: str) -> bytes | None:
        """The bytes at `path`, or None if there is nothing."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        if self._folder:
            _write_local(self._folder / path, data, replace=True)
        else:
            obstore.put(self._store, path, data)

    def create(self, path: str, data: bytes) -> bytes:
        """Put if absent: returns what lies at `path` afterwards, ours or the winner's.

        Raises: StorageError("put_if_absent") if the storage has no such thing.
        """
        self._probe()
        return data if self._put_if_absent(path, data) else self.read(path)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete the files; those that have gone already are no error."""
        if not paths:
            return
        try:
            obstore.delete(self._store, list(paths))
        except FileNotFoundError:  # the storage stops at the first that has gone
            for path in paths:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, [path])

    def paths(self, prefix: str) -> list[str]:
        return sorted(self.entries(prefix))

    def entries(self, prefix: str) -> dict[str, Entry]:
        """What lies below a folder, by path."""
        found: Iterable[Sequence[Any]] = obstore.list(self._store, prefix=prefix)
        return {entry["path"]: Entry(entry["size"], entry["last_modified"]) for page in found for entry in page}

    def size(self, path: str) -> int | None:
        """Bytes of the file at `path`; None if there is none."""
        try:
            return int(obstore.head(self._store, path)["size"])
        except FileNotFoundError:
            return None

    def _some(self, prefix: str) -> list[str]:
        """The first page of what lies below a folder."""
        return [entry["path"] for entry in next(iter(obstore.list(self._store, prefix=prefix)), [])]

    def _put_if_absent(self, path: str, data: bytes) -> bool:
        """Whether it was absent, and now is `data`."""
        try:
            if self._folder:
                _write_local(self._folder / path, data, replace=False)
            else:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, FileExistsError):
            return False
        return True

    def _probe(self) -> None:
        """Try once whether the storage keeps the promise that all commits stand on."""
        if self._probed:
            return
        refusal = f"{self.root}: this storage has no put-if-absent (If-None-Match); two runs could overwrite each other"
        try:  # the first may find the file of an earlier probe; the second must find one
            self._put_if_absent(PROBE, PROBED)
            honest = not self._put_if_absent(PROBE, PROBED)
        except NotImplementedError as error:
            raise StorageError("put_if_absent", refusal) from error
        except BaseError as error:
            if not re.search(r"NotImplemented|\b501 Not Implemented", str(error)):
                raise
            raise StorageError("put_if_absent", refusal) from error
        if not honest:
            raise StorageError("put_if_absent", refusal)
        self._probed = True

    # parts

    def write_part(self, folder: str, kind: str, rows: Sequence[Any], record: type[Any]) -> Part:
        """A new immutable Parquet file in `folder`; equal rows give equal bytes."""
        data = parquet_bytes(to_table(rows, record))
        part = Part(
            f"{folder}/{kind}-{uuid.uuid4().hex}.parquet", len(data), hashlib.sha256(data).hexdigest(), len(rows)
        )
        self.write(part.path, data)
        return part

    def read_part(self, part: Part, record: type[R], ids: Iterable[str] | None = None) -> list[R]:
        """The rows of a part as `record`s: all, or those whose first column is in `ids` (other groups stay undecoded).

        Raises: DamagedCell if the part is not what its commit says.
        """
        columns = list(record.__dataclass_fields__)  # type: ignore[attr-defined]
        file = self._sound(part)
        if ids is None:
            return from_table(file.read(columns=columns), record)
        wanted = set(ids)
        key = columns[0]
        groups = [
            group
            for group in range(file.num_row_groups)
            if not wanted.isdisjoint(file.read_row_group(group, columns=[key]).column(0).to_pylist())
        ]
        rows = from_table(file.read_row_groups(groups, columns=columns), record)
        return [row for row in rows if getattr(row, key) in wanted]

    def read_part_table(self, part: Part) -> pa.Table:
        """All columns of a part. Raises: DamagedCell as `read_part`."""
        return self._sound(part).read()

    def read_column(self, part: Part, column: str) -> list[Any]:
        """One column of a part. Of a large part only that column is read, whose pages have checksums of their own.

        Raises: DamagedCell as `read_part`.
        """
        if part.bytes > WHOLE_BYTES:
            try:
                with self._ranged(part.path) as file:
                    values = file.read(columns=[column]).column(0).to_pylist()
                if len(values) == part.rows:
                    return values
            except (pa.ArrowException, OSError, BaseError, ValueError, LookupError) as error:
                log.warning("%s/%s: %s; reading all of it", self.root, part.path, error)
        return self._sound(part).read(columns=[column]).column(0).to_pylist()

    def read_table(self, path: str) -> pa.Table:
        """A Parquet file that belongs to no cell."""
        with self._ranged(path) as file:
            return file.read()

    def _sound(self, part: Part) -> pq.ParquetFile:
        """A part whose bytes are those that the commit states; read twice before it is called damaged."""
        wrong = ""
        for _ in range(2):
            data = self.find(part.path)
            if data is not None and len(data) == part.bytes and hashlib.sha256(data).hexdigest() == part.sha256:
                return pq.ParquetFile(pa.BufferReader(data))
            wrong = "has gone" if data is None else f"is damaged ({len(data)} bytes, {part.bytes} were written)"
        folder = part.path.rpartition("/")[0]
        self._set_commit_aside(folder, part)
        raise DamagedCell("damaged_part", f"{self.root}/{part.path} {wrong}; {folder} has to be computed again")

    def _ranged(self, path: str) -> pq.ParquetFile:
        source = pa.PythonFile(_Reader(obstore.open_reader(self._store, path)), mode="r")
        return pq.ParquetFile(source, page_checksum_verification=True)

    # commits

    def commit_at(self, folder: str) -> Commit | None:
        """The commit of the cell in `folder`; None if there is none. One that is damaged is set aside, and said."""
        path = f"{folder}/commit.json"
        data = self.find(path)
        if data is None:
            return None
        try:
            return Commit.from_json(data)
        except ValueError as error:
            log.warning("%s/%s is damaged (%s); its cell will be computed again", self.root, path, error)
            self._set_aside(path, data)
            return None

    def create_commit(self, folder: str, commit: Commit) -> Commit:
        """Put the commit if there is none; the one that stands."""
        path = f"{folder}/commit.json"
        stands = self.create(path, commit.to_json())
        try:
            return Commit.from_json(stands)
        except ValueError as error:
            self._set_aside(path, stands)
            raise DamagedCell("damaged_commit", f"{self.root}/{path}: {error}") from error

    def _set_commit_aside(self, folder: str, part: Part) -> None:
        """If the commit still names the damaged part: somebody else may have computed the cell again."""
        commit = self.commit_at(folder)
        if commit is not None and part in (commit.rows, commit.rejects):
            self._set_aside(f"{folder}/commit.json", commit.to_json())

    def _set_aside(self, path: str, data: bytes) -> None:
        self.write(f"{path.rpartition('/')[0]}/damaged-{uuid.uuid4().hex}.json", data)
        if self.find(path) == data:
            self.delete([path])


class _Reader(io.RawIOBase):
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


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file; binary columns are stored as they are (they hold compressed formats)."""
    sink = pa.BufferOutputStream()
    compression = {field.name: "NONE" if pa.types.is_binary(field.type) else "ZSTD" for field in table.schema}
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression=compression,
        use_dictionary=False,
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


def sealed(body: Mapping[str, Any]) -> bytes:
    """As JSON, with a digest of itself at its end, so that damage is seen."""
    return json.dumps({**body, SEAL: _digest(body)}, indent=1).encode() + b"\n"


def unsealed(data: bytes) -> dict[str, Any]:
    """The body of `sealed`. Raises: ValueError if there is none, or its digest is that of another body."""
    body = json.loads(data)
    if not isinstance(body, dict) or body.get(SEAL) != _digest({key: body[key] for key in body if key != SEAL}):
        raise ValueError("its digest is missing, or that of another text")
    del body[SEAL]
    return body


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _write_local(path: Path, data: bytes, *, replace: bool) -> None:
    """The whole file or nothing, on the disk with the folders that lead to it when this returns.

    The bytes go to a name that the store's listings leave out (a `#` and a number at the end) and then get theirs.

    Raises: FileExistsError if there is one and it is not to be replaced.
    """
    _make_folder(path.parent)
    draft = path.with_name(f"draft#{secrets.randbelow(10**12)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


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


def _is_ours(marker: bytes) -> bool:
    """Whether that is the marker of a corpus, of whatever format."""
    try:
        says = json.loads(marker)
        return says["about"] == ABOUT and isinstance(says["format"], int)
    except (ValueError, KeyError, TypeError):
        return False
