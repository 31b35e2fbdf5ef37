"""`python -m jobs.docs`: write the pages of docs/ that are made from the code, in the checkout that this file is in."""

from collections.abc import Mapping
from pathlib import Path

from anything3d import reasons
from jobs import settings

DOCS = Path(__file__).parent.parent / "docs"


def pages() -> Mapping[str, str]:
    """Name of a page of docs/ -> its text. A test fails when a page is not what this says."""
    return {"settings.md": settings.page(), "reasons.md": reasons.page()}


def main() -> None:
    """Write them all."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"written: {DOCS / name}")


if __name__ == "__main__":
    main()
