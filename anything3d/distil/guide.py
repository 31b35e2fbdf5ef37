"""The evidence in the form that every step of a distillation reads."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anything3d.distil.evidence import Evidence
from anything3d.models.adapter import Adapter
from anything3d.models.diffusion import Denoiser
from anything3d.settings.reconstruct import ReconstructConfig
from anything3d.space.camera import Camera
from anything3d.space.cloud import Cloud
from anything3d.space.depth import splat
from anything3d.space.reference import shrink

RIM = 0.05  # of the image side


@dataclass(frozen=True, slots=True)
class Guide:
    """What every step needs of B objects' evidence, on the denoiser's device. V is the number of random views."""

    cloud: Cloud  # a row for each random view
    camera: Camera  # the one from which the crop sees the cloud
    target: Float[Tensor, "B 4 s s"]  # the crop at render size, premultiplied
    known: Float[Tensor, "B s s"]  # weight of the photo's losses (`where_known`)
    texts: Float[Tensor, "4 BV L D"]  # the concept behind each view prefix
    no_text: Float[Tensor, "BV L D"]
    adapter: Adapter | None  # a row for each random view

    def halved(self) -> "Guide":
        """The photo at half the size. A pixel is the mean of what is known in it."""
        known = self.known[:, None]
        share = nn.functional.avg_pool2d(known, 2)
        target = nn.functional.avg_pool2d(self.target * known, 2) / share.clamp_min(1e-6)
        return dataclasses.replace(self, target=target, known=share[:, 0])


@torch.no_grad()
def prepare(evidence: Evidence, config: ReconstructConfig, denoiser: Denoiser, size: int) -> Guide:
    """The guide of views of `size` px. The prompts are encoded once, not at every step."""
    device, concept = denoiser.device, evidence.known_concept(denoiser.device)
    texts = [denoiser.encode_text(concept, prefix) for prefix in config.views.prefixes]
    cloud, camera = evidence.seen_cloud(device)
    target = shrink(evidence.crops.to(device), size)
    no_words = dataclasses.replace(denoiser.embed_prompts([""] * len(concept)), adapter=concept.adapter)

    def of_views(of_objects: Tensor) -> Tensor:
        """A row for each random view."""
        return of_objects.repeat_interleave(config.views.count, 0)

    return Guide(
        cloud=Cloud(of_views(cloud.points), of_views(cloud.colors)),
        camera=camera,
        target=target,
        known=where_known(cloud, camera, target[:, 3], evidence.unseen_at(size, device), config.disc),
        texts=torch.stack([of_views(text) for text in texts]),
        no_text=of_views(denoiser.encode_text(no_words)),
        adapter=concept.adapter and concept.adapter.each(lambda factor: of_views(factor).to(denoiser.dtype)),
    )


def where_known(
    cloud: Cloud, camera: Camera, mask: Float[Tensor, "B s s"], unseen: Float[Tensor, "B s s"], disc: float
) -> Float[Tensor, "B s s"]:
    """The weight of the photo's losses at each pixel, 0 to 1.

    It is 1, but for pixels where the cloud is seen outside the mask. There it is 0 in two cases, as something may stand
    before the object:
    - where the cloud reaches beyond the mask by more than RIM. Nearer to the cloud's outline, the cloud is more likely
      to be wrong than the mask.
    - in pixels that are `unseen` in part or whole: at the masks of occluders, and beyond the photo.
    """
    size = mask.shape[-1]
    _, _, silhouette = splat(cloud, camera, size, disc / cloud.points.shape[1] ** 0.5)
    rim = round(RIM * size)
    inner = -nn.functional.max_pool2d(-silhouette[:, None], 2 * rim + 1, stride=1, padding=rim)[:, 0]
    return (1 - inner * (1 - mask)) * (1 - silhouette * (unseen > 0))
