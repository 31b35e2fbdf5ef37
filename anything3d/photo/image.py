"""Photos and pictures as bytes: they are decoded within limits, and a few of them are encoded.

Pixels stay where they are stored. SA-1B's masks are in stored pixel coordinates, so `decode_image` applies no EXIF
orientation. Only `decode_upright` applies it, for photos that people point into. Colours are what a viewer shows
(`color.py`).

libjpeg fills in what is damaged and only warns, and Pillow does not pass the warnings on. So JPEGs are decoded by
simplejpeg, and every warning is a refusal. Harmless warnings are refused too, because most damage looks like bytes too
many. Both libraries are libjpeg-turbo and give equal pixels. Some damage gives another sound JPEG: of single flipped
bits in the coded pixels, libjpeg notices 14 to 31 % by kind of JPEG (half of those that change more than 1 % of the
pixels); of 512 zeroed bytes it notices 85 %, of 512 random ones 99 %.
A PNG must have sound checksums and all of its pixels (`png.py`).
"""

import io
import warnings
from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from anything3d.errors import InputError
from anything3d.photo import color, png, webp
from anything3d.photo.color import WHITE_LEVEL
from anything3d.photo.picture import as_array, load_png, open_picture, save_png
from anything3d.settings.segment import ImageLimits

ORIENTATION = 0x0112  # EXIF tag
MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # Pillow's, of what has no alpha


def decode_image(data: bytes, limits: ImageLimits, size: tuple[int, int] | None = None) -> UInt8[Tensor, "H W 3"]:
    """sRGB of a JPEG or PNG of any mode: grey is repeated, what is transparent is laid over white, 16 bits become 8.

    `size` is the (height, width) that the annotations state; None if nothing is known of it.

    Raises: InputError image_bytes, image_format, image_header, image_bomb; image_truncated, image_damaged, image_mode,
    image_profile; exif_mismatch or size_mismatch if `size` differs.
    """
    with open_picture(data, limits) as picture:
        if size is not None and size != (picture.height, picture.width):
            raise _wrong_size(picture, size)
        return torch.from_numpy(_pixels(picture, data))


def decode_upright(data: bytes, limits: ImageLimits) -> UInt8[Tensor, "H W 3"]:
    """As `decode_image`, turned the way every viewer shows it. It may be a still WebP, too.

    Raises: InputError as `decode_image`; image_exif if the orientation cannot be read.
    """
    with open_picture(data, limits, or_webp=True) as picture:
        pixels = torch.from_numpy(_pixels(picture, data))
        return _upright(pixels, _orientation(picture)).contiguous()


def decode_png(data: bytes) -> UInt8[Tensor, "H W C"]:
    """Pixels of an 8-bit grey, RGB or RGBA PNG, as stored (C = 1, 3 or 4).

    Raises: InputError as `load_png`.
    """
    with load_png(data) as picture:
        return torch.from_numpy(as_array(picture))


def crops_from_png(pngs: Sequence[bytes]) -> Float[Tensor, "B 4 S S"]:
    """Crops of one size as networks take them: RGBA in [0, 1].

    Raises: InputError as `decode_png`; image_mode if a picture is not RGBA.
    """
    crops = [decode_png(data) for data in pngs]
    if wrong := [crop.shape[-1] for crop in crops if crop.shape[-1] != 4]:
        raise InputError("image_mode", f"a crop with {wrong[0]} channels; RGBA expected")
    return as_batch(crops)


def as_batch(crops: Sequence[UInt8[Tensor, "S S 4"]]) -> Float[Tensor, "B 4 S S"]:
    """Crops of one size as networks take them: RGBA in [0, 1]."""
    return torch.stack([*crops]).permute(0, 3, 1, 2) / 255


def unseen_from_png(pngs: Sequence[bytes | None], size: int) -> Float[Tensor, "B S S"]:
    """The shares of the pixels of crops of `size` px in which objects may go on without being seen; None is nowhere.

    Raises: InputError as `decode_png`.
    """
    return unseen_batch([None if data is None else decode_png(data)[..., 0] for data in pngs], size)


