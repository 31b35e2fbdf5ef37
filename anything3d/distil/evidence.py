"""What a backend of `reconstruct` is given, and what it gives: a field or a finished mesh of every object."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from anything3d.errors import Anything3DError, Bug
from anything3d.models.concept import Concept
from anything3d.settings.reconstruct import FieldConfig
from anything3d.space.camera import Camera
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from anything3d.space.mesh import Mesh
from anything3d.space.viewpoint import ReferenceCamera

Kept = Literal["field", "cloud"]  # what was distilled, or the surface of the cloud


@dataclass(frozen=True, slots=True)
class Position:
    """Where an object is in its photo; all in pixels of the photo."""

    photo: tuple[int, int]  # height and width
    mask: str  # COCO's compressed run lengths
    box: tuple[int, int, int, int]  # x, y, width, height of the mask
    window: tuple[float, float, float]  # x, y, side of the crop, which may reach beyond the photo


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of B objects before they have a shape. What a backend does not need is None."""

    crops: Float[Tensor, "B 4 S S"]  # RGBA in [0, 1], straight alpha
    concept: Concept | None = None
    cloud: Cloud | None = None
    camera: Camera | None = None  # reference: from where the crop sees the cloud
    captions: Sequence[str] | None = None
    photos: Sequence[UInt8[Tensor, "H W 3"]] | None = None  # the whole photos
    positions: Sequence[Position] | None = None  # always known in a run
    unseen: Float[Tensor, "B S S"] | None = None  # share of each pixel in which the object may go on; None: nowhere

    def __len__(self) -> int:
        return len(self.crops)

    def rows(self, index: Int[Tensor, "N"]) -> "Evidence":
        """What is known of these objects alone."""
        listed = index.tolist()
        return Evidence(
            self.crops[index],
            None if self.concept is None else self.concept[index],
            None if self.cloud is None else self.cloud[index],
            None if self.camera is None else self.camera[index],
            None if self.captions is None else [self.captions[b] for b in listed],
            None if self.photos is None else [self.photos[b] for b in listed],
            None if self.positions is None else [self.positions[b] for b in listed],
            None if self.unseen is None else self.unseen[index],
        )

    def unseen_at(self, size: int, device: torch.device) -> Float[Tensor, "B s s"]:
        """`unseen` of crops of `size` px."""
        if self.unseen is None:
            return torch.zeros(len(self), size, size, device=device)
        return F.interpolate(self.unseen[:, None].to(device), (size, size), mode="area")[:, 0]

    def seen_cloud(self, device: torch.device) -> tuple[Cloud, Camera]:
        """The cloud, and the camera from which the crop sees it.

        Raises: Bug if they were left out: the backend that asks for the cloud has not named it among its needs.
        """
        if self.cloud is None or self.camera is None:
            raise Bug("missing_evidence", "a backend of reconstruct asks for the cloud, none of its needs")
        return self.cloud.to(device), self.camera.to(device)

    def surface(self, config: FieldConfig, device: torch.device) -> Field:
        """The surfaces of the clouds. Raises: Bug as `seen_cloud`."""
        cloud, _ = self.seen_cloud(device)
        return Field.from_cloud(cloud, config)

    def known_concept(self, device: torch.device) -> Concept:
        """Raises: Bug if it was left out."""
        if self.concept is None:
            raise Bug("missing_evidence", "a backend of reconstruct asks for the concept, none of its needs")
        return self.concept.to(device)


@dataclass(frozen=True, slots=True)
class Reconstructed:
    """One object's field (B = 1), and what a distillation says of it. Another backend leaves out what it cannot say."""

    field: Field
    kept: Kept = "field"
    rise: float | None = None  # of the CLIP similarity to the photo, from the cloud's surface to the field
    losses: Mapping[str, float] = dataclasses.field(default_factory=dict)  # unweighted, running means; names: LossTerms
    opacity: float | None = None  # of what was distilled: mean inside the crop's mask, from the reference camera
    fog: float | None = None  # the same, mean outside it, but for what may be hidden
    dropped: float = 0.0  # share of the denoiser's predictions that were not finite and left out, 0..1
    attempts: int = 1  # 2 if the first field was no object and another seed was tried
    reference: ReferenceCamera | None = None  # from where the crop sees the field; None: as it sees the cloud of `lift`

    @property
    def shape(self) -> Field:
        """What the mesh is made of, and what is rendered."""
        return self.field


@dataclass(frozen=True, slots=True)
class FinishedMesh:
    """One object of a backend that makes its surface itself, in the canonical frame (`mesh.checked` refuses others)."""

    mesh: Mesh
    reference: ReferenceCamera | None = None  # from where the crop sees the mesh; None: as it sees the cloud of `lift`

    @property
    def shape(self) -> Mesh:
        """What is checked, and what is rendered."""
        return self.mesh


@runtime_checkable
class Reconstructor(Protocol):
    """What a backend of `reconstruct` loads."""

    def __call__(
        self,
        evidence: Evidence,
        generators: Sequence[torch.Generator],
        again: Sequence[torch.Generator],
        saved: bytes | None = None,
        save: Callable[[bytes], None] = lambda state: None,
        at: Callable[[int, int], None] = lambda step, steps: None,
    ) -> Sequence[Reconstructed | FinishedMesh | Anything3DError]:
        """The field or the mesh of each object, or why there is none.

        `generators` and `again` are one per object, for a first and, if a backend tries twice, a second attempt. A
        backend whose call takes long gives its inner state to `save` now and then; `saved` is what it gave last. It
        tells `at` the number of each step and of all steps. A backend that does not need the cloud says from where the
        crop sees what it has made.
        """

    def fit(self, saved: bytes, n_objects: int) -> object:
        """Raises: InputError("bad_checkpoint") if a call with so many objects cannot go on from `saved`."""
