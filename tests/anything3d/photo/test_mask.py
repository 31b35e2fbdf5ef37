"""Run lengths: COCO's text, damaged text, and arithmetic on runs."""

import contextlib
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.ndimage import label

from anything3d.errors import InputError
from anything3d.photo import mask

# A mask of a real photo (427 x 640), in SA-1B's format: its stated area, and its box as first and last column and row.
REAL_COUNTS = "SXR4j7`52N2O000001N2N3L20000000000O1O1mJS501N2NnXP4"
REAL_SIZE, REAL_AREA, REAL_EDGES = (427, 640), 4303, (312, 153, 312 + 19, 153 + 253)


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return torch.tensor(bits).reshape(height, width)


def reason(counts, total):
    with pytest.raises(InputError) as caught:
        mask.runs(counts, total)
    return caught.value.reason


def naive_box(found):
    rows, columns = np.nonzero(found.numpy())
    if len(rows) == 0:
        return (0, 0, 0, 0)
    return (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)


@pytest.mark.parametrize(
    ("counts", "runs"),
    [
        ("22", [2, 2]),
        ("0?", [0, 15]),
        ("5371", [5, 3, 7, 4]),  # from the fourth on, the difference from two before: 3 + 1
        ("537N", [5, 3, 7, 1]),  # 3 - 2; 'N' = 48 + 30, 30 = -2 in five bits
        ("T3", [100]),  # 100 = 3 * 32 + 4: 'T' = 48 + 32 + 4, '3' = 48 + 3
        ("`0", [16]),  # 16 has the sign bit set, so a zero group must follow
    ],
)
def test_text_and_runs_are_each_other(counts, runs):
    assert mask.runs(counts, sum(runs)).tolist() == runs
    assert mask.encode_runs(np.array(runs, dtype=np.int64)) == counts


def test_a_mask_is_listed_column_by_column_beginning_with_background():
    right = torch.tensor([[False, True], [False, True]])
    assert mask.encode(right) == "22"
    assert torch.equal(mask.decode("22", 2, 2), right)
    assert mask.encode(~right) == "022"
    assert torch.equal(mask.decode(b"022", 2, 2), ~right)


def test_a_real_mask_has_its_stated_area_and_box():
    height, width = REAL_SIZE
    lengths = mask.runs(REAL_COUNTS, height * width)
    x, y, box_width, box_height = mask.box(lengths, height)
    assert mask.area(lengths) == REAL_AREA
    assert (x, y, x + box_width - 1, y + box_height - 1) == REAL_EDGES
    assert mask.encode(mask.decode(REAL_COUNTS, height, width)) == REAL_COUNTS


@given(masks())
@settings(max_examples=150)
def test_decode_undoes_encode(found):
    counts = mask.encode(found)
    lengths = mask.runs(counts, found.numel())
    assert torch.equal(mask.decode(counts, *found.shape), found)
    assert mask.area(lengths) == int(found.sum())
    assert mask.box(lengths, found.shape[0]) == naive_box(found)


@given(masks(), st.data())
@settings(max_examples=100)
def test_a_window_is_that_part_of_the_mask(found, data):
    height, width = found.shape
    x, y = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    w, h = data.draw(st.integers(0, width - x)), data.draw(st.integers(0, height - y))
    assert torch.equal(mask.decode_box(mask.encode(found), height, width, (x, y, w, h)), found[y : y + h, x : x + w])


@given(masks(), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_intersection_counts_the_shared_pixels(found, random):
    other = torch.tensor([random.random() < 0.5 for _ in range(found.numel())]).reshape(found.shape)
    assert mask.shared(*(mask.bounds(mask.runs_of(one)) for one in (found, other))) == int((found & other).sum())


@given(st.lists(st.integers(0, 2**33), min_size=1, max_size=20))
@settings(max_examples=100)
def test_any_run_that_seven_groups_hold_survives_the_text(runs):
    text = mask.encode_runs(np.array(runs, dtype=np.int64))
    total = sum(runs)
    if 0 < total <= mask.MAX_PX:
        assert mask.runs(text, total).tolist() == runs
    else:
        assert reason(text, total) == "mask_size"


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ("", "rle_empty"),
        (b"", "rle_empty"),
        ("21", "rle_sum"),  # 3 of 4 px: pycocotools fills the rest with whatever memory holds
        ("23", "rle_sum"),  # 5 of 4 px: older builds write past the buffer
        ("2O3", "rle_negative"),  # 'O' = -1
        ("2 2", "rle_characters"),
        ("2p", "rle_characters"),  # one above the last character
        ("2/", "rle_characters"),  # one below the first
        ("2\xe9", "rle_characters"),
        ("2\ud800", "rle_characters"),  # a lone surrogate, which JSON can hold
        ("2\x00", "rle_characters"),
        ("2R", "rle_truncated"),  # the last character announces another one
        ("PPPPPPP0", "rle_number"),  # eight groups
        ("oooooo?", "rle_sum"),  # the largest number of seven groups, 2**34 - 1
    ],
)
def test_damaged_text_is_refused_by_name(counts, code):
    assert reason(counts, 4) == code


