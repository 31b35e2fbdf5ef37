"""SAM's closer look at its masks: at a part of the photo around each of them."""

import math
import tarfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from anything3d.mini.world import write_world
from anything3d.models.sam import closer, load_sam, look_closer
from anything3d.models.sam.prompting import MAX_LOGIT
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.photo.annotated import read_annotated
from anything3d.quality.metrics import mask_iou
from anything3d.segment import Segmented, Segmenter
from anything3d.settings.segment import ImageLimits, SegmentConfig
from tests.anything3d.test_segment import HEIGHT, WIDTH, photo


def pixels_of(one):
    return mask.decode(mask.encode_runs(one.lengths), HEIGHT, WIDTH)


@given(
    st.tuples(st.integers(0, 299), st.integers(0, 199), st.integers(1, 300), st.integers(1, 200)),
    st.tuples(st.floats(0, 299), st.floats(0, 199)),
    st.floats(1, 8),
    st.sampled_from([64, 256, 1024]),
)
@settings(max_examples=300)
def test_the_part_lies_in_the_photo_and_holds_the_mask_and_its_prompt(box, point, zoom, encoder_px):
    x, y, width, height = box
    box = (x, y, min(width, WIDTH - x), min(height, HEIGHT - y))
    rows, columns = closer._window(box, torch.tensor([point]), zoom, (HEIGHT, WIDTH), encoder_px)
    assert 0 <= rows.start < rows.stop <= HEIGHT
    assert 0 <= columns.start < columns.stop <= WIDTH
    assert columns.start <= x
    assert x + box[2] <= columns.stop
    assert rows.start <= y
    assert y + box[3] <= rows.stop
    assert columns.start <= point[0] < columns.stop
    assert rows.start <= point[1] < rows.stop
    inside = x <= point[0] < x + box[2] and y <= point[1] < y + box[3]
    side = max(math.ceil(zoom * max(box[2:])), encoder_px // 4)
    if inside:
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(side, HEIGHT), min(side, WIDTH))


def test_the_part_is_a_square_around_the_box_or_as_near_to_that_as_the_photo_allows():
    prompt = torch.tensor([[110.0, 90.0]])
    assert closer._window((100, 80, 40, 20), prompt, 2.0, (HEIGHT, WIDTH), 64) == (slice(50, 130), slice(80, 160))
    assert closer._window((100, 80, 40, 20), prompt, 2.0, (HEIGHT, WIDTH), 400) == (slice(40, 140), slice(70, 170))
    at_corner = torch.tensor([[5.0, 5.0]])
    assert closer._window((0, 0, 40, 20), at_corner, 2.0, (HEIGHT, WIDTH), 64) == (slice(0, 80), slice(0, 80))
    outside = torch.tensor([[200.0, 90.0]])
    assert closer._window((100, 80, 40, 20), outside, 2.0, (HEIGHT, WIDTH), 64) == (slice(50, 130), slice(80, 201))


