"""The colours of an object that its photo shows, as a guide for those that it does not show.

Distillation stains the sides that no photo shows: a white lamp has green ones. An object mostly has the same paints all
round. So a colour moves to the photo's colours that are near it in rg chromaticity, r / (r + g + b) and g / (r + g + b)
of sRGB values. It is one step of the mean shift (Comaniciu and Meer 2002, equation 17) with the photo's pixels as data.
Brightness stays, since light is not the same all round. A colour with nothing near it in the photo stays, too.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from anything3d.space.paint import Sight, inside_share, to_edge

CELLS = 128  # of the table, along each chromaticity
BLACK = 0.02  # is added to each colour band: the chromaticity of what is nearly black is noise
LEAST = 1e-3  # of the photo's pixels, that have to be near a colour to move it half of the way

Recolor = Callable[[Float[np.ndarray, "V 3"]], Float[np.ndarray, "V 3"]]


def recolor_of(sight: Sight, spread: float) -> Recolor:
    """What moves colours, 0 to 1, to those of the photo's object; `spread` is the kernel's standard deviation.

    The photo's pixels are weighted by their brightness, and not counted at the mask's edge, where they are mixed with
    what lies behind. The kernel's sums are read from a table, so that the work does not grow with pixels times colours.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    weight = inside_share(to_edge(sight)).reshape(-1)
    pixels = sight.rgba[..., :3].reshape(-1, 3)[weight > 0] / np.float32(255)
    place, total = _chromaticity(pixels)
    weight = weight[weight > 0] * total
    row, column = np.rint(place * CELLS).astype(int).T
    sums = [
        np.bincount(row * (CELLS + 1) + column, value, (CELLS + 1) ** 2).reshape(CELLS + 1, CELLS + 1)
        for value in (weight, weight * place[:, 0], weight * place[:, 1])
    ]
    sigma = spread * CELLS
    near = [gaussian_filter(table, sigma, mode="constant") * (2 * np.pi * sigma**2) for table in sums]  # peak is 1
    doubt = LEAST * weight.sum()

    def recolor(colors: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
        if not doubt:  # a mask that is all edge
            return colors
        place, total = _chromaticity(colors)
        mass, *moments = (map_coordinates(table, place.T * CELLS, order=1, mode="nearest") for table in near)
        moved = (np.stack(moments, axis=1) + doubt * place) / (mass + doubt)[:, None]
        shares = np.column_stack([moved, 1 - moved.sum(axis=1)])
        return (shares * total[:, None] - BLACK).clip(0, 1)

    return recolor


def _chromaticity(colors: Float[np.ndarray, "V 3"]) -> tuple[Float[np.ndarray, "V 2"], Float[np.ndarray, "V"]]:
    """The rg chromaticity, and the sum of the bands, after BLACK is added to each."""
    lifted = colors + np.float32(BLACK)
    total = lifted.sum(axis=1)
    return lifted[:, :2] / total[:, None], total
