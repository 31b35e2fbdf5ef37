"""Every error of the library.

Anything3DError              has a `reason` (a code that can be counted) and a message (for people)
├── InputError               the photo, mask, annotation or shard breaks its format
├── Skipped                  the item is sound, the policy does not want it
├── NumericsError            a computation ended in NaN, fog or an empty surface
├── ConfigError              a setting is unknown or out of range
├── WeightsError             a weights file is missing, damaged or of another architecture
└── MachineError             memory, storage, network, device or operating system failed

The first three concern one item and become its Reject. The last three concern the run and stop it: there is no commit.
"""

from typing import ClassVar, Literal

Kind = Literal["skipped", "failed", "crashed"]


class Anything3DError(Exception):
    """What was wrong, the value, what was allowed, what to do. `reason` is the code that reports count."""

    kind: ClassVar[Kind] = "failed"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, so that it survives pickling
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InputError(Anything3DError):
    """The photo, mask, annotation or shard breaks its format."""


class Skipped(Anything3DError):
    """The item is sound, but the policy (size, quota, overlap) does not want it."""

    kind = "skipped"


class NumericsError(Anything3DError):
    """A computation ended in NaN, fog or an empty surface."""


class ConfigError(Anything3DError):
    """A setting is unknown or out of range; the run does not start."""


class WeightsError(Anything3DError):
    """A weights file is missing, damaged or of another architecture; the run does not start."""


class MachineError(Anything3DError):
    """Memory, storage, network, device or operating system failed. This says nothing about an item: the run ends, and
    the same command tries again."""
