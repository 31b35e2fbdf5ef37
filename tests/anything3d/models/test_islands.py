"""Islands of masks of which SAM is less sure than of the one with the prompt."""

from dataclasses import replace
from typing import ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.ndimage import label

from anything3d.mini import sam as mini_sam
from anything3d.models.sam import Sam1, closer, look_closer
from anything3d.models.sam.islands import doubtful_islands
from anything3d.photo import mask
from anything3d.photo.prompt import Prompt
from anything3d.quality.metrics import mask_iou
from anything3d.segment import Segmenter
from anything3d.settings.segment import SegmentConfig
from tests.anything3d.test_segment import HEIGHT, WIDTH, photo

MASK = torch.tensor(
    [
        [4.0, 4.0, -1.0, -1.0, -1.0, 1.5],  # the first island has a mean of 4, in 4 pixels
        [4.0, 4.0, -1.0, -1.0, -1.0, -1.0],  # the one at the right edge has 1.5
        [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0],
        [3.0, -9.0, -1.0, 2.0, 2.0, 2.0],  # 3, in one pixel; and 2, in 6 pixels, which meet at a corner
        [-9.0, -9.0, 2.0, -1.0, 2.0, 2.0],
    ]
)


def doubted(places, min_certainty):
    (found,) = doubtful_islands(MASK[None], torch.tensor([places]), min_certainty)
    return {MASK[y, x].item() for y, x in found.nonzero().tolist()}


@pytest.mark.parametrize(
    ("places", "min_certainty", "expected"),
    [
        ([[0.5, 0.5]], 0.5, {1.5}),  # less than half of 4; 2 is not less
        ([[0.5, 0.5]], 0.51, {1.5, 2.0}),
        ([[0.5, 0.5]], 1.0, {1.5, 2.0, 3.0}),
        ([[4.5, 4.5]], 1.0, {1.5}),
        ([[4.5, 4.5]], 0.75, set()),
        ([[1.4, 3.4]], 0.7, {1.5, 2.0}),  # of the islands around this point the one with 3 is the nearest
        ([[0.0, 0.0], [6.0, 5.0]], 1.0, {1.5}),  # a box asks for the largest, which has 2
    ],
)
def test_an_island_is_doubted_beside_the_one_that_was_asked_for(places, min_certainty, expected):
    assert doubted(places, min_certainty) == expected


def test_the_masks_of_a_batch_are_judged_by_themselves():
    empty, one = torch.full_like(MASK, -1.0), torch.where(MASK == 4, MASK, -1.0)
    places = torch.tensor([[[0.5, 0.5]]] * 3)
    found = doubtful_islands(torch.stack([empty, MASK, one]), places, 0.5)
    assert found.sum((1, 2)).tolist() == [0, 1, 0]


@given(st.integers(0, 10**6), st.floats(0.01, 1))
@settings(max_examples=100)
def test_what_was_asked_for_stays_and_islands_stay_or_go_as_a_whole(seed, min_certainty):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 9, 12, generator=generator).mul(4)
    place = torch.rand(1, 1, 2, generator=generator) * torch.tensor([12.0, 9.0])
    (found,) = doubtful_islands(logits, place, min_certainty)
    islands, count = label(logits[0].numpy() > 0, np.ones((3, 3)))
    assert not found[logits[0] <= 0].any()
    means = [logits[0][torch.from_numpy(islands == k)].mean().item() for k in range(1, count + 1)]
    gone = [bool(found[torch.from_numpy(islands == k)].any()) for k in range(1, count + 1)]
    assert gone == [bool(found[torch.from_numpy(islands == k)].all()) for k in range(1, count + 1)]
    x, y = place[0, 0].long().tolist()
    if islands[y, x]:
        wanted = means[islands[y, x] - 1]
        assert gone == [mean < min_certainty * wanted for mean in means]


@pytest.fixture(scope="module")
def speckled():
    """A SAM with random weights that happens to see many islands everywhere."""
    return Sam1(mini_sam.build(4).eval())


@pytest.mark.parametrize("prompt", [[[150.0, 90.0]], [[110.0, 60.0, 190.0, 130.0]]], ids=["point", "box"])
def test_a_mask_has_no_doubtful_islands(speckled, prompt):
    """Prompts are in pixels of a photo, which is larger than the logits."""
    sam, prompt = speckled, torch.tensor(prompt)
    ((before,),), ((after,),) = (sam.prompt([photo()], [prompt], 1, 1, certainty) for certainty in (0.0, 1.0))
    shown = torch.tensor(sam.shown((HEIGHT, WIDTH))) / torch.tensor([HEIGHT, WIDTH])
    cells = shown.flip(0) * len(before.logits) / sam.side_px
    doubtful = doubtful_islands(before.logits[None], (prompt.view(1, -1, 2) * cells).float(), 1.0)
    assert doubtful.any()
    assert before.doubtful_share == 0
    assert after.doubtful_share == pytest.approx(float(doubtful.sum() / (before.logits > 0).sum()), abs=2e-3)
    expected = torch.where(doubtful[0], -before.logits, before.logits)
    assert (after.logits != expected).float().mean() < 2e-3  # islands that are doubted or not by a rounding to float16
    enlarged = sam.enlarge(after.logits[None].float(), (HEIGHT, WIDTH))[0] > 0
    solid = mask.decode(mask.encode_runs(after.lengths), HEIGHT, WIDTH)
    assert (solid ^ enlarged).float().mean() < 2e-3  # logits near 0, which are kept in float16


