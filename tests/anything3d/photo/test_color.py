"""Colours: profiles, gammas, primaries and transparency, held to arithmetic of their own."""

import io
import struct
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image, ImageCms

from anything3d.errors import InputError
from anything3d.photo.image import decode_image, decode_upright
from anything3d.settings.segment import ImageLimits

LIMITS = ImageLimits()
SRGB_TO_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE_TO_D50 = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def icc(space, tags):
    """An ICC profile, version 2, of a monitor, or of a printer for CMYK."""
    body, table, place = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name.encode(), place + len(body), len(content))
        body += content
    kind, pcs = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    head = struct.pack(
        ">I4sI4s4s4s12x4s28x3I", 0, b"\0" * 4, 0x02100000, kind, space, pcs, b"acsp", 63190, 65536, 54061
    )
    whole = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def xyz(x, y, z):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in (x, y, z)))


def curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


WHITE_POINT = {"wtpt": xyz(0.9642, 1, 0.8249)}


def rgb_profile(gamma, columns=ADOBE_TO_D50):
    tags = {f"{name}XYZ": xyz(*columns[:, place]) for place, name in enumerate("rgb")}
    return icc(b"RGB ", WHITE_POINT | tags | {f"{name}TRC": curve(gamma) for name in "rgb"})


def grey_profile(gamma):
    return icc(b"GRAY", WHITE_POINT | {"kTRC": curve(gamma)})


def cmyk_profile():
    """All ink is the Lab grey of its black plate alone: C, M and Y print nothing."""
    ramp = bytes(range(256))
    clut = b"".join(bytes([0 if k else 255, 128, 128]) for _ in range(8) for k in (0, 1))
    body = struct.pack(">4s4xBBBx9i", b"mft1", 4, 3, 2, *(65536 * (i % 4 == 0) for i in range(9)))
    return icc(b"CMYK", WHITE_POINT | {"A2B0": body + ramp * 4 + clut + ramp * 3})


def encode_srgb(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255


def adobe_to_srgb(pixels, gamma):
    light = (pixels / 255) ** gamma @ (np.linalg.inv(SRGB_TO_D50) @ ADOBE_TO_D50).T
    return encode_srgb(light)


def encoded(picture, format="PNG", **options):
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def png(levels, depth, kind, *chunks, interlaced=False):
    """A PNG of numbers [H, W, C] with further chunks (kind, content), in bits as a file has them."""
    height, width = levels.shape[:2]
    bits = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(height, -1, 2), axis=2)[..., 16 - depth :]
    rows = np.packbits(bits.reshape(height, -1), axis=1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def shown(data):
    found = decode_image(data, LIMITS)
    assert np.array_equal(found, decode_upright(data, LIMITS))
    return found.numpy().astype(int)


def reason(data):
    with pytest.raises(InputError) as caught:
        decode_image(data, LIMITS)
    return caught.value.reason


def blocks(channels=3):
    """Colours in blocks of 8 x 8, which JPEG keeps."""
    few = np.random.default_rng(0).integers(0, 256, (6, 6, channels), dtype=np.uint8)
    return few.repeat(8, axis=0).repeat(8, axis=1)


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_a_profile_of_a_png_is_honoured_to_one_level(gamma):
    pixels = blocks()
    found = shown(encoded(Image.fromarray(pixels), icc_profile=rgb_profile(gamma)))
    assert np.abs(found - adobe_to_srgb(pixels, round(gamma * 256) / 256)).max() < 1.5


def test_a_profile_of_a_jpeg_is_honoured():
    data = encoded(Image.fromarray(blocks()), "JPEG", quality=95, icc_profile=rgb_profile(2.2))
    stored = np.array(Image.open(io.BytesIO(data)))
    assert np.abs(shown(data) - adobe_to_srgb(stored, 2.2)).max() < 2
    assert np.abs(shown(data) - stored).max() > 20


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(shown(encoded(Image.fromarray(blocks()), icc_profile=profile)), blocks())


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_grey_goes_by_a_grey_profile_or_an_rgb_one(format):
    ramp = np.arange(0, 256, 8, dtype=np.uint8)[None].repeat(8, 0).repeat(8, 1)
    for profile in (grey_profile(1.0), rgb_profile(1.0)):
        data = encoded(Image.fromarray(ramp), format, icc_profile=profile)
        expected = encode_srgb(np.array(Image.open(io.BytesIO(data))) / 255)
        assert np.abs(shown(data) - expected[..., None]).max() < 1.5


def test_a_cmyk_jpeg_goes_by_its_profile():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, 8:, 3] = 128
    picture = Image.frombytes("CMYK", (16, 16), inks.tobytes())
    found = shown(encoded(picture, "JPEG", quality=100, icc_profile=cmyk_profile()))
    assert np.abs(found[:, 2] - 255).max() <= 1
    assert np.abs(found[:, 13] - 118).max() <= 3  # L* = 50
    assert np.abs(shown(encoded(picture, "JPEG", quality=100))[:, 13] - 127).max() <= 2  # without one


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_profile_that_is_broken_or_of_another_space_is_refused(format):
    picture = Image.fromarray(blocks())
    for profile in (b"junk", rgb_profile(2.2)[:150], grey_profile(2.2), cmyk_profile()):
        assert reason(encoded(picture, format, icc_profile=profile)) == "image_profile"


