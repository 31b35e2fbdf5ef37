"""What SAM is prompted with for the annotations and the prompts of a photo, which have to lie in it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from anything3d.errors import Anything3DError, InputError, Skipped
from anything3d.photo.annotation import Annotation
from anything3d.photo.prompt import Prompt
from anything3d.settings.segment import Source


def promptable(
    entry: Annotation | Prompt | InputError, source: Source, image: UInt8[Tensor, "H W 3"]
) -> Prompt | Anything3DError:
    """What SAM is prompted with for an annotation or a prompt of the photo, which has to lie in the photo."""
    if isinstance(entry, Annotation):
        if source == "sam-boxes" and entry.area_px == 0:
            return Skipped("empty", "the shard's mask has no pixel, hence no box that SAM could be prompted with")
        return Prompt(entry.index, entry.box if source == "sam-boxes" else entry.point)
    if isinstance(entry, Prompt):
        x, y, *size = entry.at
        try:
            check_prompt(
                [x, y, *(edge + length - 1 for edge, length in zip((x, y), size, strict=False))], *image.shape[:2]
            )
        except InputError as error:
            return error
    return entry


def check_prompt(prompt: Sequence[float], height: int, width: int) -> None:
    """Raises: InputError("prompt_outside") if a point or a box does not lie in a photo of this size, in pixels."""
    x, y = prompt[0::2], prompt[1::2]
    inside = all(0 <= value < width for value in x) and all(0 <= value < height for value in y)
    if not inside or (len(prompt) == 4 and not (x[0] < x[1] and y[0] < y[1])):
        raise InputError(
            "prompt_outside",
            f"{tuple(prompt)} in a photo of {width}x{height} px; a point is x y, a box x y x y (left, top, right, "
            "bottom), in pixels from the top left corner",
        )


def points(prompts: Sequence[Prompt]) -> Float[Tensor, "N 2"]:
    return torch.tensor([prompt.at for prompt in prompts], dtype=torch.float32).reshape(-1, 2)


def boxes(prompts: Sequence[Prompt]) -> Float[Tensor, "N 4"]:
    """First and last column and row, as SAM takes boxes: x, y, x, y."""
    rows = torch.tensor([prompt.at for prompt in prompts], dtype=torch.float32).reshape(-1, 4)
    return torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:] - 1], dim=1)
