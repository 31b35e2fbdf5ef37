"""Sheets: the small pictures of several objects in one WebP, without torch."""

import io
from collections.abc import Sequence

from PIL import Image, ImageFilter

from anything3d.photo.picture import load_png

CELL_PX = 128  # side of a small picture
QUALITY = 80  # of WebP, 0 to 100
OUTLINE = (255, 96, 0)  # sRGB
OUTLINE_PX = 3  # width of the filter that finds the edge; the line has 2 pixels, one on each side of the edge
PALE = 0.45  # share of white in the colours outside the mask


def outlined(crop_png: bytes) -> Image.Image:
    """A crop with what surrounds it in the photo, made paler, and the edge of its mask drawn: RGB, CELL_PX a side.

    Raises: InputError as `load_png`.
    """
    with load_png(crop_png) as crop:
        photo = _square(crop.convert("RGB") if crop.mode != "RGBA" else Image.merge("RGB", crop.split()[:3]))
        mask = _square(crop.getchannel("A")) if crop.mode == "RGBA" else Image.new("L", photo.size, 255)
    inside = mask.point(lambda alpha: 255 if alpha >= 128 else 0)
    around = Image.blend(photo, Image.new("RGB", photo.size, "white"), PALE)
    picture = Image.composite(photo, around, inside)
    thick, thin = inside.filter(ImageFilter.MaxFilter(OUTLINE_PX)), inside.filter(ImageFilter.MinFilter(OUTLINE_PX))
    edge = Image.composite(thick, Image.new("L", photo.size), thin.point(lambda level: 255 - level))
    picture.paste(OUTLINE, (0, 0), edge)
    return picture


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
    out = io.BytesIO()
    whole.save(out, "WEBP", quality=QUALITY)
    return out.getvalue()


def _square(picture: Image.Image) -> Image.Image:
    return picture.resize((CELL_PX, CELL_PX), Image.Resampling.BILINEAR)
