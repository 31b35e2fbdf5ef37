"""SAM's network, segment_anything's own (Kirillov et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from anything3d.models.sam.prompting import Features, Sam


@dataclass(frozen=True, slots=True)
class Sam1(Sam):
    """The photo's longer side fills the square that the encoder sees; the rest of the square is padding."""

    @property
    def encoder(self) -> nn.Module:
        return self.network.image_encoder

    @property
    def side_px(self) -> int:
        return self.network.image_encoder.img_size

    def shown(self, size: tuple[int, int]) -> tuple[int, int]:
        from segment_anything.utils.transforms import ResizeLongestSide

        return ResizeLongestSide.get_preprocess_shape(*size, self.side_px)

    def read(self, image: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "3 h w"]:
        """RGB 0..255, with the longer side that the encoder wants."""
        from segment_anything.utils.transforms import ResizeLongestSide

        resized = ResizeLongestSide(self.side_px).apply_image(image.numpy())
        return torch.from_numpy(resized).permute(2, 0, 1).to(self.network.device, torch.float32)

    def encode(self, inputs: Sequence[Float[Tensor, "3 _ _"]]) -> list[Features]:
        features = self.network.image_encoder(torch.stack([self.network.preprocess(image) for image in inputs]))
        return [(one,) for one in features.split(1)]

    def answer(
        self, features: Features, corners: Float[Tensor, "N K 2"]
    ) -> tuple[Float[Tensor, "N M h w"], Float[Tensor, "N M"]]:
        network, is_point = self.network, corners.shape[1] == 1
        boxes = None if is_point else corners.flatten(1)
        sparse, dense = network.prompt_encoder(points=None, boxes=boxes, masks=None)
        if is_point:
            sparse = self._points(corners)
        return network.mask_decoder(
            image_embeddings=features[0],
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=is_point,
        )

    def enlarge(self, masks: Float[Tensor, "N h w"], size: tuple[int, int]) -> Float[Tensor, "N H W"]:
        return self.network.postprocess_masks(masks[:, None], self.shown(size), size)[:, 0]

    def _points(self, corners: Float[Tensor, "N 1 2"]) -> Float[Tensor, "N 2 C"]:
        """What the decoder reads of one point for each mask, and of the place of a box that is not there.

        segment_anything picks both by their labels, for which the host would wait for the device.
        """
        encoder = self.network.prompt_encoder
        inside = encoder.pe_layer.forward_with_coords(corners + 0.5, encoder.input_image_size)  # a pixel's centre
        inside = inside + encoder.point_embeddings[1].weight
        return torch.cat([inside, encoder.not_a_point_embed.weight.expand_as(inside)], dim=1)
