"""The quality of one object as a letter, from numbers that need no ground truth, so that people can filter a corpus.

The surface of a mesh is moved towards the photo's mask. So its outline from the photo's side says little of the other
sides. The field is not moved, so it says more. No similarity by CLIP or DINOv2 is among them, because numbers of
different networks do not compare. docs/method.md says how well the letter predicts the true F-score in the mini world.
"""

from typing import Literal

from anything3d.quality.soundness import Soundness

Tier = Literal["A", "B", "C"]

GOOD_PSNR_DB, GOOD_MASK_IOU = 27.0, 0.9  # at the reference camera, which A reaches
POOR_PSNR_DB, POOR_MASK_IOU = 22.0, 0.75  # the same, below which C is
MOST_CROSSED = 0.01  # share of the triangles that cross others, up to which A is
MOST_THIN, MOST_HIDDEN = 0.1, 0.05  # shares of the area, likewise
POOR_HIDDEN = 0.25  # above it C is: a body with a second one inside has about 0.5


def tier(psnr_db: float, mask_iou: float, sound: Soundness, faces: int) -> Tier:
    """`psnr_db` and `mask_iou` are at the reference camera: the lower ones of the mesh and of its field, if it has one.

    The mesh has so many `faces`. Crossings that were not counted do no harm.
    """
    if psnr_db < POOR_PSNR_DB or mask_iou < POOR_MASK_IOU or sound.hidden_share > POOR_HIDDEN:
        return "C"
    crossed = (sound.self_intersections or 0) / faces
    whole = crossed <= MOST_CROSSED and sound.thin_share <= MOST_THIN and sound.hidden_share <= MOST_HIDDEN
    return "A" if psnr_db >= GOOD_PSNR_DB and mask_iou >= GOOD_MASK_IOU and whole else "B"
