"""Islands of a mask of which SAM is much less sure than of the island with the prompt.

In the mini world, most of such islands belong to something else. An object may have several islands, too, if something
hides a part of it. SAM is mostly surer of these.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEIGHBOURS = np.ones((3, 3))  # corners connect, as in `mask.tidy`


def doubtful_islands(
    logits: Float[Tensor, "N h w"], places: Float[Tensor, "N K 2"], min_certainty: float
) -> Bool[Tensor, "N h w"]:
    """The pixels of each mask's doubtful islands, on the device of `logits`. This waits for the device once.

    The certainty of an island is the mean of its logits. An island is doubtful if its certainty is less than
    `min_certainty` times that of the island that was asked for. This is the one at the point, or the nearest one; in a
    box, it is the largest one. `places` are the prompts (x, y), in pixels of the logits.
    """
    from scipy.ndimage import label

    doubtful = np.zeros(logits.shape, bool)
    for row, (own, asked) in enumerate(zip(logits.float().cpu().numpy(), places.cpu().numpy(), strict=True)):
        islands, count = label(own > 0, NEIGHBOURS)
        if count < 2:
            continue
        sizes = np.bincount(islands.ravel())
        certainty = np.bincount(islands.ravel(), np.where(islands > 0, own, 0).ravel()) / sizes
        if len(asked) == 1:
            y, x = np.nonzero(islands)
            nearest = np.argmin((x + 0.5 - asked[0, 0]) ** 2 + (y + 0.5 - asked[0, 1]) ** 2)
            wanted = islands[y[nearest], x[nearest]]
        else:
            wanted = 1 + sizes[1:].argmax()
        doubted = certainty < min_certainty * certainty[wanted]
        doubted[0] = False
        doubtful[row] = doubted[islands]
    return torch.from_numpy(doubtful).to(logits.device)
