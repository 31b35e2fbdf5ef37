"""The solid that cameras outside a field see: what they cannot look through, and all that lies behind it.

A level set of density has no wall where a field is thin, though a few thin voxels in a row hide what lies behind them.
So this file asks what rays meet. It follows the 13 lines through the neighbours of a node, in both directions. A node
is in the open if one of the 26 rays reaches it through less optical depth than a surface has, or if one of the 13 lines
crosses the whole cube through less optical depth than a silhouette has.
Everything else is solid, also the space that no ray reaches: so there are no walls inside.

Sources: optical depth as in NeRF, Mildenhall et al. 2020, equation 3; space carving, Kutulakos and Seitz 2000.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float

NEAR = (-1, 0, 1)
LINES = tuple(step for step in itertools.product(NEAR, NEAR, NEAR) if step > (0, 0, 0))  # z, y, x; in nodes
CLEAR, DARK = 1e-3, 1e3  # optical depths beyond these are as good as these


def solidity(
    density: Float[np.ndarray, "N N N"], spacing: float, surface: float, silhouette: float
) -> Float[np.ndarray, "N N N"]:
    """Positive where a field is solid, negative in the open, smooth across the surface, where it is 0.

    `density` is given at nodes that lie `spacing` apart, and is 0 outside. `surface` is the opacity (0 to 1) that a ray
    has met at a surface. A line that meets less than the opacity `silhouette` sees nothing. The number is the logarithm
    of the optical depth as a share of what a surface has, as that grows by a factor from node to node.
    """
    at_surface, across = -math.log1p(-surface), -math.log1p(-silhouette)
    least = np.full(density.shape, DARK, np.float32)
    for step in LINES:
        there = optical_depth(density, step, spacing)
        back = optical_depth(density[::-1, ::-1, ::-1], step, spacing)[::-1, ::-1, ::-1]
        np.minimum(least, np.minimum(there, back) / at_surface, out=least)
        np.minimum(least, (there + back) / across, out=least)
    return np.log(least.clip(CLEAR, DARK))


def optical_depth(
    density: Float[np.ndarray, "N N N"], step: tuple[int, int, int], spacing: float
) -> Float[np.ndarray, "N N N"]:
    """What a ray meets from outside up to each node, in the direction `step` (z, y, x; nodes). Trapezoids."""
    axis = next(a for a in range(3) if step[a])
    order = [axis, *(a for a in range(3) if a != axis)]
    forward = slice(None, None, step[axis])  # a ray enters at the first slice
    halves = density.transpose(order)[forward] * np.float32(spacing * math.hypot(*step) / 2)
    depth = halves.copy()
    (to_y, from_y), (to_x, from_x) = (_shifted(len(density), step[a]) for a in order[1:])
    for k in range(1, len(depth)):
        depth[k, to_y, to_x] += depth[k - 1, from_y, from_x] + halves[k - 1, from_y, from_x]
    return depth[forward].transpose(np.argsort(order))


def _shifted(n: int, by: int) -> tuple[slice, slice]:
    """Nodes along an axis, and the nodes that lie `by` before them."""
    return slice(max(by, 0), n + min(by, 0)), slice(max(-by, 0), n - max(by, 0))
