"""SAM: masks from points, from boxes, or from a grid of points (Kirillov et al. 2023, segment_anything)."""

from anything3d.models.sam.loading import PIXEL_MEAN, PIXEL_STD, SamShape, build, load_sam
from anything3d.models.sam.prompting import Predicted, Sam

__all__ = ["PIXEL_MEAN", "PIXEL_STD", "Predicted", "Sam", "SamShape", "build", "load_sam"]