@pytest.mark.parametrize("prompt", [[[150.0, 90.0]], [[110.0, 60.0, 190.0, 130.0]]], ids=["point", "box"])
def test_the_new_mask_is_the_mean_of_what_segment_anything_says_of_photo_and_part(toy_sam, prompt):
    from segment_anything import SamPredictor

    sam, image, prompt = load_sam(str(toy_sam), Place()), photo(), torch.tensor(prompt)
    ((first,),) = sam.prompt([image], [prompt], 1, 1)
    box = (120, 60, 60, 60)
    rows, columns = slice(45, 135), slice(105, 195)  # 90 px around the box's middle, (150, 90)
    (found,) = look_closer(sam, image, [(first, box)], 1.5, 1)

    def logits(picture, at):
        predictor = SamPredictor(sam.network)
        predictor.set_image(picture.contiguous().numpy())
        asked = {"point_coords": at.numpy(), "point_labels": np.ones(1)} if len(at[0]) == 2 else {"box": at[0].numpy()}
        _, iou, small = predictor.predict(**asked, multimask_output=len(at[0]) == 2)
        return torch.from_numpy(small).clamp(-MAX_LOGIT, MAX_LOGIT), torch.from_numpy(iou)

    whole, iou = logits(image, prompt)
    expected = sam.enlarge(whole[iou.argmax()][None], (HEIGHT, WIDTH))[0]
    moved = prompt - torch.tensor([105.0, 45.0]).repeat(len(prompt[0]) // 2)
    part = sam.enlarge(logits(image[rows, columns], moved)[0], (90, 90))
    nearest = mask_iou(part > 0, (expected[rows, columns] > 0).expand_as(part)).argmax()
    expected[rows, columns] = (expected[rows, columns] + part[nearest]) / 2
    assert 0.01 < (expected > 0).float().mean() < 0.99
    assert (pixels_of(found) ^ (expected > 0)).float().mean() < 2e-3  # logits near 0, which are kept in float16
    assert (pixels_of(found) ^ pixels_of(first)).float().mean() > 0.01
    assert (found.predicted_iou, found.stability_score) == (first.predicted_iou, first.stability_score)


def test_what_fills_the_photo_is_not_looked_at_again(toy_sam):
    sam = load_sam(str(toy_sam), Place())
    ((first,),) = sam.prompt([photo()], [torch.tensor([[150.0, 90.0]])], 1, 1)
    assert look_closer(sam, photo(), [(first, (20, 10, 250, 180))], 1.5, 1) == [first]


def test_looks_do_not_depend_on_how_many_are_encoded_at_once(toy_sam):
    sam, boxes = load_sam(str(toy_sam), Place()), [(100, 50, 40, 40), (20, 10, 250, 180), (200, 100, 60, 30)]
    (first,) = sam.prompt([photo()], [torch.tensor([[110.0, 60.0], [150.0, 90.0], [230.0, 110.0]])], 1, 3)
    looks = list(zip(first, boxes, strict=True))
    together, alone = (look_closer(sam, photo(), looks, 1.5, count) for count in (3, 1))
    assert together[1] is first[1]
    for one, other in zip(together, alone, strict=True):
        assert (pixels_of(one) ^ pixels_of(other)).float().mean() < 1e-3


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos of the mini world with their annotations."""
    place = tmp_path_factory.mktemp("world") / "world.tar"
    write_world(place, scenes=2, seed=2, size=512)
    with tarfile.open(place) as tar:
        members = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
    return [
        read_annotated(data, members[name.replace(".jpg", ".json")], Path(name).stem, ImageLimits())
        for name, data in sorted(members.items())
        if name.endswith(".jpg")
    ]


@pytest.fixture(scope="module")
def kept_by(photos):
    """What the packaged SAM keeps, prompted at the annotations' points: (photo, name) -> mask."""
    sam, images, entries = load_sam("sam", Place()), [one.image for one in photos], [one.entries for one in photos]

    def kept(**settings):
        found = Segmenter(SegmentConfig(source="sam-points", **settings), sam)(images, entries)
        return {
            (place, one.mask.name): one.mask
            for place, some in enumerate(found)
            for one in some
            if isinstance(one, Segmented)
        }

    return kept


def test_a_closer_look_makes_the_masks_of_a_trained_sam_better(photos, kept_by):
    once, closer = kept_by(zoom=0), kept_by(zoom=1.5)
    assert once.keys() == closer.keys()
    assert len(once) >= 4
    before, after = (
        [iou(found.counts, photos[place], int(name)) for (place, name), found in some.items()]
        for some in (once, closer)
    )
    assert sum(after) > sum(before) + 0.01 * len(before)
    for name, found in closer.items():  # what SAM was sure of is that of the first look
        assert (found.predicted_iou, found.stability_score) == (once[name].predicted_iou, once[name].stability_score)


def test_a_mask_that_the_closer_look_would_lose_stays_as_it_was(kept_by):
    once, closer = kept_by(zoom=0), kept_by(zoom=1.5)
    least, name = max((one.area_px, name) for name, one in once.items() if closer[name].area_px < one.area_px)
    once, closer = (kept_by(zoom=zoom, min_area_px=least) for zoom in (0, 1.5))
    assert once.keys() == closer.keys()
    assert closer[name] == once[name]


def test_a_closer_look_that_is_not_finite_costs_its_object(photos):
    """The encoder says NaN of everything but the first photo as a whole."""
    sam, image, entries = load_sam("sam", Place()), photos[0].image, photos[0].entries
    whole = sam.network.preprocess(sam.read(image))

    def damage(encoder, inputs, found):
        return torch.where((inputs[0] == whole).flatten(1).all(1)[:, None, None, None], found, torch.nan)

    sam.network.image_encoder.register_forward_hook(damage)
    once, closer = (
        Segmenter(SegmentConfig(source="sam-points", zoom=zoom), sam)([image], [entries])[0] for zoom in (0, 1.5)
    )
    kept = [place for place, one in enumerate(once) if isinstance(one, Segmented)]
    assert kept
    assert {closer[place].reason for place in kept} == {"sam_not_finite"}
    others = [place for place in range(len(once)) if place not in kept]
    assert [closer[place].reason for place in others] == [once[place].reason for place in others]


def test_masks_of_a_shard_stay_as_they_are_beside_a_loaded_sam(photos):
    images, entries = [one.image for one in photos], [one.entries for one in photos]
    alone, beside = (Segmenter(SegmentConfig(), sam)(images, entries) for sam in (None, load_sam("sam", Place())))
    names, others = (
        [[one.mask if isinstance(one, Segmented) else one.reason for one in found] for found in some]
        for some in (alone, beside)
    )
    assert names == others
    assert any(isinstance(one, Segmented) for one in alone[0])


def test_one_prompt_gets_a_closer_look_too(photos):
    sam, image, entry = load_sam("sam", Place()), photos[0].image, photos[0].entries[0]
    once, closer = (
        Segmenter(SegmentConfig(source="sam-points", zoom=zoom), sam).at(image, entry.point).mask for zoom in (0, 1.5)
    )
    assert once.counts != closer.counts
    assert (once.name, once.predicted_iou) == (closer.name, closer.predicted_iou)


def iou(counts, photo, index):
    """Of a mask with that of the photo's annotation."""
    mine, true = (mask.decode(one, *photo.image.shape[:2]) for one in (counts, photo.entries[index].counts))
    return float(mask_iou(mine[None], true[None])[0])
