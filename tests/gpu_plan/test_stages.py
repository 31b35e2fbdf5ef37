"""SAM and BLIP at full size: on one device, in the precision of the settings, without waiting.

No change may raise a count by more than 2 % without a new file of counts, which this command writes:
`anything3d bench plan --preset default --out tests/gpu_plan/counts.json`
"""

import json
from pathlib import Path

import pytest
import torch

from anything3d.counted.counter import counting

KNOWN = json.loads((Path(__file__).parent / "counts.json").read_text())
MOST = 1.02

# Reads of the host that a part may have, and the least share of FLOPs that is in the precision of the settings. SAM's
# decoder stays in float32.
FORWARD = [
    ("segment", {"photo": 0, "32 prompts": 0}, 0.95),
    ("caption", {"caption": 0}, 0.999),
]


def known(stage, part):
    (tflop,) = [one["tflop"] for one in KNOWN[stage]["parts"] if one["name"] == part]
    return 1e12 * tflop


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
    for name, most in reads.items():
        assert counted[name].host_reads <= most, name
        assert 0 < counted[name].flops <= MOST * known(stage, name), name


@pytest.mark.parametrize(
    "wait", [lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: x.nonzero(), lambda x: bool(x.any())]
)
def test_tensors_without_values_refuse_what_makes_the_host_wait(full_size, wait):
    with full_size("cuda"), pytest.raises(RuntimeError):
        wait(torch.zeros(3, device="cuda"))


def test_tensors_without_values_refuse_a_tensor_of_another_device(full_size):
    with full_size("cuda"), pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device="cuda") + torch.zeros(3)
