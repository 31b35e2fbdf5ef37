"""Binary glTF 2.0: one mesh with one matte material. This file knows the container, and mesh.py what is in it.

trimesh reads our files. It does not write them, because it rounds colours to 8 bits and chooses the quality of a JPEG.

Source: Khronos glTF 2.0 specification, sections 3.6, 3.7 and 4.4.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from anything3d.errors import InputError

COMPONENTS = {"f4": 5126, "u2": 5123, "u4": 5125}
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071
MATTE = {"metallicFactor": 0.0, "roughnessFactor": 1.0}


def pack(attributes: Mapping[str, np.ndarray], indices: np.ndarray, jpeg: bytes | None = None) -> bytes:
    """A file with these attributes of the vertices ([V, n] each), these triangles ([F, 3]), and a base colour texture.

    Attributes of integers are normalised. Equal arguments give equal bytes.
    """
    accessors, views = [], list[dict[str, Any]]()
    body = bytearray()

    def view(data: bytes, **more: int) -> int:
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(data), **more})
        body.extend(data + b"\0" * (-len(data) % 4))
        return len(views) - 1

    for name, array in attributes.items():
        values = np.ascontiguousarray(array)
        about: dict[str, Any] = {
            "bufferView": view(values.tobytes(), target=ARRAY_BUFFER),
            "componentType": COMPONENTS[values.dtype.str[1:]],
            "count": len(values),
            "type": f"VEC{values.shape[1]}",
        }
        if values.dtype.kind == "u":
            about["normalized"] = True
        if name == "POSITION":
            about |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        accessors.append(about)
    corners = np.ascontiguousarray(indices, np.uint32).reshape(-1)
    place = view(corners.tobytes(), target=ELEMENT_ARRAY_BUFFER)
    accessors.append({"bufferView": place, "componentType": 5125, "count": len(corners), "type": "SCALAR"})

    surface: dict[str, Any] = {"name": "matte", "pbrMetallicRoughness": dict(MATTE)}
    tree: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "anything3d"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "object", "mesh": 0}],
        "meshes": [
            {
                "name": "object",
                "primitives": [
                    {
                        "attributes": {name: number for number, name in enumerate(attributes)},
                        "indices": len(attributes),
                        "material": 0,
                    }
                ],
            }
        ],
        "materials": [surface],
        "accessors": accessors,
    }
    if jpeg is not None:
        surface["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        tree["textures"] = [{"source": 0, "sampler": 0}]
        tree["images"] = [{"mimeType": "image/jpeg", "bufferView": view(jpeg)}]
        wrap = {"wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
        tree["samplers"] = [{"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, **wrap}]
    tree |= {"bufferViews": views, "buffers": [{"byteLength": len(body)}]}
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + bytes(body)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def picture_of(glb: bytes) -> tuple[bytes, str]:
    """The base colour texture of a file with one material, as it is stored, and its suffix: jpg or png.

    Raises: InputError("bad_glb") if the file has none, or refers to another file.
    """
    try:
        length = int.from_bytes(glb[12:16], "little")
        tree = json.loads(glb[20 : 20 + length])
        number = tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["index"]
        image = tree["images"][tree["textures"][number]["source"]]
        view = tree["bufferViews"][image["bufferView"]]
        suffix = {"image/jpeg": "jpg", "image/png": "png"}[image["mimeType"]]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError("bad_glb", f"{len(glb)} bytes have no texture of their own: {error!r}") from error
    start = 28 + length + view.get("byteOffset", 0)
    return glb[start : start + view["byteLength"]], suffix
