"""Every error of Anything-3D. The class says whom an error concerns, and so what a caller can do.

Anything3DError          has a `reason`, which is a code of docs/reasons.md, and a message for people
│
│   One item is concerned. The item becomes a reject with this reason, and the run goes on.
├── InputError           the bytes of a shard, a photo, an annotation, a mask or another file break their format
├── Skipped              the item is sound, but the policy does not want it
├── NumericsError        a computation ended in NaN, in fog or in an empty surface
├── Crashed              the item killed the process that worked on it
│
│   The request is concerned. What was asked for is impossible: exit code 2.
├── ConfigError          a setting or an argument is unknown, out of range or impossible here
├── SourceError          a shard, a corpus, a truth or a list that was named is missing, damaged or does not fit
├── StorageError         a location cannot be reached, or its storage cannot hold a corpus
├── WeightsError         weights are missing, damaged, unsupported, or give NaN for every item
│
│   The machine is concerned. The same command can be given again: exit code 4.
├── MachineError         memory, storage, network, device, Ray or operating system failed during the work
│   ├── OutOfMemory      the memory of the machine or of its device does not suffice for a call
│   ├── DeviceLost       the device has failed, and with it every later call in the same process
│   └── DamagedCell      a commit or a part of a corpus is damaged or has gone; the next run computes it again
│
│   What came out is concerned. What is finished is published, unless a gate refuses it.
├── TooFew               more of the items of a run failed than the command allows: exit code 3
│   └── NoObject         a run made no object at all: exit code 7
├── LimitReached         a run has used as many GPU-hours, or as much money, as it may: exit code 5
├── GateRefused          a gate of the nightly run refuses what was made: exit code 6
│
│   We are concerned: exit code 1.
└── Bug                  this program has a fault: an item was lost, or a stage raised what it must not raise

A command that lifts a single photo ends with exit code 2 for the first four, too: there is no other item.
"""

from typing import ClassVar, Literal

Kind = Literal["skipped", "failed", "crashed"]


class Anything3DError(Exception):
    """What was wrong, the value, what is allowed, what to do. `reason` is the code that reports count."""

    kind: ClassVar[Kind] = "failed"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, so that it survives pickling
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InputError(Anything3DError):
    """The bytes of a shard, a photo, an annotation, a mask or another file break their format."""


class Skipped(Anything3DError):
    """The item is sound, but the policy (size, quota, overlap) does not want it."""

    kind = "skipped"


class NumericsError(Anything3DError):
    """A computation ended in NaN, in fog or in an empty surface."""


class Crashed(Anything3DError):
    """The item killed the process that worked on it, whenever it was in there alone."""

    kind = "crashed"


class ConfigError(Anything3DError):
    """A setting or an argument is unknown, out of range or impossible here. The run does not start."""


class SourceError(Anything3DError):
    """A shard, a corpus, a truth or a list that was named is missing, damaged or does not fit. The run ends."""


class StorageError(Anything3DError):
    """A location cannot be reached, or its storage cannot hold a corpus. The run does not start."""


class WeightsError(Anything3DError):
    """Weights are missing, damaged, unsupported, or give NaN for every item. The run ends."""


class MachineError(Anything3DError):
    """Memory, storage, network, device, Ray or operating system failed. This says nothing about an item: nothing is
    committed, the run ends, and the same command tries again."""


class OutOfMemory(MachineError):
    """The memory of the machine or of its device does not suffice for a call."""


class DeviceLost(MachineError):
    """The device has failed, and with it every later call in the same process."""


class DamagedCell(MachineError):
    """A commit or a part is damaged or has gone. Its commit has been set aside, so that the cell is computed again."""


class TooFew(Anything3DError):
    """A run has ended, but more of its items failed than the command allows."""


class NoObject(TooFew):
    """A run has ended, but it made no object at all."""


class LimitReached(Anything3DError):
    """A run has used as many GPU-hours, or as much money, as the command allows. Giving it again continues."""


class GateRefused(Anything3DError):
    """What was made does not pass a gate of the nightly run. The old snapshot stays in place."""


class Bug(Anything3DError):
    """This program has a fault: an item was lost, or a stage raised what it must not raise."""
