"""A commit is the small JSON that makes a cell exist. It has a seal, which shows whether a JSON file is damaged."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from sys import intern
from typing import Any

SEAL = "sha256"  # key of a JSON file's digest of itself
REPEATED = ("stage", "unit", "fingerprint", "digest", "backend")  # texts that several commits or units have
SHARED = ("inputs", "counts", "reasons", "versions", "weights")  # what a commit has as a dict


@dataclass(frozen=True, slots=True)
class Part:
    """An immutable file: what is published of a shard, or a part of a cell."""

    path: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class CellPart(Part):
    """The rows or the rejects of one cell. Of a large one, a reader reads the footer first."""

    footer_bytes: int = 0  # 0: it is small, and read as a whole
    footer_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """The small JSON that makes a cell exist. `digest` covers what the cell says, not when or how it was made."""

    stage: str
    unit: str
    fingerprint: str
    digest: str
    rows: CellPart
    rejects: CellPart | None  # None: there are none
    inputs: Mapping[str, str]  # what was read -> its digest
    counts: Mapping[str, int]  # inputs, rows, skipped, failed, crashed
    attempt: str
    attempts: int
    seconds: float
    gpu_seconds: float
    versions: Mapping[str, str]
    backend: str = ""  # the setting <stage>.backend, and which model it is; "" where a stage has none
    weights: Mapping[str, str] = field(default_factory=dict)  # name -> digest of all its files
    licences: tuple[str, ...] = ()  # of the weights and of the backend's own code
    reasons: Mapping[str, int] = field(default_factory=dict)  # "kind reason" -> rejects

    def __reduce__(self) -> tuple[Any, ...]:
        """As its file: where it arrives, too, what several commits say alike is in memory once."""
        return Commit.from_json, (self.to_json(),)

    @property
    def folder(self) -> str:
        """Where its cell lies."""
        return self.rows.path.rsplit("/", 1)[0]

    @property
    def rejected(self) -> int:
        """Items that were rejected, and parts of items."""
        return sum(self.counts[kind] for kind in ("skipped", "failed", "crashed"))

    def to_json(self) -> bytes:
        """One line, with a digest of itself, so that damage is seen."""
        values = {column: getattr(self, column) for column in sorted(self.__dataclass_fields__)}
        rejects = None if self.rejects is None else asdict(self.rejects)
        return sealed({**values, "rows": asdict(self.rows), "rejects": rejects}, indent=None)

    @classmethod
    def from_json(cls, data: bytes) -> "Commit":
        """What several commits say alike is in memory once: a run has thousands of commits.

        Raises: ValueError if `data` is not, bit for bit, what `to_json` has made.
        """
        try:
            values = unsealed(data)
            known: dict[str, Any] = {**values, **{name: _once(values[name]) for name in REPEATED if name in values}}
            known |= {name: _one(tuple(values[name].items())) for name in SHARED if name in values}
            known["rows"] = CellPart(**values["rows"])
            known["rejects"] = None if values["rejects"] is None else CellPart(**values["rejects"])
            known["licences"] = _these(tuple(values.get("licences", ())))
            commit = cls(**known)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no commit: {error!r}") from error
        if data != sealed(values, indent=None) and data != sealed(values):
            raise ValueError("its layout has been changed")
        return commit


@lru_cache(256)
def _one(items: tuple[tuple[str, Any], ...]) -> Mapping[str, Any]:
    """Equal small dicts as one, of the last ones."""
    return {intern(name): _once(value) for name, value in items}


@lru_cache(256)
def _these(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Equal short lists of texts as one, of the last ones."""
    return tuple(map(intern, texts))


def _once(value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
    """Equal texts as one."""
    return intern(value) if isinstance(value, str) else value


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
