"""Single random numbers and choices from a torch generator."""

from collections.abc import Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Uniform in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """Uniform in low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def pick(generator: torch.Generator, items: Sequence[T]) -> T:
    """One of `items`, each alike."""
    return items[integer(generator, 0, len(items) - 1)]


def chance(generator: torch.Generator, probability: float) -> bool:
    return uniform(generator, 0, 1) < probability
