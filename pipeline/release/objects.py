"""The rows of one object as files that other tools open. This file imports neither Arrow nor storage."""

import io
import json
import tarfile
from collections.abc import Sequence

from anything3d.photo.image import decode_png, encode_png
from schemas.corpus import ObjectRows, metadata


def asset_files(rows: ObjectRows) -> dict[str, bytes]:
    """Suffix -> bytes of one object's files; a stage that did not run has none."""
    crop = rows.segment.crop_png
    files = {
        "json": json.dumps(metadata(rows), sort_keys=True).encode(),
        "png": crop,
        "mask.png": encode_png(decode_png(crop)[..., 3:]),
    }
    if rows.lift is not None:
        files["cloud.ply"] = rows.lift.cloud_ply
    return {**files, "glb": rows.mesh.glb, "turntable.webp": rows.score.turntable_webp}


def tar_bytes(objects: Sequence[ObjectRows]) -> bytes:
    """The objects' files as a WebDataset tar; equal objects give equal bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for rows in objects:
            for suffix, data in asset_files(rows).items():
                member = tarfile.TarInfo(f"{rows.object_id}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()