@given(st.text(alphabet=[chr(code) for code in range(40, 120)], max_size=40))
@settings(max_examples=200)
def test_any_text_is_runs_of_that_sum_or_refused(text):
    with contextlib.suppress(InputError):
        lengths = mask.runs(text, 100)
        assert lengths.sum() == 100
        assert lengths.min() >= 0


@pytest.mark.parametrize(("height", "width"), [(0, 4), (4, 0), (-2, -2), (10**6, 10**6)])
def test_an_impossible_size_allocates_nothing(height, width):
    with pytest.raises(InputError) as caught:
        mask.decode("22", height, width)
    assert caught.value.reason == "mask_size"


def test_a_run_around_a_columns_end_reaches_the_first_and_the_last_row():
    assert mask.box(np.array([3, 2, 7]), height=4) == (0, 0, 2, 4)  # bottom of column 0, top of column 1


def test_tidy_drops_small_islands_fills_small_holes_and_keeps_the_largest():
    found = torch.zeros(12, 20, dtype=torch.bool)
    found[1:9, 1:9] = True
    found[3:5, 3:5] = False  # a hole of 4
    found[10:12, 15:18] = True  # an island of 6, joined at a corner by one more pixel
    found[9, 14] = True
    expected = found.clone()
    expected[3:5, 3:5] = True
    assert torch.equal(mask.tidy(found, 7), expected)
    expected[9:, 14:] = False
    assert torch.equal(mask.tidy(found, 8), expected)
    assert torch.equal(mask.tidy(found, 0), found)
    assert mask.tidy(found, 100).sum() == 64
    empty = torch.zeros(4, 4, dtype=torch.bool)
    assert torch.equal(mask.tidy(empty, 10), empty)


def tidied_as_a_whole(found, smallest_px):
    """A naive twin: regions of the whole picture, counted at once."""
    pixels = found.numpy().copy()
    for holes in (True, False):
        regions, _ = label(pixels ^ holes, np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        small = sizes < smallest_px
        small[0] = False
        if not holes and len(sizes) > 1:
            small[1 + sizes[1:].argmax()] = False
        pixels ^= small[regions]
    return torch.from_numpy(pixels)


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(1, 300))
@settings(max_examples=150)
def test_tidying_within_the_box_is_tidying_the_whole(seed, smallest_px, counted_rows):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 40, 2)
    found = torch.from_numpy(random.random((height, width)) < random.random())
    found[: random.integers(0, height)] = False
    found[:, random.integers(0, width) :] = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask, "COUNTED_ROWS", counted_rows)
        assert torch.equal(mask.tidy(found, smallest_px), tidied_as_a_whole(found, smallest_px))


def test_a_text_that_no_mask_needs_is_refused_before_it_is_read():
    assert reason("0" * (mask.MAX_CHARACTERS + 1), 2**26) == "rle_bytes"


def test_the_longest_text_costs_a_few_bytes_for_each_character():
    text = "1" + "1" * 2 + "0" * (mask.MAX_CHARACTERS - 3)  # every run is 1 px long
    tracemalloc.start()
    lengths = mask.runs(text, mask.MAX_CHARACTERS)
    assert mask.encode_runs(lengths) == text
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * mask.MAX_CHARACTERS


def test_a_mask_of_a_large_photo_becomes_runs_and_back_in_a_few_bytes_for_each_pixel():
    found = torch.zeros(3000, 2000, dtype=torch.bool)
    found[100:2900:7, 100:1900] = True
    tracemalloc.start()
    again = mask.decode(mask.encode(mask.tidy(found, 100)), 3000, 2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(again, found)
    assert peak < 24 * found.numel()