def test_a_profile_that_does_not_inflate_or_lacks_a_part_is_refused():
    assert reason(png(blocks(), 8, 2, (b"iCCP", b"name\0\0not deflated"))) == "image_profile"
    whole = encoded(Image.fromarray(blocks()), "JPEG", icc_profile=rgb_profile(2.2))
    assert (
        reason(whole.replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")) == "image_damaged"
    )  # libjpeg itself says so


def test_alpha_is_laid_over_white_after_the_profile():
    pixels = np.dstack([blocks(), np.full((48, 48), 102, np.uint8)])
    found = shown(encoded(Image.fromarray(pixels), icc_profile=rgb_profile(2.2)))
    assert np.abs(found - (adobe_to_srgb(pixels[..., :3], 2.2) * 0.4 + 255 * 0.6)).max() < 1.5


def gama(gamma):
    return (b"gAMA", struct.pack(">I", round(gamma * 100_000)))


def chrm(values):
    return (b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [0, 2])
def test_a_png_of_linear_light_is_shown_as_light(depth, kind):
    levels = np.arange(0, 1 << depth, 1 << depth - 8)[:, None, None].repeat(3 if kind else 1, 2)
    found = shown(png(levels, depth, kind, gama(1.0)))
    assert np.abs(found - encode_srgb(levels / ((1 << depth) - 1))).max() <= 0.5001


def test_linear_light_of_16_bits_keeps_its_shadows():
    levels = np.arange(300)[None, :, None].repeat(3, 2)
    assert len(np.unique(shown(png(levels, 16, 2, gama(1.0))))) == 1 + round(float(encode_srgb(299 / 65535)))


def test_primaries_of_a_png_are_honoured():
    found = shown(png(blocks(), 8, 2, gama(1 / 2.2), chrm(ADOBE)))
    light = np.where(blocks() <= 0.04045 * 255, blocks() / 255 / 12.92, ((blocks() / 255 + 0.055) / 1.055) ** 2.4)
    expected = encode_srgb(light @ (np.linalg.inv(SRGB_TO_D50) @ ADOBE_TO_D50).T)
    assert np.abs(found - expected).max() < 1.5


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(0.45455)],
        [gama(0.45)],
        [gama(0.45455), chrm((0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06))],
        [(b"sRGB", b"\0"), gama(1.0), chrm(ADOBE)],  # sRGB has the last word
        [(b"cICP", bytes([1, 13, 0, 1])), gama(0.45455)],
    ],
)
def test_numbers_that_are_srgb_stay(chunks):
    assert np.array_equal(shown(png(blocks(), 8, 2, *chunks)), blocks())


def test_a_profile_has_the_last_word_over_gamma():
    profile = (b"iCCP", b"p\0\0" + zlib.compress(rgb_profile(1.8, SRGB_TO_D50)))
    found = shown(png(blocks(), 8, 2, gama(1.0), profile))
    assert np.abs(found - encode_srgb((blocks() / 255) ** (round(1.8 * 256) / 256))).max() < 1.5


@pytest.mark.parametrize(
    "chunk",
    [gama(0.0), gama(400), chrm((0.3127, 0.329, 0.64, 0, 0.3, 0.6, 0.15, 0.06)), (b"cICP", bytes([9, 16, 0, 1]))],
)
def test_colours_that_nobody_could_show_are_refused(chunk):
    assert reason(png(blocks(), 8, 2, chunk)) == "image_profile"


@given(st.sampled_from([(0, d) for d in (1, 2, 4, 8, 16)] + [(2, 8), (2, 16)]), st.integers(0, 2**32))
@settings(max_examples=60)
def test_one_transparent_colour_is_compared_in_the_files_own_depth(form, seed):
    kind, depth = form
    levels = np.random.default_rng(seed).integers(0, 1 << depth, (3, 8, 3 if kind else 1))
    levels[0, :2] = levels[1, 3]
    levels[0, 1, 0] ^= 1  # a neighbour, equal in 8 bits
    key = struct.pack(f">{levels.shape[2]}H", *levels[1, 3])
    top = (1 << depth) - 1
    clear = (levels == levels[1, 3]).all(2, keepdims=True)
    expected = np.where(clear, 255, np.floor(levels * 255 / top + 0.5))
    assert np.array_equal(shown(png(levels, depth, kind, (b"tRNS", key))), np.broadcast_to(expected, (3, 8, 3)))


@given(st.sampled_from([(4, 8), (4, 16), (6, 8), (6, 16), (2, 16), (0, 16)]), st.integers(0, 2**32))
@settings(max_examples=40)
def test_every_depth_is_rounded_to_the_nearest_level_and_laid_over_white(form, seed):
    kind, depth = form
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    levels = np.random.default_rng(seed).integers(0, 1 << depth, (3, 8, channels))
    shares = levels / ((1 << depth) - 1) * 255
    alpha = np.floor(shares[..., -1:] + 0.5) / 255 if kind in (4, 6) else 1
    colors = np.floor(shares[..., :3] + 0.5) if channels > 2 else np.floor(shares[..., :1] + 0.5)
    expected = colors * alpha + 255 * (1 - alpha)
    assert np.abs(shown(png(levels, depth, kind)) - expected).max() <= 0.51


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_of_every_depth_have_transparent_entries(depth):
    palette = bytes([10, 20, 30, 40, 50, 60])
    levels = np.array([[[0], [1], [1], [0]]])
    found = shown(png(levels, depth, 3, (b"PLTE", palette), (b"tRNS", b"\xff\0")))
    assert found[0].tolist() == [[10, 20, 30], [255] * 3, [255] * 3, [10, 20, 30]]
