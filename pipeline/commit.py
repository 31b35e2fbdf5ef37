"""A commit is the small JSON that makes a cell exist. It has a seal, which shows whether a JSON file is damaged."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SEAL = "sha256"  # key of a JSON file's digest of itself


@dataclass(frozen=True, slots=True)
class Part:
    """An immutable file: the rows or the rejects of one cell, or what is published of a shard."""

    path: str
    bytes: int
    sha256: str
    rows: int
    # Of a large part of a cell, of which a reader reads the footer first. 0 and "": it is read as a whole.
    footer_bytes: int = 0
    footer_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """The small JSON that makes a cell exist. `digest` covers what the cell says, not when or how it was made."""

    stage: str
    unit: str
    fingerprint: str
    digest: str
    rows: Part
    rejects: Part | None  # None: there are none
    inputs: dict[str, str]  # what was read -> its digest
    counts: dict[str, int]  # inputs, rows, skipped, failed, crashed
    attempt: str
    attempts: int
    seconds: float
    gpu_seconds: float
    versions: dict[str, str]
    backend: str = ""  # the setting <stage>.backend; "" where a stage has none
    weights: dict[str, str] = field(default_factory=dict)  # name -> digest of all its files
    licences: list[str] = field(default_factory=list)  # of the weights and of the backend's own code

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
            rejects = None if values["rejects"] is None else Part(**values["rejects"])
            commit = cls(**{**values, "rows": Part(**values["rows"]), "rejects": rejects})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no commit: {error!r}") from error
        if sealed(values) != data:
            raise ValueError("its layout has been changed")
        return commit


def sealed(body: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """As JSON, with a digest of itself at its end, so that damage is seen."""
    return json.dumps({**body, SEAL: _digest(body)}, indent=indent).encode() + b"\n"


def unsealed(data: bytes) -> dict[str, Any]:
    """The body of `sealed`. Raises: ValueError if there is none, or its digest is that of another body."""
    body = json.loads(data)
    if not isinstance(body, dict) or body.get(SEAL) != _digest({key: body[key] for key in body if key != SEAL}):
        raise ValueError("its digest is missing, or that of another text")
    del body[SEAL]
    return body


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
