"""Colours of pictures: what a file says about its numbers, and the sRGB that a viewer shows for them.

An ICC profile counts first, then PNG's own `sRGB`, then its `gAMA` and `cHRM`. Without any of them the numbers are
sRGB, as in browsers. The colour space of EXIF is ignored, as in browsers.

Sources: ICC.1:2022 (by LittleCMS); PNG specification, third edition, 4.3 and 11.3.2; IEC 61966-2-1 (sRGB).
"""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms

from anything3d.errors import InputError

WHITE_LEVEL = 255  # of grey, in 8 bits
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # Pillow's modes -> what ICC and simplejpeg call them
GAMMA = 1 / 2.2  # what PNG's gAMA says of sRGB's numbers
GAMMA_TOLERANCE = 0.05  # share; libpng's PNG_GAMMA_THRESHOLD, within which a gAMA means sRGB
GAMMA_RANGE = (0.1, 10.0)  # what a camera or a renderer may use
PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # sRGB's white, red, green, blue: x, y of each
PRIMARIES_TOLERANCE = 0.003  # of each; writers round differently
STRIP_PX = 2**20  # pixels that are turned into floats at once
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Chromaticities = tuple[float, float, float, float, float, float, float, float]  # white, red, green, blue: x, y of each


@dataclass(frozen=True, slots=True)
class Tone:
    """What a PNG says of its colours without a profile."""

    gamma: float | None  # exponent from light to number; None is sRGB's curve
    chromaticities: Chromaticities | None  # None is sRGB's


def by_profile(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """A grey, RGB or CMYK picture in sRGB, by its ICC profile (None: it has one that cannot be read), perceptually.

    Raises: InputError image_profile for a broken profile, or one of another kind of picture.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        space = source.profile.xcolor_space.strip()
        if picture.mode == "L" and space == "RGB":
            picture = picture.convert("RGB")
        if space != SPACES[picture.mode]:
            raise _unusable(f"it is of {space} pictures, the picture is {picture.mode}")
        return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        raise _unusable(str(error)) from error


def tone(gamma: float | None, chromaticities: Chromaticities | None) -> Tone | None:
    """What has to be done to numbers of such a gamma and such primaries; None if they are sRGB's.

    Raises: InputError image_profile for values that no picture has.
    """
    if gamma is not None and not GAMMA_RANGE[0] <= gamma <= GAMMA_RANGE[1]:
        raise _unusable(f"its gAMA is {gamma}; {GAMMA_RANGE[0]} to {GAMMA_RANGE[1]} are known")
    if gamma is not None and abs(gamma / GAMMA - 1) <= GAMMA_TOLERANCE:
        gamma = None
    if chromaticities is not None and np.allclose(chromaticities, PRIMARIES, rtol=0, atol=PRIMARIES_TOLERANCE):
        chromaticities = None
    return Tone(gamma, chromaticities) if gamma or chromaticities else None


def eight_bits(levels: np.ndarray, marked: Tone | None) -> UInt8[np.ndarray, "H W C"]:
    """Grey or RGB numbers of 8 or 16 bits, [H, W, C], as sRGB of 8 bits, rounded to the nearest.

    Raises: InputError image_profile as `tone`.
    """
    numbers = np.linspace(0, 1, np.iinfo(levels.dtype).max + 1)
    if marked is None:
        return levels if levels.dtype == np.uint8 else _rounded(numbers)[levels]
    light = _light(numbers) if marked.gamma is None else numbers ** (1 / marked.gamma)
    if marked.chromaticities is None or levels.shape[2] == 1:  # grey is the white that both have in common
        return _rounded(_srgb(light))[levels]
    matrix, light = _to_srgb_primaries(marked.chromaticities).astype(np.float32), light.astype(np.float32)
    result = np.empty(levels.shape, np.uint8)
    rows = max(1, STRIP_PX // levels.shape[1])
    for start in range(0, len(levels), rows):
        strip = light[levels[start : start + rows]] @ matrix.T
        result[start : start + rows] = _rounded(_srgb(strip.clip(0, 1)))
    return result


def _light(numbers: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Linear light of sRGB numbers."""
    return np.where(numbers <= 0.04045, numbers / 12.92, ((numbers + 0.055) / 1.055) ** 2.4)


def _srgb(light: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """sRGB numbers of linear light."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _rounded(numbers: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return (numbers * 255 + 0.5).astype(np.uint8)


def _to_srgb_primaries(chromaticities: Chromaticities) -> Float[np.ndarray, "3 3"]:
    """From linear RGB of other primaries to sRGB's; white stays white (Bradford)."""
    try:
        white, ours = _xyz(*chromaticities[:2]), _xyz(*PRIMARIES[:2])
        adapted = np.linalg.solve(BRADFORD, np.diag((BRADFORD @ ours) / (BRADFORD @ white)) @ BRADFORD)
        return np.linalg.solve(_to_xyz(PRIMARIES), adapted @ _to_xyz(chromaticities))
    except (np.linalg.LinAlgError, ZeroDivisionError) as error:
        raise _unusable(f"its cHRM is {chromaticities}: {error}") from error


def _to_xyz(chromaticities: Chromaticities) -> Float[np.ndarray, "3 3"]:
    """From linear RGB to CIE XYZ, the white having Y = 1."""
    primaries = np.stack([_xyz(*chromaticities[k : k + 2]) for k in (2, 4, 6)], axis=1)
    return primaries * np.linalg.solve(primaries, _xyz(*chromaticities[:2]))


def _xyz(x: float, y: float) -> Float[np.ndarray, "3"]:
    """Of a colour with Y = 1."""
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _unusable(what: str) -> InputError:
    return InputError("image_profile", f"the colour profile is no good: {what}; save the photo as sRGB")
