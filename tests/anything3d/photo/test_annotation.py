"""SA-1B's JSON: what is read, and every way in which it can be wrong."""

import json

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from anything3d.errors import InputError
from anything3d.photo import mask
from anything3d.photo.annotation import MAX_ANNOTATIONS, MAX_BYTES, MAX_VALUES, Annotation, parse_annotations

HEIGHT, WIDTH = 60, 80


def rectangle(x=10, y=20, width=30, height=25):
    found = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    found[y : y + height, x : x + width] = True
    return found


def entry(found=None, **changes):
    found = rectangle() if found is None else found
    x, y, width, height = mask.box(mask.runs_of(found), HEIGHT)
    fields = {
        "bbox": [float(x), float(y), float(width - 1), float(height - 1)],
        "area": int(found.sum()),
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": mask.encode(found)},
        "predicted_iou": 1.01,
        "point_coords": [[20.5, 30.5]],
        "crop_box": [0.0, 0.0, 80.0, 60.0],
        "id": 333521560,
        "stability_score": 0.97,
    }
    return fields | changes


def file(*annotations, **changes):
    image = {"image_id": 226381, "width": WIDTH, "height": HEIGHT, "file_name": "sa_226381.jpg"} | changes
    return {"image": image, "annotations": list(annotations)}


def parse(content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_annotations(data, "sa_226381")


def file_reason(content):
    with pytest.raises(InputError) as caught:
        parse(content)
    return caught.value.reason


def entry_reason(annotation):
    """The neighbours on both sides stay sound."""
    _, (before, broken, after) = parse(file(entry(), annotation, entry()))
    assert isinstance(before, Annotation)
    assert isinstance(after, Annotation)
    assert after.index == 2
    assert isinstance(broken, InputError)
    assert broken.message.startswith("annotation 1: ")
    return broken.reason


def test_an_annotation_is_read_with_box_and_area_of_its_runs():
    size, (found,) = parse(file(entry()))
    assert size == (HEIGHT, WIDTH)
    assert found == Annotation(
        index=0,
        box=(10, 20, 30, 25),
        area_px=750,
        counts=mask.encode(rectangle()),
        predicted_iou=1.01,
        stability_score=0.97,
        point=(20.5, 30.5),
        annotation_id=333521560,
        stated_box=(10.0, 20.0, 29.0, 24.0),
        stated_area_px=750,
    )


@pytest.mark.parametrize("box", [[10, 20, 29, 24], [10.0, 20.0, 30.0, 25.0]])
def test_both_conventions_of_a_box_are_read_as_integers_or_floats(box):
    (found,) = parse(file(entry(bbox=box)))[1]
    assert found.box == (10, 20, 30, 25)


def test_a_photo_without_annotations_is_sound():
    assert parse(file()) == ((HEIGHT, WIDTH), [])


def test_unknown_keys_do_not_matter():
    content = file(entry(caption="x", score=1e308)) | {"license": {"deep": [[]]}}
    assert isinstance(parse(content)[1][0], Annotation)


def test_an_empty_mask_is_no_damage():
    (found,) = parse(file(entry(torch.zeros(HEIGHT, WIDTH, dtype=torch.bool), bbox=[0, 0, 0, 0])))[1]
    assert (found.box, found.area_px) == ((0, 0, 0, 0), 0)


def test_a_prompt_outside_its_mask_is_no_damage():
    (found,) = parse(file(entry(point_coords=[[79.5, 0.5]])))[1]
    assert found.point == (79.5, 0.5)


def test_a_small_difference_of_the_stated_area_is_kept_and_a_gross_one_refused():
    (found,) = parse(file(entry(area=760)))[1]
    assert (found.area_px, found.stated_area_px) == (750, 760)
    assert entry_reason(entry(area=780)) == "area_mismatch"


def test_runs_whose_total_survived_their_damage_are_found_by_area_and_box():
    lengths = mask.runs_of(rectangle())
    lengths[0], lengths[1] = lengths[0] - 5, lengths[1] + 5  # one column is longer; the total is intact
    longer = mask.encode_runs(lengths)
    assert entry_reason(entry(segmentation={"size": [HEIGHT, WIDTH], "counts": longer})) == "box_mismatch"
    lengths = mask.runs_of(rectangle())
    lengths[1::2], lengths[2:-1:2] = lengths[2], lengths[1]  # object and background change places
    lengths[-1] -= lengths.sum() - HEIGHT * WIDTH
    swapped = mask.encode_runs(lengths)
    assert entry_reason(entry(segmentation={"size": [HEIGHT, WIDTH], "counts": swapped})) == "area_mismatch"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"predicted_iou": float("nan")}, "json_number"),
        ({"stability_score": float("inf")}, "json_number"),
        ({"stability_score": 1.5}, "json_number"),
        ({"predicted_iou": "0.9"}, "json_field"),
        ({"predicted_iou": None}, "json_field"),
        ({"predicted_iou": True}, "json_field"),
        ({"area": 750.0}, "json_field"),
        ({"area": -1}, "json_number"),
        ({"id": 2**63}, "json_number"),
        ({"id": True}, "json_field"),
        ({"bbox": [10, 20, 30]}, "json_field"),
        ({"bbox": [10, 20, -3, 24]}, "json_number"),
        ({"bbox": [10, 20, 10**400, 24]}, "json_number"),
        ({"bbox": [14, 20, 25, 24]}, "box_mismatch"),
        ({"bbox": [-40, 20, 79, 24]}, "box_mismatch"),
        ({"point_coords": []}, "json_field"),
        ({"point_coords": [[1, 2], [3, 4]]}, "json_field"),
        ({"point_coords": [[81, 2]]}, "json_number"),
        ({"segmentation": [[1, 2, 3, 4]]}, "json_field"),  # polygons
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [4, 5]}}, "json_field"),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "json_field"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": "22"}}, "size_mismatch"),
        ({"segmentation": {"size": [60.0, 80.0], "counts": "22"}}, "size_mismatch"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": "22"}}, "size_mismatch"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": ""}}, "rle_empty"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "22"}}, "rle_sum"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "2\ud800"}}, "rle_characters"),
    ],
)
def test_one_broken_annotation_costs_only_itself(changes, code):
    assert entry_reason(entry(**changes)) == code


