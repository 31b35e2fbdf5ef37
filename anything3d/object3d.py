"""What the method is given, and what it makes: a photo with its wanted objects, and one object all the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, UInt8
from torch import Tensor

from anything3d.caption import Captioned
from anything3d.distil.evidence import Position
from anything3d.errors import InputError
from anything3d.invert import Inverted
from anything3d.lift import Lifted
from anything3d.photo.annotation import Annotation
from anything3d.photo.image import as_batch, unseen_batch
from anything3d.photo.prompt import Prompt
from anything3d.reconstruct import FinishedMesh, Reconstructed
from anything3d.score import Scored
from anything3d.segment import Segmented
from anything3d.space.mesh import Mesh, to_glb
from anything3d.space.paint import Sight
from anything3d.space.viewpoint import ReferenceCamera

Point = tuple[float, float]  # x, y; pixels of the photo from its top left corner
Box = tuple[float, float, float, float]  # left, top, right, bottom; pixels, likewise


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo, and which of its objects are wanted."""

    name: str  # The ids of its objects begin with it, and their random numbers come from their ids.
    pixels: UInt8[Tensor, "H W 3"]  # sRGB
    wanted: Point | Box | Literal["most prominent", "all"] = "most prominent"
    annotations: Sequence[
        Annotation | Prompt | InputError
    ] = ()  # for "all", where `SegmentConfig.source` starts from them


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a photo: its mask and its crop."""

    photo: Photo
    segmented: Segmented

    @property
    def position(self) -> Position:
        """Where it is in its photo."""
        mask, crop = self.segmented.mask, self.segmented.crop
        height, width = self.photo.pixels.shape[:2]
        return Position((height, width), mask.counts, mask.box, (crop.x, crop.y, crop.side))

    def sight(self, camera: ReferenceCamera) -> Sight:
        """What the crop shows, seen by this camera."""
        crop = self.segmented.crop
        return Sight(crop.rgba.numpy(), camera, None if crop.unseen is None else crop.unseen.numpy())


def crops_of(objects: Sequence[Object]) -> Float[Tensor, "B 4 S S"]:
    """Crops as networks take them: RGBA in [0, 1]."""
    return as_batch([one.segmented.crop.rgba for one in objects])


def unseen_of(objects: Sequence[Object]) -> Float[Tensor, "B S S"]:
    """The share of each pixel of the crops in which the object may go on without being seen."""
    return unseen_batch([one.segmented.crop.unseen for one in objects], len(objects[0].segmented.crop.rgba))


@dataclass(frozen=True, slots=True)
class Object3D:
    """One object all the way: what each verb says of it."""

    id: str
    photo: Photo
    segmented: Segmented  # its mask in the photo, and its crop
    captioned: Captioned
    inverted: Inverted  # its concept
    lifted: Lifted  # its cloud, and the camera from which the crop sees it
    reconstructed: Reconstructed | FinishedMesh  # its field, or the mesh of a backend that makes none
    mesh: Mesh
    scored: Scored

    @property
    def glb(self) -> bytes:
        """The mesh as binary glTF 2.0."""
        return to_glb(self.mesh)
