"""Both sides of every row compute the same, at toy size."""

import pytest

from tests.bench.row import Timed
from tests.bench.rows import ROWS


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11 with NumPy 2
@pytest.mark.parametrize("number", [number for number, row in ROWS.items() if isinstance(row, Timed) and number != "9"])
def test_both_sides_of_a_row_compute_the_same(number, tmp_path):
    with ROWS[number].make("toy", tmp_path, "cpu") as pair:
        assert pair.check(pair.ours(), pair.peer())


def test_a_step_without_depth_costs_what_it_costs_elsewhere():
    """Both run the UNet on two rows, and the VAE's encoder forward and backward."""
    ours, theirs = ROWS["8s"].count()
    assert ours == pytest.approx(theirs, rel=0.01)
    assert 3.5 < ours < 4.5  # TFLOP
