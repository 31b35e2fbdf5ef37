"""The letters at their limits."""

import pytest

from anything3d.quality.soundness import Soundness
from anything3d.quality.tier import tier

SOUND = Soundness(self_intersections=0, thin_share=0.0, hidden_share=0.0)


@pytest.mark.parametrize(
    ("psnr_db", "mask_iou", "letter"),
    [
        (27.0, 0.9, "A"),
        (26.9, 0.9, "B"),
        (27.0, 0.89, "B"),
        (22.0, 0.75, "B"),
        (21.9, 0.99, "C"),
        (30.0, 0.74, "C"),
    ],
)
def test_the_photo_decides_where_the_mesh_is_sound(psnr_db, mask_iou, letter):
    assert tier(psnr_db, mask_iou, SOUND, 1000) == letter


@pytest.mark.parametrize(
    ("sound", "letter"),
    [
        (Soundness(10, 0.1, 0.05), "A"),
        (Soundness(None, 0.0, 0.0), "A"),  # not counted
        (Soundness(11, 0.0, 0.0), "B"),
        (Soundness(0, 0.11, 0.0), "B"),
        (Soundness(0, 1.0, 0.06), "B"),
        (Soundness(0, 0.0, 0.26), "C"),
    ],
)
def test_a_fault_of_the_mesh_takes_the_a_and_hidden_bodies_the_b(sound, letter):
    assert tier(30.0, 0.99, sound, 1000) == letter
