"""A command of protocol 1 (docs/backends.md) that carves a visual hull out of a mask, and breaks off where it is told.

    python -m tests.hull [--kind ply|glb|textured] [--camera] [--break HOW --on X]

The hull is what two silhouettes leave: that of the mask from the front, and the same one from the side. It is as deep
as it is wide. `--break` names a fault, which happens with the object whose box begins at X.
"""

import argparse
import io
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

VERSION, LICENCE = "hull 1.2", "CC0-1.0"
CELLS = 20  # along the longest side
DISTANCE = 50.0  # canonical lengths; from so far away, rays are nearly parallel
SIDES = {  # outward direction -> the corners of a cell's square, counter-clockwise seen from outside
    (1, 0, 0): ((1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)),
    (-1, 0, 0): ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    (0, 1, 0): ((0, 1, 0), (0, 1, 1), (1, 1, 1), (1, 1, 0)),
    (0, -1, 0): ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    (0, 0, 1): ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
    (0, 0, -1): ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
}


def carve(alpha):
    """Vertices [V, 3] in pixels of the crop (y up), faces [F, 3], and the bounds of the mask in the crop."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    cell = max(bottom - top, right - left) / CELLS
    height, width = (max(1, round(extent / cell)) for extent in (bottom - top, right - left))
    v = (top + (np.arange(height) + 0.5) * (bottom - top) / height).astype(int)
    u = (left + (np.arange(width) + 0.5) * (right - left) / width).astype(int)
    front = alpha[v[::-1]][:, u]  # y up
    if not front.any():
        front[:] = True
    solid = np.pad((front[:, :, None] & front[:, None, :]).transpose(1, 0, 2), 1)  # x, y, z
    corners = []
    for (dx, dy, dz), square in SIDES.items():
        bare = solid & ~np.roll(solid, (-dx, -dy, -dz), (0, 1, 2))
        cells = np.argwhere(bare) - 1
        corners.append((cells[:, None] + np.array(square)[None]).reshape(-1, 3))
    used, number = np.unique(np.concatenate(corners), axis=0, return_inverse=True)
    quads = number.reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    steps = np.array([(right - left) / width, (bottom - top) / height, (right - left) / width])
    vertices = used * steps + np.array([left, len(alpha) - bottom, -(right - left) / 2])
    return vertices, faces, (left, top, right, bottom)


def ply(vertices, faces, colors):
    head = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}", *(f"property float {c}" for c in "xyz")]
    head += [f"property uchar {c}" for c in ("red", "green", "blue")]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    body = [f"{x} {y} {z} {r} {g} {b}" for (x, y, z), (r, g, b) in zip(vertices, colors, strict=True)]
    return "\n".join([*head, *body, *(f"3 {a} {b} {c}" for a, b, c in faces), ""]).encode()


def glb(vertices, faces, attributes, picture=None):
    """A GLB by hand: attributes are float arrays by their names in glTF. The node shrinks and moves the mesh."""
    views, accessors, data = [], [], b""

    def add(array, kind, code, **more):
        nonlocal data
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        accessors.append(
            {"bufferView": len(views) - 1, "componentType": code, "count": len(array), "type": kind, **more}
        )
        data += array.tobytes() + b"\0" * (-array.nbytes % 4)
        return len(accessors) - 1

    points = vertices.astype("<f4")
    bounds = {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
    named = {"POSITION": add(points, "VEC3", 5126, **bounds)}
    for name, array in attributes.items():
        named[name] = add(array.astype("<f4"), f"VEC{array.shape[1]}", 5126)
    indices = add(faces.astype("<u4").reshape(-1), "SCALAR", 5125)
    material = {"pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1]}}
    tree = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}]}
    if picture is not None:
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(picture)})
        data += picture + b"\0" * (-len(picture) % 4)
        tree |= {"images": [{"bufferView": len(views) - 1, "mimeType": "image/png"}], "textures": [{"source": 0}]}
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    tree |= {
        "nodes": [{"mesh": 0, "scale": [0.01] * 3, "translation": [3, 4, 5]}],
        "meshes": [{"primitives": [{"attributes": named, "indices": indices, "material": 0}]}],
        "materials": [material],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(data)}],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def make(folder, asked, kind):
    """Write the mesh of one object; its file, and the camera in front of it."""
    crop = np.array(Image.open(folder / asked["crop"]))
    side = len(crop)
    vertices, faces, (left, top, right, bottom) = carve(crop[..., 3] > 127)
    u, v = vertices[:, 0] / side, vertices[:, 1] / side  # of the crop, v upwards
    at = crop[((1 - v) * side - 0.5).round().astype(int).clip(0, side - 1), (u * side).astype(int).clip(0, side - 1)]
    path = folder / asked["object"] / f"out.{'ply' if kind == 'ply' else 'glb'}"
    if kind == "ply":
        path.write_bytes(ply(vertices, faces, at[:, :3]))
    elif kind == "glb":
        path.write_bytes(glb(vertices, faces, {"COLOR_0": (at[:, :3] / 255) ** 2.2}))
    else:
        file = io.BytesIO()
        Image.fromarray(crop[..., :3]).save(file, "PNG")
        path.write_bytes(glb(vertices, faces, {"TEXCOORD_0": np.stack([u, 1 - v], 1)}, file.getvalue()))
    focal = DISTANCE * max(right - left, bottom - top) / side
    names = ("azimuth_deg", "elevation_deg", "distance", "focal_x", "focal_y", "centre_x", "centre_y")
    centre = ((left + right) / 2 / side, (top + bottom) / 2 / side)
    return path.name, dict(zip(names, (0.0, 0.0, DISTANCE, focal, focal, *centre), strict=True))


def break_off(how, asked, others):
    """Do what a command must not do. What returns is a line instead of the answer."""
    match how:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            sys.stderr.write("CUDA error: an illegal memory access\n")
            sys.exit(3)
        case "hang":
            signal.pause()
        case "garbage":
            return "Loading pipeline components..."
        case "huge":
            return "x" * (3 << 20)
        case "fail":
            return json.dumps({"object": asked["object"], "error": "the mask is too thin"})
        case "missing":
            return json.dumps({"object": asked["object"], "mesh": "nothing.glb"})
        case "outside":
            return json.dumps({"object": asked["object"], "mesh": "../request.json"})
        case "other":
            return json.dumps({"object": others[0] if others else "9999", "mesh": "out.ply"})
        case "splats":
            return json.dumps({"object": asked["object"], "mesh": "empty.ply"})
        case "damaged":
            return json.dumps({"object": asked["object"], "mesh": "damaged.glb"})
        case "camera":
            return json.dumps({"object": asked["object"], "mesh": "out.ply", "camera": {"azimuth_deg": 0}})
        case "memory":
            return json.dumps({"fault": "out_of_memory", "message": "CUDA out of memory"})
    raise ValueError(how)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", default="ply")
    parser.add_argument("--camera", action="store_true")
    parser.add_argument("--break", dest="how")
    parser.add_argument("--on", type=int)
    parser.add_argument("--started", help="a file that gets a line with the number of this process")
    parser.add_argument("--handshake", default="{}", help="JSON that changes the first line")
    parser.add_argument("--child", action="store_true", help="start a program that outlives whoever does not kill it")
    given = parser.parse_args()
    numbers = [os.getpid()]
    if given.child:
        numbers.append(subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid)
    if given.started:
        with Path(given.started).open("a") as file:
            gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
            file.write(json.dumps({"pids": numbers, "gpus": gpus, "folder": os.getcwd()}) + "\n")
    sys.stderr.write("hull: ready\n")
    says = {"protocol": 1, "version": VERSION, "licence": LICENCE, **json.loads(given.handshake)}
    print(json.dumps(says), flush=True)
    for line in sys.stdin:
        path = Path(json.loads(line)["request"])
        request = json.loads(path.read_text())
        for asked in request["objects"]:
            folder, out = path.parent, path.parent / asked["object"]
            name, camera = make(folder, asked, given.kind)
            (out / "empty.ply").write_bytes(ply(np.zeros((1, 3)), [], np.zeros((1, 3), int)))
            (out / "damaged.glb").write_bytes(b"glTF and no more")
            said = {"object": asked["object"], "mesh": name, **({"camera": camera} if given.camera else {})}
            broken = given.how and given.on in (None, asked["box"]["x"])
            others = [one["object"] for one in request["objects"] if one is not asked]
            print(break_off(given.how, asked, others) if broken else json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
