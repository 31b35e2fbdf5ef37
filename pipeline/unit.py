"""A unit is the part of a shard that one call of a stage works on, with what is known about it so far.

The same shard and settings always give the same units. An actor gets a unit as JSON. It holds names and digests, and
never pixels.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from pipeline.input.source import stem

SOURCES = ("shard", "truth", "world", "md5", "licence")  # inputs from outside; all others are cells


@dataclass(frozen=True, slots=True)
class Input:
    """Something a stage read or may read: where it lies, and the digest of what it says."""

    path: str  # URL of a shard or its truth, or the folder of a cell
    digest: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A shard, some images of one image list, or some objects of one object list."""

    name: str
    ids: tuple[str, ...]  # the items: the shard's name, image ids or object ids
    inputs: Mapping[str, Input] = field(default_factory=dict)  # SOURCES, then every finished stage

    def with_input(self, name: str, known: Input) -> "Unit":
        return replace(self, inputs={**self.inputs, name: known})

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Unit":
        values = json.loads(text)
        inputs = {name: Input(**value) for name, value in values["inputs"].items()}
        return cls(values["name"], tuple(values["ids"]), inputs)


def shard_of(unit: Unit) -> str:
    """The name of the shard that a unit is of."""
    return stem(unit.inputs["shard"].path)


def slices(unit: Unit, ids: Sequence[str], size: int) -> Iterator[Unit]:
    """Units of at most `size` of the items that `unit` has produced, named by what they hold."""
    for start in range(0, len(ids), size):
        items = tuple(ids[start : start + size])
        content = hashlib.sha256("\n".join(items).encode()).hexdigest()[:8]
        yield Unit(f"{items[0]}+{len(items)}-{content}", items, unit.inputs)