def test_a_missing_field_and_a_foreign_type_cost_only_the_annotation():
    incomplete = entry()
    del incomplete["stability_score"]
    assert entry_reason(incomplete) == "json_field"
    assert entry_reason("annotation") == "json_field"


def test_1e400_is_no_number():
    text = json.dumps(file(entry(predicted_iou=0.123))).replace("0.123", "1e400")
    assert parse(text.encode())[1][0].reason == "json_number"


def test_a_key_that_occurs_twice_costs_the_object_in_which_it_does():
    text = json.dumps(file(entry(), entry(id=7)))
    _, (first, second) = parse(text.replace('"id": 7', '"id": 7, "id": 8').encode())
    assert isinstance(first, Annotation)
    assert second.reason == "json_duplicate_key"
    assert file_reason(text.replace('"width": 80', '"width": 80, "width": 81').encode()) == "json_duplicate_key"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "json_syntax"),
        (b'{"image": ', "json_syntax"),
        (b"\xff\xfe{}", "json_syntax"),
        (b'{"image": ' + b"9" * 5000 + b"}", "json_syntax"),  # more digits than Python converts
        (b"[" * 100_000, "json_depth"),
        (b'{"a":' * 100_000, "json_depth"),
        (b"[]", "json_field"),
        (b"null", "json_field"),
        (b"NaN", "json_field"),
        ({"annotations": []}, "json_field"),
        ({"image": file()["image"]}, "json_field"),
        ({"image": file()["image"], "annotations": {}}, "json_field"),
        (file(width=0), "json_number"),
        (file(width=-5), "json_number"),
        (file(width=80.0), "json_field"),
        (file(width=10**6, height=10**6), "json_number"),
        (file(width=60_000, height=60_000), "json_number"),
        (file(image_id=226382), "image_id_mismatch"),
        (file(file_name="sa_226382.jpg"), "image_id_mismatch"),
        (file(file_name="../sa_226381.jpg"), "image_id_mismatch"),
        (file(file_name=None), "image_id_mismatch"),
        ({"image": file()["image"], "annotations": [0] * (MAX_ANNOTATIONS + 1)}, "annotations_too_many"),
        (b" " * (MAX_BYTES + 1), "json_bytes"),
    ],
)
def test_damage_of_the_file_is_refused_by_name(content, code):
    assert file_reason(content) == code


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"1,", b"[[[[]]]],", b'{"":0},', b'"",'])
@pytest.mark.parametrize("place", ["[HERE0]", '{"image": [HERE0], "annotations": []}'])
def test_more_values_than_any_photo_has_are_refused_before_they_are_read(unit, place):
    content = place.encode().replace(b"HERE", unit * (MAX_VALUES + 1))
    assert file_reason(content[:MAX_BYTES]) == "json_values"


def test_as_many_annotations_as_are_allowed_have_few_enough_values():
    text = json.dumps(file(entry())).encode()
    assert sum(text.count(sign) for sign in (b",", b"[", b"{")) * MAX_ANNOTATIONS < MAX_VALUES


def test_nesting_that_json_still_reads_does_not_break_the_message():
    nested = b"[" * 900 + b"]" * 900
    text = json.dumps(file(entry(bbox="HERE"))).encode().replace(b'"HERE"', nested)
    assert parse(text)[1][0].reason == "json_field"


@given(st.data())
@settings(max_examples=100)
def test_any_changed_byte_gives_entries_or_an_input_error(data):
    content = bytearray(json.dumps(file(entry(), entry(id=5))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, entries = parse(bytes(content))
    except InputError:
        return
    assert all(isinstance(found, Annotation | InputError) for found in entries)
