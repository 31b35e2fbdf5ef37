"""What every reason code means, and what to do about it. `reasons.toml` has the text, in groups.

A reason is the code of a reject, or the first word of the line with which a command ends.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ABOUT = """\
# Reasons

This page is made by `python -m jobs.docs` from `anything3d/reasons.toml`. Change that file, not this page.

A reason is a short code. Two places show it: the column `reason` of `rejects/*.parquet`, beside a message on that very
item, and the line with which a command ends (`anything3d: <reason>: <message>`).
"""


@dataclass(frozen=True, slots=True)
class Reason:
    """One code in words, each of them whole sentences."""

    meaning: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Group:
    """The reasons that occur at one place; `about` says where, and how the command ends."""

    title: str
    about: str
    reasons: Mapping[str, Reason]  # by code


def _read(text: str) -> tuple[Group, ...]:
    return tuple(
        Group(group["title"], group["about"], {code: Reason(*words) for code, words in group["reasons"].items()})
        for group in tomllib.loads(text)["group"]
    )


GROUPS = _read(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
REASONS = {code: reason for group in GROUPS for code, reason in group.reasons.items()}


def page() -> str:
    """docs/reasons.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield ABOUT.rstrip()
    for group in GROUPS:
        yield f"\n## {group.title}\n{group.about}\n"
        yield "| reason | what it means | what to do |"
        yield "|---|---|---|"
        for code, reason in group.reasons.items():
            yield f"| `{code}` | {reason.meaning} | {reason.remedy} |"
