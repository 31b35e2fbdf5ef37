"""Photos: pixel formats, limits, damage, and the encodings that are written."""

import contextlib
import io
import struct
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from anything3d.errors import InputError
from anything3d.image import (
    ORIENTATION,
    ImageLimits,
    crops_from_png,
    decode_image,
    decode_png,
    decode_upright,
    encode_png,
    encode_webp,
    over,
    read_header,
    spotlight,
    thumbnail,
)

LIMITS = ImageLimits()


def encoded(picture, format="PNG", **options):
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def gradient(height=24, width=32):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 7 % 256, columns * 7 % 256, (rows + columns) * 3 % 256], axis=-1).astype(np.uint8)


def bomb(width, height):
    """A PNG of a few hundred bytes whose header claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def reason(data, limits=LIMITS, size=None):
    with pytest.raises(InputError) as caught:
        decode_image(data, limits, size)
    return caught.value.reason


def test_a_jpeg_decodes_to_its_rgb():
    pixels = decode_image(encoded(Image.fromarray(gradient()), "JPEG", quality=95), LIMITS, (24, 32))
    assert pixels.shape == (24, 32, 3)
    assert np.abs(pixels.numpy().astype(int) - gradient()).mean() < 6  # JPEG's own loss


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("LA", (0, 51), (204, 204, 204)),  # black at a fifth over white
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),
        ("RGBA", (9, 9, 9, 0), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 32896, (128, 128, 128)),  # 128 * 257
    ],
)
def test_every_pixel_format_becomes_rgb_by_the_table(mode, value, expected):
    pixels = decode_image(encoded(Image.new(mode, (3, 2), value)), LIMITS)
    assert pixels.shape == (2, 3, 3)
    assert pixels.unique(dim=0).unique(dim=1).flatten().tolist() == list(expected)


def test_a_palette_with_a_transparent_entry_lies_over_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    pixels = decode_image(encoded(picture, transparency=1), LIMITS)
    assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_cmyk_jpeg_becomes_rgb():
    pixels = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), LIMITS)
    red, green, blue = pixels.float().mean(dim=(0, 1)).tolist()
    assert red > 240
    assert max(green, blue) < 16


def test_a_bomb_is_refused_from_its_header():
    assert reason(bomb(11_000, 12_000)) == "image_bomb"  # 132 MP: Pillow only warns
    assert reason(bomb(60_000, 60_000)) == "image_bomb"  # Pillow's own error
    assert reason(bomb(20_000, 10)) == "image_bomb"  # few pixels, one side beyond the limit
    assert reason(bomb(100, 100), ImageLimits(max_megapixels=0.009)) == "image_bomb"


def test_bytes_beyond_the_limit_are_not_even_opened():
    assert reason(bomb(4, 4), ImageLimits(max_bytes=10)) == "image_bytes"


@pytest.mark.parametrize("data", [b"", b"GIF89a" + b"\0" * 50, b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0"])
def test_other_formats_are_refused(data):
    assert reason(data) == "image_format"


def test_a_broken_header_is_refused():
    assert reason(b"\xff\xd8\xff\xe0") == "image_header"
    assert reason(b"\x89PNG\r\n\x1a\n" + b"\0" * 40) == "image_header"


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_cut_file_is_refused(format):
    data = encoded(Image.fromarray(gradient(64, 64)), format)
    assert reason(data[: len(data) * 2 // 3]) == "image_truncated"


@given(st.sampled_from(["JPEG", "PNG"]), st.data())
@settings(max_examples=150, deadline=None)
def test_damage_anywhere_gives_pixels_or_an_input_error(format, data):
    content = bytearray(encoded(Image.fromarray(gradient()), format))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(InputError):
        assert decode_image(bytes(content), ImageLimits(max_megapixels=0.1)).dtype == torch.uint8


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(Image.fromarray(gradient()), "JPEG", exif=exif)


def test_pixels_stay_as_stored_whatever_the_orientation():
    assert decode_image(turned(6), LIMITS, (24, 32)).shape == (24, 32, 3)


def test_a_size_that_disagrees_names_the_orientation_as_the_suspect():
    assert reason(turned(6), size=(32, 24)) == "exif_mismatch"
    assert reason(turned(1), size=(32, 24)) == "size_mismatch"
    assert reason(bomb(4, 4), size=(5, 4)) == "size_mismatch"


def test_the_header_is_read_without_the_pixels():
    header = read_header(bomb(1000, 2000), LIMITS)
    assert (header.format, header.mode, header.height, header.width) == ("PNG", "RGB", 2000, 1000)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_every_pixel(channels):
    pixels = torch.randint(256, (5, 7, channels), dtype=torch.uint8)
    assert torch.equal(decode_png(encode_png(pixels)), pixels)
    assert encode_png(pixels) == encode_png(pixels.clone())


def test_decode_png_takes_no_other_format():
    for data in (encoded(Image.new("RGB", (2, 2)), "JPEG"), encoded(Image.new("I;16", (2, 2)))):
        with pytest.raises(InputError, match="image_mode"):
            decode_png(data)


def test_crops_are_rgba_between_0_and_1():
    pixels = torch.tensor([[[255, 0, 51, 255]]], dtype=torch.uint8)
    crops = crops_from_png([encode_png(pixels), encode_png(pixels)])
    assert crops.shape == (2, 4, 1, 1)
    assert torch.allclose(crops[1].flatten(), torch.tensor([1.0, 0.0, 0.2, 1.0]))
    with pytest.raises(InputError, match="RGBA"):
        crops_from_png([encode_png(pixels[..., :3])])


@pytest.mark.parametrize("channels", [3, 4])
def test_webp_has_all_frames_at_the_wanted_pace(channels):
    frames = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 16, 16, channels) * 60
    with Image.open(io.BytesIO(encode_webp(frames, fps=8.0))) as animation:
        assert animation.n_frames == 4
        animation.load()
        assert animation.info["duration"] == 125
    assert encode_webp(frames, fps=8.0) == encode_webp(frames, fps=8.0)


def test_over_mixes_by_alpha():
    rgba = torch.tensor([0.2, 0.4, 0.6, 0.25]).reshape(1, 4, 1, 1)
    assert torch.allclose(over(rgba, 1.0).flatten(), torch.tensor([0.8, 0.85, 0.9]))
    assert torch.allclose(over(rgba, (1.0, 0.0, 1.0)).flatten(), torch.tensor([0.8, 0.1, 0.9]))
    assert torch.allclose(over(rgba, torch.zeros(1, 3, 1, 1)).flatten(), rgba.flatten()[:3] * 0.25)


def test_a_thumbnail_keeps_the_aspect_and_never_grows():
    pixels = torch.full((40, 10, 4), 200, dtype=torch.uint8)
    small = thumbnail(pixels, 20)
    assert small.shape == (20, 5, 4)
    assert small.unique().tolist() == [200]
    assert thumbnail(pixels, 100) is pixels


def test_only_an_upright_picture_is_turned():
    stored, upright = decode_image(turned(6), LIMITS), decode_upright(turned(6), LIMITS)
    assert torch.equal(upright, stored.rot90(-1))  # 6: stored lying on its left side
    assert torch.equal(decode_upright(turned(1), LIMITS), stored)


def test_a_spotlight_leaves_what_is_shown_and_pales_the_rest():
    photo = torch.tensor([[[10, 20, 30], [0, 100, 200]]], dtype=torch.uint8)
    found = spotlight(photo, torch.tensor([[True, False]]))
    assert found.tolist() == [[[10, 20, 30], [193, 193, 193]]]  # 0.6 * 255 + 0.4 * 100


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_exif_gives_pixels_or_an_input_error(data):
    content = bytearray(turned(6))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 80))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        assert decode_upright(bytes(content), ImageLimits(max_megapixels=0.1)).dtype == torch.uint8