@pytest.mark.parametrize("prompt", [[[150.0, 100.0]], [[110.0, 60.0, 190.0, 130.0]]], ids=["point", "box"])
def test_a_closer_look_adds_no_doubtful_islands(speckled, prompt):
    """The candidates of the part lose theirs before one of them is chosen, with the prompt moved into the part."""
    sam, prompt = speckled, torch.tensor(prompt)
    ((first,),) = sam.prompt([photo()], [prompt], 1, 1, 1.0)
    known = [replace(first, doubtful_share=share) for share in (0.0, 0.99)]  # of the first look
    found, other = look_closer(sam, photo(), [(one, (120, 60, 60, 60)) for one in known], 1.5, 1, 1.0)
    rows, columns = slice(45, 135), slice(105, 195)  # 90 px around the box's middle, (150, 90)
    moved = prompt - torch.tensor([105.0, 45.0]).repeat(len(prompt[0]) // 2)
    with torch.inference_mode():
        (features,) = sam.encode([sam.read(photo()[rows, columns].contiguous())])
        masks = sam.decode(features, moved, (90, 90))[0][0]
    places = (moved.view(1, -1, 2) * masks.shape[-1] / 90).expand(len(masks), -1, -1)
    doubtful = doubtful_islands(masks, places, 1.0)
    assert doubtful.any()
    part = sam.enlarge(torch.where(doubtful, -masks, masks), (90, 90))
    expected = sam.enlarge(first.logits[None].float(), (HEIGHT, WIDTH))[0]
    nearest = mask_iou(part > 0, (expected[rows, columns] > 0).expand_as(part)).argmax()
    shares = doubtful.sum((1, 2)) / (masks > 0).sum((1, 2))
    assert found.doubtful_share == pytest.approx(float(shares[nearest]))
    assert len(shares) == 1 or shares[nearest] != shares[-1]
    assert other.doubtful_share == 0.99
    expected[rows, columns] = (expected[rows, columns] + part[nearest]) / 2
    solid = mask.decode(mask.encode_runs(found.lengths), HEIGHT, WIDTH)
    assert (solid ^ (expected > 0)).float().mean() < 2e-3


def test_a_grid_has_the_masks_without_doubtful_islands(speckled):
    before, after = (speckled.grid(photo(), 2, -10.0, 0.0, 3, certainty) for certainty in (0.0, 1.0))
    areas = [sorted(mask.area(one.lengths) for one in found) for found in (before, after)]
    assert areas[0] != areas[1]
    assert sum(areas[1]) < sum(areas[0])
    assert {one.doubtful_share for one in before} == {0.0}
    assert all(0 < one.doubtful_share < 1 for one in after)


@pytest.mark.parametrize("source", ["sam-points", "sam-boxes", "sam-grid"])
def test_the_setting_reaches_every_source(speckled, source):
    entries = [Prompt(0, (110.0, 60.0, 80.0, 70.0) if source == "sam-boxes" else (150.0, 90.0))]
    kept = []
    for certainty in (0.0, 1.0):
        config = SegmentConfig(
            source=source,
            min_region_px=0,
            grid_points=2,
            zoom=0,
            min_predicted_iou=0.0,
            min_stability=0.0,
            min_island_certainty=certainty,
        )
        judged = Segmenter(config, speckled).judged([photo()], [entries])[0]
        kept.append(sorted(one.found.area_px for one in judged))
        assert any(one.found.doubtful_share for one in judged) == (certainty > 0)
    assert kept[0] != kept[1]
    assert sum(kept[1]) < sum(kept[0])


@pytest.mark.parametrize("prompt", [(150.0, 90.0), (110.0, 60.0, 190.0, 130.0)], ids=["point", "box"])
def test_the_setting_reaches_the_object_that_a_user_points_at(speckled, prompt):
    configs = [
        SegmentConfig(source="sam-points", min_region_px=0, crop_size=64, min_island_certainty=certainty)
        for certainty in (0.0, 1.0)
    ]
    areas = [Segmenter(config, speckled).at(photo(), prompt).mask.area_px for config in configs]
    assert 0 < areas[1] < areas[0]


class Told(Sam1):
    """It writes down what is asked of it about islands."""

    looks: ClassVar[list[tuple[float, list[float], tuple[int, ...]]]] = []

    def sure_of(self, masks, prompts, size, min_certainty):
        self.looks.append((min_certainty, prompts[0].tolist(), tuple(size)))
        return super().sure_of(masks, prompts, size, min_certainty)


def test_the_setting_and_the_prompt_reach_the_closer_look(speckled):
    point = (10.0, 150.0)  # the part around the mask at this point is not the whole photo
    config = SegmentConfig(source="sam-points", min_region_px=0, crop_size=64, min_island_certainty=1.0)
    Segmenter(config, Told(speckled.network)).at(photo(), point)
    ((first,),) = speckled.prompt([photo()], [torch.tensor([point])], 1, 1, 1.0)
    box = mask.box(first.lengths, HEIGHT)
    rows, columns = closer._window(box, first.prompt, config.zoom, (HEIGHT, WIDTH), speckled.side_px)
    shown = (rows.stop - rows.start, columns.stop - columns.start)
    assert shown != (HEIGHT, WIDTH)
    assert Told.looks == [
        (1.0, [10.0, 150.0], (HEIGHT, WIDTH)),
        (1.0, [10.0 - columns.start, 150.0 - rows.start], shown),
    ]
