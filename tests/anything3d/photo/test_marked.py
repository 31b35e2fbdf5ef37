"""A photo with the outlines of masks: each pixel by hand."""

import numpy as np
import torch

from anything3d.photo import mask
from anything3d.photo.crop import cut
from anything3d.photo.marked import LEFT_OUT, marked
from anything3d.photo.marked import square as square_around
from anything3d.photo.select import ObjectMask
from anything3d.photo.sheet import OUTLINE

GREY = 100


def square(left, top, side, height, width):
    pixels = torch.zeros(height, width, dtype=torch.bool)
    pixels[top : top + side, left : left + side] = True
    return ObjectMask("0000", mask.encode(pixels), (left, top, side, side), side * side, 1.0, 1.0, "annotations")


def grey(height, width):
    return torch.full((height, width, 3), GREY, dtype=torch.uint8)


def text(picture):
    """One letter a pixel: o is of an object, x of a mask that is left out."""
    letters = {OUTLINE: "o", LEFT_OUT: "x", (GREY,) * 3: "."}
    return ["".join(letters[tuple(pixel)] for pixel in row) for row in np.asarray(picture).tolist()]


def test_both_sides_of_each_edge_are_drawn_and_objects_lie_above():
    kept, left_out = square(1, 1, 4, 6, 9), square(5, 2, 4, 6, 9)
    assert text(marked(grey(6, 9), [kept], [left_out], 9)) == [
        ".oooo....",
        "ooooooxxx",
        "oo..ooxxx",
        "oo..oo...",
        "oooooo...",
        ".oooox...",
    ]


def test_a_shrunk_photo_takes_the_mask_at_the_middle_of_each_pixel():
    # Of 12x18 pixels, 6x9 stay. Their middles are 1, 3, 5, ... so that a mask from 2 to 9 covers 3, 5, 7 and 9.
    picture = marked(grey(12, 18), [square(2, 2, 8, 12, 18)], [], 9)
    assert picture.size == (9, 6)
    assert text(picture) == [".oooo....", "oooooo...", "oo..oo...", "oo..oo...", "oooooo...", ".oooo...."]


def test_a_small_photo_is_not_enlarged():
    assert marked(grey(6, 9), [], [], 720).size == (9, 6)


def test_the_square_of_a_mask_is_its_crop_without_resampling():
    torch.manual_seed(0)
    image = torch.randint(256, (12, 18, 3), dtype=torch.uint8)
    one = square(0, 7, 5, 12, 18)  # its square leaves the photo at the left and at the bottom
    cropped = cut(image, one.counts, one.box, 9, 9).rgba.numpy()
    assert np.array_equal(np.asarray(square_around(image, one, 9)), cropped)
    assert cropped[..., 3].sum() == 25 * 255
