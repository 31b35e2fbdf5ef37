"""evaluate --protocol: the meshes of a corpus compared with a set of true meshes that others publish.

A function imports what needs torch when it is called, so that a wrong place costs no torch.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from anything3d.errors import NumericsError, SourceError
from pipeline.input import source
from pipeline.location import explained
from pipeline.release.export import objects_of
from pipeline.release.snapshot import snapshot_of

if TYPE_CHECKING:
    from anything3d.quality.protocols import Protocol
    from anything3d.quality.summary import Summary

SEED = 0  # of surface samples and bootstraps


@dataclass(frozen=True, slots=True)
class SetComparison:
    """A snapshot against a set: the measures of every object that was compared, and their means."""

    protocol: str
    snapshot: int
    true_meshes: int
    missing: tuple[str, ...]  # names in the set of which the corpus has no object
    others: int  # objects of the corpus whose photos have no name of the set, or that cannot be compared
    objects: dict[str, dict[str, str | float]]  # object -> its `name` in the set, and its measures
    summary: "dict[str, Summary]"  # by measure


def compare(
    corpus: str, folder: Path, protocol: "Protocol", points: int, say: Callable[[str], None] = lambda line: None
) -> SetComparison:
    """Every object of the newest snapshot whose photo has the name of a true mesh in `folder`, compared with it.

    `points` are drawn on each surface. An object that cannot be compared, as its mesh has no extent, is told to `say`.

    Raises: SourceError if the corpus is missing or damaged, the set has another layout, a mesh of it is broken, or no
    photo has a name of the set; StorageError if the corpus cannot be reached.
    """
    from anything3d.quality import protocols
    from anything3d.seed import generators
    from anything3d.space.mesh import from_glb

    corpus = source.absolute(corpus)
    store, snapshot = snapshot_of(corpus)
    paths = protocols.true_meshes(folder, protocol)
    done: dict[str, dict[str, str | float]] = {}
    others = 0
    with explained(corpus):
        for table in objects_of(store, snapshot, None):
            for row in table.select(["object_id", "image_id", "photo_name", "glb"]).to_pylist():
                item = row["object_id"]
                name = name_of(row["photo_name"] or row["image_id"], paths)
                if name is None:
                    others += 1
                    continue
                generator = generators(SEED, f"evaluate/{protocol}", [item])[0]
                true = protocols.load_true(paths[name])
                try:
                    numbers = protocols.measured(protocol, from_glb(row["glb"]), true, generator, points)
                except NumericsError as error:
                    say(f"{item} cannot be compared with {name}: {error}")
                    others += 1
                    continue
                done[item] = {"name": name, **numbers}
                say(f"{item} {name}: " + ", ".join(f"{measure} {value:.4f}" for measure, value in numbers.items()))
    if not done:
        raise SourceError(
            "truth_fits_nothing",
            f"None of the {others} objects of {corpus} is of a photo with a name of {folder}, such as "
            f"{', '.join(sorted(paths)[:3])}. A photo, or the folder it is in, has to have the name of its true mesh.",
        )
    return SetComparison(
        protocol=protocol,
        snapshot=snapshot.number,
        true_meshes=len(paths),
        missing=tuple(sorted(paths.keys() - {numbers["name"] for numbers in done.values()})),
        others=others,
        objects=done,
        summary=protocols.summed(protocol, list(done.values()), SEED),
    )


def name_of(photo: str, names: Collection[str]) -> str | None:
    """The name of the set that a photo has, without its ending, or else the innermost folder of the photo."""
    path = PurePosixPath(photo)
    return next((part for part in (path.stem, path.name, *reversed(path.parent.parts)) if part in names), None)
