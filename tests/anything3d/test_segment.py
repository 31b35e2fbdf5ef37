"""Which masks become objects, from every source, and how they are cropped."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from anything3d.errors import ConfigError, InputError, NumericsError, Skipped, WeightsError
from anything3d.models.sam import load_sam
from anything3d.models.weights import Place
from anything3d.photo import crop as crop_module
from anything3d.photo import mask
from anything3d.photo.annotation import Annotation
from anything3d.photo.crop import cut, side_px
from anything3d.photo.occluders import occluders
from anything3d.photo.select import WITHIN, select
from anything3d.segment import Candidate, ObjectMask, Segmented, Segmenter, load_segmenter, name_of, prompt_name
from anything3d.settings.segment import SegmentConfig
from tests.largest import Largest

HEIGHT, WIDTH = 200, 300
CONFIG = SegmentConfig(min_area_px=100, crop_size=64)


def rectangle(x, y, width, height, *, size=(HEIGHT, WIDTH)):
    found = torch.zeros(size, dtype=torch.bool)
    found[y : y + height, x : x + width] = True
    return found


def annotation(found, index=0, predicted_iou=1.0, stability_score=0.98):
    lengths = mask.runs_of(found)
    box, area = mask.box(lengths, found.shape[0]), mask.area(lengths)
    stated = tuple(map(float, box))
    return Annotation(
        index=index,
        box=box,
        area_px=area,
        counts=mask.encode(found),
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        point=(box[0] + box[2] / 2, box[1] + box[3] / 2),
        annotation_id=index,
        stated_box=stated,
        stated_area_px=area,
    )


def object_mask(found, name="0000", predicted_iou=1.0, stability_score=0.98):
    lengths = mask.runs_of(found)
    box = mask.box(lengths, found.shape[0])
    area = mask.area(lengths)
    return ObjectMask(name, mask.encode(found), box, area, predicted_iou, stability_score, "annotations")


def reasons(masks, config=CONFIG):
    outcomes = select(masks, HEIGHT, WIDTH, config)
    assert len(outcomes) == len(masks)
    return [outcome.reason if isinstance(outcome, Skipped) else "kept" for outcome in outcomes]


def photo(height=HEIGHT, width=WIDTH):
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack([rows % 256, columns % 256, (rows + columns) % 256], dim=-1).to(torch.uint8)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (object_mask(rectangle(50, 50, 40, 40)), "kept"),
        (object_mask(rectangle(0, 0, 0, 0)), "empty"),
        (object_mask(rectangle(50, 50, 9, 9)), "area_small"),
        (object_mask(rectangle(5, 5, 290, 190)), "area_large"),
        (object_mask(rectangle(0, 0, WIDTH, HEIGHT)), "area_large"),
        (object_mask(rectangle(20, 100, 250, 10)), "thin"),
        (object_mask(rectangle(0, 50, 40, 40)), "border"),
        (object_mask(rectangle(50, HEIGHT - 41, 40, 40)), "border"),  # one pixel short of the edge
        (object_mask(rectangle(50, 50, 40, 40), predicted_iou=0.59), "predicted_iou"),
        (object_mask(rectangle(50, 50, 40, 40), stability_score=0.69), "stability"),
    ],
)
def test_a_mask_is_dropped_for_the_first_thing_that_speaks_against_it(found, code):
    assert reasons([found]) == [code]


def test_what_is_known_without_pixels_decides_before_the_runs_are_read():
    assert reasons([replace(object_mask(rectangle(0, 50, 40, 40)), counts="damaged")]) == ["border"]


def test_an_object_at_the_edge_is_kept_if_edges_are_allowed():
    corner = object_mask(rectangle(0, 0, 40, 40))
    assert reasons([corner], replace(CONFIG, max_edges=1)) == ["border"]
    assert reasons([corner], replace(CONFIG, max_edges=2)) == ["kept"]


def test_a_whole_is_kept_and_its_parts_are_not():
    whole = rectangle(50, 50, 80, 80)
    cap, knob, beside = rectangle(50, 50, 80, 30), rectangle(60, 55, 20, 20), rectangle(150, 50, 40, 40)
    assert reasons([object_mask(found) for found in (knob, cap, whole, beside)]) == ["part", "part", "kept", "kept"]


def test_ground_that_contains_everything_makes_no_parts():
    ground = rectangle(0, 0, WIDTH, HEIGHT)
    assert reasons([object_mask(ground), object_mask(rectangle(50, 50, 40, 40))]) == ["area_large", "kept"]


def test_a_frame_around_an_object_does_not_contain_it():
    frame = rectangle(30, 30, 100, 100) & ~rectangle(50, 50, 60, 60)
    assert reasons([object_mask(frame), object_mask(rectangle(52, 52, 56, 56))]) == ["kept", "kept"]


def test_of_two_nearly_equal_masks_the_surer_one_stays_wherever_it_stands():
    good = object_mask(rectangle(50, 50, 60, 60), predicted_iou=1.0)
    poor = object_mask(rectangle(53, 50, 62, 60), predicted_iou=0.9)  # 57 of the 60 columns of `good`
    assert reasons([good, poor]) == ["kept", "duplicate"]
    assert reasons([poor, good]) == ["duplicate", "kept"]
    same = replace(good, predicted_iou=0.8)
    assert reasons([same, good]) == ["duplicate", "kept"]
    assert reasons([good, same]) == ["kept", "duplicate"]


def test_a_part_that_is_nearly_all_of_its_whole_is_dropped_however_sure_sam_was_of_it():
    table = rectangle(50, 50, 60, 60) | rectangle(50, 110, 6, 40)
    top = object_mask(rectangle(50, 50, 60, 60), predicted_iou=1.0)
    whole = object_mask(table, predicted_iou=0.7)
    assert reasons([top, whole]) == ["part", "kept"]
    assert reasons([whole, top]) == ["kept", "part"]
    assert reasons([top, whole], replace(CONFIG, max_containment=1)) == ["kept", "duplicate"]  # parts are wanted


def test_the_quota_keeps_the_most_prominent():
    masks = [object_mask(rectangle(10 + 60 * place, 50, side, side)) for place, side in enumerate((20, 40, 30, 50))]
    assert reasons(masks, replace(CONFIG, max_per_image=2)) == ["quota", "kept", "quota", "kept"]


def test_every_annotation_has_one_outcome_in_its_place():
    damaged = InputError("rle_sum", "annotation 1: damaged")
    entries = [annotation(rectangle(50, 50, 40, 40)), damaged, annotation(rectangle(0, 0, 40, 40), index=2)]
    outcomes = load_segmenter(CONFIG, Place())([photo(), photo(90, 60)], [entries, []])
    assert [len(found) for found in outcomes] == [3, 0]
    found, same, border = outcomes[0]
    assert isinstance(found, Segmented)
    assert (found.mask.name, found.mask.source, found.mask.box) == ("0000", "annotations", (50, 50, 40, 40))
    assert same is damaged
    assert border.reason == "border"


def test_a_crop_is_the_square_around_the_box_centre():
    image, found = photo(), rectangle(100, 60, 40, 20)
    crop = cut(image, mask.encode(found), (100, 60, 40, 20), side=60, size=60)  # side 60: one pixel each
    assert (crop.x, crop.y, crop.side) == (90.0, 40.0, 60.0)
    assert torch.equal(crop.rgba[..., :3], image[40:100, 90:150])
    assert torch.equal(crop.rgba[..., 3] == 255, found[40:100, 90:150])


@pytest.mark.parametrize(("width", "height"), [(240, 40), (20, 120)])
def test_nothing_of_a_long_object_is_cut_off(width, height):
    box = (30, 40, width, height)
    crop = cut(photo(), mask.encode(rectangle(*box)), box, side=max(box[2:]), size=240)
    scale = 240 / max(width, height)
    assert crop.rgba[..., 3].sum() / 255 == pytest.approx(width * height * scale**2, rel=0.02)
    rows, columns = crop.rgba[..., 3].nonzero(as_tuple=True)
    aspect = (columns.max() - columns.min() + 1) / (rows.max() - rows.min() + 1)
    assert aspect.item() == pytest.approx(width / height, rel=0.05)


def test_beyond_the_photo_a_crop_is_transparent_and_white_and_the_edge_keeps_its_colour():
    image = torch.full((50, 50, 3), 40, dtype=torch.uint8)
    found = rectangle(0, 10, 20, 30, size=(50, 50))
    crop = cut(image, mask.encode(found), (0, 10, 20, 30), side=60, size=37)  # side 60 from x = -20
    assert (crop.x, crop.y, crop.side) == (-20.0, -5.0, 60.0)
    beyond = crop.rgba[:, : 37 * 20 // 60 - 1]
    assert beyond[..., :3].unique().tolist() == [255]
    assert beyond[..., 3].unique().tolist() == [0]
    edge = crop.rgba[18, :, 3] > 0
    assert (crop.rgba[18, edge, :3].int() - 40).abs().max() <= 3  # the white beyond does not bleed in


def test_shrinking_averages_the_footprint():
    checker = (torch.arange(200)[:, None] + torch.arange(200)) % 2 == 1
    image = (checker * 255).to(torch.uint8)[..., None].expand(200, 200, 3)
    crop = cut(image, mask.encode(torch.ones(200, 200, dtype=torch.bool)), (0, 0, 200, 200), side=200, size=20)
    assert (crop.rgba[2:-2, 2:-2, :3].int() - 128).abs().max() <= 2
    assert crop.rgba[..., 3].unique().tolist() == [255]


@given(st.integers(0, 2**32), st.integers(1, 5000), st.sampled_from([7, 16, 64, 130]))
@settings(max_examples=60)
def test_a_crop_cut_in_strips_is_the_crop_cut_at_once(seed, strip_px, size):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 80, 2)
    image = torch.from_numpy(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    found = torch.from_numpy(random.random((height, width)) < 0.5)
    found[0, 0] = True
    box = mask.box(mask.runs_of(found), int(height))
    whole = (image, mask.encode(found), box, side_px(box, float(random.uniform(1, 8)), "longest"), size)
    at_once = cut(*whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crop_module, "STRIP_PX", strip_px)
        assert torch.equal(cut(*whole).rgba, at_once.rgba)


def test_a_crop_far_larger_than_the_photo_is_never_held_as_a_whole():
    image, found = torch.zeros(20, 3000, 3, dtype=torch.uint8), torch.ones(20, 3000, dtype=torch.bool)
    box = (0, 0, 3000, 20)
    with Largest() as largest:
        cut(image, mask.encode(found), box, side_px(box, 8, "longest"), 16)  # 24000 x 24000 px
    assert largest.numbers <= 5 * 2**22


def overflowing(toy_sam):
    """A SAM that is sound on white and on nothing else."""
    sam = load_sam(str(toy_sam), Place())
    sam.network.pixel_mean.fill_(255)
    sam.network.pixel_std.fill_(1e-37)
    return sam


def with_broken_masks(toy_sam):
    """A SAM whose logits are NaN, its IoUs are not."""
    sam = load_sam(str(toy_sam), Place())
    last = sam.network.mask_decoder.output_upscaling[-2]
    last.bias.data = torch.full_like(last.bias, float("nan"))
    return sam


@pytest.mark.parametrize("source", ["sam-points", "sam-boxes", "sam-grid"])
def test_a_photo_of_which_sam_says_nothing_finite_is_a_reject_its_neighbours_are_not(toy_sam, source):
    config = replace(CONFIG, source=source, grid_points=2, min_predicted_iou=0.0, min_stability=0.0)
    segmenter, entries = Segmenter(config, overflowing(toy_sam)), [annotation(rectangle(50, 50, 40, 40))]
    assert [found.reason for found in segmenter([photo()], [entries])[0]] == ["sam_not_finite"]
    lost, kept = segmenter([photo(), torch.full_like(photo(), 255)], [entries] * 2)
    assert [found.reason for found in lost] == ["sam_not_finite"]
    assert all(isinstance(found, Segmented | Skipped) for found in kept)


@pytest.mark.parametrize("source", ["sam-points", "sam-boxes", "sam-grid"])
def test_a_broken_sam_ends_the_run(toy_sam, source):
    segmenter = Segmenter(replace(CONFIG, source=source, grid_points=2), with_broken_masks(toy_sam))
    entries = [annotation(rectangle(20 + 60 * place, 50, 40, 40), place) for place in range(3)]
    for images, known in (([photo()], [entries]), ([photo()] * 2, [entries, entries[:1]])):
        with pytest.raises(WeightsError, match="weights_not_finite: sam in float32"):
            segmenter(images, known)
    overflow = Segmenter(segmenter.config, overflowing(toy_sam))  # of plain white it says something finite
    for found in overflow([photo()] * 2, [entries] * 2):
        assert {one.reason for one in found} == {"sam_not_finite"}


def test_a_broken_sam_is_not_what_somebody_points_at(toy_sam):
    config = replace(CONFIG, source="sam-points")
    with pytest.raises(NumericsError, match="sam_not_finite"):
        Segmenter(config, overflowing(toy_sam)).at(photo(), (150, 90))
    with pytest.raises(WeightsError, match="weights_not_finite"):
        Segmenter(config, with_broken_masks(toy_sam)).at(photo(), (150, 90))


def test_photos_without_prompts_say_nothing_of_sam(toy_sam):
    segmenter = Segmenter(replace(CONFIG, source="sam-points"), with_broken_masks(toy_sam))
    assert segmenter([photo()] * 2, [[], []]) == [[], []]


def test_a_crop_is_measured_by_the_longer_side_or_by_the_root_of_the_area():
    assert side_px((7, 9, 40, 10), 1.25, "longest") == 50
    assert side_px((7, 9, 40, 10), 1.8, "area") == 36  # AnyObject3D's: the object is cut
    assert side_px((7, 9, 41, 3), 1.1, "longest") == 46  # 45.1 to the next whole pixel


@pytest.mark.parametrize("changes", [{"context": 0.9}, {"context": 9.0}, {"crop_size": 0}, {"max_per_image": 0}])
def test_settings_out_of_range_do_not_start(changes):
    with pytest.raises(ConfigError, match=f"SegmentConfig.{next(iter(changes))}"):
        SegmentConfig(**changes)


def test_a_closer_look_at_less_than_the_object_is_refused():
    with pytest.raises(ConfigError, match=r"segment.zoom is 0.5; must be 0, or at least 1"):
        SegmentConfig(zoom=0.5)


@pytest.mark.parametrize("source", ["sam-points", "sam-boxes"])
def test_sam_answers_every_sound_annotation_under_its_own_name(toy_sam, source):
    config = replace(CONFIG, source=source, weights=str(toy_sam))
    segmenter = replace(load_segmenter(config, Place()), prompts_per_batch=2, images_per_batch=2)
    empty = annotation(rectangle(0, 0, 0, 0), index=4)
    entries = [annotation(rectangle(20 + 60 * place, 50, 40, 40), place) for place in range(3)]
    entries = [*entries, InputError("rle_sum", "annotation 3: damaged"), empty]
    images = [photo(), photo(120, 90), photo()]
    masks = segmenter._masks(images, [entries, [], entries[:1]])
    names = [found.mask.name if isinstance(found, Candidate) else found.reason for found in masks[0]]
    assert names == ["0000", "0001", "0002", "rle_sum", "0004" if source == "sam-points" else "empty"]
    assert [len(found) for found in segmenter(images, [entries, [], entries[:1]])] == [5, 0, 1]
    assert masks[2][0].mask.counts == masks[0][0].mask.counts  # the neighbours in the batch do not matter
    for found in (one.mask for one in masks[0][:3]):
        decoded = mask.decode(found.counts, HEIGHT, WIDTH)
        assert (int(decoded.sum()), found.source) == (found.area_px, source)


def test_the_grid_numbers_its_own_masks(toy_sam):
    sure = {"min_predicted_iou": 0.0, "min_stability": 0.0}  # no thresholds: this SAM is untrained
    config = replace(CONFIG, source="sam-grid", weights=str(toy_sam), grid_points=3, **sure)
    segmenter = load_segmenter(config, Place())
    masks = [one.mask for one in segmenter._masks([photo(60, 80)], [[]])[0]]
    assert len(masks) > 0
    assert [found.name for found in masks] == [f"g{place:04d}" for place in range(len(masks))]
    assert all(mask.decode(found.counts, 60, 80).sum() == found.area_px for found in masks)
    assert len(segmenter([photo(60, 80)], [[]])[0]) == len(masks)


def test_a_sam_that_finds_nothing_in_a_photo_gives_no_outcome(toy_sam):
    config = replace(CONFIG, source="sam-grid", weights=str(toy_sam), grid_points=2)
    assert load_segmenter(config, Place())([photo(40, 40)], [[]]) == [[]]


@pytest.mark.parametrize(
    ("source", "prompt", "name"),
    [("sam-points", (150, 90), "p150x90"), ("sam-boxes", (100.0, 50.0, 220.0, 150.0), "b100x50x220x150")],
)
def test_one_prompt_gives_one_object_whatever_its_size_under_the_prompts_name(toy_sam, source, prompt, name):
    config = replace(CONFIG, source=source, weights=str(toy_sam), max_area_share=0.0, min_region_px=0, zoom=0)
    segmenter = load_segmenter(config, Place())
    entry = annotation(rectangle(100, 50, 121, 101))  # whose centre and box the prompts are
    entry = replace(entry, point=(150.0, 90.0))
    ((expected,),) = segmenter._masks([photo()], [[entry]])
    found = segmenter.at(photo(), prompt)
    assert found.mask == replace(expected.mask, name=name)
    assert found.crop.rgba.shape == (64, 64, 4)


@pytest.mark.parametrize("prompt", [(300.0, 5.0), (-1.0, 5.0), (5.0, float("nan")), (50.0, 50.0, 40.0, 90.0)])
def test_a_prompt_beside_the_photo_is_refused(toy_sam, prompt):
    segmenter = load_segmenter(replace(CONFIG, source="sam-points", weights=str(toy_sam)), Place())
    with pytest.raises(InputError, match=r"prompt_outside: .* 300x200 px"):
        segmenter.at(photo(), prompt)


def test_a_photo_without_objects_says_what_its_masks_were(toy_sam):
    sure = {"min_predicted_iou": 0.0, "min_stability": 0.0, "min_area_px": 10**6}
    config = replace(CONFIG, source="sam-grid", weights=str(toy_sam), grid_points=3, **sure)
    with pytest.raises(InputError, match=r"no_object: none of SAM's \d+ masks is an object \(\d+ area_small"):
        load_segmenter(config, Place()).most_prominent(photo(60, 80))


def test_every_object_says_where_it_may_go_on_unseen_also_behind_what_is_beyond_the_quota():
    """A far box; one that stands before its right side; a sliver before both, which is no object."""
    far, near = rectangle(50, 50, 80, 60), rectangle(110, 70, 40, 60)
    sliver = rectangle(100, 125, 90, 4)
    entries = [annotation(found, index) for index, found in enumerate((far & ~near, near, sliver))]
    side = 100  # 1.25 times the box
    expected = torch.zeros(HEIGHT, WIDTH)
    expected[70:130, 110:150] = 255
    for most in (8, 1):
        config = replace(CONFIG, max_per_image=most, crop_size=side)
        first, second, third = Segmenter(config, None)([photo()], [entries])[0]
        x, y = int(first.crop.x), int(first.crop.y)
        assert (first.crop.side, x, y) == (side, 40, 30)
        other = first.crop.unseen != expected[y : y + side, x : x + side]
        assert other.nonzero().tolist() == [[69 - y, 130 - x], [110 - y, 109 - x]]  # corners between the two masks
        assert third.reason == "thin"
        if most == 8:
            assert second.crop.unseen is None
        else:
            assert second.reason == "quota"
    (blind, *_) = Segmenter(replace(CONFIG, occluders=False), None)([photo()], [entries])[0]
    assert blind.crop.unseen is None


def test_those_that_end_lower_and_reach_into_the_crop_may_stand_before():
    own = object_mask(rectangle(50, 50, 80, 60))
    lower, level, higher, beside = (
        object_mask(rectangle(x, 60, 20, height)) for x, height in ((120, 51), (120, 50), (120, 49), (140, 100))
    )
    plate = object_mask(rectangle(20, 40, 150, 90) & ~rectangle(50, 50, 80, 60))  # carries the object
    others = [own, lower, level, higher, beside, plate]
    assert occluders(own, others, (40, 30, 100, 100)) == [lower.counts]
    assert occluders(own, others, (40, 30, 101, 101)) == [lower.counts, beside.counts]  # one pixel farther


def test_the_gap_between_an_object_and_its_occluder_is_covered_too():
    """In a crop of 200 px, a gap of 2 px is covered. One of 4 px is not."""
    for gap, filled in ((2, True), (4, False)):
        own, other = rectangle(100, 50, 40, 80), rectangle(140 + gap, 60, 30, 40)
        image = photo()
        made = cut(image, mask.encode(own), (100, 50, 40, 80), 200, 200, [mask.encode(other)])
        between = made.unseen[70 - int(made.y), 140 - int(made.x) : 140 + gap - int(made.x)]
        assert between.tolist() == [255 * filled] * gap


def test_an_object_may_go_on_beyond_the_photo():
    own, other = rectangle(0, 6, 2, 2, size=(8, 12)), rectangle(1, 7, 2, 1, size=(8, 12))
    image = photo(8, 12)
    made = cut(image, mask.encode(own), (0, 7, 4, 2), 4, 4, [mask.encode(other)])
    assert (made.x, made.y) == (0, 6)
    # the pixel above the other mask lies in the corner between both
    assert made.unseen.tolist() == [[0, 0, 255, 0], [0, 0, 255, 0], [255] * 4, [255] * 4]
    inside = cut(image, mask.encode(own), (4, 2, 4, 4), 4, 4, [mask.encode(other)])
    assert inside.unseen is None


def test_objects_are_named_by_their_place():
    assert name_of("sam-points", 31) == "0031"
    assert name_of("sam-grid", 7) == "g0007"


def test_objects_that_are_pointed_at_are_named_by_the_prompt_without_a_dot():
    """WebDataset takes what follows a name's first dot for the suffix."""
    assert prompt_name((290, 220)) == "p290x220"
    assert prompt_name((290.5, 1220.25)) == "p290_5x1220_25"
    assert prompt_name((10.0, 20.0, 30.0, 40.0)) == "b10x20x30x40"


