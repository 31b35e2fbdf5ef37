"""Row 5: textual inversion of 8 objects with the mini denoiser, all at once and one after the other."""

from contextlib import contextmanager

import torch

from anything3d.invert import load_inverter
from anything3d.models.weights import Place
from anything3d.seed import generators
from anything3d.settings.invert import InvertConfig
from tests.bench.row import Pair, Timed

OBJECTS, STEPS = {"full": 8, "toy": 2}, {"full": 10, "toy": 2}
WORDS = ("red ball", "blue box", "green cone", "yellow mug")


@contextmanager
def make(size, folder, device):
    count = OBJECTS[size]
    inverter = load_inverter(InvertConfig(steps=STEPS[size]), Place(device))
    crops = torch.rand(count, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    captions = [f"a {WORDS[index % len(WORDS)]}" for index in range(count)]
    names = [str(index) for index in range(count)]

    def some(rows):
        return inverter(crops[rows], captions[rows], generators(0, "invert", names[rows]))

    def peer():
        return [some(slice(index, index + 1))[0] for index in range(count)]

    yield Pair(lambda: some(slice(None)), peer, check)


def check(ours, theirs):
    most = max(
        float((one.concept.embeddings - other.concept.embeddings).abs().max())
        for one, other in zip(ours, theirs, strict=True)
    )
    size = max(float(one.concept.embeddings.abs().max()) for one in ours)
    assert most <= 0.01 * size, f"embeddings differ by {most} of {size}"
    return f"embeddings differ by at most {most / size:.1e} of the largest entry"


ROW = Timed("5", "inversion of 8 objects in one batch", "one object at a time", 1.5, make, gpu=True)
