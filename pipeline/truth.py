"""Ground truth of the objects of a corpus: which true object a mask shows, and what that object should look like.

A function imports what needs torch when it is called, so that a wrong place costs no torch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from anything3d.errors import SourceError
from pipeline.input import source
from pipeline.location import explained
from schemas.records import ObjectRecord

if TYPE_CHECKING:
    from anything3d.quality import truth


@dataclass(frozen=True, slots=True)
class Shown:
    """The true object that a mask shows."""

    plan: "truth.ViewPlan"
    vocabulary: "truth.Vocabulary"
    item: "truth.TrueObject"
    mask_iou: float


@lru_cache(maxsize=4)
def read_truth(path: str, digest: str) -> "truth.Truth":
    """What a truth.json says; `digest` is what it was found to be when the run began.

    Raises: SourceError if it is broken, or has been written again since.
    """
    data = source.read(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise SourceError(
            "truth_changed", f"{path} is not what it was when the run began. Give the same command again."
        )
    from anything3d.quality import truth_file

    with _named(path):
        return truth_file.read(data)


def find_truth(row: ObjectRecord, known: "truth.Truth") -> Shown | None:
    """The true object that the mask shows; None where the truth has none."""
    from anything3d.photo import mask
    from anything3d.quality import truth

    image = known.images.get(row.image_id)
    if image is None:
        return None
    pixels = mask.decode(row.mask_rle, row.image_height, row.image_width)
    index = truth.match(image, pixels)
    if index is None:
        return None
    return Shown(known.plan, known.vocabulary, image.objects[index], float(truth.mask_ious(image, pixels)[index]))


def read_target(shown: Shown, truth_path: str) -> "truth.Target":
    """The true object's surface, views and solid, which lie beside truth.json.

    Raises: SourceError("bad_truth") if one is missing, broken, or not what truth.json names.
    """
    from anything3d.quality import truth

    folder, item = truth_path.rsplit("/", 1)[0], shown.item
    try:
        surface, views = source.read(f"{folder}/{item.surface}"), source.read(f"{folder}/{item.views}")
        solid = source.read(f"{folder}/{item.solid}") if item.solid else None
    except FileNotFoundError as error:
        names = " and ".join(name for name in (item.surface, item.views, item.solid) if name)
        raise SourceError("bad_truth", f"{truth_path} names {names}; one of them is missing.") from error
    with _named(truth_path):
        return truth.target(shown.plan, item, surface, views, solid)


@dataclass(frozen=True, slots=True)
class GivenTruth:
    """One truth.json that evaluate is given."""

    path: str  # absolute or a URL
    digest: str
    says: "truth.Truth"


def given_truth(location: str) -> GivenTruth:
    """The truth in a folder, or of a truth.json."""
    path = location if location.endswith(".json") else f"{location.rstrip('/')}/truth.json"
    path = source.absolute(path)
    with explained(path):
        try:
            digest = source.content_digest(path)
            return GivenTruth(path, digest, read_truth(path, digest))
        except FileNotFoundError as error:
            raise SourceError("no_truth", f"There is no {path}. Give a folder X.truth or a truth.json.") from error


def truth_by_photo(given: Sequence[GivenTruth]) -> dict[str, GivenTruth]:
    """Which truth knows a photo, by the photo's id."""
    by_photo: dict[str, GivenTruth] = {}
    for known in given:
        for image_id in known.says.images:
            if (other := by_photo.setdefault(image_id, known)) is not known:
                raise SourceError(
                    "truth_twice", f"{image_id} is in {other.path} and in {known.path}. Give one of them."
                )
    return by_photo


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Let errors say which truth.json is wrong."""
    try:
        yield
    except SourceError as error:
        raise SourceError(error.reason, f"{path}: {error.message}") from error
