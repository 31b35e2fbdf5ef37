"""Row 3: SAM's masks of a whole photo, vit_b with random weights, 1500 x 2250 px.

One photo at vit_b size takes long on one core, and both sides encode it alike. So 8 points along a side are taken
instead of 32, and a second row begins at the encoded photo.
"""

from contextlib import contextmanager

import numpy as np
import torch

from anything3d.models.sam import Sam1
from anything3d.models.sam.loading import SamShape, build
from anything3d.photo import mask
from tests.bench.row import Pair, Timed

PHOTO = {"full": (1500, 2250), "toy": (90, 130)}
POINTS = {"full": 8, "toy": 3}
TOY = SamShape(64, 8, 32, 2, 2, 4, (1,), 32, 2, 64, 32)
MIN_STABILITY = 0.0  # none: the logits of random weights are near 0, and not stable


@contextmanager
def _pair(size, encoded):
    from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    height, width = PHOTO[size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = (sam_model_registry["vit_b"]() if size == "full" else build(TOY)).eval().requires_grad_(False)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    if encoded:  # the encoder is what both have in common: its features of this photo are kept
        network.image_encoder = _Kept(network.image_encoder)
    sam = Sam1(network)
    ious = sorted(one.predicted_iou for one in _all(sam, image, size))
    least = ious[len(ious) // 2]  # of the surest masks; about a third of all are above it
    if least <= 0:  # both sides take a threshold of 0 or less for none
        network.mask_decoder.iou_prediction_head.layers[-1].bias.add_(0.1 - least)
        least = 0.1
    generator = SamAutomaticMaskGenerator(
        network,
        points_per_side=POINTS[size],
        pred_iou_thresh=least,
        stability_score_thresh=MIN_STABILITY,
        output_mode="uncompressed_rle",
    )
    yield Pair(
        lambda: sam.grid(torch.from_numpy(image), POINTS[size], least, MIN_STABILITY),
        lambda: generator.generate(image),
        check,
    )


class _Kept(torch.nn.Module):
    """An encoder that has seen its one photo already."""

    def __init__(self, encoder):
        super().__init__()
        self.img_size, self.kept, self.encoder = encoder.img_size, None, [encoder]

    def forward(self, pixels):
        if self.kept is None:
            self.kept = self.encoder[0](pixels)
        return self.kept


def _all(sam, image, size):
    """What SAM predicts at some points of the grid, of all three masks of each."""
    points = [torch.tensor([[x * image.shape[1], y * image.shape[0]]]) for x in (0.2, 0.5, 0.8) for y in (0.3, 0.7)]
    return [one for rows in points for one in sam.prompt([torch.from_numpy(image)], [rows.float()], 1, 1)[0]]


def check(ours, theirs):
    assert len(ours) == len(theirs) > 0, f"{len(ours)} masks, {len(theirs)} of theirs"
    by_runs = {tuple(one.lengths.tolist()): one for one in ours}
    for their in theirs:
        one = by_runs[tuple(their["segmentation"]["counts"])]
        assert abs(one.predicted_iou - their["predicted_iou"]) < 1e-5
        assert abs(one.stability_score - their["stability_score"]) < 1e-5
        assert mask.area(one.lengths) == their["area"]
    return f"the same {len(ours)} masks, run by run"


@contextmanager
def make(size, folder, device):
    with _pair(size, False) as made:
        yield made


@contextmanager
def make_encoded(size, folder, device):
    with _pair(size, True) as made:
        yield made


PEER = "SamAutomaticMaskGenerator"
ROW = Timed("3", "SAM's masks of a photo, vit_b, 64 points", PEER, 2, make, memory=True)
ENCODED = Timed("3d", "the same, of the encoded photo", PEER, 2, make_encoded)
