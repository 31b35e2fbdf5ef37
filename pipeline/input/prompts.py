"""Boxes and points beside a source: `<source>.prompts.jsonl`, one JSON object a line for each photo.

    {"name": "cup.jpg", "boxes": [[40, 60, 200, 180]], "points": [[140, 150]]}

`name` is the photo's, as its source names it. A box is left, top, width and height, and a point is x and y: pixels of
the photo as viewers show it, from its top left corner.
"""

import json
from collections.abc import Iterator

from anything3d.errors import InputError
from anything3d.photo.prompt import parse_prompts
from pipeline.input.source import MAX_LIST_BYTES, PROMPTS, beside, content, stem


def read_prompts(source: str) -> tuple[dict[str, str], list[tuple[str, InputError]]]:
    """The prompts beside a source, as JSON by the name of the photo, and the lines that are wrong.

    There may be no file.
    """
    data, _ = content(beside(source, PROMPTS))
    file, found, wrong = f"{stem(source)}{PROMPTS}", dict[str, str](), list[tuple[str, InputError]]()
    if len(data) > MAX_LIST_BYTES:
        return {}, [(file, InputError("bad_prompts", f"{len(data)} bytes; at most {MAX_LIST_BYTES} are allowed"))]
    for item, line in _lines(file, data):
        try:
            name, prompts = _entry(line)
            if name in found:
                raise InputError("bad_prompts", f"{name!r} has a line already; write all of its boxes into one")
            found[name] = prompts
        except InputError as error:
            wrong.append((item, error))
    return found, wrong


def _lines(file: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield f"{file}@line {number}", line


def _entry(line: bytes) -> tuple[str, str]:
    """The name of the photo, and its prompts as the JSON that an ImageRecord has.

    Raises: InputError("bad_prompts").
    """
    try:
        said = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise InputError("bad_prompts", f"not JSON: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("name"), str) or said.keys() - {"name", "boxes", "points"}:
        raise InputError(
            "bad_prompts", 'want {"name": "cup.jpg", "boxes": [[x, y, width, height]], "points": [[x, y]]}'
        )
    prompts = json.dumps({"boxes": said.get("boxes", []), "points": said.get("points", [])})
    parse_prompts(prompts)
    return said["name"], prompts
