"""What a row of the benchmark is: two ways to compute the same, or two counts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Size = Literal["full", "toy"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two functions without arguments, and what compares their results."""

    ours: Callable[[], Any]
    peer: Callable[[], Any]
    check: Callable[[Any, Any], str]  # says how equal two results are; raises AssertionError if they are not


@dataclass(frozen=True, slots=True)
class Timed:
    """A row of which both sides run. Its ratio is the peer's time divided by ours."""

    number: str
    what: str
    peer: str
    at_least: float
    make: Callable[[Size, Path, str], AbstractContextManager[Pair] | Iterator[Pair]]  # size, empty folder, device
    pairs: int = 5  # runs of each side that count; 0: memory alone
    memory: bool = False  # whether each side also runs once in a process of its own, whose memory is looked at
    gpu: bool = False  # whether it is a row of `make gpu`


@dataclass(frozen=True, slots=True)
class Counted:
    """A row of which nothing runs. Its ratio is the peer's count divided by ours."""

    number: str
    what: str
    peer: str
    at_least: float | None
    unit: str
    count: Callable[[], tuple[float, float]]  # ours, the peer's


@dataclass(frozen=True, slots=True)
class Grown:
    """A row of ours alone: how a figure grows. Its ratio is the exponent."""

    number: str
    what: str
    run: Callable[[Path], dict[str, Any]]  # in an empty folder; it has `exponent`
