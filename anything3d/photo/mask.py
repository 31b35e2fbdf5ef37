"""Masks as run lengths: COCO's compressed RLE. The parser trusts nothing.

A mask is listed column by column. Its runs are the lengths of background and object pixels in turn. Background comes
first, and its length is 0 if the first pixel is of the object. In the text, a run after the third one is stored as its
difference from the run two before it. Each number is cut into groups of 5 bits, the lowest first. A group is one
character: bits + 48, and 32 more if another group follows. Bit 16 of a number's last group is its sign.

Source: cocoapi common/maskApi.c, `rleToString` and `rleFrString`. SA-1B stores its masks in this way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from anything3d.errors import InputError

MAX_PX = 2**28  # of one photo; more than SA-1B's largest by a factor of 30
MAX_CHARACTERS = 2**22  # of one mask; 40 MP of SAM's, which are smooth, have fewer by a factor of 10
MAX_GROUPS = 7  # of 5 bits per number, as in cocoapi: enough for any run of a 32-bit mask
COUNTED_ROWS = 256  # of a mask's regions, whose pixels are counted at once
LOWEST, HIGHEST = 48, 111  # the characters of a group
MORE, SIGN, BITS = 0x20, 0x10, 0x1F

Box = tuple[int, int, int, int]  # x, y, width, height in pixels; width = last - first + 1


def runs(counts: str | bytes, total: int) -> Int64[np.ndarray, "R"]:
    """Run lengths of a mask of `total` pixels, background first; they are >= 0 and add up to `total`.

    Raises: InputError rle_empty, rle_bytes, rle_characters, rle_truncated, rle_number, rle_negative, rle_sum,
    mask_size.
    """
    if not 0 < total <= MAX_PX:
        raise InputError("mask_size", f"a mask of {total} px; 1 to {MAX_PX} are allowed")
    groups = _groups(counts)
    last = np.flatnonzero(groups < MORE)
    if len(last) == 0 or last[-1] != len(groups) - 1:
        raise InputError("rle_truncated", "the last character announces another one; the string was cut")
    length = np.diff(last, prepend=-1)
    if length.max() > MAX_GROUPS:
        raise InputError("rle_number", f"a number of {length.max()} characters; at most {MAX_GROUPS} are allowed")
    values = -((groups[last] & SIGN).astype(np.int64) << (5 * length - 4))  # of two's complement, lacking its own bits
    for digit in range(int(length.max())):
        long = np.flatnonzero(length > digit)
        values[long] += (groups[last[long] - length[long] + 1 + digit] & BITS).astype(np.int64) << (5 * digit)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise InputError("rle_negative", f"run {int(values.argmin())} has length {values.min()}; must be >= 0")
    if values.max() > total or values.sum() != total:
        raise InputError("rle_sum", f"the runs add up to {values.sum()} px, the image has {total}; the text is damaged")
    return values


def decode(counts: str | bytes, height: int, width: int) -> Bool[Tensor, "H W"]:
    """The mask of an image.

    Raises: InputError as `runs`; nothing of the mask's size is allocated before the runs are known to fit.
    """
    return decode_box(counts, height, width, (0, 0, width, height))


def decode_box(counts: str | bytes, height: int, width: int, box: Box) -> Bool[Tensor, "h w"]:
    """The part of a mask inside `box`, which lies in the image; only the box's columns are ever filled.

    Raises: InputError as `runs`.
    """
    if min(height, width) < 1:
        raise InputError("mask_size", f"a mask of {width}x{height} px; each side must be >= 1")
    lengths = runs(counts, height * width)
    x, y, box_width, box_height = box
    assert 0 <= x <= x + box_width <= width, f"{box} leaves the image of {width}x{height} px"
    assert 0 <= y <= y + box_height <= height, f"{box} leaves the image of {width}x{height} px"
    bounds = np.clip(np.cumsum(lengths), x * height, (x + box_width) * height)
    lengths = np.diff(bounds, prepend=x * height)
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(box_width, height)
    return torch.from_numpy(np.ascontiguousarray(columns[:, y : y + box_height].T))


def runs_of(mask: Bool[Tensor, "H W"]) -> Int64[np.ndarray, "R"]:
    """Run lengths of a mask, background first."""
    flat = mask.cpu().numpy().T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], changes, [len(flat)]]).astype(np.int64)
    lengths = np.diff(bounds)
    return np.concatenate([np.zeros(1, np.int64), lengths]) if flat[0] else lengths


def tidy(ragged: Bool[Tensor, "H W"], smallest_px: int) -> Bool[Tensor, "H W"]:
    """Without holes, and then without islands, of fewer pixels; the largest island stays. Corners connect.

    Only the mask's box is looked at, with a margin so broad that what crosses it is no hole.
    Source: segment_anything utils/amg.py `remove_small_regions`; SA-1B's own masks were cleaned so.
    """
    from scipy.ndimage import label

    pixels = ragged.cpu().numpy().copy()
    rows, columns = (_span(np.flatnonzero(pixels.any(axis=axis)), smallest_px) for axis in (1, 0))
    inside = pixels[rows][:, columns]
    for holes in (True, False):
        regions, count = label(inside ^ holes, np.ones((3, 3)))
        sizes = np.zeros(count + 1, np.int64)
        for first in range(0, len(regions), COUNTED_ROWS):  # bincount widens what it counts
            part = np.bincount(regions[first : first + COUNTED_ROWS].ravel())
            sizes[: len(part)] += part
        small = sizes < smallest_px
        small[0] = False
        if not holes and count:
            small[1 + sizes[1:].argmax()] = False
        inside ^= small[regions]
    return torch.from_numpy(pixels)


def encode(mask: Bool[Tensor, "H W"]) -> str:
    """COCO's compressed RLE of a mask."""
    return encode_runs(runs_of(mask))


