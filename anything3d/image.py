"""Photos and pictures as bytes: decoding that is bounded before it begins, and the few encodings that are written.

Pixels are kept as stored: SA-1B's masks are in stored pixel coordinates, so `decode_image` applies no EXIF orientation.
Only `decode_upright` does, for photos that people point into.
A JPEG that is damaged in its middle decodes without complaint (libjpeg fills in); one that is cut is refused.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from anything3d.errors import InputError

FORMATS = ("JPEG", "PNG")
ORIENTATION = 0x0112  # EXIF tag
WHITE = 255
SPOTLIGHT_PALE = 0.6  # share of white in what a spotlight leaves out
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)  # what Pillow raises on it


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is decoded at all."""

    max_bytes: int = 64 * 2**20  # of the file
    max_megapixels: float = 40.0  # of the picture; SA-1B has at most 5
    max_side_px: int = 16384  # longer side


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before any pixel is decoded."""

    format: str  # JPEG or PNG
    mode: str  # Pillow's name of the pixel format
    height: int
    width: int


def read_header(data: bytes, limits: ImageLimits) -> Header:
    """The header of a JPEG or PNG, within limits.

    Raises: InputError image_bytes, image_format, image_header, image_bomb.
    """
    with _open(data, limits) as picture:
        return Header(str(picture.format), picture.mode, picture.height, picture.width)


def decode_image(data: bytes, limits: ImageLimits, size: tuple[int, int] | None = None) -> UInt8[Tensor, "H W 3"]:
    """RGB of a JPEG or PNG of any mode: grey is repeated, alpha is laid over white, 16 bits become 8, CMYK by Pillow.

    `size` is the (height, width) that the annotations state; None if nothing is known of it.

    Raises: InputError as `read_header`; image_truncated, image_mode; exif_mismatch or size_mismatch if `size` differs.
    """
    with _open(data, limits) as picture:
        if size is not None and size != (picture.height, picture.width):
            raise _wrong_size(picture, size)
        return torch.from_numpy(np.array(_rgb(_load(picture)), dtype=np.uint8))


def decode_upright(data: bytes, limits: ImageLimits) -> UInt8[Tensor, "H W 3"]:
    """As `decode_image`, turned the way every viewer shows it.

    Raises: InputError as `decode_image`; image_exif if the orientation cannot be read.
    """
    with _open(data, limits) as picture:
        _load(picture)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Pillow warns of EXIF that it cannot read, and goes on without
                upright = ImageOps.exif_transpose(picture)
        except (*DAMAGE, Warning) as error:
            raise InputError("image_exif", f"broken EXIF: {error}; save the photo without it") from error
        return torch.from_numpy(np.array(_rgb(upright), dtype=np.uint8))


def decode_png(data: bytes) -> UInt8[Tensor, "H W C"]:
    """Pixels of an 8-bit grey, RGB or RGBA PNG, as stored (C = 1, 3 or 4).

    Raises: InputError as `decode_image`.
    """
    with _open(data, ImageLimits()) as picture:
        if picture.format != "PNG" or picture.mode not in ("L", "RGB", "RGBA"):
            raise InputError("image_mode", f"{picture.format}, {picture.mode}; an 8-bit L, RGB or RGBA PNG expected")
        pixels = torch.from_numpy(np.array(_load(picture), dtype=np.uint8))
        return pixels[..., None] if pixels.ndim == 2 else pixels


def crops_from_png(pngs: Sequence[bytes]) -> Float[Tensor, "B 4 S S"]:
    """Crops of one size as networks take them: RGBA in [0, 1].

    Raises: InputError as `decode_png`; image_mode if a picture is not RGBA.
    """
    crops = [decode_png(data) for data in pngs]
    if wrong := [crop.shape[-1] for crop in crops if crop.shape[-1] != 4]:
        raise InputError("image_mode", f"a crop with {wrong[0]} channels; RGBA expected")
    return torch.stack(crops).permute(0, 3, 1, 2) / 255


def encode_png(pixels: UInt8[Tensor, "H W C"]) -> bytes:
    """PNG of grey, RGB or RGBA pixels (C = 1, 3 or 4); the same pixels give the same bytes."""
    assert pixels.shape[-1] in (1, 3, 4), f"{pixels.shape[-1]} channels"
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1).cpu().numpy()).save(out, "PNG", compress_level=6)
    return out.getvalue()


def encode_webp(frames: UInt8[Tensor, "T H W C"], fps: float) -> bytes:
    """Animated WebP of RGB or RGBA frames, endlessly repeated."""
    assert frames.shape[-1] in (3, 4), f"{frames.shape[-1]} channels"
    first, *others = (Image.fromarray(frame) for frame in frames.cpu().numpy())
    out = io.BytesIO()
    first.save(
        out, "WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=80, method=4
    )
    return out.getvalue()


def over(
    rgba: Float[Tensor, "B 4 H W"], background: float | Sequence[float] | Float[Tensor, "..."]
) -> Float[Tensor, "B 3 H W"]:
    """Crops laid over a colour: grey level, (r, g, b), or a tensor that broadcasts to B 3 H W; all in [0, 1]."""
    color = torch.as_tensor(background, dtype=rgba.dtype, device=rgba.device)
    if color.ndim == 1:
        color = color[:, None, None]
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    return rgb * alpha + color * (1 - alpha)


def spotlight(image: UInt8[Tensor, "H W 3"], shown: Bool[Tensor, "H W"]) -> UInt8[Tensor, "H W 3"]:
    """The photo with all but what is `shown` grey and pale."""
    grey = image.float().mean(2, keepdim=True)
    return torch.where(shown[..., None], image, (SPOTLIGHT_PALE * WHITE + (1 - SPOTLIGHT_PALE) * grey).to(torch.uint8))


def thumbnail(pixels: UInt8[Tensor, "H W C"], longest_px: int) -> UInt8[Tensor, "h w C"]:
    """Shrunk so that the longer side has `longest_px`; a smaller picture is returned as it is.

    The colour of a transparent pixel bleeds into its neighbours, as crops hold the photo there.
    """
    height, width = pixels.shape[:2]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return pixels
    return resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))


def resize(pixels: UInt8[Tensor, "H W C"], height: int, width: int) -> UInt8[Tensor, "h w C"]:
    """Bilinear, over the whole footprint of a pixel when shrinking."""
    planes = pixels.permute(2, 0, 1)[None]
    planes = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).contiguous()


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header and compare it with the limits; no pixel is decoded."""
    if len(data) > limits.max_bytes:
        raise InputError("image_bytes", f"{len(data)} bytes; at most {limits.max_bytes} are allowed")
    if not data.startswith((b"\xff\xd8", b"\x89PNG")):
        raise InputError("image_format", f"begins with {data[:8]!r}; {' or '.join(FORMATS)} expected")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs above its own limit; ours is lower
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError("image_bomb", f"{error}; at most {limits.max_megapixels} MP are allowed") from error
    except DAMAGE as error:
        raise InputError("image_header", f"no readable header in {len(data)} bytes: {error}") from error
    megapixels = picture.height * picture.width / 1e6
    if megapixels > limits.max_megapixels or max(picture.size) > limits.max_side_px:
        raise InputError(
            "image_bomb",
            f"{picture.width}x{picture.height} = {megapixels:.1f} MP; at most {limits.max_megapixels} MP and "
            f"{limits.max_side_px} px a side are allowed",
        )
    return picture


