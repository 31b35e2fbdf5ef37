"""The settings of the verbs, one file for each, without torch; and the ranges of settings.

A field of a Config declares its own range, as in `beams: Annotated[int, Interval(ge=1, le=64)] = 3`.

`pipeline.config.load` checks every setting before a run starts. Whoever makes a Config in Python is checked too, by
`check_ranges` in its `__post_init__`.
"""

import operator
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Interval

from anything3d.errors import ConfigError

Share = Annotated[float, Interval(ge=0, le=1)]

LIMITS = {  # of an Interval: name -> what it is in words, how a number is compared with it
    "ge": ("at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}


def check_ranges(config: object) -> None:
    """Refuse a dataclass of settings in which a number is outside its declared range. A NaN is outside of all.

    Raises: ConfigError("setting").
    """
    kind: Any = type(config)
    for entry in fields(kind):
        value = getattr(config, entry.name)
        for number, interval in _numbers(value, _annotations(kind)[entry.name]):
            if not all(compare(number, limit) for _, compare, limit in _limits(interval)):
                key = f"{kind.__name__}.{entry.name}"
                raise ConfigError("setting", f"{key} is {value}; must be {described(interval)}")


def described(interval: Interval) -> str:
    """In words, as "0 to 1" or "at least 0, below 1"."""
    if interval.ge is not None and interval.le is not None:
        return f"{interval.ge} to {interval.le}"
    return ", ".join(f"{words} {limit}" for words, _, limit in _limits(interval))


def _limits(interval: Interval) -> list[tuple[str, Any, Any]]:
    values = [(*how, getattr(interval, name)) for name, how in LIMITS.items()]
    return [entry for entry in values if entry[-1] is not None]


@cache
def _annotations(config: Any) -> dict[str, Any]:  # noqa: ANN401 - a class; cache takes what can be hashed
    return get_type_hints(config, include_extras=True)


def _numbers(value: object, annotation: object) -> Iterator[tuple[Any, Interval]]:
    """Every number of a value with its range; each number of a tuple has its own."""
    if get_origin(annotation) is Annotated:
        yield from ((value, limit) for limit in get_args(annotation)[1:] if isinstance(limit, Interval))
    elif isinstance(value, tuple):
        for part, inner in zip(value, get_args(annotation), strict=True):
            yield from _numbers(part, inner)