def unseen_batch(shares: Sequence[UInt8[Tensor, "S S"] | None], size: int) -> Float[Tensor, "B S S"]:
    """The same, of the shares that crops have (of 255)."""
    return torch.stack([torch.zeros(size, size) if one is None else one / 255 for one in shares])


def encode_png(pixels: UInt8[Tensor, "H W C"]) -> bytes:
    """PNG of grey, RGB or RGBA pixels (C = 1, 3 or 4); the same pixels give the same bytes."""
    assert pixels.shape[-1] in (1, 3, 4), f"{pixels.shape[-1]} channels"
    return save_png(Image.fromarray(pixels.squeeze(-1).cpu().numpy()))


def encode_webp(frames: UInt8[Tensor, "T H W C"], fps: float) -> bytes:
    """Animated WebP of RGB or RGBA frames, endlessly repeated."""
    assert frames.shape[-1] in (3, 4), f"{frames.shape[-1]} channels"
    first, *others = (Image.fromarray(frame) for frame in frames.cpu().numpy())
    out = io.BytesIO()
    first.save(
        out, "WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=80, method=4
    )
    return out.getvalue()


def _pixels(picture: Image.Image, data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """sRGB over white of a picture whose header has been read."""
    match picture.format:
        case "PNG":
            colors, opacity = png.decode(picture, data)
        case "WEBP":
            colors, opacity = webp.decode(picture)
        case _:
            colors, opacity = _from_jpeg(picture, data), None
    profiled = "icc_profile" in picture.info
    if colors.shape[2] == 3 and not profiled and opacity is None:
        return np.ascontiguousarray(colors)
    shown = Image.frombuffer(MODES[colors.shape[2]], picture.size, colors.tobytes())
    shown = color.by_profile(shown, picture.info["icc_profile"]) if profiled else shown.convert("RGB")
    if opacity is not None:
        shown.paste((WHITE_LEVEL,) * 3, mask=Image.fromarray(WHITE_LEVEL - opacity))
    return np.array(shown)


def _from_jpeg(picture: Image.Image, data: bytes) -> UInt8[np.ndarray, "H W C"]:
    """Numbers of a grey, RGB or CMYK JPEG (C = 1, 3, 4). CMYK is taken as Adobe writes it, inverted, as viewers do."""
    channels = len(picture.getbands())
    pixels = np.empty((picture.height, picture.width, channels), np.uint8)
    try:
        decoded = simplejpeg.decode_jpeg(data, color.SPACES[picture.mode], buffer=pixels, strict=True)
    except ValueError as error:
        raise _refused(str(error)) from error
    if decoded.shape != pixels.shape:  # two headers
        coded = f"{decoded.shape[1]}x{decoded.shape[0]} px are coded"
        raise InputError("image_damaged", f"{coded}, {picture.size} announced")
    return WHITE_LEVEL - decoded if picture.mode == "CMYK" else decoded


def _refused(said: str) -> InputError:
    """What libjpeg says of a JPEG, in our words."""
    message = f"libjpeg says: {said}; look at the photo and save it again"
    if "Premature end of JPEG file" in said:
        return InputError("image_truncated", message)
    return InputError("image_mode" if "subsampling" in said else "image_damaged", message)


def _orientation(picture: Image.Image) -> int:
    """EXIF's, 1 to 8; what XMP says of it is ignored, as viewers do."""
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of EXIF that it cannot read, and goes on without
            exif.load(picture.info.get("exif", b""))
            orientation = exif.get(ORIENTATION, 1)
    except (*png.DAMAGE, Warning) as error:
        raise InputError("image_exif", f"broken EXIF: {error}; save the photo without it") from error
    return orientation if orientation in range(1, 9) else 1


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
    sizes = f"the picture is {picture.width}x{picture.height}, its annotations say {size[1]}x{size[0]}"
    if orientation != 1:
        return InputError(
            "exif_mismatch", f"{sizes}; its EXIF orientation is {orientation}: were they made on it turned?"
        )
    return InputError("size_mismatch", f"{sizes}; photo and annotations do not belong together")
