"""How much an object looks like its photo from all round, as CLIP sees it.

Source: Magic123, Qian et al. 2023, and NeuralLift: the mean cosine between the photo and the views of a turntable. The
measure needs no ground truth. So it can also say whether a distillation has made an object worse.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.models.clip import Clip
from anything3d.photo.pixels import WHITE, over
from anything3d.settings.reconstruct import MAX_POINTS, POINT_E_FOV_DEG, RenderConfig
from anything3d.space.camera import Camera, angles, orbit
from anything3d.space.field import Field
from anything3d.space.render import composite, render

DISTANCE = 2.7  # canonical units; a unit cube stays in sight at every azimuth, an object fills about half
VIEWS, ELEVATION_DEG, SIZE_PX = 8, 15.0, 128  # of the turntable by which fields are judged


def turntable(reference: Camera, views: int, elevation_deg: float) -> Camera:
    """`views` cameras for each of the B of `reference`, in equal steps all round from its azimuth."""
    azimuth, _ = angles(reference)
    azimuths = (azimuth[:, None] + torch.arange(views, device=azimuth.device) * (360 / views)).flatten()
    elevation, distance, fov = (
        torch.full_like(azimuths, value) for value in (elevation_deg, DISTANCE, POINT_E_FOV_DEG)
    )
    return orbit(azimuths, elevation, distance, fov)


def similarity(clip: Clip, views: Float[Tensor, "BV D"], crops: Float[Tensor, "B 4 S S"]) -> Float[Tensor, "B"]:
    """Mean cosine between the embeddings of an object's views and that of its crop (RGBA in [0, 1], on white)."""
    photos = clip.image_embeddings(over(crops, WHITE))
    return (views.unflatten(0, (len(photos), -1)) * photos[:, None]).sum(-1).mean(1)


@torch.no_grad()
def likeness(
    field: Field,
    reference: Camera,
    crops: Float[Tensor, "B 4 S S"],
    clip: Clip,
    config: RenderConfig,
    max_points: int = MAX_POINTS,
) -> Float[Tensor, "B"]:
    """`similarity` of fields' turntables to their crops; `reference` cameras see the objects as the crops do."""
    seen = render(field, turntable(reference, VIEWS, ELEVATION_DEG), SIZE_PX, config, max_points=max_points)
    views = clip.image_embeddings(composite(seen, WHITE).clamp(0, 1))
    return similarity(clip, views, crops.to(clip.device))
