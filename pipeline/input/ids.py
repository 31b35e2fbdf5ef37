"""The ids of photos whose source does not number them, and the photo that an id is of.

An SA-1B shard numbers its photos: their ids are `sa_<number>`. Any other photo gets its id from the name of its source
(tar, folder or list) and from its own name in there, with two underscores in between: `holiday__cup`. An id has
letters, digits, `-` and `_` only, and at most 64 of them. So it is safe in paths, in names of tar members, and as a
key of WebDataset, which ends at the first dot. If a name cannot be taken as it is, the id has the digest of both names
at its end, so that two names never give one id.
"""

import hashlib
import re

NUMBERED = re.compile(r"sa_\d{1,10}")  # a photo of SA-1B
MAX_ID = 64  # characters
PLAIN = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")  # a name that is taken as it is; it has no two underscores
OF_AN_OBJECT = re.compile(r"-g?\d{4,}$")  # what an object's id has behind that of its photo
ENDING = re.compile(r"\.(jpe?g|png|webp)$", re.IGNORECASE)
KEPT = 24  # characters of each name before a digest


def photo_id(source: str, name: str, *, unique: bool = True) -> str:
    """The id of the photo `name` of a source; `unique`: the source has no second photo of that name."""
    whole = f"{source}__{name}"
    plain = PLAIN.fullmatch(source) and PLAIN.fullmatch(name) and not OF_AN_OBJECT.search(whole)
    if unique and plain and len(whole) <= MAX_ID:
        return whole
    digest = hashlib.sha256(f"{source}\0{name}".encode(errors="surrogateescape")).hexdigest()[:12]
    return f"{_cleaned(source)}__{_cleaned(name)}_{digest}"


def image_of(item: str) -> str:
    """The image that an id is of: its own, or that of the image that the object is in."""
    return OF_AN_OBJECT.sub("", item)


def _cleaned(name: str) -> str:
    """What can be kept of a name, without folders and the ending of a photo."""
    words = re.findall(r"[A-Za-z0-9]+", ENDING.sub("", name.rpartition("/")[2]))
    return "_".join(words)[:KEPT].strip("_") or "x"