def test_of_many_overlapping_masks_each_is_dropped_for_the_first_that_says_so():
    """Against the comparison of all pairs in pixels."""
    config = SegmentConfig(min_area_px=0, min_area_share=0, max_edges=4, max_iou=0.5, max_containment=0.6)
    config = replace(config, max_per_image=1000)
    masks = blobs(60)
    pixels = [mask.decode(one.counts, 60, 80) for one in masks]
    dropped = {}
    by_area = lambda index: (-masks[index].area_px, index)  # noqa: E731
    for reason, order, limit in (
        ("part", by_area, WITHIN),
        ("duplicate", lambda index: (-masks[index].quality, index), config.max_iou),
        ("part", by_area, config.max_containment),
    ):
        kept = []
        for index in sorted((index for index in range(60) if index not in dropped), key=order):
            for other in kept:
                shared = int((pixels[index] & pixels[other]).sum())
                both = int((pixels[index] | pixels[other]).sum())
                if reason == "part" and masks[other].area_px == masks[index].area_px:
                    continue
                if shared / (both if reason == "duplicate" else masks[index].area_px) > limit:
                    dropped[index] = (reason, masks[other].name)
                    break
            else:
                kept.append(index)
    outcomes = select(masks, 60, 80, config)
    found = {
        index: (one.reason, one.message.split()[-1]) for index, one in enumerate(outcomes) if one is not masks[index]
    }
    assert found == dropped
    assert {reason for reason, _ in found.values()} == {"duplicate", "part"}


def blobs(count):
    """Ellipses of all sizes and places in 60 rows of 80 pixels."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    made = []
    for index in range(count):
        share = torch.rand(6, generator=generator).tolist()
        width, height = 4 + 14 * share[0], 4 + 10 * share[1]
        inside = ((x - 20 - 40 * share[2]) / width).square() + ((y - 15 - 30 * share[3]) / height).square() < 1
        lengths = mask.runs_of(inside)
        box, area = mask.box(lengths, 60), mask.area(lengths)
        name, counts = f"{index:04d}", mask.encode_runs(lengths)
        made.append(ObjectMask(name, counts, box, area, 0.9 + 0.1 * share[4], 0.9 + 0.1 * share[5], "annotations"))
    return made
