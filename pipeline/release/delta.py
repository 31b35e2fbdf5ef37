"""shards/_delta_log: the tables of objects as a table of Delta Lake, whose versions are the snapshots of the corpus.

The log names the Parquet files in shards/ as they lie there; no row is copied. So the root of the Delta table is the
folder shards/. Each version is written put-if-absent, like a snapshot. Its `commitInfo` says which snapshot it shows.

Nothing but the log is written here, as JSON after Delta's protocol. The package `deltalake` could add the files, but
not take single ones out, and it would need the credentials of a bucket in a form of its own.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from anything3d.errors import SourceError
from pipeline.commit import Part
from pipeline.release.snapshot import Snapshot, numbers, read_snapshot
from pipeline.store import Store
from schemas.arrow import objects_schema

ROOT = "shards"
LOG = f"{ROOT}/_delta_log"
VERSION = re.compile(rf"{LOG}/(\d{{20}})\.json")
TYPES = {pa.string(): "string", pa.int64(): "long", pa.float64(): "double", pa.bool_(): "boolean"}  # Arrow -> Delta


@dataclass(slots=True)
class Table:
    """What the log says, version by version."""

    next_version: int = 0
    snapshot: int = 0  # the newest one that has a version
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    schema: str = ""  # of the newest version, as JSON
    files: set[str] = field(default_factory=set)  # of the newest version, as the log writes their paths

    def follow(self, data: bytes) -> None:
        """Take the next version. Raises: ValueError, KeyError, TypeError or AttributeError if it is none."""
        for line in data.splitlines():
            action = json.loads(line)
            if "metaData" in action:
                self.id, self.schema = action["metaData"]["id"], action["metaData"]["schemaString"]
            if "add" in action:
                self.files.add(action["add"]["path"])
            if "remove" in action:
                self.files.discard(action["remove"]["path"])
            self.snapshot = max(self.snapshot, action.get("commitInfo", {}).get("snapshot", 0))
        self.next_version += 1


def write_log(store: Store) -> tuple[int, int]:
    """Let every snapshot that can be read have a version; how many were new, and the number of the newest version.

    Raises: SourceError("delta_log") if the log is damaged, or a part of it has gone.
    """
    table, new = read_log(store), 0
    for number in reversed(numbers(store)):
        snapshot = read_snapshot(store, number) if number > table.snapshot else None
        while snapshot is not None and number > table.snapshot:
            data = version_of(table, snapshot)
            if store.create(f"{LOG}/{table.next_version:020d}.json", data) == data:
                table.follow(data)
                new += 1
            else:  # another command was faster
                table = read_log(store)
    return new, table.next_version - 1


def read_log(store: Store) -> Table:
    """What the log says by now; an empty table if there is none. Raises: as `write_log`."""
    table = Table()
    for path in [path for path in store.paths(LOG) if VERSION.fullmatch(path)]:
        try:
            if path != f"{LOG}/{table.next_version:020d}.json":
                raise ValueError(f"version {table.next_version} has gone")
            table.follow(store.read(path))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(
                "delta_log", f"{store.root}/{path}: {error}. Remove the folder {LOG} and give the command again."
            ) from error
    return table


def version_of(table: Table, snapshot: Snapshot) -> bytes:
    """The JSON of a version that turns the table to a snapshot: only what differs is added and removed."""
    now = int(datetime.fromisoformat(snapshot.date).timestamp() * 1000)
    parts = {_written(one.tables["objects"]): one.tables["objects"] for one in snapshot.partitions.values()}
    actions: list[Mapping[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now,
                "operation": "WRITE",
                "operationParameters": {"mode": "Overwrite"},
                "engineInfo": "anything3d",
                "snapshot": snapshot.number,
            }
        }
    ]
    if table.next_version == 0:
        actions.append({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}})
    if table.schema != (schema := schema_string()):
        actions.append({"metaData": _metadata(table.id, schema, now)})
    removed = sorted(table.files - parts.keys())
    actions += [{"remove": {"path": path, "deletionTimestamp": now, "dataChange": True}} for path in removed]
    actions += [{"add": _added(path, part, now)} for path, part in parts.items() if path not in table.files]
    return b"".join(json.dumps(action).encode() + b"\n" for action in actions)


def schema_string() -> str:
    """The columns of objects/*.parquet in Delta's words. A table of an older version may lack some: they are null."""
    columns = [
        {
            "name": column.name,
            "type": TYPES[column.type],
            "nullable": True,
            "metadata": {"comment": column.metadata[b"about"].decode()},
        }
        for column in objects_schema()
    ]
    return json.dumps({"type": "struct", "fields": columns})


def _written(part: Part) -> str:
    """The path of a table as the log writes it: relative to ROOT, and encoded as in a URL."""
    return quote(part.path.removeprefix(f"{ROOT}/"))


def _metadata(name: str, schema: str, now: int) -> dict[str, Any]:
    return {
        "id": name,
        "name": "objects",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": schema,
        "partitionColumns": [],
        "configuration": {"delta.enableExpiredLogCleanup": "false"},  # all versions are needed to write the next one
        "createdTime": now,
    }


def _added(path: str, part: Part, now: int) -> dict[str, Any]:
    return {
        "path": path,
        "partitionValues": {},
        "size": part.bytes,
        "modificationTime": now,
        "dataChange": True,
        "stats": json.dumps({"numRecords": part.rows}),
    }
