"""WebP: what is decoded, and what is refused, whatever the bytes are."""

import io
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anything3d.errors import InputError
from anything3d.photo.image import decode_image, decode_png, decode_upright, encode_webp
from anything3d.settings.segment import ImageLimits

LIMITS = ImageLimits()
PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, "WEBP", **options)
    return out.getvalue()


LOSSLESS = encoded(Image.fromarray(PIXELS), lossless=True)
LOSSY = encoded(Image.fromarray(PIXELS), quality=90)
EXIF = Image.Exif()
EXIF[0x0112] = 6
TURNED = encoded(Image.fromarray(PIXELS), lossless=True, exif=EXIF)


def reason(data, limits=LIMITS, decode=decode_upright):
    with pytest.raises(InputError) as caught:
        decode(data, limits)
    return caught.value.reason


def test_the_pixels_are_those_that_were_written():
    assert (decode_upright(LOSSLESS, LIMITS).numpy() == PIXELS).all()
    with Image.open(io.BytesIO(LOSSY)) as shown:
        assert (decode_upright(LOSSY, LIMITS).numpy() == np.array(shown)).all()


def test_it_is_turned_as_viewers_show_it():
    assert torch.equal(decode_upright(TURNED, LIMITS), torch.from_numpy(PIXELS).transpose(0, 1).flip(1))


def test_what_is_transparent_is_laid_over_white():
    clear = encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), lossless=True)
    assert decode_upright(clear, LIMITS).unique().tolist() == [255]


def test_a_photo_of_sa_1b_and_a_crop_are_never_one():
    assert reason(LOSSLESS, decode=decode_image) == "image_format"
    assert reason(LOSSLESS, decode=lambda data, _: decode_png(data)) == "image_format"


def test_limits_are_compared_with_the_header_of_every_kind():
    for data in (LOSSLESS, LOSSY, TURNED):
        assert reason(data, ImageLimits(max_side_px=29)) == "image_bomb"
        assert decode_upright(data, ImageLimits(max_side_px=30)) is not None
    huge = bytearray(TURNED)
    huge[24:30] = b"\xff" * 6
    assert reason(bytes(huge)) == "image_bomb"


def test_an_animation_and_a_file_that_is_not_all_there_are_refused():
    assert reason(encode_webp(torch.from_numpy(np.stack([PIXELS, 255 - PIXELS])), 4.0)) == "image_mode"
    assert reason(LOSSY[:-1]) == "image_truncated"
    assert reason(LOSSY[:20]) == "image_header"


@settings(max_examples=200)
@given(st.sampled_from([LOSSLESS, LOSSY, TURNED]), st.integers(0, 600), st.binary(min_size=1, max_size=40))
def test_whatever_the_bytes_are_they_are_a_picture_or_an_error_of_ours(data, at, over):
    damaged = (data[:at] + over + data[at + len(over) :])[: len(data)]
    with suppress(InputError):
        assert decode_upright(damaged, LIMITS).shape[2] == 3
