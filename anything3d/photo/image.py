"""Photos and pictures as bytes: decoding that is bounded before it begins, and the few encodings that are written.

Places are kept as stored: SA-1B's masks are in stored pixel coordinates, so `decode_image` applies no EXIF orientation.
Only `decode_upright` does, for photos that people point into. Colours are what a viewer shows (`color.py`).

libjpeg fills in what is damaged and only warns, and Pillow is deaf to it. So JPEGs are decoded by simplejpeg, strictly:
every warning is a refusal, harmless ones too, as bytes too many are what most damage looks like. Both are
libjpeg-turbo and give equal pixels. Some damage is another sound JPEG: of single flipped bits in the coded pixels,
libjpeg notices 14 to 31 % by kind of JPEG (half of those that change more than 1 % of the pixels), of 512 zeroed bytes
85 %, of 512 random ones 99 %.
PNGs are held to their checksums and to the number of their pixels.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from annotated_types import Interval
from jaxtyping import Bool, Float, UInt8, UInt16
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from anything3d.errors import InputError
from anything3d.photo import color
from anything3d.settings import check_ranges

FORMATS = ("JPEG", "PNG")
ORIENTATION = 0x0112  # EXIF tag
MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # Pillow's, of what has no alpha
SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEPTH, KIND = 24, 25  # places of a PNG's bits per number and of its colour type: IHDR is the first chunk
GREY, GREY_ALPHA = 0, 4  # colour types
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> numbers per pixel
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CICP_SRGB = bytes([1, 13])  # its primaries and transfer function in a PNG's cICP
INFLATED = 2**20  # bytes at once
WHITE = 255
SPOTLIGHT_PALE = 0.6  # share of white in what a spotlight leaves out
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)  # what Pillow raises on it


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Which photos are decoded at all; a larger one is rejected before its pixels are read."""

    max_bytes: Annotated[int, Interval(ge=1, le=2**34)] = 64 * 2**20  # The largest file, in bytes.
    max_megapixels: Annotated[float, Interval(gt=0, le=268)] = 40.0  # The largest photo. SA-1B's have at most 5.
    max_side_px: Annotated[int, Interval(ge=1, le=2**16)] = 16384  # The longest side, in pixels.

    def __post_init__(self) -> None:
        check_ranges(self)


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
    """sRGB of a JPEG or PNG of any mode: grey is repeated, what is transparent is laid over white, 16 bits become 8.

    `size` is the (height, width) that the annotations state; None if nothing is known of it.

    Raises: InputError as `read_header`; image_truncated, image_damaged, image_mode, image_profile; exif_mismatch or
    size_mismatch if `size` differs.
    """
    with _open(data, limits) as picture:
        if size is not None and size != (picture.height, picture.width):
            raise _wrong_size(picture, size)
        return torch.from_numpy(_pixels(picture, data))


def decode_upright(data: bytes, limits: ImageLimits) -> UInt8[Tensor, "H W 3"]:
    """As `decode_image`, turned the way every viewer shows it.

    Raises: InputError as `decode_image`; image_exif if the orientation cannot be read.
    """
    with _open(data, limits) as picture:
        pixels = torch.from_numpy(_pixels(picture, data))
        return _upright(pixels, _orientation(picture)).contiguous()


def decode_png(data: bytes) -> UInt8[Tensor, "H W C"]:
    """Pixels of an 8-bit grey, RGB or RGBA PNG, as stored (C = 1, 3 or 4).

    Raises: InputError as `decode_image`.
    """
    with _open(data, ImageLimits()) as picture:
        if picture.format != "PNG" or picture.mode not in ("L", "RGB", "RGBA"):
            raise InputError("image_mode", f"{picture.format}, {picture.mode}; an 8-bit L, RGB or RGBA PNG expected")
        _check_png(data)
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
        raise InputError("image_bytes", f"the file has more than the {limits.max_bytes} bytes that are allowed")
    if not data.startswith((b"\xff\xd8", b"\x89PNG")):
        raise InputError("image_format", f"begins with {data[:8]!r}; {' or '.join(FORMATS)} expected")
    try:
        picture = _read(data)
    except Image.DecompressionBombError as error:
        raise InputError("image_bomb", f"{error}; at most {limits.max_megapixels} MP are allowed") from error
    except UnidentifiedImageError as error:  # whose own message has a place in memory, other in every run
        raise InputError("image_header", f"no readable header in {len(data)} bytes") from error
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


