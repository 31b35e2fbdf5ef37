"""Photos: pixel formats, limits, damage, and the encodings that are written."""

import base64
import contextlib
import io
import struct
import tracemalloc
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image, ImageOps

from anything3d.errors import InputError
from anything3d.photo.image import (
    ORIENTATION,
    crops_from_png,
    decode_image,
    decode_png,
    decode_upright,
    encode_png,
    encode_webp,
)
from anything3d.photo.picture import mask_png, thumbnail
from anything3d.photo.pixels import over, spotlight
from anything3d.photo.png import ADAM7, CHANNELS
from anything3d.settings.segment import ImageLimits

LIMITS = ImageLimits()
ARITHMETIC = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
    "NDQ0Hyc5PTgyPC4zNDL/yQALCAAQABABAREA/8wABgAQEAX/2gAIAQEAAD8AIP/Z"
)


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


def test_a_message_is_the_same_in_every_run():
    """It is part of a corpus, whose name is its content."""
    with pytest.raises(InputError) as caught:
        decode_image(b"\xff\xd8\xff\xe0", LIMITS)
    assert str(caught.value) == "image_header: no readable header in 4 bytes"


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_cut_file_is_refused(format):
    data = encoded(Image.fromarray(gradient(64, 64)), format)
    assert reason(data[: len(data) * 2 // 3]) == "image_truncated"


def photograph(height=120, width=160):
    """Something that JPEG has to spend bytes on."""
    few = np.random.default_rng(1).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)


def coded(jpeg):
    """Where the coded pixels of a JPEG begin."""
    place = 2
    while jpeg[place + 1] != 0xDA:
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")


KINDS = [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_strict_decoder_and_pillow_give_equal_pixels(mode, options):
    for subsampling in ("4:4:4", "4:2:2", "4:2:0") if mode != "CMYK" else ("4:4:4",):
        for size in ((1, 1), (17, 33), (64, 9)):
            data = encoded(photograph(*size).convert(mode), "JPEG", subsampling=subsampling, **options)
            with Image.open(io.BytesIO(data)) as theirs:
                assert np.array_equal(decode_image(data, LIMITS), np.array(theirs.convert("RGB")))


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_whose_middle_is_damaged_is_refused(mode, options):
    data = encoded(photograph().convert(mode), "JPEG", quality=95, **options)
    half = (coded(data) + len(data)) // 2
    noise = np.random.default_rng(2).integers(0, 256, 1024, dtype=np.uint8).tobytes()
    for damage in (noise, noise[:512], data[half - 1024 : half]):
        assert reason(data[:half] + damage + data[half + len(damage) :]) in ("image_damaged", "image_truncated")
    assert reason(data[:half] + data[half + 512 :]) in ("image_damaged", "image_truncated")
    assert reason(data[: half // 2] + bytes(len(data) - half // 2)) in ("image_damaged", "image_truncated")


def test_libjpeg_notices_a_good_part_of_single_flipped_bits():
    """A flip may give another sound JPEG, of which nobody can know that it is another."""
    random, found = np.random.default_rng(3), 0
    data = encoded(photograph(), "JPEG", quality=95)
    for _ in range(200):
        place = random.integers(coded(data), len(data) - 2)
        flipped = data[:place] + bytes([data[place] ^ 1 << random.integers(8)]) + data[place + 1 :]
        try:
            decode_image(flipped, LIMITS)
        except InputError as error:
            found += error.reason in ("image_damaged", "image_truncated")
    assert found > 20


@pytest.mark.parametrize("tail", [b"", b"\0" * 5000, b"\0\0\xff\xd9"])
def test_a_jpeg_that_ends_too_early_is_refused_whatever_follows(tail):
    data = encoded(photograph(), "JPEG")
    for end in (len(data) // 3, len(data) * 2 // 3):
        assert reason(data[:end] + tail) in ("image_damaged", "image_truncated")
    assert reason(data[:-2]) == "image_truncated"


def test_what_libjpeg_only_warns_of_is_refused_and_what_it_does_not_is_not():
    data = encoded(photograph(), "JPEG")
    segment = 4 + int.from_bytes(data[4:6], "big")
    assert reason(data[:-2] + b"\x01" * 8 + data[-2:]) == "image_damaged"  # bytes too many after the pixels
    assert reason(data[:segment] + b"\x01\x02" + data[segment:]) == "image_damaged"  # ... and between two segments
    for sound in (data[:-2] + b"\xff" * 3 + data[-2:], data + b"more behind the end"):
        assert torch.equal(decode_image(sound, LIMITS), decode_image(data, LIMITS))


def test_a_jpeg_with_two_headers_is_refused():
    small, large = (encoded(photograph(*size), "JPEG") for size in ((16, 16), (160, 160)))
    start = large.index(b"\xff\xc0")
    frame = large[start : start + 2 + int.from_bytes(large[start + 2 : start + 4], "big")]
    start = small.index(b"\xff\xc0")
    assert reason(small[:start] + frame + small[start:]) in ("image_damaged", "image_mode")
    higher = small[: start + 5] + struct.pack(">HH", 160, 16) + small[start + 9 :]  # its pixels are sound
    assert reason(higher) in ("image_damaged", "image_truncated")


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_sampling_that_the_strict_decoder_does_not_know_is_refused_as_such(mode):
    data = bytearray(encoded(photograph().convert(mode), "JPEG", subsampling="4:4:4"))
    frame = data.index(b"\xff\xc0")
    data[frame + 11 : frame + 18 : 3] = b"\x31\x11\x11"  # sampling factors: colours at a third of the width
    assert reason(bytes(data)) == "image_mode"


def test_an_arithmetic_coded_jpeg_is_read():
    """jpegtran -arithmetic of a grey 16 x 16 JPEG."""
    data = base64.b64decode(ARITHMETIC)
    assert decode_image(data, LIMITS).float().mean() == pytest.approx(128, abs=2)


def test_a_png_is_held_to_its_checksums_its_end_and_its_pixels():
    data = encoded(Image.fromarray(gradient(64, 64)))
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    wrong = data[: start + 4 + length] + b"\0\0\0\0" + data[start + 8 + length :]
    assert reason(wrong) == "image_damaged"
    assert reason(data[:-12]) == "image_truncated"
    assert reason(data[:start] + b"IDAT" + data[start + 4 : start + 4 + length // 2]) == "image_truncated"
    body = zlib.compress(zlib.decompress(data[start + 4 : start + 4 + length])[: 20 * 193])  # 20 of 64 rows
    few = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    assert reason(data[: start - 4] + few + data[start + 8 + length :]) == "image_truncated"
    for sound in (data + b"more behind the end",):
        assert torch.equal(decode_image(sound, LIMITS), decode_image(data, LIMITS))
    with pytest.raises(InputError, match="image_damaged"):
        decode_png(wrong)


def test_a_png_whose_pixels_never_end_costs_no_memory():
    body = zlib.compress(bytes(50_000_000))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    tracemalloc.start()
    decode_image(data, LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@given(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=60)
def test_the_coded_size_of_every_png_is_foreseen(mode, height, width):
    for interlaced in (False, True):
        data = encoded(Image.new(mode, (width, height)))
        depth, kind = data[24], data[25]
        if interlaced:  # Pillow writes none; all numbers are 0, so are the filters
            sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in ADAM7]
            bits = depth * CHANNELS[kind]
            body = bytes(sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if min(columns, rows) > 0))
            header = data[16:28] + b"\1"
            parts = [(b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
            if kind == 3:
                parts.insert(1, (b"PLTE", bytes(3)))
            data = b"\x89PNG\r\n\x1a\n" + b"".join(
                struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
                for name, part in parts
            )
        assert decode_image(data, LIMITS).shape == (height, width, 3)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_all_orientations_are_shown_as_pillow_shows_them(format, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(gradient()), format, exif=exif)
    with Image.open(io.BytesIO(data)) as picture:
        assert np.array_equal(decode_upright(data, LIMITS), np.array(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    ("depth", "kind"), [*((bits, kind) for bits in (8, 16) for kind in (0, 2, 4, 6)), (1, 0), (8, 3)]
)
def test_the_orientation_of_every_png_is_found_before_and_behind_the_pixels(depth, kind, behind):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    width = -(-3 * depth * CHANNELS[kind] // 8)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 3, 2, depth, kind, 0, 0, 0)), (b"PLTE", bytes(3))]
    parts = [part for part in parts if part[0] == b"IHDR" or kind == 3]
    pixels, turn = (b"IDAT", zlib.compress(bytes(2 * (1 + width)))), (b"eXIf", exif.tobytes()[6:])
    parts += [*((pixels, turn) if behind else (turn, pixels)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )
    assert decode_image(data, LIMITS).shape == (2, 3, 3)
    assert decode_upright(data, LIMITS).shape == (3, 2, 3)


@given(st.sampled_from(["JPEG", "PNG"]), st.data())
@settings(max_examples=150)
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
    small = decode_png(thumbnail(encode_png(pixels), 20))
    assert small.shape == (20, 5, 4)
    assert small.unique().tolist() == [200]
    assert thumbnail(encode_png(pixels), 100) == encode_png(pixels)


def test_the_colour_of_transparent_pixels_counts_in_a_thumbnail():
    pixels = torch.tensor([[[0, 10, 20, 0], [100, 110, 120, 255]]] * 2, dtype=torch.uint8)
    assert decode_png(thumbnail(encode_png(pixels), 1)).tolist() == [[[50, 60, 70, 128]]]


def test_the_mask_of_a_crop_is_its_alpha():
    crop = torch.randint(256, (5, 7, 4), dtype=torch.uint8)
    assert mask_png(encode_png(crop)) == encode_png(crop[..., 3:])


def test_only_an_upright_picture_is_turned():
    stored, upright = decode_image(turned(6), LIMITS), decode_upright(turned(6), LIMITS)
    assert torch.equal(upright, stored.rot90(-1))  # 6: stored lying on its left side
    assert torch.equal(decode_upright(turned(1), LIMITS), stored)


def test_a_spotlight_leaves_what_is_shown_and_pales_the_rest():
    photo = torch.tensor([[[10, 20, 30], [0, 100, 200]]], dtype=torch.uint8)
    found = spotlight(photo, torch.tensor([[True, False]]))
    assert found.tolist() == [[[10, 20, 30], [193, 193, 193]]]  # 0.6 * 255 + 0.4 * 100


@given(st.data())
@settings(max_examples=150)
def test_damaged_exif_gives_pixels_or_an_input_error(data):
    content = bytearray(turned(6))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 80))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        assert decode_upright(bytes(content), ImageLimits(max_megapixels=0.1)).dtype == torch.uint8
