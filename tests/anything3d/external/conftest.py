"""Objects for an external command: discs of other widths, so that the command can tell them apart."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

from anything3d.distil.evidence import Evidence, Position
from anything3d.external.backend import External
from anything3d.photo import mask
from anything3d.settings.external import ExternalConfig
from tests import hull

SIDE = 48
HULL = Path(hull.__file__)


def disc(index):
    """A crop of which red grows to the right and green downwards; its ellipse is twice as high as wide."""
    v, u = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    inside = ((u - 23.5) / (8 + index)) ** 2 + ((v - 23.5) / 20) ** 2 < 1
    return torch.cat([torch.stack([u / SIDE, v / SIDE, torch.full((SIDE, SIDE), 0.25)]), inside[None].float()])


def evidence(count):
    crops = torch.stack([disc(index) for index in range(count)])
    boxes = [mask.box(mask.runs_of(crop[3] > 0.5), SIDE) for crop in crops]
    counts = [mask.encode(crop[3] > 0.5) for crop in crops]
    window = (0.0, 0.0, float(SIDE))
    return Evidence(crops, positions=[Position((SIDE, SIDE), *one, window) for one in zip(counts, boxes, strict=True)])


def left_of(index):
    """Where the box of an object begins: the name by which the command is told to break off."""
    return evidence(index + 1).positions[index].box[0]


def config(*arguments, **more):
    words = [sys.executable, str(HULL), *map(str, arguments)]
    known = {"command": shlex.join(words), "version": hull.VERSION, "licence": hull.LICENCE}
    return ExternalConfig(**known | more)


class Started:
    """A backend with this command, what it has said, and how often its command was started."""

    def __init__(self, file, *arguments, seconds=60.0, **more):
        self.said, self._file = [], file
        self.backend = External(config(*arguments, "--started", file, **more), "cpu", seconds, self.said.append)

    def __call__(self, count):
        return self.backend(evidence(count), [torch.Generator().manual_seed(row) for row in range(count)], [])

    @property
    def starts(self):
        return [json.loads(line) for line in self._file.read_text().splitlines()]


@pytest.fixture
def start(tmp_path):
    running = []

    def started(*arguments, **more):
        running.append(Started(tmp_path / "started", *arguments, **more))
        return running[-1]

    yield started
    for one in running:
        one.backend.close()
