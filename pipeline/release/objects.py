"""The rows of one object as files that other tools open. This file imports neither Arrow nor storage."""

import io
import json
import tarfile
from collections.abc import Iterable
from typing import Any, BinaryIO

from anything3d.photo.picture import mask_png
from schemas.corpus import ObjectRows, metadata, span_names

BECOME_FILES = ("crop_png", "cloud_ply", "glb", "turntable_webp")  # columns of bytes that `asset_files` needs


def asset_files(rows: ObjectRows) -> dict[str, bytes]:
    """Suffix -> bytes of one object's files; a stage that did not run has none."""
    crop = rows.segment.crop_png
    files = {
        "json": json.dumps(metadata(rows), sort_keys=True).encode(),
        "png": crop,
        "mask.png": mask_png(crop),
    }
    if rows.lift is not None:
        files["cloud.ply"] = rows.lift.cloud_ply
    return {**files, "glb": rows.mesh.glb, "turntable.webp": rows.score.turntable_webp}


def write_tar(objects: Iterable[ObjectRows], file: BinaryIO) -> list[dict[str, Any]]:
    """Write the objects' files as a WebDataset tar to `file`, which is empty; equal objects give equal bytes.

    Returns the row of objects/*.parquet of each object, without `asset_tar`: its metadata, and the span of each of its
    files in the tar. One object at a time is in memory, and these rows.
    """
    written = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for rows in objects:
            row = metadata(rows)
            for suffix, data in asset_files(rows).items():
                member = tarfile.TarInfo(f"{rows.object_id}.{suffix}")
                member.size = len(data)
                offset, size = span_names(suffix)
                row[offset], row[size] = file.tell() + tarfile.BLOCKSIZE, len(data)  # after the header, one block
                tar.addfile(member, io.BytesIO(data))
            written.append(row)
    return written
