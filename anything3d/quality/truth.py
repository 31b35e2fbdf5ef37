"""Ground truth beside a shard: what is known of its objects, and which of them a mask shows.

`truth_file.py` reads it from truth.json. Azimuth and elevation say where the photo's camera stands in the object's own
canonical frame (camera.py).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anything3d.errors import InputError, NumericsError, SourceError
from anything3d.photo import mask as masks
from anything3d.photo.image import decode_png
from anything3d.quality.metrics import sample_surface
from anything3d.space.camera import Camera, orbit
from anything3d.space.cloud import from_ply
from anything3d.space.mesh import Mesh, from_glb

MATCH_IOU = 0.5  # of a mask with the true one, from which on it is that object's; COCO's lowest threshold
MESH_POINTS = 8192  # taken from a true mesh's surface; as many as the mini world's truth has


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The cameras of the novel views: on a sphere, at these angles beyond the photo's azimuth."""

    size_px: int
    azimuth_offsets_deg: tuple[float, ...]
    elevation_deg: float
    distance: float  # canonical units
    fov_deg: float

    def cameras(self, azimuth_deg: float) -> Camera:
        """In the true canonical frame, for a photo taken from `azimuth_deg`."""
        azimuths = torch.tensor(self.azimuth_offsets_deg) + azimuth_deg
        elevation, distance, fov = (
            torch.full_like(azimuths, value) for value in (self.elevation_deg, self.distance, self.fov_deg)
        )
        return orbit(azimuths, elevation, distance, fov)


@dataclass(frozen=True, slots=True)
class TrueObject:
    """One object of an image. `surface` and `views` are paths relative to truth.json."""

    annotation: int  # index into the annotations of the image's JSON
    shape: str  # empty if unknown, as are the next two
    color: str
    caption: str
    azimuth_deg: float  # of the photo's camera in the canonical frame
    elevation_deg: float
    distance: float  # canonical units
    camera: Camera  # the photo's; intrinsics are fractions of the photo
    mask: str  # compressed RLE of the visible part
    surface: str  # canonical frame
    surface_kind: Literal["points", "mesh"]  # PLY or GLB
    views: str
    surface_sha256: str
    views_sha256: str
    view_cameras: Camera | None  # of the views, canonical frame; None: those of the view plan
    symmetry_deg: float  # smallest turn about y that leaves the shape as it is; 0: any turn, 360: none
    held_out: bool  # not among what the mini networks were trained on
    solid: str = ""  # closed surface, canonical frame, GLB; empty if there is none, or `surface` is a mesh
    solid_sha256: str = ""


@dataclass(frozen=True, slots=True)
class TrueImage:
    """One image and what can be seen on it."""

    width: int
    height: int
    objects: tuple[TrueObject, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that captions of this world may use. Both are empty where the truth does not say them."""

    shapes: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Truth:
    """A shard's ground truth; images by id."""

    shard: str
    plan: ViewPlan
    images: dict[str, TrueImage]
    vocabulary: Vocabulary = Vocabulary()
    world: str = ""  # `world.MINI` if it is of the mini world, which the packaged networks know


@dataclass(frozen=True, slots=True)
class Target:
    """What one object should look like."""

    points: Float[Tensor, "N 3"]  # on the surface, canonical frame
    views: Float[Tensor, "V 4 S S"]  # RGBA in [0, 1], straight alpha
    cameras: Camera  # of the views, canonical frame
    azimuth_deg: float  # of the photo's camera
    elevation_deg: float
    symmetry_deg: float  # as in TrueObject
    solid: Mesh | None = None  # the whole surface as triangles; None if the truth has points only


def mask_ious(image: TrueImage, mask: Bool[Tensor, "H W"]) -> Float[Tensor, "N"]:
    """IoU of `mask` with the true mask of every object of `image`, in their order.

    Raises: SourceError if the mask's size is not the image's, or a true mask is damaged.
    """
    if mask.shape != (image.height, image.width):
        raise SourceError("bad_truth", f"mask of {tuple(mask.shape)} px for a photo of {image.height} x {image.width}")
    ious = []
    for item in image.objects:
        with _blamed(item.caption or "an object"):
            true = masks.decode(item.mask, image.height, image.width).to(mask.device)
        ious.append(float((true & mask).sum()) / max(1, int((true | mask).sum())))
    return torch.tensor(ious)


def match(image: TrueImage, mask: Bool[Tensor, "H W"]) -> int | None:
    """Index of the object that `mask` shows; None if none overlaps it by an IoU of 0.5 or more."""
    ious = mask_ious(image, mask)
    if len(ious) == 0 or float(ious.max()) < MATCH_IOU:
        return None
    return int(ious.argmax())


def target(plan: ViewPlan, item: TrueObject, surface: bytes, views_png: bytes, solid: bytes | None = None) -> Target:
    """The object's surface points, novel views and solid, from the contents of its files.

    Raises: SourceError if a file is broken, has another sha256, or is not of the size that `plan` and the object's
    cameras say.
    """
    files = (
        (item.surface, surface, item.surface_sha256),
        (item.views, views_png, item.views_sha256),
        (item.solid, solid, item.solid_sha256),
    )
    for path, data, sha256 in files:
        if data is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise SourceError(
                "bad_truth", f"{path} is not the file that truth.json names by its sha256; write the truth again"
            )
    cameras = plan.cameras(item.azimuth_deg) if item.view_cameras is None else item.view_cameras
    with _blamed(item.views):
        strip = decode_png(views_png)
    n, size = len(cameras), plan.size_px
    if strip.shape != (size, n * size, 4):
        raise SourceError("bad_truth", f"{item.views} is {tuple(strip.shape)}, expected {(size, n * size, 4)}")
    views = strip.reshape(size, n, size, 4).permute(1, 3, 0, 2).float() / 255
    with _blamed(item.surface):
        points = _surface_points(item, surface)
    whole = surface if item.surface_kind == "mesh" else solid
    with _blamed(item.solid or item.surface):
        mesh = None if whole is None else from_glb(whole)
    return Target(points, views, cameras, item.azimuth_deg, item.elevation_deg, item.symmetry_deg, mesh)


def _surface_points(item: TrueObject, surface: bytes) -> Float[Tensor, "N 3"]:
    """The points of a PLY, or MESH_POINTS of a GLB's surface: of equal bytes always the same."""
    if item.surface_kind == "points":
        return from_ply(surface).points[0]
    mesh = from_glb(surface)
    try:
        vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
        return sample_surface(vertices, faces, MESH_POINTS, torch.Generator().manual_seed(0))
    except NumericsError as error:
        raise SourceError("bad_truth", f"{item.surface} has no surface: {len(mesh.faces)} triangles") from error


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """What is wrong with a file of the truth is no fault of an item."""
    try:
        yield
    except InputError as error:
        raise SourceError("bad_truth", f"{what}: {error}") from error
