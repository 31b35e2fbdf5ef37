"""An earlier shard of the mini world and its truth: whether a new one may replace it, and the replacing.

Nothing that somebody else wrote is replaced.
"""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

from anything3d.errors import ConfigError
from anything3d.quality.truth_file import FORMAT, FORMER
from anything3d.quality.world import MINI

FILES = ("points", "views", "solid")  # of an object; former versions wrote no solid


def check_replaceable(out: Path, depth: dict[str, Any]) -> None:
    """Whether a shard of the mini world may be written to `out`. `depth` is truth.json's entry of that name.

    Raises: ConfigError("not_ours") if more would be lost than an earlier shard of the mini world and its truth.
    """
    folder, there = out.with_suffix(".truth"), os.path.lexists(out)
    if not there and not os.path.lexists(folder):
        return
    named = _named(folder / "truth.json", depth)
    if not named:
        why = f"{out if there else folder} is there, and {folder}/truth.json is not of the mini world"
    elif others := [path for path in sorted(folder.rglob("*")) if _is_other(path, folder, named)]:
        why = f"{others[0]} is there, and {folder}/truth.json does not name it"
    elif there and _members(out) != {".", *(name for name in named if name.startswith("./"))}:
        why = f"{out} is there, and is not the shard that {folder}/truth.json is of"
    else:
        return
    raise ConfigError("not_ours", f"{why}; nothing is replaced: give another name, or move it away")


def put_in_place(partial: Path, out: Path, depth: dict[str, Any]) -> None:
    """Move the finished files to their places, the shard last, and the former truth out of the way.

    Raises: ConfigError as `check_replaceable`: others may have written there meanwhile.
    """
    check_replaceable(out, depth)
    truth = out.with_suffix(".truth")
    out.unlink(missing_ok=True)
    if os.path.lexists(truth):
        truth.rename(partial / "former")
    (partial / "truth").rename(truth)
    (partial / "shard.tar").rename(out)


def _named(path: Path, depth: dict[str, Any]) -> set[str]:
    """Files beside a truth.json that `write_world` wrote, in a former version too, and members (./) of its shard.

    None of another truth.json.
    """
    try:
        root = json.loads(path.read_bytes())
        if root["format"] not in (FORMAT, FORMER) or root.get("world", MINI) != MINI:
            return set()
        if root["depth"] != depth:  # the sign of former versions, which named no world
            return set()
        images = root["images"]
        return {
            "truth.json",
            *(f"{kind}/{name}.png" for name in images for kind in ("depth", "masks")),
            *(item[kind] for image in images.values() for item in image["objects"] for kind in FILES if kind in item),
            *(f"./{name}.{suffix}" for name in images for suffix in ("jpg", "json")),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _is_other(path: Path, folder: Path, named: set[str]) -> bool:
    """Whether a file or a link of `folder` is none of those named."""
    is_folder = path.is_dir() and not path.is_symlink()
    return not is_folder and path.relative_to(folder).as_posix() not in named


def _members(path: Path) -> set[str]:
    """Names in a shard; none if it is no tar."""
    try:
        with tarfile.open(path, "r:") as shard:
            return set(shard.getnames())
    except (OSError, tarfile.TarError):
        return set()