def _load(picture: Image.Image) -> Image.Image:
    """Decode all pixels; only this finds out that the file was cut."""
    try:
        picture.load()
    except DAMAGE as error:
        raise InputError("image_truncated", f"{picture.width}x{picture.height} px do not decode: {error}") from error
    return picture


def _rgb(picture: Image.Image) -> Image.Image:
    match picture.mode:
        case "RGB":
            return picture
        case "1" | "L" | "CMYK" | "YCbCr":
            return picture.convert("RGB")
        case "I;16" | "I;16B" | "I;16L" | "I":  # Pillow reads a 16-bit grey PNG as one of these
            levels = np.array(picture, dtype=np.int64).clip(0, 65535)
            return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
        case "LA" | "PA" | "P" | "RGBA":
            rgba = picture.convert("RGBA")  # a palette may have transparent entries
            return Image.alpha_composite(Image.new("RGBA", rgba.size, (WHITE,) * 4), rgba).convert("RGB")
        case mode:
            raise InputError("image_mode", f"pixel format {mode}; 1, L, LA, P, RGB, RGBA, CMYK, 16-bit grey are known")


def _wrong_size(picture: Image.Image, size: tuple[int, int]) -> InputError:
    """exif_mismatch if the annotations may have been made on the turned picture, size_mismatch otherwise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF: it only decides between two codes here
            orientation = picture.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        orientation = 1
    found = f"the picture is {picture.width}x{picture.height}, its annotations say {size[1]}x{size[0]}"
    if orientation != 1:
        return InputError(
            "exif_mismatch", f"{found}; its EXIF orientation is {orientation}: were they made on it turned?"
        )
    return InputError("size_mismatch", f"{found}; photo and annotations do not belong together")
