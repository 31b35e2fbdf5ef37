"""The place of a corpus: empty, or a corpus already. Nothing is written into a place that is somebody else's."""

import json

from anything3d.errors import ConfigError, SourceError
from pipeline.store import PROBE, Store

MARKER = "corpus.json"  # what makes a place a corpus
ABOUT = "a corpus of anything3d"
FORMAT = 2  # of the corpus, as MARKER says it
FIRST_CELLS = "cells/index/"  # what any corpus has, with or without a sound marker


def check(store: Store) -> None:
    """Make an empty place a corpus; see that any other one is a corpus, and that it keeps its promises.

    Raises: ConfigError("place_in_use") if something else lies here, SourceError("corpus_format") if it is a corpus of
    another format, StorageError("put_if_absent") if the storage has no put-if-absent; whatever the storage raises if
    nothing can be seen here: no such bucket, no right, no network.
    """
    marker = store.find(MARKER)
    if marker is None or not _is_ours(marker):
        names = {path for path in store.some() if path != PROBE}
        if names and not any(path.endswith("/commit.json") for path in store.some(FIRST_CELLS)):
            marker = store.find(MARKER)  # of another run, that began just now
            if marker is None or not _is_ours(marker):
                raise ConfigError(
                    "place_in_use",
                    f"{store.root} is no corpus and not empty: it has {', '.join(sorted(names)[:3])}"
                    f"{', ...' if len(names) > 3 else ''}; give a new or an empty folder as --out",
                )
        else:
            marker = json.dumps({"about": ABOUT, "format": FORMAT}).encode() + b"\n"
            store.write(MARKER, marker)
    if (known := json.loads(marker)["format"]) != FORMAT:
        raise SourceError(
            "corpus_format",
            f"{store.root} has format {known}, this version writes {FORMAT}. Give another --out. To keep what has been"
            " computed, move the folder cells/ into it first.",
        )
    store.probe()


def _is_ours(marker: bytes) -> bool:
    """Whether that is the marker of a corpus, of whatever format."""
    try:
        says = json.loads(marker)
        return says["about"] == ABOUT and isinstance(says["format"], int)
    except (ValueError, KeyError, TypeError):
        return False
