"""The networks of all stages at full size: on one device, in the precision of the settings, without waiting.

No change may raise a count by more than 2 % without a new file of counts, which this command writes:
`anything3d bench plan --preset default --out tests/gpu_plan/counts.json`
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from anything3d.counted.counter import counting

KNOWN = json.loads((Path(__file__).parent / "counts.json").read_text())
MOST = 1.02

# Reads of the host that a part may have, and the least share of FLOPs that is in the precision of the settings. SAM's
# decoder stays in float32. Four prefixes of a prompt are encoded for the guide, and each is read once.
FORWARD = [
    ("segment", {"photo": 0, "32 prompts": 0, "closer look": 0}, 0.95),
    ("caption", {"caption": 0}, 0.999),
    ("invert", {"around the steps": 0}, 0.999),
    ("lift", {"first step and search": 0, "step": 0}, 0.999),
    ("reconstruct", {"guide": 4, "likeness": 0}, 0.999),
    ("score", {"view": 0, "likeness": 0, "DINOv2": 0}, 0.999),
]
# Autograd's engine does not run on a fake GPU. So the parts with a backward pass are counted on a fake CPU.
BACKWARD = [("invert", "step"), ("reconstruct", "step up to 100%")]


def most(stage, part):
    """The most FLOPs of a call of the part, with those of the part that its call begins with."""
    tflop = {one["name"]: one["tflop"] for one in KNOWN[stage]["parts"]}
    return MOST * 1e12 * (tflop[part.name] + tflop.get(part.over, 0))


@pytest.fixture
def products_as_on_a_gpu():
    """A fake GPU has no attention kernels. Without this, its attention is in float32, which that of a GPU is not."""
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    yield
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)


@pytest.mark.usefixtures("products_as_on_a_gpu")
@pytest.mark.parametrize(("stage", "reads", "least"), FORWARD, ids=[stage for stage, *_ in FORWARD])
def test_a_stage_stays_on_its_gpu_in_its_precision_and_never_waits(full_size, stage, reads, least):
    with full_size("cuda") as full:
        parts = {part.name: part for part in getattr(full, stage)().parts}
        counted, flops = {}, {}
        for name in reads:
            with counting() as counted[name]:
                parts[name].call(1)
            for kind, count in counted[name].flops_in.items():
                flops[kind] = flops.get(kind, 0) + count
    assert all(kind.endswith(" on cuda") for kind in flops), flops
    assert flops["bfloat16 on cuda"] >= least * sum(flops.values()), flops
    for name, allowed in reads.items():
        assert counted[name].host_reads <= allowed, name
        assert 0 < counted[name].flops <= most(stage, parts[name]), name


@pytest.mark.usefixtures("products_as_on_a_gpu")
def test_sam_2_stays_on_its_gpu_in_its_precision_and_never_waits(full_size):
    with full_size("cuda") as full:
        segment = dataclasses.replace(full.config.segment, weights="sam2.1-hiera-large")
        full = dataclasses.replace(full, config=dataclasses.replace(full.config, segment=segment))
        photo, prompts, closer = full.segment().parts
        with counting() as seen:
            (features,) = photo.call(1)
        with counting() as asked:
            found = prompts.call(1)
        with counting() as again:
            ((solid, is_finite, share),) = closer.call(1)
    assert [tuple(one.shape) for one in (solid, is_finite, share)] == [(1500, 2250), (), ()]
    assert [tuple(level.shape) for level in features] == [(1, 32, 256, 256), (1, 64, 128, 128), (1, 256, 64, 64)]
    assert {(level.dtype, level.device.type) for level in features} == {(torch.float32, "cuda")}
    assert {tuple(one.solid.shape[1:]) for one in found} == {(1500, 2250)}
    assert sum(len(one.solid) for one in found) == 32
    assert seen.host_reads == asked.host_reads == again.host_reads == 0
    assert seen.flops_in["bfloat16 on cuda"] >= 0.99 * seen.flops
    assert set(seen.flops_in) | set(asked.flops_in) == {"bfloat16 on cuda", "float32 on cuda"}


@pytest.mark.parametrize(("stage", "name"), BACKWARD, ids=[stage for stage, _ in BACKWARD])
def test_a_step_computes_and_keeps_no_more_than_before(full_size, stage, name):
    with full_size("cpu") as full:
        (part,) = [part for part in getattr(full, stage)().parts if part.name == name]
        with counting() as counted:
            part.call(1)
    known = KNOWN[stage]
    assert 0 < counted.flops <= most(stage, part)
    assert 0 < counted.peak_bytes <= MOST * (known["fixed_bytes"] + known["item_bytes"])
    assert counted.flops_in["bfloat16 on cpu"] >= 0.999 * counted.flops


@pytest.mark.parametrize(
    "wait", [lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: x.nonzero(), lambda x: bool(x.any())]
)
def test_tensors_without_values_refuse_what_makes_the_host_wait(full_size, wait):
    with full_size("cuda"), pytest.raises(RuntimeError):
        wait(torch.zeros(3, device="cuda"))


def test_tensors_without_values_refuse_a_tensor_of_another_device(full_size):
    with full_size("cuda"), pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device="cuda") + torch.zeros(3)
