"""What is judged of one object, and how it is seen: renderings of its field and its mesh, compared with images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anything3d.errors import NumericsError
from anything3d.photo.pixels import WHITE
from anything3d.quality import metrics
from anything3d.settings.reconstruct import MAX_POINTS, RenderConfig
from anything3d.space.camera import Camera
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from anything3d.space.mesh import Mesh
from anything3d.space.raster import rasterize
from anything3d.space.render import Rendering, composite, render

GPU_POINTS = 1 << 22  # samples that a GPU looks up at a time: about 0.5 GB of work space
SOLID = 0.5  # alpha above which a pixel belongs to a silhouette


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """One object as the pipeline made it, in its own canonical frame."""

    crop: Float[Tensor, "4 S S"]  # RGBA in [0, 1], straight alpha
    unseen: Float[Tensor, "S S"]  # share of each of its pixels in which the object may go on without being seen
    reference: Camera  # one, from which the crop sees the object
    cloud: Cloud | None  # one, from which the field was made; None if the backend of reconstruct needs none
    field: Field | None  # one; None if the backend of reconstruct has made the mesh itself
    mesh: Mesh  # as the GLB has it that people get


def look(shape: Field | Mesh, camera: Camera, size: int, samples: int, device: torch.device) -> Rendering:
    """A shape as it is seen. It is rendered on the device, where a field has to lie already.

    Raises: NumericsError("field_not_finite"): as numbers of 8 bits, and in silhouettes, a NaN would not be seen.
    """
    if isinstance(shape, Mesh):
        seen = rasterize(shape, camera.to(device), size)
    else:
        max_points = MAX_POINTS if device.type == "cpu" else GPU_POINTS
        seen = render(shape, camera.to(device), size, RenderConfig(samples=samples), max_points=max_points)
    if not bool(seen.color.isfinite().all() & seen.alpha.isfinite().all()):
        raise NumericsError("field_not_finite", "the field has a NaN or Inf, seen from a camera of the scores")
    return seen


def compare(
    rendering: Rendering, white: Float[Tensor, "V 3 S S"], alpha: Float[Tensor, "V S S"]
) -> tuple[Float[Tensor, "V"], Float[Tensor, "V"]]:
    """PSNR (dB) of renderings on white against images on white, and IoU of the silhouettes."""
    iou = metrics.mask_iou(rendering.alpha > SOLID, alpha > SOLID)
    return metrics.psnr_db(composite(rendering, WHITE).clamp(0, 1), white), iou


def resize(images: Float[Tensor, "B C S S"], size: int) -> Float[Tensor, "B C T T"]:
    """Squares of `size` px, antialiased."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
