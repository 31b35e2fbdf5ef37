"""The table of near-duplicates: which objects of a snapshot look nearly like another one of it."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class DuplicateRecord:
    """duplicates: an object whose crop looks nearly like that of an earlier object, in the order of the ids."""

    object_id: Annotated[str, "the object"]
    duplicate_of: Annotated[str, "the earlier object, which is no duplicate itself"]
    cosine: Annotated[float, "of DINOv2's embeddings of the two crops; 1: the same"]
