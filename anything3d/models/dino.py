"""DINOv2: what an image looks like to a network that was trained on images alone (Oquab et al. 2023).

The score compares views with the crop by its class token. CLIP tells what kind of thing is in an image; DINOv2 also
tells one thing from another one of its kind. Weights are a transformers folder (`Dinov2Model` and image processor); the
packaged `dino` is the toy-sized one.
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
class Dino:
    """A frozen DINOv2 and what turns pixels into its inputs. Results are float32 whatever the network's dtype."""

    network: nn.Module
    preprocess: Preprocessor
    dtype: torch.dtype
    device: torch.device

    @torch.no_grad()
    def image_embeddings(self, *images: Float[Tensor, "_ 3 _ _"]) -> Float[Tensor, "B D"]:
        """Unit vectors of all images, in one pass; their scalar products are cosine similarities.

        Each of `images` is a batch in [0, 1] of a size of its own. The vector is the class token after the last norm.
        """
        pixels = torch.cat([self.preprocess(rgb.to(self.device, torch.float32)) for rgb in images])
        return F.normalize(self.network(pixel_values=pixels.to(self.dtype)).pooler_output.float(), dim=-1)

    def is_sound(self) -> bool:
        """Whether what it says of plain white is finite."""
        side = self.preprocess.crop_px
        return bool(self.image_embeddings(torch.ones(1, 3, side, side)).isfinite().all())


def load_dino(name: str, place: Place) -> Dino:
    """The DINOv2 of a transformers folder, frozen.

    Raises: WeightsError if the folder is missing, incomplete, or holds another architecture.
    """
    from transformers import Dinov2Model

    folder = directory(name, place)
    check_model_type(folder / "config.json", ("dinov2",))
    network = load_network(Dinov2Model.from_pretrained, folder, place)
    preprocess, patch = load_preprocessor(folder), network.config.patch_size
    if preprocess.crop_px % patch or preprocess.resize_px < preprocess.crop_px:
        raise WeightsError(
            "weights_mismatch",
            f"{folder}: the image processor makes {preprocess.crop_px} px out of {preprocess.resize_px} px, "
            f"the network takes patches of {patch} px; use the folder's original preprocessor_config.json",
        )
    return assemble(network, preprocess)


def assemble(network: Any, preprocess: Preprocessor) -> Dino:  # noqa: ANN401 - transformers comes without types
    """The Dino of a `Dinov2Model` that is where it shall stay."""
    return Dino(network, preprocess, network.dtype, network.device)
