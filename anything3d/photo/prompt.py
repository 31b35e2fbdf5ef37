"""Boxes and points with which SAM is prompted for a photo that has no annotations."""

import json
import math
from dataclasses import dataclass
from typing import Any

from anything3d.errors import InputError

MAX_PROMPTS = 10_000  # of one photo
LENGTHS = {"boxes": 4, "points": 2}  # numbers of each


@dataclass(frozen=True, slots=True)
class Prompt:
    """A box (x, y, width, height) or a point (x, y), in pixels of the photo. `index` names the object."""

    index: int
    at: tuple[float, ...]


def parse_prompts(text: str) -> dict[str, list[Prompt]]:
    """`boxes` and `points` of a photo, from JSON.

    Raises: InputError("bad_prompts") if one of them is no list of so many finite numbers.
    """
    said = json.loads(text)
    return {kind: _prompts(kind, said[kind], length) for kind, length in LENGTHS.items()}


def _prompts(kind: str, said: Any, length: int) -> list[Prompt]:  # noqa: ANN401 - whatever the file says
    if not isinstance(said, list) or len(said) > MAX_PROMPTS:
        raise InputError("bad_prompts", f"{kind} is no list of at most {MAX_PROMPTS}")
    for value in said:
        numbers = isinstance(value, list) and len(value) == length and all(map(_is_finite, value))
        if not numbers:
            raise InputError("bad_prompts", f"{kind} has {str(value)[:80]}; {length} finite numbers expected")
    return [Prompt(index, tuple(map(float, value))) for index, value in enumerate(said)]


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 2**31 and math.isfinite(value)  # type: ignore[arg-type]
