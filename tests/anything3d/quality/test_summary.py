"""What is said of one object, and the summaries over objects, by hand."""

import math

import pytest
import torch

from anything3d.errors import NumericsError
from anything3d.mini.words import COLORS, SHAPES
from anything3d.quality.summary import (
    METRICS,
    caption_accuracy,
    differences,
    inversion_gain,
    summaries,
    summary,
    within,
)


@pytest.mark.parametrize(
    ("caption", "shape", "color"),
    [
        ("a red mug", 1.0, 1.0),
        ("A photo of a Red, RED mug.", 1.0, 1.0),
        ("a red thing", 0.0, 1.0),
        ("a blue mug", 1.0, 0.0),
        ("a red and blue mug on a table", 0.0, 0.0),  # another shape and another colour
        ("reddish mugs", 0.0, 0.0),  # no whole words
        ("", 0.0, 0.0),
    ],
)
def test_a_caption_is_right_if_it_names_the_true_word_and_no_other(caption, shape, color):
    assert caption_accuracy(caption, "mug", SHAPES) == shape
    assert caption_accuracy(caption, "red", COLORS) == color


def test_nothing_is_right_or_wrong_where_the_truth_does_not_say():
    assert caption_accuracy("a red mug", "", SHAPES) is None


def test_a_true_name_may_be_outside_the_vocabulary_and_of_several_words():
    assert caption_accuracy("a grey tea pot", "tea pot", SHAPES) == 1
    assert caption_accuracy("a pot of tea", "tea pot", SHAPES) == 0
    assert caption_accuracy("a coffee mug", "coffee mug", SHAPES) == 1


def test_inversion_gain_is_the_share_of_the_loss_that_is_gone():
    assert inversion_gain(0.5, 0.4) == pytest.approx(0.2)
    assert inversion_gain(0.5, 0.5) == 0
    assert inversion_gain(0.4, 0.5) == pytest.approx(-0.25)
    assert inversion_gain(0.0, 0.0) is None


def test_within_counts_the_limit_itself():
    assert [within(error, 20.0) for error in (0.0, 20.0, 20.1, None)] == [1.0, 1.0, 0.0, None]


def row(**known: float) -> dict[str, float | None]:
    return {**dict.fromkeys(METRICS), **known}


def test_a_summary_is_over_the_objects_that_have_the_metric():
    found = summaries([row(chamfer=0.1, mask_iou=1.0), row(chamfer=0.3), row(chamfer=0.5), row()])
    assert list(found) == ["mask_iou", "chamfer"]
    assert found["chamfer"].mean == pytest.approx(0.3)
    assert found["chamfer"].median == pytest.approx(0.3)
    assert found["chamfer"].n == 3
    assert 0.1 <= found["chamfer"].low < 0.3 < found["chamfer"].high <= 0.5
    assert (found["mask_iou"].low, found["mask_iou"].high, found["mask_iou"].n) == (1.0, 1.0, 1)
    assert summaries([]) == {}


def test_equal_rows_give_equal_intervals_whatever_the_other_metrics():
    rows = [row(chamfer=value / 7) for value in range(7)]
    more = [{**one, "mask_iou": 0.5} for one in rows]
    assert summaries(rows)["chamfer"] == summaries(more)["chamfer"]
    assert summaries(rows, seed=1)["chamfer"] != summaries(rows)["chamfer"]


def test_a_value_that_is_not_finite_is_named():
    with pytest.raises(NumericsError, match="novel_psnr_db of 1 of 2 objects"):
        summaries([row(novel_psnr_db=math.nan), row(novel_psnr_db=20.0)])


def test_differences_are_paired_and_averaged_over_runs():
    ours = {"a": [row(chamfer=0.1), row(chamfer=0.3)], "b": [row(chamfer=0.5)], "c": [row(chamfer=9.0)]}
    theirs = {"a": [row(chamfer=0.1)], "b": [row(chamfer=0.2), row(chamfer=0.4)], "d": [row(chamfer=0.0)]}
    found = differences(ours, theirs)
    # a: 0.2 - 0.1, b: 0.5 - 0.3; c and d are in one only
    assert list(found) == ["chamfer"]
    assert found["chamfer"].mean == pytest.approx(0.15)
    assert found["chamfer"].n == 2
    assert 0.1 <= found["chamfer"].low <= found["chamfer"].high <= 0.2 + 1e-9


def test_a_metric_that_one_side_lacks_has_no_difference():
    assert differences({"a": [row(chamfer=0.1)]}, {"a": [row(mask_iou=0.1)]}) == {}


def test_bootstrap_interval_of_a_normal_sample_is_about_two_standard_errors_wide():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) * 3 + 5
    result = summary(values, torch.Generator().manual_seed(0))
    error = float(values.std()) / math.sqrt(400)
    assert result.n == 400
    assert result.mean == pytest.approx(float(values.mean()), rel=1e-5)
    assert result.low == pytest.approx(result.mean - 1.96 * error, abs=0.25 * error)
    assert result.high == pytest.approx(result.mean + 1.96 * error, abs=0.25 * error)
    assert summary(torch.tensor([1.0, 2.0, 9.0, 4.0]), torch.Generator().manual_seed(0)).median == 3
    one = summary(torch.tensor([2.5]), torch.Generator().manual_seed(0))
    assert (one.mean, one.low, one.high, one.n) == (2.5, 2.5, 2.5, 1)


def test_a_summary_needs_finite_values():
    for values in (torch.zeros(0), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="not finite"):
            summary(values, torch.Generator().manual_seed(0))
