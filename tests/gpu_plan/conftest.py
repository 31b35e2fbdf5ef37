"""The preset `default` at full size, on tensors that say they are on a GPU and have no values.

Such tensors refuse what a GPU refuses (tensors of two devices in one operation), and all that makes the host wait for
the GPU: they have no value that could be read, and no operation whose result is as long as its values say.
"""

from contextlib import contextmanager

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from anything3d.counted.stages import FullSize
from anything3d.models.weights import Place
from jobs.command import read_settings
from pipeline.photo import method_config, pace


@pytest.fixture(scope="module")
def full_size():
    """Full size at a device; only one stage's networks are alive at a time."""

    @contextmanager
    def at(device):
        config = read_settings("default", None, [])
        with FakeTensorMode():
            yield FullSize(method_config(config), Place(device, config.dtype), pace(config), config.units.objects)

    return at
