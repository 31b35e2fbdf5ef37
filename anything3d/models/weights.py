"""Where weights lie, and whether they are the right ones: their names, sizes and sha256.

A folder of weights has the native layout of its library: a transformers or diffusers folder, or `config.json` and
`model.safetensors` for SAM and Point-E. The mini weights ship inside this package with `manifest.json` beside them.
Others are given as a path or lie under `Place.weights_root`.

Safetensors are preferred. Of pickles (.bin, .pt, .pth, .ckpt) only tensors are read, so that none of them runs code.

`files` lists a folder. No loader opens what it leaves out. All that it lists is part of the digest that stands for the
networks.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from anything3d.errors import WeightsError
from anything3d.models.published import PUBLISHED, wrong_files

PACKAGED = Path(__file__).parents[1] / "mini" / "weights"
SUFFIXES = (".safetensors", ".json", ".pt", ".pth", ".bin", ".ckpt")  # one such file makes a folder one of weights
LEFT_OUT = re.compile(
    r"\..*|.*\.(md|png|jpe?g|gif|webp|svg|pdf|html?)|(README|LICEN[CS]E|NOTICE)(\..*)?|Thumbs\.db", re.I
)
OURS = "Apache-2.0"  # of what this project has made: the packaged weights, and the photos of the mini world
SETTLED_NS = 10**9  # age from which on a file's time stamps tell whether it was written again
Stamps = tuple[tuple[str, int, int, int, int], ...]  # path, bytes, inode, times of change of contents and entry


@dataclass(frozen=True, slots=True)
class Place:
    """Where a network lives: torch device and dtype by name, and an extra folder that is searched for weights."""

    device: str = "cpu"
    dtype: str = "float32"
    weights_root: str = ""


def directory(name: str, place: Place) -> Path:
    """The folder of the weights `name`, its files checked against the packaged manifest where there is one.

    Searched in this order: packaged mini weights, `place.weights_root`/name, `name` itself as a path.

    Raises: WeightsError if there is no such folder, or a packaged file differs from its sha256.
    """
    folder = find(name, place)
    if folder is None:
        raise _missing(name, place.weights_root)
    if folder.parent == PACKAGED:
        _verify(folder)
    return folder


def digest(name: str, place: Place) -> str:
    """sha256 over the names and contents of all files of the weights `name`: what a fingerprint keeps of them.

    A file that was written again since the last call is read again.

    Raises: WeightsError as `directory`; also if files of official weights are missing or not as their owner made them.
    """
    folder = directory(name, place)
    digests = _digests(folder)
    if wrong := wrong_files(name, {path: (folder / path).stat().st_size for path in digests}, digests):
        raise WeightsError(
            "weights_digest",
            f"{folder}: {', '.join(wrong)} missing or not as published; delete what is not, then "
            f"{_how_to_get(name, place.weights_root)}",
        )
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def find(name: str, place: Place) -> Path | None:
    """The folder of the weights `name`, unchecked; None if there is none."""
    return next((folder for folder in _candidates(name, place.weights_root) if _holds_weights(folder)), None)


def files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` that a loader may open, by path relative to it, sorted.

    Links to files and folders are followed. Hidden files, pictures and documents are left out, and so is a link back to
    a folder that it lies in.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in _walk(folder, (folder.resolve(),))}
    return dict(sorted(paths.items()))


def directly_in(folder: Path, *suffixes: str) -> list[Path]:
    """Those of `files` that lie in `folder` itself and have one of the suffixes: what a loader picks from."""
    return [path for name, path in files(folder).items() if "/" not in name and path.suffix in suffixes]


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of all `files` of `folder`, by path."""
    return {name: _sha256(path) for name, path in files(folder).items()}


def trained(name: str) -> bool:
    """Whether the weights `name` have been trained; only packaged ones can say no."""
    return bool(_manifest().get(name, {"trained": True})["trained"])


def packaged(name: str) -> bool:
    """Whether the weights `name` are the ones that ship with this package."""
    return name in _manifest()


def licence(name: str) -> str:
    """Under which licence the weights `name` are published; it is not known of weights of your own."""
    if packaged(name):
        return OURS
    return PUBLISHED[name].licence if name in PUBLISHED else f"unknown ({name})"


def write_manifest(name: str, *, trained: bool) -> None:
    """Record the sha256 of the packaged weights `name`; for whoever makes or trains a mini network."""
    manifest = _manifest() | {name: {"trained": trained, "files": file_digests(PACKAGED / name)}}
    (PACKAGED / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _manifest() -> dict[str, Any]:
    path = PACKAGED / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _missing(name: str, weights_root: str) -> WeightsError:
    packaged = sorted(path.name for path in PACKAGED.iterdir() if path.is_dir()) if PACKAGED.is_dir() else []
    looked = ", ".join(dict.fromkeys(str(folder) for folder in _candidates(name, weights_root)[1:]))
    remedy = "put the files there or set resources.weights_root"
    return WeightsError(
        "weights_missing",
        f"no weights {name!r}: neither a packaged name ({', '.join(packaged)}) nor a folder; looked in {looked}; "
        + (f"{remedy}; {_how_to_get(name, weights_root)}" if name in PUBLISHED else remedy),
    )


def _how_to_get(name: str, weights_root: str) -> str:
    into = f" --set resources.weights_root={weights_root}" if weights_root else ""
    return f"`anything3d weights where {name}{into}` says how to get it"


def _candidates(name: str, weights_root: str) -> list[Path]:
    return [PACKAGED / name, Path(weights_root or ".") / name, Path(name)]


def _holds_weights(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix in SUFFIXES for path in _walk(folder, (folder.resolve(),)))


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """`above` are the folders that this one lies in, without links."""
    try:
        for path in folder.iterdir():
            if LEFT_OUT.fullmatch(path.name):
                continue
            if path.is_dir():
                if (real := path.resolve()) not in above:
                    yield from _walk(path, (*above, real))
            elif path.is_file():
                yield path
    except OSError as error:
        raise WeightsError("weights_unreadable", f"{folder}: {error}") from error


def _verify(folder: Path) -> None:
    expected = _manifest().get(folder.name, {"files": {}})["files"]
    actual = _digests(folder)
    if wrong := sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)):
        raise WeightsError(
            "weights_digest", f"{folder}: {', '.join(wrong)} differ from manifest.json; reinstall the package"
        )


def _digests(folder: Path) -> dict[str, str]:
    """`file_digests`, without reading again what has not been written again since."""
    stamps = _stamps(folder)
    latest = max((max(written, changed) for *_, written, changed in stamps), default=0)
    settled = latest < time.time_ns() - SETTLED_NS
    return _digests_at(folder, stamps) if settled else file_digests(folder)


@lru_cache(maxsize=64)
def _digests_at(folder: Path, stamps: Stamps) -> dict[str, str]:
    digests = file_digests(folder)
    if _stamps(folder) != stamps:
        raise WeightsError("weights_changed", f"{folder}: files were written while they were read; try again")
    return digests


def _stamps(folder: Path) -> Stamps:
    stats = ((name, path.stat()) for name, path in files(folder).items())
    return tuple((name, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError("weights_unreadable", f"{path}: {error}") from error
