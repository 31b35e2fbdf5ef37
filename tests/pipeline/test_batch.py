"""Faults of the machine: tried again, with fewer items where memory ran out, and never a verdict on an item."""

import os
import signal

import pytest
import torch
from obstore.exceptions import GenericError
from PIL import UnidentifiedImageError
from safetensors import SafetensorError

from anything3d.errors import Bug, DeviceLost, MachineError, OutOfMemory
from pipeline import batch
from pipeline.unit import Unit

IDS = ["ant", "bee", "cow", "dog", "elk", "fox"]
UNIT = Unit("words", tuple(IDS))


class Faulty:
    """Counts letters, after the faults that it is given, one a call; with `most`, of no more words at once."""

    name, version, reads, record = "lengths", 1, ("words",), int

    def __init__(self, faults, most=6) -> None:
        self.faults, self.most, self.sizes = list(faults), most, []

    def __call__(self, items, unit, checkpoint):
        self.sizes.append(len(items))
        if self.faults:
            raise self.faults.pop(0)
        if len(items) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [[len(item)] for item in items]


def compute(stage):
    return batch.compute(lambda: stage, IDS, IDS, UNIT, no_checkpoint, apart=False)


FAULTS = [
    OSError(5, "Input/output error"),
    FileNotFoundError(2, "No such file", "/mnt/shards/sa_1.tar"),
    TimeoutError("storage"),
    GenericError("Generic S3 error: 503 SlowDown"),
    ImportError("libcudart.so.12: cannot open shared object file"),
    RuntimeError("can't start new thread"),
    RuntimeError("unable to open shared memory object: Too many open files (24)"),
    SafetensorError("I/O error: No space left on device (os error 28)"),
]
LOST = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("The NVIDIA driver on your system is too old (found version 11040)"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
]


OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("unable to mmap 12 bytes from file <sd.pt>: Cannot allocate memory (12)"),
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(batch, "WAITS_S", (0.0, 0.0))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_of_the_machine_is_tried_again_and_is_never_a_verdict(fault):
    with pytest.raises(MachineError, match=type(fault).__name__):
        compute(Faulty([fault] * 9))
    stage = Faulty([fault] * 2)
    assert compute(stage) == ([[3]] * 6, [1] * 6)
    assert stage.sizes == [6, 6, 6]


@pytest.mark.parametrize("fault", LOST, ids=str)
def test_a_lost_device_ends_the_attempt_at_once(fault):
    stage = Faulty([fault])
    with pytest.raises(DeviceLost):
        compute(stage)
    assert stage.sizes == [6]


@pytest.mark.parametrize("fault", OUT_OF_MEMORY, ids=str)
def test_out_of_memory_is_tried_again_with_fewer_items(fault):
    stage = Faulty([fault], most=2)
    assert compute(stage)[0] == [[3]] * 6
    assert stage.sizes == [6, 3, 1, 2, 3, 1, 2]
    with pytest.raises(OutOfMemory):
        compute(Faulty([], most=0))


def test_a_fault_of_an_item_that_is_tried_alone_ends_the_run_all_the_same():
    """The batch raises for the cow's sake; while the items are tried one by one, the disk goes."""
    with pytest.raises(MachineError):
        compute(Faulty([ValueError("cow"), *[OSError(5, "Input/output error")] * 9]))


def test_what_a_picture_or_a_caption_is_at_fault_for_is_no_fault_of_the_machine():
    assert batch.machine_fault(UnidentifiedImageError("cannot identify image file")) is None
    assert batch.machine_fault(ValueError("CUDA error in a caption")) is None
    assert batch.machine_fault(RuntimeError("shapes do not match")) is None


def killed_while_loading():
    os.kill(os.getpid(), signal.SIGKILL)


def broken_while_loading():
    raise RuntimeError("a bug of the stage's constructor")


def no_checkpoint(ids):
    return batch.NoCheckpoint()


@pytest.mark.parametrize(
    ("load", "apart", "error"),
    [
        (killed_while_loading, True, MachineError),  # as by the system, where a second copy is too much for the memory
        (broken_while_loading, True, RuntimeError),
        (broken_while_loading, False, RuntimeError),
    ],
)
def test_what_happens_while_the_networks_load_is_no_items_fault(load, apart, error):
    with pytest.raises(error):
        batch.compute(load, IDS, IDS, UNIT, no_checkpoint, apart=apart)


def test_a_stage_that_does_not_balance_ends_the_run():
    with pytest.raises(Bug):
        compute(Faulty([Bug("not_balanced", "bytes")] * 9))