def _read(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs above Pillow's own limit: ours is lower; of MPO: its first is taken
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _load(picture: Image.Image) -> Image.Image:
    """Decode all pixels of a PNG."""
    try:
        picture.load()
    except DAMAGE as error:
        raise InputError("image_truncated", f"{picture.width}x{picture.height} px do not decode: {error}") from error
    return picture


def _pixels(picture: Image.Image, data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """sRGB over white of a picture whose header has been read."""
    colors, opacity = _from_png(picture, data) if picture.format == "PNG" else (_from_jpeg(picture, data), None)
    profiled = "icc_profile" in picture.info
    if colors.shape[2] == 3 and not profiled and opacity is None:
        return np.ascontiguousarray(colors)
    shown = Image.frombuffer(MODES[colors.shape[2]], picture.size, colors.tobytes())
    shown = color.by_profile(shown, picture.info["icc_profile"]) if profiled else shown.convert("RGB")
    if opacity is not None:
        shown.paste((WHITE,) * 3, mask=Image.fromarray(WHITE - opacity))
    return np.array(shown)


def _from_jpeg(picture: Image.Image, data: bytes) -> UInt8[np.ndarray, "H W C"]:
    """Numbers of a grey, RGB or CMYK JPEG (C = 1, 3, 4). CMYK is taken as Adobe writes it, inverted, as viewers do."""
    channels = len(picture.getbands())
    pixels = np.empty((picture.height, picture.width, channels), np.uint8)
    try:
        found = simplejpeg.decode_jpeg(data, color.SPACES[picture.mode], buffer=pixels, strict=True)
    except ValueError as error:
        raise InputError(_verdict(str(error)), f"libjpeg says: {error}; look at the photo and save it again") from error
    if found.shape != pixels.shape:  # two headers
        raise InputError("image_damaged", f"{found.shape[1]}x{found.shape[0]} px are coded, {picture.size} announced")
    return WHITE - found if picture.mode == "CMYK" else found


def _verdict(message: str) -> str:
    """Reason code of what libjpeg says of a JPEG."""
    if "Premature end of JPEG file" in message:
        return "image_truncated"
    return "image_mode" if "subsampling" in message else "image_damaged"


def _from_png(picture: Image.Image, data: bytes) -> tuple[UInt8[np.ndarray, "H W C"], UInt8[np.ndarray, "H W"] | None]:
    """Grey or RGB (C = 1, 3), sRGB unless there is a profile, and the opacity if anything may be transparent."""
    _check_png(data)
    levels, opacity = _levels(picture, data), None
    if levels.shape[2] in (2, 4):
        opacity = color.eight_bits(levels[..., -1:], None)[..., 0]
        levels = levels[..., :-1]
    elif (key := picture.info.get("transparency")) is not None:  # one colour, in numbers of the file's own depth
        scale = {2: 85, 4: 17}.get(data[DEPTH], 1)  # Pillow widens to 8 bits
        opacity = np.where((levels == np.multiply(key, scale)).all(axis=2), 0, WHITE).astype(np.uint8)
    told = not picture.info.keys() & {"icc_profile", "srgb"}
    found = color.tone(picture.info.get("gamma"), picture.info.get("chromaticity")) if told else None
    return color.eight_bits(levels, found), opacity


def _levels(picture: Image.Image, data: bytes) -> UInt8[np.ndarray, "H W C"] | UInt16[np.ndarray, "H W C"]:
    """A PNG's numbers in 8 or 16 bits: grey, grey and alpha, RGB, or RGBA (C = 1, 2, 3, 4)."""
    if picture.mode == "P":
        picture = _load(picture).convert("RGBA" if "transparency" in picture.info else "RGB")
    elif data[DEPTH] == 16 and data[KIND] == GREY_ALPHA:  # Pillow would give 8 bits of each; its RGBA has as many bytes
        return np.array(_load_as(picture, data, "RGBA")).view(">u2").astype(np.uint16)
    elif data[DEPTH] == 16 and data[KIND] != GREY:  # Pillow knows no 16-bit colour: once the high bytes, once the low
        high, low = (np.array(_load_as(picture, data, f"{picture.mode};16{order}"), np.uint16) for order in "BL")
        return high << 8 | low
    levels = np.array(_load(picture))
    levels = levels.astype(np.uint8) * WHITE if levels.dtype == np.bool_ else levels
    return levels[..., None] if levels.ndim == 2 else levels


def _load_as(picture: Image.Image, data: bytes, layout: str) -> Image.Image:
    """A PNG with its bytes put into pixels by another of Pillow's layouts of equal width.

    `picture` learns what stands behind the pixels, its orientation for one, as it would by being decoded itself.
    """
    other = _read(data)
    other.tile = [other.tile[0]._replace(args=layout)]
    _load(other)
    picture.info |= other.info
    return other


def _check_png(data: bytes) -> None:
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


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of a PNG's chunks, each held to its checksum; what follows the last one is nobody's business."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        stated = data[place + 8 + length : place + 12 + length]
        if len(stated) == 4 and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(stated, "big"):
            raise InputError("image_damaged", f"the checksum of {kind!r} at byte {place} does not match")
        if len(stated) < 4:
            break
        yield kind, body
        if kind == b"IEND":
            return
        place += 12 + length
    raise InputError("image_truncated", f"the PNG ends at byte {len(data)}, before its IEND")


def _coded_bytes(data: bytes) -> int:
    """Bytes of a PNG's pixels before compression: of each row its filter and its numbers."""
    width, height, depth, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * CHANNELS[kind]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)  # first column and row, steps
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _orientation(picture: Image.Image) -> int:
    """EXIF's, 1 to 8; what XMP says of it is ignored, as viewers do."""
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of EXIF that it cannot read, and goes on without
            exif.load(picture.info.get("exif", b""))
            found = exif.get(ORIENTATION, 1)
    except (*DAMAGE, Warning) as error:
        raise InputError("image_exif", f"broken EXIF: {error}; save the photo without it") from error
    return found if found in range(1, 9) else 1


def _upright(pixels: UInt8[Tensor, "_ _ 3"], orientation: int) -> UInt8[Tensor, "_ _ 3"]:
    """Pixels turned from how they are stored to how they are shown. Source: EXIF 2.32, tag 274."""
    if orientation >= 5:
        pixels = pixels.transpose(0, 1)
    rows_back, columns_back = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels.flip([axis for axis, back in enumerate((rows_back, columns_back)) if back])


def _wrong_size(picture: Image.Image, size: tuple[int, int]) -> InputError:
    """exif_mismatch if the annotations may have been made on the turned picture, size_mismatch otherwise."""
    try:
        orientation = _orientation(picture)
    except InputError:  # it only decides between two codes here
        orientation = 1
    found = f"the picture is {picture.width}x{picture.height}, its annotations say {size[1]}x{size[0]}"
    if orientation != 1:
        return InputError(
            "exif_mismatch", f"{found}; its EXIF orientation is {orientation}: were they made on it turned?"
        )
    return InputError("size_mismatch", f"{found}; photo and annotations do not belong together")
