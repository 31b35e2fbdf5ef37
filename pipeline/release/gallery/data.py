"""The data files of one shard. They are written when the shard is published, and never change."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from anything3d.photo.sheet import on_white, outlined, sheet
from pipeline.commit import Part
from pipeline.store import Store
from schemas.corpus import OBJECT_COLUMNS, ObjectRows
from schemas.records import RejectRecord

FORMAT = 1  # of these files; a run publishes shards with files of another format again
PER_SHEET, ACROSS = 16, 4  # objects; a page of sorted objects reads a sheet for nearly each, so sheets are small
PER_PAGE = 128  # objects whose columns one file has
REASON_EXAMPLES = 40  # rejects of a shard for each stage, kind and reason; all are in rejects/*.parquet
DIGITS, EXACT = 4, 6  # significant digits of a number to sort by, and of one to look at
LEFT_OUT = frozenset({"mask_rle"})  # as large as all the rest, and the picture shows it
OTHERS = (  # columns that one can sort by, besides all numbers of the stage score
    "log_probability",
    "camera_match",
    "likeness_rise",
    "predicted_iou",
    "stability_score",
    "doubtful_share",
    "area_px",
    "faces",
)
NUMBERS = sorted(
    (
        column.name
        for column in OBJECT_COLUMNS
        if (column.stage == "score" and column.type in (float, float | None, int, int | None)) or column.name in OTHERS
    ),
    key=lambda name: not name.startswith("mesh_"),  # first what is known of the file that people get
)
QUALITY = "quality"  # column of the tier, in corpora that have one


def script(content: Any) -> bytes:  # noqa: ANN401 - anything that JSON can hold
    """A data file: a script that hands JSON to the page. JSON with ASCII only is JavaScript, too."""
    return f"anything3d({json.dumps(content, separators=(',', ':'))});\n".encode()


def unscript(data: bytes) -> Any:  # noqa: ANN401 - anything that JSON can hold
    """What a data file hands to the page."""
    return json.loads(data.removeprefix(b"anything3d(").removesuffix(b");\n"))


def write(store: Store, folder: str, first: str, kind: str, data: bytes, rows: int) -> Part:
    """Write a file of a shard under a name with its digest."""
    digest = hashlib.sha256(data).hexdigest()
    part = Part(f"{folder}/{first}-{digest[:16]}.{kind}", len(data), digest, rows)
    store.write(part.path, data)
    return part


def with_sheets(store: Store, objects: Iterable[ObjectRows], sheets: list[Part]) -> Iterator[ObjectRows]:
    """The same objects, which need `crop_png` and `render_png`. Their sheets are written on the way, into `sheets`.

    The pictures of PER_SHEET objects are in memory.
    """
    each = iter(objects)
    while some := list(islice(each, PER_SHEET)):
        pictures = [picture for rows in some for picture in (outlined(rows.segment.crop_png), _render(rows))]
        folder = f"gallery/{some[0].segment.shard}"
        sheets.append(write(store, folder, some[0].object_id, "webp", sheet(pictures, 2 * ACROSS), len(some)))
        yield from some


def _render(rows: ObjectRows) -> Any:  # noqa: ANN401 - a picture
    return on_white(rows.score.render_png)


def write_pages(store: Store, rows: Sequence[Mapping[str, Any]], tar: str) -> list[Part]:
    """Write the columns of the objects of a tar, PER_PAGE objects a file. `rows` are those of `write_tar`."""
    pages = []
    for start in range(0, len(rows), PER_PAGE):
        some = [{**row, "asset_tar": tar} for row in rows[start : start + PER_PAGE]]
        first = some[0]
        data = script(page(some))
        pages.append(write(store, f"gallery/{first['shard']}", first["object_id"], "js", data, len(some)))
    return pages


def page(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows by column. A column whose values are all equal stands in `same`, once."""
    same, columns = {}, {}
    for name in [name for name in rows[0] if name not in LEFT_OUT]:
        values = [rounded(row.get(name), EXACT) for row in rows]
        if all(value == values[0] for value in values):
            same[name] = values[0]
        else:
            columns[name] = values
    return {"count": len(rows), "same": same, "columns": columns}


def index(objects: pa.Table, sheets: Sequence[Part], pages: Sequence[Part]) -> bytes:
    """What filters and sorts need of all objects of a shard, and which file has which of them."""
    numbers = {
        name: [rounded(value, DIGITS) for value in objects[name].to_pylist()]
        for name in NUMBERS
        if name in objects.column_names and objects[name].null_count < len(objects)
    }
    tiers = objects[QUALITY].to_pylist() if QUALITY in objects.column_names else []
    return script(
        {
            "ids": objects["object_id"].to_pylist(),
            "captions": [caption or "" for caption in objects["caption"].to_pylist()],
            "numbers": numbers,
            "quality": tiers if any(tiers) else None,
            "sheets": _files(sheets),
            "pages": _files(pages),
        }
    )


def rejected(
    rows: Sequence[RejectRecord], crops: Mapping[str, bytes], store: Store, shard: str
) -> tuple[bytes, list[Part]]:
    """Examples of the rejects of a shard: the first REASON_EXAMPLES of each stage, kind and reason; and their sheets.

    `crops` has the crops of those that were objects already.
    """
    shown = examples(rows)
    seen = [row.item_id for row in shown if row.item_id in crops]
    places = {item: number for number, item in enumerate(dict.fromkeys(seen))}
    sheets = []
    for start in range(0, len(places), PER_SHEET):
        some = list(places)[start : start + PER_SHEET]
        data = sheet([outlined(crops[item]) for item in some], ACROSS)
        sheets.append(write(store, f"gallery/{shard}", some[0], "webp", data, len(some)))
    causes: dict[tuple[str, str, str], list[Any]] = {}
    for row in shown:
        causes.setdefault((row.stage, row.kind, row.reason), []).append(
            [row.item_id, row.message, places.get(row.item_id, -1)]
        )
    listed = [[*cause, some] for cause, some in causes.items()]
    return script({"causes": listed, "sheets": _files(sheets)}), sheets


def examples(rows: Sequence[RejectRecord]) -> list[RejectRecord]:
    """The first REASON_EXAMPLES rejects of each stage, kind and reason."""
    counts: dict[tuple[str, str, str], int] = {}
    shown = []
    for row in rows:
        cause = (row.stage, row.kind, row.reason)
        counts[cause] = counts.get(cause, 0) + 1
        if counts[cause] <= REASON_EXAMPLES:
            shown.append(row)
    return shown


def rounded(value: Any, digits: int) -> Any:  # noqa: ANN401 - the value of any column
    """A number with so many significant digits; null for what JSON cannot hold. Other values stay as they are."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def _files(parts: Sequence[Part]) -> list[tuple[int, str]]:
    """The number of objects and the name of each file, which lies in gallery/<shard>/."""
    return [(part.rows, part.path.rpartition("/")[2]) for part in parts]
