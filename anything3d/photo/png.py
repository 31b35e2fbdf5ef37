"""PNGs: their numbers in 8 or 16 bits, and the checks that Pillow leaves out.

Pillow looks at no checksum of the pixels, leaves missing pixels black, and knows no colours of 16 bits.

Source: PNG specification, third edition.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from anything3d.errors import InputError
from anything3d.photo import color
from anything3d.photo.color import WHITE_LEVEL

FORMATS = ("JPEG", "PNG")  # what Pillow may find
SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEPTH, KIND = 24, 25  # bytes of a PNG with its bits per number and its colour type: IHDR is the first chunk
GREY, GREY_ALPHA = 0, 4  # colour types
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> numbers per pixel
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CICP_SRGB = bytes([1, 13])  # its primaries and transfer function in a PNG's cICP
INFLATED = 2**20  # bytes at once
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)  # what Pillow raises on it


def decode(picture: Image.Image, data: bytes) -> tuple[UInt8[np.ndarray, "H W C"], UInt8[np.ndarray, "H W"] | None]:
    """Grey or RGB (C = 1, 3), sRGB unless there is a profile, and the opacity if anything may be transparent."""
    check(data)
    levels, opacity = _levels(picture, data), None
    if levels.shape[2] in (2, 4):
        opacity = color.eight_bits(levels[..., -1:], None)[..., 0]
        levels = levels[..., :-1]
    elif (key := picture.info.get("transparency")) is not None:  # one colour, in numbers of the file's own depth
        scale = {2: 85, 4: 17}.get(data[DEPTH], 1)  # Pillow widens to 8 bits
        opacity = np.where((levels == np.multiply(key, scale)).all(axis=2), 0, WHITE_LEVEL).astype(np.uint8)
    told = not picture.info.keys() & {"icc_profile", "srgb"}
    tone = color.tone(picture.info.get("gamma"), picture.info.get("chromaticity")) if told else None
    return color.eight_bits(levels, tone), opacity


def check(data: bytes) -> None:
    """Checksums, end, and number of pixels: Pillow looks at no checksum of the pixels and leaves missing ones black.

    Raises: InputError image_damaged, image_truncated, image_profile.
    """
    if data[12:16] != b"IHDR" or data[KIND] not in CHANNELS:
        raise InputError("image_header", f"begins with {data[: DEPTH + 2].hex()}; a PNG begins with its IHDR")
    inflater, missing = zlib.decompressobj(), _coded_bytes(data)
    try:
        for kind, body in _chunks(data):
            if kind == b"cICP" and body[:2] != CICP_SRGB:
                raise InputError("image_profile", f"its cICP is {body.hex()}, not sRGB; save the photo as sRGB")
            while kind == b"IDAT" and missing > 0 and (piece := inflater.decompress(body, INFLATED)):
                missing -= len(piece)
                body = inflater.unconsumed_tail
    except zlib.error as error:
        raise InputError("image_damaged", f"the pixels do not inflate: {error}") from error
    if missing > 0:
        raise InputError("image_truncated", f"{missing} bytes of pixels are missing")


def load(picture: Image.Image) -> Image.Image:
    """Decode all pixels of a PNG."""
    try:
        picture.load()
    except DAMAGE as error:
        raise InputError("image_truncated", f"{picture.width}x{picture.height} px do not decode: {error}") from error
    return picture


def open_quietly(data: bytes, *formats: str) -> Image.Image:
    """The header of a picture of one of `formats`, else of a JPEG or PNG, as Pillow reads it, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs above Pillow's own limit: ours is lower; of MPO: its first is taken
        return Image.open(io.BytesIO(data), formats=formats or FORMATS)


def _levels(picture: Image.Image, data: bytes) -> UInt8[np.ndarray, "H W C"] | UInt16[np.ndarray, "H W C"]:
    """A PNG's numbers in 8 or 16 bits: grey, grey and alpha, RGB, or RGBA (C = 1, 2, 3, 4)."""
    if picture.mode == "P":
        picture = load(picture).convert("RGBA" if "transparency" in picture.info else "RGB")
    elif data[DEPTH] == 16 and data[KIND] == GREY_ALPHA:  # Pillow would give 8 bits of each; its RGBA has as many bytes
        return np.array(_load_as(picture, data, "RGBA")).view(">u2").astype(np.uint16)
    elif data[DEPTH] == 16 and data[KIND] != GREY:  # Pillow knows no 16-bit colour: once the high bytes, once the low
        high, low = (np.array(_load_as(picture, data, f"{picture.mode};16{order}"), np.uint16) for order in "BL")
        return high << 8 | low
    levels = np.array(load(picture))
    levels = levels.astype(np.uint8) * WHITE_LEVEL if levels.dtype == np.bool_ else levels
    return levels[..., None] if levels.ndim == 2 else levels


def _load_as(picture: Image.Image, data: bytes, layout: str) -> Image.Image:
    """A PNG with its bytes put into pixels by another of Pillow's layouts of equal width.

    `picture` learns what stands behind the pixels, its orientation for one, as it would by being decoded itself.
    """
    other = open_quietly(data)
    other.tile = [other.tile[0]._replace(args=layout)]
    load(other)
    picture.info |= other.info
    return other


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of a PNG's chunks, each held to its checksum; what follows the last one is nobody's business."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        kind, body = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        stated = data[start + 8 + length : start + 12 + length]
        if len(stated) == 4 and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(stated, "big"):
            raise InputError("image_damaged", f"the checksum of {kind!r} at byte {start} does not match")
        if len(stated) < 4:
            break
        yield kind, body
        if kind == b"IEND":
            return
        start += 12 + length
    raise InputError("image_truncated", f"the PNG ends at byte {len(data)}, before its IEND")


def _coded_bytes(data: bytes) -> int:
    """Bytes of a PNG's pixels before compression: of each row its filter and its numbers."""
    width, height, depth, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * CHANNELS[kind]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)  # first column and row, steps
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
