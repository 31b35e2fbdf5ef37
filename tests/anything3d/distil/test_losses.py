import math

import pytest
import torch

from anything3d.distil import losses
from anything3d.distil.losses import LossTerms
from anything3d.settings.reconstruct import FieldConfig, LossConfig
from anything3d.space.field import Field
from anything3d.space.render import Rendering

ALL = torch.ones(1, 1, 1)


def rendering(alpha: list[float], rgb: float = 0.0) -> Rendering:
    """One-pixel views."""
    opacity = torch.tensor(alpha)[:, None, None]
    weights = torch.stack([opacity, torch.zeros_like(opacity)], dim=-1)
    color = (rgb * opacity)[:, None].expand(-1, 3, -1, -1)
    return Rendering(color, opacity, torch.ones_like(opacity), weights)


def test_reference_rgb_is_zero_for_the_crop_itself_over_any_background():
    target = torch.tensor([[0.2, 0.2, 0.2, 0.4]])[:, :, None, None]  # premultiplied: grey 0.5 at 40 %
    for background in (0.0, 0.3, 1.0):
        loss = losses.reference_rgb(rendering([0.4], 0.5), target, ALL, torch.full((1, 3), background))
        assert loss.item() == pytest.approx(0, abs=1e-12)


def test_reference_rgb_sees_a_leaking_mask_by_the_background():
    target = torch.tensor([[0.5, 0.5, 0.5, 1.0]])[:, :, None, None]
    loss = losses.reference_rgb(rendering([0.8], 0.5), target, ALL, torch.tensor([[1.0, 1.0, 1.0]]))
    assert loss.item() == pytest.approx((0.8 * 0.5 + 0.2 * 1.0 - 0.5) ** 2)


def test_the_photo_is_asked_only_where_it_is_known():
    target = torch.tensor([[0.5, 0.5, 0.5, 1.0]])[:, :, None, None]
    for known, expected in ((0.0, 0.0), (0.5, 0.02), (1.0, 0.04)):
        part = torch.full((1, 1, 1), known)
        assert losses.reference_mask(rendering([0.8], 0.5), target, part).item() == pytest.approx(expected)
        assert losses.reference_rgb(rendering([1.0], 0.7), target, part, torch.rand(1, 3)).item() == pytest.approx(
            expected
        )


def test_opacity_is_averaged_over_the_views_of_each_object():
    seen = rendering([0.0, 0.5, 1.0, 1.0])
    loss = losses.opacity(seen, torch.tensor([1.0, 0.5, 1.0, 0.0])[:, None, None], n_objects=2)
    assert loss.tolist() == [0.5, 0.5]


def test_total_variation_of_a_ramp_is_its_slope_over_the_axes():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4, 4).clone()
    field = Field(ramp, torch.zeros(1, 3, 4, 4, 4), FieldConfig(resolution=4))
    assert losses.total_variation(field).item() == pytest.approx(1 / 3)


def test_emptiness_is_the_mean_log_of_one_plus_ten_weights():
    assert losses.emptiness(rendering([0.5]).weights, 1).item() == pytest.approx(
        math.log(6) / 2
    )  # the second sample has none


def test_terms_are_weighted_by_their_names_and_the_silhouette_fades():
    terms = LossTerms(*(torch.tensor([10.0**power]) for power in range(6)))
    weights = LossConfig(
        sds=1.0,
        reference_rgb=2.0,
        reference_mask=3.0,
        silhouette=4.0,
        tv=5.0,
    )
    assert terms.weigh(weights, 0.0).item() == 54321
    assert terms.weigh(weights, 1.0).item() == 50321
