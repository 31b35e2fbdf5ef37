"""Pictures as files, without torch: they are opened within limits, and PNGs of ours are made smaller or taken apart."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from anything3d.errors import InputError
from anything3d.photo import png, webp
from anything3d.settings.segment import ImageLimits

OURS = ("L", "RGB", "RGBA")  # Pillow's modes of the PNGs that we write


def open_picture(data: bytes, limits: ImageLimits, *, or_webp: bool = False) -> Image.Image:
    """Read the header and compare it with the limits; no pixel is decoded.

    Raises: InputError image_bytes, image_format, image_header, image_bomb.
    """
    if len(data) > limits.max_bytes:
        raise InputError("image_bytes", f"the file has more than the {limits.max_bytes} bytes that are allowed")
    is_webp = or_webp and webp.is_webp(data)
    if not is_webp and not data.startswith((b"\xff\xd8", b"\x89PNG")):
        wanted = " or ".join((*png.FORMATS, *(["WEBP"] if or_webp else [])))
        raise InputError("image_format", f"begins with {data[:8]!r}; {wanted} expected")
    if is_webp:
        _check_size(*webp.size(data), limits)
    try:
        picture = png.open_quietly(data, "WEBP") if is_webp else png.open_quietly(data)
    except Image.DecompressionBombError as error:
        raise InputError("image_bomb", f"{error}; at most {limits.max_megapixels} MP are allowed") from error
    except UnidentifiedImageError as error:  # whose own message has a place in memory, other in every run
        raise InputError("image_header", f"no readable header in {len(data)} bytes") from error
    except png.DAMAGE as error:
        raise InputError("image_header", f"no readable header in {len(data)} bytes: {error}") from error
    _check_size(picture.width, picture.height, limits)
    return picture


def load_png(data: bytes) -> Image.Image:
    """An 8-bit grey, RGB or RGBA PNG, with all of its pixels.

    Raises: InputError as `open_picture`; image_mode for another picture; image_damaged, image_truncated.
    """
    picture = open_picture(data, ImageLimits())
    if picture.format != "PNG" or picture.mode not in OURS:
        raise InputError("image_mode", f"{picture.format}, {picture.mode}; an 8-bit L, RGB or RGBA PNG expected")
    png.check(data)
    return png.load(picture)


def save_png(picture: Image.Image) -> bytes:
    """PNG of a grey, RGB or RGBA picture; the same pixels give the same bytes."""
    assert picture.mode in OURS, picture.mode
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=6)
    return out.getvalue()


def thumbnail(data: bytes, longest_px: int) -> bytes:
    """The PNG, shrunk so that its longer side has `longest_px`; of a smaller one the pixels stay as they are.

    Bilinear over the whole footprint of a pixel. The colour of a transparent pixel bleeds into its neighbours, as crops
    hold the photo there. Raises: InputError as `load_png`.
    """
    with load_png(data) as picture:
        scale = min(1.0, longest_px / max(picture.size))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        bands = [band.resize(size, Image.Resampling.BILINEAR) for band in picture.split()]  # each alone: not by alpha
        return save_png(Image.merge(picture.mode, bands))


def mask_png(crop: bytes) -> bytes:
    """The mask of a crop, which is its alpha, as a grey PNG. Raises: InputError as `load_png`."""
    with load_png(crop) as picture:
        return save_png(picture.getchannel("A"))


def as_array(picture: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    """The numbers of a loaded picture (C = 1, 3 or 4)."""
    numbers = np.array(picture, dtype=np.uint8)
    return numbers[..., None] if numbers.ndim == 2 else numbers


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    megapixels = height * width / 1e6
    if megapixels > limits.max_megapixels or max(width, height) > limits.max_side_px:
        raise InputError(
            "image_bomb",
            f"{width}x{height} = {megapixels:.1f} MP; at most {limits.max_megapixels} MP and "
            f"{limits.max_side_px} px a side are allowed",
        )
