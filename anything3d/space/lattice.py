"""What the first field asks of the nodes of a cubic lattice: nearest points, filled holes, distances to the outside.

On a CPU this is SciPy. On other devices the same is computed with torch, where the data lie. Both give the same results
up to rounding, and the tests compare them. Boundaries are those of SciPy: what lies outside the lattice is outside.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

MAX_PAIRS = 1 << 26  # (node, point) pairs whose distances are held at a time; 256 MB
SPARE = 4  # neighbours more than asked for that rounded distances choose; exact ones then decide
ROUNDS = 4  # sweeps along all axes between two looks at whether the walker has come to an end


def neighbours(
    axis: Float[Tensor, "W"], points: Float[Tensor, "N 3"], count: int
) -> tuple[Float[Tensor, "WWW k"], Int[Tensor, "WWW k"]]:
    """Distances of every node to its `count` nearest points, from the nearest on, and which points these are.

    The nodes are those whose coordinates are all in `axis`; x varies fastest, then y, then z.
    """
    if points.device.type == "cpu":
        from scipy.spatial import cKDTree

        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        nodes = torch.stack([x, y, z], dim=-1).reshape(-1, 3).numpy()
        near, index = cKDTree(points.numpy()).query(nodes, k=list(range(1, count + 1)))
        return torch.from_numpy(near).float(), torch.from_numpy(index)
    return neighbours_on_device(axis, points, count)


def neighbours_on_device(
    axis: Float[Tensor, "W"], points: Float[Tensor, "N 3"], count: int
) -> tuple[Float[Tensor, "WWW k"], Int[Tensor, "WWW k"]]:
    """`neighbours` by comparison with all points."""
    wide, n_points = len(axis), len(points)
    along = (axis[:, None, None] - points).square()  # [W N 3]: the square of a distance is a sum over the axes
    few = max(1, MAX_PAIRS // (wide * n_points))
    exact_axis, exact_points = axis.double(), points.double()
    distances, indices = [], []
    for start in range(0, wide * wide, few):
        line = torch.arange(start, min(start + few, wide * wide), device=axis.device)
        y, z = line % wide, line // wide
        squares = (along[z, :, 2] + along[y, :, 1])[:, None] + along[:, :, 0]  # [lines W N]
        chosen = squares.topk(min(count + SPARE, n_points), largest=False, sorted=False).indices
        coordinates = (exact_axis[None], exact_axis[y, None], exact_axis[z, None])
        node = torch.stack([values.expand(len(line), wide) for values in coordinates], dim=-1)
        exact = (node[:, :, None] - exact_points[chosen]).square().sum(-1).sqrt()
        near, order = exact.sort(dim=-1)
        distances.append(near[..., :count].float().flatten(0, 1))
        indices.append(chosen.gather(-1, order)[..., :count].flatten(0, 1))
    return torch.cat(distances), torch.cat(indices)


def spacings(points: Float[Tensor, "N 3"], count: int) -> Float[Tensor, "N"]:
    """Distance of every point to its `count`-th nearest, itself being the first; float64."""
    if points.device.type == "cpu":
        from scipy.spatial import cKDTree

        return torch.from_numpy(cKDTree(points.numpy()).query(points.numpy(), k=[count])[0])[:, 0]
    return spacings_on_device(points, count)


def spacings_on_device(points: Float[Tensor, "N 3"], count: int) -> Float[Tensor, "N"]:
    """`spacings` by comparison of all pairs."""
    exact = points.double()
    rows = exact.split(max(1, MAX_PAIRS // (6 * len(points))))
    squares = [(row[:, None] - exact).square().sum(-1).kthvalue(count).values for row in rows]
    return torch.cat(squares).sqrt()


def fill_holes(solid: Bool[Tensor, "W W W"]) -> Bool[Tensor, "W W W"]:
    """The nodes that a walker from outside cannot reach, who goes along the axes through nodes that are not `solid`."""
    if solid.device.type == "cpu":
        from scipy.ndimage import binary_fill_holes

        return torch.from_numpy(binary_fill_holes(solid.numpy()))
    return fill_holes_on_device(solid)


def fill_holes_on_device(solid: Bool[Tensor, "W W W"]) -> Bool[Tensor, "W W W"]:
    """`fill_holes` by sweeps. The host reads one number after every ROUNDS of them."""
    border = torch.ones_like(solid)
    border[1:-1, 1:-1, 1:-1] = False
    reached = border & ~solid
    while True:
        before = reached
        for _ in range(ROUNDS):
            reached = sweep(reached, solid)
        if torch.equal(reached, before):
            return ~reached


def sweep(reached: Bool[Tensor, "W W W"], solid: Bool[Tensor, "W W W"]) -> Bool[Tensor, "W W W"]:
    """Where the walker gets from what is `reached`, straight on along one axis after the other, both ways.

    A free node is reached if the last node before it that is solid or reached is not solid.
    """
    place = 2 * torch.arange(len(solid), dtype=torch.int32, device=solid.device)
    for axis in range(3):
        reached, solid = reached.movedim(axis, 0), solid.movedim(axis, 0)
        for _ in range(2):
            events = torch.where(solid | reached, place[:, None, None] + reached, -2)  # odd where it was reached
            reached = reached | ((events.cummax(0).values % 2 == 1) & ~solid)
            reached, solid = reached.flip(0), solid.flip(0)
        reached, solid = reached.movedim(0, axis), solid.movedim(0, axis)
    return reached


def depth_inside(solid: Bool[Tensor, "W W W"], reach: int) -> Float[Tensor, "W W W"]:
    """Distance, in nodes, of every solid node to the nearest that is not; 0 for the others.

    Distances above `reach` may be infinite.
    """
    if solid.device.type == "cpu":
        from scipy.ndimage import distance_transform_edt

        return torch.from_numpy(distance_transform_edt(solid.numpy())).float()
    return depth_inside_on_device(solid, reach)


def depth_inside_on_device(solid: Bool[Tensor, "W W W"], reach: int) -> Float[Tensor, "W W W"]:
    """`depth_inside` axis by axis. Source: Felzenszwalb and Huttenlocher 2012, section 3 (squares add up)."""
    squares = torch.where(solid, torch.inf, 0.0)
    for axis in range(3):
        lines = squares.movedim(axis, -1)
        padded = nn.functional.pad(lines, (reach, reach), value=torch.inf)
        for step in range(-reach, reach + 1):
            lines = torch.minimum(lines, padded[..., reach + step : reach + step + len(solid)] + step**2)
        squares = lines.movedim(-1, axis)
    return squares.sqrt()
