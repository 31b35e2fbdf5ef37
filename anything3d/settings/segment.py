"""The settings of `segment`: where masks come from, which are kept, and how objects are cropped."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from anything3d.errors import ConfigError
from anything3d.settings import Share, check_ranges

Source = Literal["annotations", "sam-points", "sam-boxes", "sam-grid"]
Framing = Literal["longest", "area"]  # a square is measured by its box's longer side, or by sqrt(width height)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Which photos are decoded at all; a larger one is rejected before its pixels are read."""

    max_bytes: Annotated[int, Interval(ge=1, le=2**34)] = 64 * 2**20  # The largest file, in bytes.
    max_megapixels: Annotated[float, Interval(gt=0, le=268)] = 40.0  # The largest photo. Those of SA-1B have 5.
    max_side_px: Annotated[int, Interval(ge=1, le=2**16)] = 16384  # The longest side of a photo, in pixels.

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class SegmentConfig:
    """Where masks come from, which are kept, and how they are cropped."""

    # Where masks come from: the shard's own annotations, or SAM, prompted with their points or boxes or with a grid.
    source: Source = "annotations"
    # The weights of SAM, or of SAM 2: "sam2.1-hiera-tiny", "-small", "-base-plus" or "-large". They are used by the
    # sources that begin with "sam-".
    weights: str = "sam"
    # SAM looks closer at each of its masks that is kept: at a square of the photo around it. The side of the square is
    # so many times the longer side of the mask's box, 1 at least. The mask becomes the mean of both looks. 0 is no
    # closer look.
    zoom: Annotated[float, Interval(ge=0, le=8)] = 1.5
    min_area_px: Annotated[int, Interval(ge=0, le=10**9)] = 1024  # A mask of fewer pixels is left out.
    min_area_share: Share = 0.001  # A mask that covers a smaller share of the photo is left out.
    max_area_share: Share = 0.5  # A mask that covers a larger share of the photo is left out: it is ground or sky.
    min_aspect: Share = 0.05  # A mask is left out if shorter / longer side of its box is less: it is a sliver.
    # A box that is nearer than this to an edge of the photo, in pixels, touches the edge. SAM's masks often stop short.
    border_px: Annotated[int, Interval(ge=0, le=10**6)] = 2
    # An object that touches more edges of the photo is left out: it goes on beyond them. 4 allows all edges.
    max_edges: Annotated[int, Interval(ge=0, le=4)] = 0
    # A mask is left out if SAM's own estimate of its IoU is less. The mini SAM is less sure than the official ones,
    # whose own threshold is 0.88.
    min_predicted_iou: Share = 0.6
    # A mask is left out if the IoU of its shapes at two thresholds is less. SAM and SA-1B take 0.95.
    min_stability: Share = 0.7
    max_iou: Share = 0.8  # Two masks with a larger IoU are one object. The one that SAM was surer of stays.
    # A mask with a larger share of it inside a larger mask is a part and is left out. A part that lies in its whole to
    # 97 % is left out even if `max_iou` calls the two one object, unless this is higher.
    max_containment: Share = 0.8
    max_per_image: Annotated[int, Interval(ge=1, le=10**6)] = 8  # At most so many objects of a photo are kept.
    # Other objects of the photo may stand before an object. These are the ones whose masks end lower, but for one that
    # surrounds it. Where such a mask begins, or the photo ends, the object may go on without being seen. If this is
    # false, every object ends where its mask ends. A mask that was left out hides nothing, but for `max_per_image`.
    occluders: bool = True
    crop_size: Annotated[int, Interval(ge=1, le=4096)] = 512  # Side of a crop, in pixels. Stable Diffusion takes 512.
    # What the side of a crop is measured by: the longer side of the object's box, or the root of the box's area.
    # AnyObject3D takes the area, which cuts long objects.
    framing: Framing = "longest"
    # Side of the crop / what `framing` measures. AnyObject3D takes 1.8.
    context: Annotated[float, Interval(ge=1, le=8)] = 1.25
    # Islands of SAM's masks with fewer pixels are deleted, holes with fewer are filled, as in SA-1B. 0 does neither.
    min_region_px: Annotated[int, Interval(ge=0, le=10**9)] = 100
    # An island of SAM's mask is deleted if its mean logit is a smaller share of that of the island with the prompt.
    # In the mini world, most of such islands belong to something else. 0 keeps all islands.
    min_island_certainty: Share = 0.5
    # Points along each side of the photo that SAM is prompted with by the source "sam-grid". SAM's own default is 32.
    grid_points: Annotated[int, Interval(ge=1, le=256)] = 32
    limits: ImageLimits = field(default_factory=ImageLimits)  # Which photos are decoded at all.

    def __post_init__(self) -> None:
        check_ranges(self)
        if 0 < self.zoom < 1:
            raise ConfigError("setting", f"segment.zoom is {self.zoom}; must be 0, or at least 1")
