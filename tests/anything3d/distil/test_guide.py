"""The weight of the photo's losses at each pixel, and the guide of views of half the size, by hand."""

import pytest
import torch

from anything3d.distil.guide import RIM, Guide, where_known
from anything3d.space.camera import orbit
from anything3d.space.cloud import Cloud
from anything3d.space.depth import splat

SIZE = 40  # so RIM is two pixels
DISC = 1.0


def ball(points=2048):
    at = torch.randn(1, points, 3, generator=torch.Generator().manual_seed(0))
    at = 0.5 * at / at.norm(dim=-1, keepdim=True)
    return Cloud(at, torch.full_like(at, 0.5))


@pytest.fixture
def camera():
    one = torch.ones(1)
    return orbit(0 * one, 0 * one, 3.0 * one, 30.0 * one)


@pytest.fixture
def silhouette(camera):
    cloud = ball()
    return splat(cloud, camera, SIZE, DISC / cloud.points.shape[1] ** 0.5)[2]


@pytest.mark.parametrize("column", [12, 17, 20, 24, 28])
def test_the_photo_is_trusted_but_where_the_cloud_reaches_far_beyond_the_mask(camera, silhouette, column):
    """Wherever the mask is cut off, the photo has no weight deeper in the cloud than RIM, and all of it in the rim."""
    mask = silhouette.clone()
    mask[:, :, column:] = 0
    known = where_known(ball(), camera, mask, torch.zeros_like(mask), DISC)
    rim = round(RIM * SIZE)
    row = SIZE // 2
    right = int((silhouette[0, row] > 0.5).nonzero().max())
    assert (known[0, row, :column] == 1).all()
    assert known[0, row, column : right - rim - 1].max() < 0.1
    assert (known[0, row, right - rim + 1 : right + 1] > 0.9).all()
    assert (known[0, row, right + 1 :] == 1).all()  # no cloud: the photo says that nothing is there


@pytest.mark.parametrize("column", [12, 20, 28])
def test_no_rim_is_trusted_where_something_may_hide_the_object(camera, silhouette, column):
    mask, unseen = silhouette.clone(), torch.zeros_like(silhouette)
    mask[:, :, column:] = 0
    unseen[:, :, column:] = 0.5  # a part of a pixel is enough
    known = where_known(ball(), camera, mask, unseen, DISC)
    beyond = silhouette[:, :, column:]
    torch.testing.assert_close(
        known[:, :, column:][beyond > 0.99], torch.zeros(int((beyond > 0.99).sum())), atol=0.02, rtol=0
    )
    assert (known[:, :, :column] == 1).all()
    assert (known[:, :, column:][beyond == 0] == 1).all()


def test_half_the_size_has_the_mean_of_what_is_known_in_each_pixel(camera):
    target, known = torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4)
    target[0, 0, :2] = torch.tensor([[0.8, 0.4, 0.9, 0.9], [0.2, 0.6, 0.9, 0.9]])
    known[0, :2] = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0]])
    halved = Guide(ball(8), camera, target, known, torch.zeros(4, 1, 2, 3), torch.zeros(1, 2, 3), None).halved()
    # (0.8 + 0.2 + 0.5 * 0.6) / 2.5, of which 2.5 / 4 is known; of the other pixel nothing is
    torch.testing.assert_close(halved.target[0, 0], torch.tensor([[1.3 / 2.5, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(halved.known, torch.tensor([[[0.625, 0.0], [1.0, 1.0]]]))
