"""shap-e: a backend of `reconstruct`. Shap-E makes the latents of every crop, and its field becomes a mesh.

All objects of a batch are sampled at once. Their meshes are decoded one after the other. Shap-E sees the object before
white, as its authors do it, and does not say from where: the reference camera is searched for.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.distil.evidence import Evidence, FinishedMesh
from anything3d.errors import InputError, NumericsError
from anything3d.models.finite import check_network
from anything3d.models.shap_e import ShapE, load_shap_e
from anything3d.models.weights import Place
from anything3d.photo.pixels import WHITE, over
from anything3d.settings.shap_e import ShapEConfig
from anything3d.space.mesh import Mesh, unit_box
from anything3d.space.sight import found_camera

OUTSIDE = -1.0  # signed distance around the cube, which closes every surface


class ShapEMeshes:
    """It holds the networks, and nothing of the objects."""

    def __init__(self, config: ShapEConfig, shap_e: ShapE) -> None:
        self.config = config
        self.shap_e = shap_e

    @torch.no_grad()
    def __call__(
        self,
        evidence: Evidence,
        generators: Sequence[torch.Generator],
        again: Sequence[torch.Generator],
        saved: bytes | None = None,
        save: Callable[[bytes], None] = lambda state: None,
        at: Callable[[int, int], None] = lambda step, steps: None,
    ) -> list[FinishedMesh | NumericsError]:
        """The mesh of every crop, or why there is none.

        Outcomes: NumericsError("shap_e_not_finite"), ("empty_surface"). The result does not depend on what else is in
        the batch.

        Raises: WeightsError as `check_network`.
        """
        del again, saved, save, at
        latents = self._sample(over(evidence.crops, WHITE), generators)
        broken = [not sound for sound in latents.isfinite().flatten(1).all(1).tolist()]
        check_network(broken, self._is_sound, self.config.weights, self.shap_e.dtype)
        unseen = [None] * len(evidence) if evidence.unseen is None else evidence.unseen
        return [
            _not_finite("latents") if lost else self._finished(own, crop, hidden)
            for own, crop, hidden, lost in zip(latents, evidence.crops, unseen, broken, strict=True)
        ]

    def fit(self, saved: bytes, n_objects: int) -> object:
        """It never saves a state, so that there is none to go on from."""
        raise InputError("bad_checkpoint", "Shap-E has no checkpoint")

    def _sample(
        self, images: Float[Tensor, "B 3 S S"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "B N D"]:
        return self.shap_e.sample(images, generators, self.config.steps, self.config.guidance)

    def _is_sound(self) -> bool:
        white = torch.ones(1, 3, 64, 64)
        return bool(self._sample(white, [torch.Generator().manual_seed(0)]).isfinite().all())

    def _finished(
        self, latents: Float[Tensor, "N D"], crop: Float[Tensor, "4 S S"], unseen: Float[Tensor, "S S"] | None
    ) -> FinishedMesh | NumericsError:
        mesh = decoded(self.shap_e, latents, self.config.resolution)
        if isinstance(mesh, NumericsError):
            return mesh
        return FinishedMesh(mesh, found_camera(mesh, crop, unseen, self.shap_e.device))


def load_shap_e_meshes(config: ShapEConfig, place: Place) -> ShapEMeshes:
    """Shap-E, ready for use. Raises: WeightsError as `load_shap_e`."""
    return ShapEMeshes(config, load_shap_e(config.weights, place))


def decoded(shap_e: ShapE, latents: Float[Tensor, "N D"], resolution: int) -> Mesh | NumericsError:
    """The surface of one object on a grid of `resolution` nodes along each axis, in the canonical frame, or its error.

    The nodes go from -1 to 1. Shap-E was trained on meshes whose outermost nodes, one beyond the grid, are at -1 and 1.
    So its colours are looked up at vertices that are nearer to the centre by 1.6 % (at 128 nodes).

    Source: openai/shap-e, stf/renderer.py and rendering/mc.py.
    """
    from skimage.measure import marching_cubes

    nodes = torch.arange(resolution) / (resolution - 1) * 2 - 1  # to the last bit as there: high frequencies tell
    distances, _ = shap_e.look_up(latents, torch.cartesian_prod(nodes, nodes, nodes))
    solid = np.pad(distances.view([resolution] * 3).cpu().numpy(), 1, constant_values=OUTSIDE)
    if not np.isfinite(solid).all():
        return _not_finite("field")
    if not (solid > 0).any():
        return NumericsError(
            "empty_surface", f"none of the {resolution}^3 nodes of Shap-E's field lies inside the object"
        )
    corners, faces, _, _ = marching_cubes(solid, 0, gradient_direction="ascent", allow_degenerate=False)
    vertices = (corners * (2 / (resolution + 1)) - 1).astype(np.float32)
    _, colors = shap_e.look_up(latents, torch.from_numpy(vertices))
    if not colors.isfinite().all():
        return _not_finite("colours")
    return unit_box(Mesh(canonical(vertices), faces.astype(np.int64), colors.cpu().numpy()))


def canonical(points: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
    """Shap-E's axes (z up, front -y, as Blender's) turned to those of the canonical frame (y up, front +z)."""
    x, y, z = points.T
    return np.stack([x, z, -y], axis=1)


def _not_finite(what: str) -> NumericsError:
    return NumericsError("shap_e_not_finite", f"Shap-E's {what} of the object have NaN or Inf; try another dtype")
