"""Sheets: the small pictures of several objects in one WebP, without torch."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from PIL import Image

from anything3d.errors import InputError
from anything3d.photo.picture import load_png, open_picture
from anything3d.photo.png import DAMAGE
from anything3d.settings.segment import ImageLimits

CELL_PX = 128  # side of a small picture
QUALITY, EFFORT = 80, 2  # of WebP, 0 to 100; 0 to 6: more makes a smaller file and takes longer
OUTLINE = (255, 96, 0)  # sRGB
PALE = 0.45  # share of white in the colours outside the mask
WHITE, HALF = 255, 128  # 8-bit levels: of white, and of the alpha from which a pixel is in the mask


def outlined(crop_png: bytes) -> Image.Image:
    """A crop with what surrounds it in the photo, made paler, and the edge of its mask drawn: RGB, CELL_PX a side.

    Raises: InputError as `load_png`.
    """
    with load_png(crop_png) as crop:
        return outlined_picture(crop)


def outlined_picture(crop: Image.Image) -> Image.Image:
    """As `outlined`, of a loaded picture."""
    photo = _square(crop.convert("RGB") if crop.mode != "RGBA" else Image.merge("RGB", crop.split()[:3]))
    mask = _square(crop.getchannel("A")) if crop.mode == "RGBA" else Image.new("L", photo.size, 255)
    inside = np.asarray(mask) >= HALF
    level = np.asarray(photo).astype(np.float32)
    level[~inside] = (1 - PALE) * level[~inside] + PALE * WHITE
    picture = level.round().astype(np.uint8)
    picture[edge(inside)] = OUTLINE
    return Image.fromarray(picture)


def edge(inside: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels on both sides of the edge of a mask: those that differ from one of their four neighbours."""
    found = np.zeros_like(inside)
    down, right = inside[1:] != inside[:-1], inside[:, 1:] != inside[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def on_white(png: bytes) -> Image.Image:
    """A picture with alpha over white: RGB, CELL_PX a side. Raises: InputError as `load_png`."""
    with load_png(png) as picture:
        rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return _square(Image.alpha_composite(white, rgba).convert("RGB"))


def sheet(pictures: Sequence[Image.Image], columns: int) -> bytes:
    """Small pictures side by side, row by row from the top left corner, as a WebP; equal pictures give equal bytes."""
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * CELL_PX, rows * CELL_PX), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        whole.paste(picture, (column * CELL_PX, row * CELL_PX))
    return save_webp(whole)


def save_webp(picture: Image.Image) -> bytes:
    """An RGB picture as a WebP for people to look at; equal pictures give equal bytes."""
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=QUALITY, method=EFFORT)
    return out.getvalue()


def cut(sheet_webp: bytes, place: int, columns: int) -> Image.Image:
    """One of the pictures of a `sheet` with so many columns, by its place from the top left: RGB, CELL_PX a side.

    Raises: InputError as `open_picture`; image_damaged.
    """
    row, column = divmod(place, columns)
    whole = _rgb(open_picture(sheet_webp, ImageLimits(), or_webp=True))
    return whole.crop((column * CELL_PX, row * CELL_PX, (column + 1) * CELL_PX, (row + 1) * CELL_PX))


def turns(turntable_webp: bytes, count: int) -> list[Image.Image]:
    """So many views of a turntable, in equal steps from its first, or all if it has fewer: RGB, CELL_PX a side.

    Raises: as `cut`.
    """
    picture = open_picture(turntable_webp, ImageLimits(), or_webp=True)
    frames = getattr(picture, "n_frames", 1)
    count = min(count, frames)
    return [_square(_rgb(picture, turn * frames // count)) for turn in range(count)]


def _rgb(picture: Image.Image, frame: int = 0) -> Image.Image:
    """The numbers of one frame."""
    try:
        picture.seek(frame)
        return picture.convert("RGB")
    except DAMAGE as error:
        raise InputError("image_damaged", f"{picture.width}x{picture.height} px do not decode: {error}") from error


def _square(picture: Image.Image) -> Image.Image:
    return picture.resize((CELL_PX, CELL_PX), Image.Resampling.BILINEAR)
