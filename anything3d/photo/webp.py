"""The numbers of a still WebP, and its checks.

WebP has no checksums: of damage in the coded pixels, its decoder notices little.

Source: RFC 9649.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from anything3d.errors import InputError
from anything3d.photo import png

HEADER = 30  # bytes of a file, within which the size of the picture stands


def is_webp(data: bytes) -> bool:
    """Whether the bytes begin as a WebP does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def size(data: bytes) -> tuple[int, int]:
    """Width and height, in pixels. Pillow would reserve memory for all pixels before it says them.

    Raises: InputError image_header, image_truncated.
    """
    if len(data) < HEADER:
        raise InputError("image_header", f"no readable header in {len(data)} bytes")
    stated = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < stated:
        raise InputError("image_truncated", f"the WebP says that it has {stated} bytes, {len(data)} are there")
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            sides = int.from_bytes(data[21:25], "little")
            return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        case b"VP8 ":
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
        case kind:
            raise InputError("image_header", f"a WebP whose first chunk is {kind!r}")


def decode(picture: Image.Image) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"] | None]:
    """RGB, and the opacity if anything may be transparent.

    Raises: InputError image_mode for an animation; image_damaged.
    """
    if (frames := getattr(picture, "n_frames", 1)) != 1:
        raise InputError("image_mode", f"an animation of {frames} pictures; one picture expected")
    try:
        picture.load()
    except png.DAMAGE as error:
        raise InputError("image_damaged", f"{picture.width}x{picture.height} px do not decode: {error}") from error
    levels = np.array(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
    return levels[..., :3].copy(), levels[..., 3].copy() if levels.shape[2] == 4 else None
