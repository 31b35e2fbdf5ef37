"""What is counted is what a count by hand gives."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from anything3d.counted.cost import StageCost
from anything3d.counted.counter import counting


def test_flops_and_bytes_are_those_of_a_hand_count():
    with FakeTensorMode(), counting() as counts:
        a = torch.zeros(100, 200)  # 80,000 bytes
        b = a @ torch.zeros(200, 300)  # 240,000 more for the second, 120,000 for the product; the second is gone then
        del a
        c = b.relu()  # 120,000 + 120,000
    assert counts.flops == 2 * 100 * 200 * 300
    assert counts.peak_bytes == 80_000 + 240_000 + 120_000
    assert len(c) == 100


def test_a_view_is_no_new_storage_and_what_is_gone_is_not_counted():
    with FakeTensorMode(), counting() as counts:
        for _ in range(10):
            a = torch.zeros(1000)
            a.view(10, 100)[3].add_(1)
            del a
    assert counts.peak_bytes == 4000


def test_a_host_read_is_counted_and_answered():
    with FakeTensorMode(), counting() as counts:
        assert bool(torch.zeros(5).any())
        assert len(torch.zeros(5).nonzero()) == 5
    assert counts.host_reads == 2


def test_a_copy_to_the_host_is_a_read_and_one_to_the_device_is_none():
    with FakeTensorMode(), counting() as counts:
        torch.zeros(5).to("cuda").relu().cpu()
    assert counts.host_reads == 1


def test_products_are_told_apart_by_the_type_of_their_numbers():
    with FakeTensorMode(), counting() as counts:
        half, whole = (torch.zeros(4, 4, dtype=dtype, device="cuda") for dtype in (torch.bfloat16, torch.float32))
        _ = half @ half @ half, whole @ whole
    assert counts.flops_in == {"bfloat16 on cuda": 256, "float32 on cuda": 128}


def test_a_batch_that_fits_and_a_floor_are_those_of_hand_arithmetic():
    cost = StageCost("x", "object", 98.94, {}, (), 10_000_000_000, 2_000_000_000, 3_000_000_000, 8)
    assert cost.peak_bytes(8) == 36_000_000_000
    assert cost.card_gb() == 40  # of which 36 are usable
    assert cost.largest_batch(80) == 20  # (72 - 12) / 3
    assert cost.floor_s("H100 SXM", 0.5) == pytest.approx(0.2)