def encode_runs(lengths: Int64[np.ndarray, "R"]) -> str:
    """COCO's compressed RLE of run lengths, background first."""
    values = lengths.copy()
    values[3:] -= lengths[1:-2]
    size = np.ones(len(values), np.int64)  # in groups
    for groups in range(1, MAX_GROUPS):
        size += ~np.isin(values >> (5 * groups - 1), (0, -1))  # more than its sign lies beyond so many groups
    ends = np.cumsum(size)
    text = np.empty(ends[-1], np.uint8)
    for digit in range(int(size.max())):
        long = np.flatnonzero(size > digit)
        more = np.where(size[long] > digit + 1, MORE, 0)
        text[ends[long] - size[long] + digit] = (values[long] >> 5 * digit & BITS) + more + LOWEST
    return str(text.tobytes(), "ascii")


def area(lengths: Int64[np.ndarray, "R"]) -> int:
    """Pixels of the object."""
    return int(lengths[1::2].sum())


def box(lengths: Int64[np.ndarray, "R"], height: int) -> Box:
    """The smallest box around the object, from its runs in an image of `height` rows; (0, 0, 0, 0) if it is empty."""
    ends = np.cumsum(lengths)[1::2]
    starts = ends - lengths[1::2]
    solid = ends > starts
    if not solid.any():
        return (0, 0, 0, 0)
    first, last = starts[solid], ends[solid] - 1
    x, right = int(first[0] // height), int(last[-1] // height)
    if np.any(first // height != last // height):  # a run around a column's end holds the bottom and the top pixel
        return (x, 0, right - x + 1, height)
    y, bottom = int((first % height).min()), int((last % height).max())
    return (x, y, right - x + 1, bottom - y + 1)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the runs of a mask begin and end, for one that is compared with many."""

    at: Int64[np.ndarray, "B"]  # pixels from the image's first one; 0 comes first
    covered: Int64[np.ndarray, "B"]  # pixels of the object before each bound


def bounds(lengths: Int64[np.ndarray, "R"]) -> Bounds:
    """Of run lengths, background first."""
    solid = np.where(np.arange(len(lengths)) % 2 == 1, lengths, 0)
    return Bounds(*(np.concatenate([[0], np.cumsum(values)]) for values in (lengths, solid)))


def shared(a: Bounds, b: Bounds) -> int:
    """Pixels that two masks of one image share."""
    few, many = (a, b) if len(a.at) < len(b.at) else (b, a)
    edges = few.at[1 : (len(few.at) - 1) // 2 * 2 + 1]  # where its object begins, where it ends, and so on
    before = np.interp(edges, many.at, many.covered)  # exact below 2**53
    return int(before[1::2].sum() - before[::2].sum())


def _span(indices: Int64[np.ndarray, "N"], margin: int) -> slice:
    """From the first index to the last, and a margin; everything if there is none."""
    return slice(max(0, int(indices[0]) - margin), int(indices[-1]) + 1 + margin) if len(indices) else slice(None)


def _groups(counts: str | bytes) -> UInt8[np.ndarray, "C"]:
    if not counts:
        raise InputError("rle_empty", "the text of the runs is empty; a mask has one run at least")
    if len(counts) > MAX_CHARACTERS:
        raise InputError("rle_bytes", f"the text of the runs has {len(counts)} characters; at most {MAX_CHARACTERS}")
    data = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts  # non-ASCII: refused below
    characters = np.frombuffer(data, np.uint8)
    wrong = np.flatnonzero((characters < LOWEST) | (characters > HIGHEST))
    if len(wrong):
        raise InputError(
            "rle_characters",
            f"byte {characters[wrong[0]]} at index {wrong[0]}; must lie in {LOWEST}..{HIGHEST}",
        )
    return characters - np.uint8(LOWEST)
