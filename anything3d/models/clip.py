"""CLIP: what an image looks like to a network that was trained on images and texts (Radford et al. 2021).

Point-E is conditioned on its grid of image features. The score compares views with the crop by its embeddings. Nothing
here reads texts. Weights are a transformers folder (`CLIPModel` and image processor); the packaged `clip` is the
toy-sized one.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anything3d.errors import WeightsError
from anything3d.models.layout import check_model_type
from anything3d.models.pretrained import Preprocessor, load_network, load_preprocessor
from anything3d.models.weights import Place, directory


@dataclass(frozen=True, slots=True)
class Clip:
    """A frozen CLIP: its image tower, the projection into the common space, and what turns pixels into inputs.

    Results are float32 whatever the network's dtype. No gradient flows through any method.
    """

    vision: nn.Module
    visual_projection: nn.Module
    preprocess: Preprocessor
    grid_size: int  # patches along one side
    grid_feature_dim: int  # of one patch's feature
    image_size: int  # pixels along one side of what the network sees
    dtype: torch.dtype
    device: torch.device

    @torch.no_grad()  # not inference_mode: a Point-E that is being trained takes these as its input
    def image_grid(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C N"]:
        """Patch features, N = grid_size ** 2 in row order, of images in [0, 1].

        The last block's output tokens without the class token, before the final layer norm.
        Source: point-e `FrozenImageCLIP.embed_images_grid`.
        """
        tokens = self.vision(pixel_values=self._pixels(rgb)).last_hidden_state
        return tokens[:, 1:].mT.contiguous().float()

    @torch.no_grad()
    def image_embeddings(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Unit vectors of images in [0, 1]; their scalar products are cosine similarities."""
        pooled = self.vision(pixel_values=self._pixels(rgb)).pooler_output
        return F.normalize(self.visual_projection(pooled).float(), dim=-1)

    def is_sound(self) -> bool:
        """Whether what it says of plain white is finite."""
        side = self.image_size
        return bool(self.image_embeddings(torch.ones(1, 3, side, side)).isfinite().all())

    def _pixels(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        return self.preprocess(rgb.to(self.device, torch.float32)).to(self.dtype)


def load_clip(name: str, place: Place) -> Clip:
    """The CLIP of a transformers folder, frozen.

    Raises: WeightsError if the folder is missing, incomplete, or holds another architecture.
    """
    from transformers import CLIPModel

    folder = directory(name, place)
    check_model_type(folder / "config.json", ("clip",))
    model = load_network(CLIPModel.from_pretrained, folder, place)
    vision = model.config.vision_config
    preprocess = load_preprocessor(folder)
    if preprocess.crop_px != vision.image_size or preprocess.resize_px < preprocess.crop_px:
        raise WeightsError(
            "weights_mismatch",
            f"{folder}: the image processor makes {preprocess.crop_px} px out of {preprocess.resize_px} px, "
            f"the network takes {vision.image_size} px; use the folder's original preprocessor_config.json",
        )
    return assemble(model, preprocess)


def assemble(model: Any, preprocess: Preprocessor) -> Clip:  # noqa: ANN401 - transformers comes without types
    """The Clip of a `CLIPModel` that is where it shall stay."""
    vision = model.config.vision_config
    return Clip(
        vision=model.vision_model,
        visual_projection=model.visual_projection,
        preprocess=preprocess,
        grid_size=vision.image_size // vision.patch_size,
        grid_feature_dim=vision.hidden_size,
        image_size=vision.image_size,
        dtype=model.dtype,
        device=model.device,
    )
