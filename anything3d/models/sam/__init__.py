"""SAM and SAM 2: masks from points, from boxes, or from a grid of points (Kirillov et al. 2023, Ravi et al. 2024)."""

from anything3d.models.sam.closer import look_closer
from anything3d.models.sam.loading import PIXEL_MEAN, PIXEL_STD, SamShape, build, load_sam
from anything3d.models.sam.prompting import Predicted, Sam
from anything3d.models.sam.sam1 import Sam1

__all__ = ["PIXEL_MEAN", "PIXEL_STD", "Predicted", "Sam", "Sam1", "SamShape", "build", "load_sam", "look_closer"]
