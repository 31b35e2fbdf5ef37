"""Fewer triangles for the same surface: edges are collapsed in the order of their quadric errors.

fast-simplification looks at shapes only. Where walls are thin, it also collapses edges after which two walls share an
edge, which then has four triangles. Such collapses are found here, and left out.

Sources: Garland and Heckbert 1997, in fast-simplification; the link condition, Dey et al. 1999. This imports no torch.
"""

import numpy as np
from jaxtyping import Float, Int

from anything3d.space.mesh import is_watertight

HASTE = 5  # by how much fast-simplification lets the error grow from pass to pass
BEYOND = 0.5  # of the wanted triangles: so far collapses are planned, as some of them are left out


def simplified(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], max_faces: int
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """The same surface with about `max_faces` triangles, if it has more; 0: as it is.

    A watertight surface stays so, unless all that could be collapsed would leave more triangles.
    """
    from fast_simplification import replay_simplification, simplify

    if not 0 < max_faces < len(faces):
        return vertices, faces
    points, triangles = vertices.astype(np.float32), faces.astype(np.int32)
    fewer, left = simplify(points, triangles, target_count=max_faces, agg=HASTE)
    if is_watertight(left) or not is_watertight(faces):
        return fewer.astype(np.float32), left.astype(np.int64)
    while len(triangles) > max_faces:  # what is left out in one round changes what is planned in the next one
        wanted = round(BEYOND * max_faces)
        *_, planned = simplify(points, triangles, target_count=wanted, agg=HASTE, return_collapses=True)
        allowed = linked(triangles, planned, max_faces)
        if not len(allowed):
            return fewer.astype(np.float32), left.astype(np.int64)
        points, triangles, _ = replay_simplification(points, triangles, allowed)
    return points.astype(np.float32), triangles.astype(np.int64)


def linked(faces: Int[np.ndarray, "F 3"], collapses: Int[np.ndarray, "C 2"], max_faces: int) -> Int[np.ndarray, "D 2"]:
    """Those of the collapses (kept vertex, lost vertex) that keep a watertight surface so, until it has `max_faces`.

    An edge may be collapsed if its ends have two neighbours in common: then these are the corners of its two triangles.
    Where a collapse is left out, so are all later ones of its vertices, as they are not where they were planned to be.
    """
    neighbours: dict[int, set[int]] = {}
    for a, b, c in faces.tolist():
        for one, two, three in ((a, b, c), (b, c, a), (c, a, b)):
            neighbours.setdefault(one, set()).update((two, three))
    allowed, elsewhere = list[tuple[int, int]](), set[int]()
    for kept, lost in collapses.tolist():
        if len(faces) - 2 * len(allowed) <= max_faces:
            break
        around, gone = neighbours[kept], neighbours[lost]
        stays_closed = len(around & gone) == 2 and len(around | gone) != 4  # 4: a tetrahedron, of which nothing is left
        if kept in elsewhere or lost in elsewhere or not stays_closed:
            elsewhere.update((kept, lost))
            continue
        for one in gone - {kept}:
            neighbours[one].remove(lost)
            neighbours[one].add(kept)
            around.add(one)
        around.remove(lost)
        allowed.append((kept, lost))
    return np.array(allowed, np.int32).reshape(-1, 2)
