"""Near-duplicates by hand, and against a slow second implementation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from anything3d.quality.duplicates import Mark, from_bytes, near_duplicates, to_bytes


def at(*degrees: float) -> torch.Tensor:
    """Unit vectors of the plane. The cosine of two of them is that of the angle between them."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).half()


def by_hand(vectors: torch.Tensor, min_cosine: float) -> list[tuple[int, int]]:
    """One object after the other, each compared with all that are kept. `vectors` are of length 1."""
    kept, marks = list[int](), list[tuple[int, int]]()
    for place, own in enumerate(vectors):
        cosines = [float(own @ vectors[other]) for other in kept]
        if cosines and max(cosines) >= min_cosine:
            marks.append((place, kept[cosines.index(max(cosines))]))
        else:
            kept.append(place)
    return marks


def test_an_object_near_an_earlier_one_is_marked():
    """cos 8 deg = 0.990, cos 12 deg = 0.978, cos 20 deg = 0.940."""
    marks = near_duplicates(at(0, 90, 8, 82), 0.98)
    assert [(mark.place, mark.of) for mark in marks] == [(2, 0), (3, 1)]
    assert [mark.cosine for mark in marks] == pytest.approx([0.990, 0.990], abs=0.001)


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_no_chain_is_marked_and_the_nearest_one_counts(rows):
    """20 degrees is near to 12 degrees, but that is marked. 26 degrees is nearer to 20 than to 36."""
    marks = near_duplicates(at(0, 12, 20, 36, 26), 0.97, rows=rows)
    assert [(mark.place, mark.of) for mark in marks] == [(1, 0), (4, 2)]


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_equal_objects_have_cosine_one_and_the_first_is_kept(rows):
    one = normalize(torch.randn(768, generator=torch.Generator().manual_seed(0)), dim=0).half()
    marks = near_duplicates(one.repeat(4, 1), 0.99, rows=rows)
    assert marks == [Mark(place, 0, pytest.approx(1.0, abs=0.001)) for place in (1, 2, 3)]
    assert max(mark.cosine for mark in marks) <= 1.0


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12), st.sampled_from([-0.2, 0.3, 0.6, 0.9]))
def test_it_is_what_one_after_the_other_gives(seed, count, rows, min_cosine):
    generator = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(count, 3, generator=generator), dim=1).half()
    exact = normalize(vectors.double(), dim=1)  # half precision has changed the lengths
    cosines = exact @ exact.T
    if ((cosines - min_cosine).abs() < 1e-5).any():  # what rounding would decide
        return
    marks = near_duplicates(vectors, min_cosine, rows=rows)
    assert [(mark.place, mark.of) for mark in marks] == by_hand(exact, min_cosine)
    unmarked = sorted(set(range(count)) - {mark.place for mark in marks})
    among = cosines[unmarked][:, unmarked]
    assert not (among >= min_cosine).triu(1).any()


def test_bytes_are_half_precision_and_come_back():
    vectors = normalize(torch.randn(5, 96, generator=torch.Generator().manual_seed(1)), dim=1)
    back = from_bytes([to_bytes(one) for one in vectors])
    assert len(to_bytes(vectors[0])) == 2 * 96
    assert torch.equal(back, vectors.half())
    assert (back.float() @ back.float().T - vectors @ vectors.T).abs().max() < 0.001


def test_no_object_is_nothing():
    assert near_duplicates(torch.zeros(0, 4).half(), 0.9) == []
