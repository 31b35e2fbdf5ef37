"""What is said to an external command, and what it answers: protocol 1 of docs/backends.md. This imports no torch."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from anything3d.errors import Anything3DError, ConfigError, InputError, MachineError, NumericsError, OutOfMemory
from anything3d.settings.external import ExternalConfig
from anything3d.space.viewpoint import ReferenceCamera

PROTOCOL = 1
REQUEST = "request.json"
CAMERA = ("azimuth_deg", "elevation_deg", "distance", "focal_x", "focal_y", "centre_x", "centre_y")
MOST = 1e9  # above every number of a camera
OUT_OF_MEMORY = "out_of_memory"
SHOWN = 200  # characters of a line in a message


@dataclass(frozen=True, slots=True)
class Answer:
    """What the command says of one object: the file of its mesh, or why there is none."""

    name: str  # of the object, in the request
    mesh: str | None  # path below the folder of the object
    camera: ReferenceCamera | None  # None: it has not said from where the crop sees the mesh
    error: NumericsError | None


def check_handshake(line: str, config: ExternalConfig) -> None:
    """Raises: ConfigError("external_handshake") if the first line is none, or is not what the settings expect."""
    said = _object(line)
    known = {key: said.get(key) for key in ("protocol", "version", "licence")} if said else {}
    if not all(isinstance(known.get(key), str) for key in ("version", "licence")):
        raise ConfigError(
            "external_handshake",
            f"{config.command}: the first line of its standard output is {line[:SHOWN]!r}; it must be a JSON object"
            f" with protocol, version and licence (docs/backends.md). All other output belongs to standard error.",
        )
    for key, wanted in (("protocol", PROTOCOL), ("version", config.version), ("licence", config.licence)):
        if known[key] != wanted:
            remedy = f"; set reconstruct.external.{key} to what it says" if key != "protocol" else ""
            raise ConfigError(
                "external_handshake", f"{config.command}: its {key} is {known[key]!r}, not {wanted!r}{remedy}"
            )


def answer(line: str, waiting: Collection[str]) -> Answer | Anything3DError:
    """What a line says of one of the objects in `waiting`; InputError("external_bad_output") if it says nothing.

    Raises: OutOfMemory or MachineError if the command says that its machine is at fault, and not the object.
    """
    said = _object(line)
    if said is None:
        return InputError("external_bad_output", f"a line is no JSON object: {line[:SHOWN]!r}")
    if "fault" in said:
        words = f"reconstruct.external.command says: {said.get('message', said['fault'])!s:.500}"
        if said["fault"] == OUT_OF_MEMORY:
            raise OutOfMemory("out_of_memory", words)
        raise MachineError("machine", words)
    name = said.get("object")
    if not isinstance(name, str) or name not in waiting:
        return InputError(
            "external_bad_output",
            f"a line speaks of the object {str(name)[:SHOWN]!r}; those that are waited for are {', '.join(waiting)}",
        )
    if "error" in said:
        return Answer(name, None, None, NumericsError("external_failed", str(said["error"])[:1000]))
    mesh, camera = said.get("mesh"), said.get("camera")
    if not isinstance(mesh, str):
        return InputError("external_bad_output", f"a line has neither mesh nor error: {line[:SHOWN]!r}")
    seen = None if camera is None else _camera(camera)
    return seen if isinstance(seen, InputError) else Answer(name, mesh, seen, None)


def _camera(said: object) -> ReferenceCamera | InputError:
    values = [said.get(name) for name in CAMERA] if isinstance(said, Mapping) else []
    numbers = [float(one) for one in values if isinstance(one, int | float) and abs(one) < MOST]  # NaN and inf are not
    if len(numbers) != len(CAMERA):
        return InputError("external_bad_output", f"a camera has the numbers {', '.join(CAMERA)}, got {said!r:.{SHOWN}}")
    azimuth, elevation, distance, *intrinsics = numbers
    fx, fy, cx, cy = intrinsics
    if not (-90 < elevation < 90 and distance > 0 and fx > 0 and fy > 0):
        return InputError(
            "external_bad_output",
            f"a camera's elevation is between -90 and 90, distance and focals above 0, got {said}",
        )
    return ReferenceCamera(azimuth, elevation, distance, (fx, fy, cx, cy))


def _object(line: str) -> Mapping[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None
