"""Where weights lie and whether they are the right ones: names, sizes, sha256; safetensors first, never a loose pickle.

A folder of weights has the native layout of its library (transformers and diffusers folders; `config.json` and
`model.safetensors` for SAM and Point-E). The mini ones ship inside this package with `manifest.json` beside them;
others are given as a path or lie under `Place.weights_root`.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from anything3d.errors import WeightsError
from anything3d.published import PUBLISHED, wrong_files

PACKAGED = Path(__file__).parent / "mini" / "weights"
SUFFIXES = (".safetensors", ".json", ".txt", ".pt", ".pth", ".bin", ".model")


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


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every weights or configuration file below `folder`, by path relative to it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in SUFFIXES)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def trained(name: str) -> bool:
    """Whether the weights `name` have been trained; only packaged ones can say no."""
    return bool(_manifest().get(name, {"trained": True})["trained"])


def packaged(name: str) -> bool:
    """Whether the weights `name` are the ones that ship with this package."""
    return name in _manifest()


def write_manifest(name: str, *, trained: bool) -> None:
    """Record the sha256 of the packaged weights `name`; for whoever makes or trains a mini network."""
    manifest = _manifest() | {name: {"trained": trained, "files": file_digests(PACKAGED / name)}}
    (PACKAGED / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _manifest() -> dict[str, Any]:
    path = PACKAGED / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _missing(name: str, weights_root: str) -> WeightsError:
    packaged = sorted(path.name for path in PACKAGED.iterdir() if path.is_dir()) if PACKAGED.is_dir() else []
    looked = ", ".join(str(folder) for folder in _candidates(name, weights_root)[1:])
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
    return folder.is_dir() and any(path.suffix in SUFFIXES for path in folder.rglob("*"))


@cache
def _verify(folder: Path) -> None:
    expected = _manifest().get(folder.name, {"files": {}})["files"]
    found = _digests(folder)
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise WeightsError(
            "weights_digest", f"{folder}: {', '.join(wrong)} differ from manifest.json; reinstall the package"
        )


@cache
def _digests(folder: Path) -> dict[str, str]:
    return file_digests(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
