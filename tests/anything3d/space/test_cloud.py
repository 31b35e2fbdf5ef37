"""Clouds and their PLY files."""

import contextlib

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from anything3d.errors import InputError
from anything3d.space.cloud import Cloud, distinct_points, from_plies, from_ply, gathered, normalise, strays, to_ply

HEADER = (
    "ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    "property float x\nproperty float y\nproperty float z\n"
    "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
)


def random_cloud(rows=1, points=20):
    generator = torch.Generator().manual_seed(0)
    return Cloud(
        torch.randn(rows, points, 3, generator=generator),
        torch.randint(256, (rows, points, 3), generator=generator) / 255,
    )


def test_ply_has_the_bytes_that_its_header_announces():
    cloud = Cloud(torch.tensor([[[1.0, -2.0, 0.5]]]), torch.tensor([[[1.0, 0.0, 0.2]]]))
    body = bytes.fromhex("0000803f000000c00000003fff0033")
    assert to_ply(cloud) == HEADER.format(count=1).encode() + body


def test_a_written_cloud_reads_back_exactly():
    cloud = random_cloud()
    back = from_ply(to_ply(cloud))
    assert torch.equal(back.points, cloud.points)
    torch.testing.assert_close(back.colors, cloud.colors)


def test_other_properties_orders_and_elements_are_passed_over():
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment by another tool\nelement vertex 1\n"
        "property uint8 red\nproperty uint8 green\nproperty uint8 blue\nproperty double confidence\n"
        "property float32 z\nproperty float32 y\nproperty float32 x\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    body = bytes([255, 0, 51]) + bytes(8) + bytes.fromhex("0000803f000000c00000003f")
    cloud = from_ply(header.encode() + body + b"\x03" + bytes(12))
    assert cloud.points.tolist() == [[[0.5, -2.0, 1.0]]]
    torch.testing.assert_close(cloud.colors, torch.tensor([[[1.0, 0.0, 0.2]]]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a PLY header"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\n", "only binary_little_endian"),
        (HEADER.format(count=2).encode() + bytes(15), "2 points need 30 bytes"),
        (HEADER.format(count=0).encode(), "at least 1"),
        (HEADER.format(count=-1).encode(), "with a count"),
        (HEADER.format(count=10**15).encode() + bytes(15), "bytes"),
        (HEADER.format(count=1).replace("float z", "double z").encode() + bytes(20), "float z"),
        (HEADER.format(count=1).replace("uchar red", "list uchar int red").encode() + bytes(20), "only scalar"),
        (HEADER.format(count=1).encode() + bytes.fromhex("0000c07f") + bytes(11), "NaN"),
        (b"ply\n" + b"comment \xff\n" + b"end_header\n", "expected a PLY header"),
    ],
)
def test_a_broken_ply_is_an_input_error(data, message):
    with pytest.raises(InputError, match=message) as caught:
        from_ply(data)
    assert caught.value.reason == "bad_ply"


@settings(max_examples=200)
@given(st.binary(max_size=60), st.integers(0, 250))
def test_no_bytes_raise_anything_but_an_input_error(noise, place):
    whole = to_ply(random_cloud(points=3))
    for data in (noise, whole[:place] + noise + whole[place + len(noise) :]):
        with contextlib.suppress(InputError):
            from_ply(data)


def test_normalised_clouds_have_centre_zero_and_longest_side_one():
    cloud = random_cloud(rows=3)
    low, high = (f(normalise(cloud).points, dim=1) for f in (torch.amin, torch.amax))
    torch.testing.assert_close(low, -high)
    torch.testing.assert_close((high - low).amax(1), torch.ones(3))


def test_a_single_point_normalises_to_the_origin():
    cloud = Cloud(torch.full((1, 5, 3), 7.0), torch.zeros(1, 5, 3))
    assert normalise(cloud).points.abs().max() == 0


def test_distinct_points_are_counted_by_cell():
    points = torch.zeros(3, 300, 3)
    points[1, :, 0] = torch.arange(300) / 100
    points[2, 0, 0] = torch.nan
    points[0, :3, 2] = torch.tensor([0.1, 0.1001, 0.2])
    assert distinct_points(Cloud(points, torch.zeros_like(points)), 1e-3).tolist() == [3, 255, 0]


def test_several_files_become_the_rows_of_one_cloud():
    cloud = random_cloud(rows=3)
    together = from_plies([to_ply(cloud[b : b + 1]) for b in range(3)])
    assert torch.equal(together.points, cloud.points)


def ball(rows=2, points=2000, radius=0.25):
    """Points spread evenly on spheres."""
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(rows, points, 3, generator=generator), dim=-1) * radius
    return Cloud(points, torch.rand(points.shape, generator=generator))


def test_a_point_far_from_all_others_is_moved_onto_the_nearest_and_does_not_decide_the_frame():
    cloud, whole = ball(), ball()
    cloud.points[1, 7] = torch.tensor([0.6, 0.0, 0.0])
    stray = strays(cloud)
    assert stray.nonzero().tolist() == [[1, 7]]
    moved = gathered(cloud, stray)
    others = [n for n in range(2000) if n != 7]
    distances = (cloud.points[1] - cloud.points[1, 7]).norm(dim=-1)
    nearest = min(others, key=lambda n: float(distances[n]))
    assert torch.equal(moved.points[1, 7], cloud.points[1, nearest])
    assert torch.equal(moved.colors[1, 7], cloud.colors[1, nearest])
    assert torch.equal(moved.points[0], whole.points[0])
    assert torch.equal(moved.points[1, others], whole.points[1, others])
    assert normalise(moved).points[1].abs().amax() == 0.5
    extent = normalise(cloud).points[1, others].amax(0) - normalise(cloud).points[1, others].amin(0)
    assert extent.max() < 0.6  # what one stray point does to the frame otherwise


def test_a_part_that_stands_apart_is_no_stray_point():
    cloud = ball()
    cloud.points[0, :5] = torch.tensor([0.6, 0.0, 0.0]) + 0.01 * torch.eye(5, 3)
    assert not strays(cloud).any()


@pytest.mark.parametrize("points", [1, 3, 4])
def test_a_few_points_and_equal_points_are_never_stray(points):
    assert not strays(random_cloud(2, points)).any()
    assert not strays(Cloud(torch.zeros(2, 50, 3), torch.zeros(2, 50, 3))).any()


def test_a_cloud_with_nan_has_no_stray_points_and_stays_as_it_is():
    cloud = ball()
    cloud.points[0, 3, 1] = torch.nan
    stray = strays(cloud)
    assert not stray.any()
    assert gathered(cloud, stray).points.isfinite().flatten(1).all(1).tolist() == [False, True]
