"""Outlines: a surface is moved so that the reference camera sees it where the photo's mask is.

A field has soft edges, and a surface has to lie somewhere in them. So its outline is off by about a pixel, which is
most of what a mesh loses beside its field (docs/mini-models.md). The mask knows the outline from one side. First the
whole surface is scaled and shifted, which keeps its proportions. Then each of its points moves across the camera's
view, by what the outline next to it still lacks. Where the outline is far from the mask, something else may hide the
object, or the object is wrong: nothing moves there.

This file imports no torch.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from anything3d.space.atlas import texels_of
from anything3d.space.paint import OPAQUE, Sight
from anything3d.space.viewpoint import ReferenceCamera

GRID = 256  # pixels along each side of the pictures in which outlines are compared
FAR = 0.04  # fractions of the crop's side; an outline that is farther from the mask's does not count
MAX_SCALE = 0.1  # the surface becomes larger or smaller by no more than this share in a round
ROUNDS = 2  # of scaling, and of moving points
SMOOTH_PX = 2.5  # of GRID; standard deviation, over which neighbouring parts of the outline move together
REACH = 0.1  # fractions of the crop's side; a point so far from the outline, across the view, does not move
FEWEST = 10  # pixels of an outline that can be fitted
HALF = 127  # of 255; a pixel with a larger unseen share counts as unseen


@dataclass(frozen=True, slots=True)
class Fit:
    """How points move. The first one is no move at all."""

    camera: ReferenceCamera
    scale: float = 1.0
    shift: Float[np.ndarray, "3"] | float = 0.0  # of scaled points; canonical lengths
    moves: tuple[Float[np.ndarray, "G G 2"], ...] = ()  # across the view, one after the other; fractions of the crop
    share: float = 1.0  # of these moves

    def __call__(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """The same points, moved."""
        scaled = points * self.scale + self.shift
        moved = scaled
        for move in self.moves:
            moved = self.camera.shifted(moved, _at(move, self.camera.project(moved)))
        return (scaled + self.share * (moved - scaled)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Outline:
    """The E pixels at the edge of a silhouette, and how far they are from the mask's."""

    row: Int[np.ndarray, "E"]
    column: Int[np.ndarray, "E"]
    outwards: Float[np.ndarray, "E 2"]  # unit vectors
    lack: Float[np.ndarray, "E"]  # fractions of the crop's side; positive where the mask reaches farther
    shown: Bool[np.ndarray, "E"]  # where the photo can show the object

    @property
    def places(self) -> Float[np.ndarray, "E 2"]:
        """x, y; fractions of the crop's side."""
        return np.stack([self.column + 0.5, self.row + 0.5], axis=1) / GRID


def fit_outline(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], sight: Sight, share: float, min_cover: float
) -> Fit | None:
    """How a surface has to move; None if it does not cover `min_cover` of the mask when it is as large as the mask.

    `share` is how far the points move, from where scaling has brought them to the mask's outline; 0: nothing moves.
    """
    mask = sight.rgba[..., 3] > OPAQUE
    if not mask.any():
        return None
    target, fit = _depth_inside(mask), Fit(sight.camera)
    shown = _far_from_unseen(sight)
    for _ in range(ROUNDS if share else 0):
        fit = _scaled(fit, vertices, _outline(fit(vertices), faces, sight.camera, target, shown))
    if _cover(_silhouette(fit(vertices), faces, sight.camera), target) < min_cover:
        return None
    for _ in range(ROUNDS if share else 0):
        outline = _outline(fit(vertices), faces, sight.camera, target, shown)
        fit = replace(fit, moves=(*fit.moves, _spread(outline)))
    return replace(fit, share=share)


def _scaled(fit: Fit, vertices: Float[np.ndarray, "V 3"], outline: _Outline) -> Fit:
    """The scale about the middle and the shift across the view that bring the outline nearest to the mask's."""
    moved, camera = fit(vertices), fit.camera
    middle = (moved.min(0) + moved.max(0))[None] / 2
    across = outline.places - camera.project(middle)
    known = np.column_stack([(outline.outwards * across).sum(1), outline.outwards])
    found = np.zeros(3)
    for far in (FAR, FAR / 2):  # once from where it is, once from where that has brought it
        counts = outline.shown & (np.abs(outline.lack - known @ found) < far)
        if counts.sum() < FEWEST:
            return fit
        found = np.linalg.lstsq(known[counts], outline.lack[counts], rcond=None)[0]
    if abs(found[0]) > MAX_SCALE:  # the shift is another one where less is scaled
        found[0] = np.copysign(MAX_SCALE, found[0])
        rest = outline.lack[counts] - known[counts, 0] * found[0]
        found[1:] = np.linalg.lstsq(known[counts, 1:], rest, rcond=None)[0]
    scale = 1 + float(found[0])
    shift = camera.shifted(middle, found[None, 1:])[0] - scale * middle[0]
    return replace(fit, scale=scale * fit.scale, shift=scale * fit.shift + shift)


def _outline(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    camera: ReferenceCamera,
    target: Float[np.ndarray, "S S"],
    shown: Bool[np.ndarray, "S S"],
) -> _Outline:
    """The outline that the camera sees. It ends where the crop does.

    `target` is how far every pixel is inside of the mask, and `shown` is where the photo can show the object.
    """
    from scipy.ndimage import binary_erosion, gaussian_filter

    seen = _silhouette(vertices, faces, camera)
    inside = _depth_inside(seen)
    row, column = np.nonzero(seen & ~binary_erosion(seen, np.ones((3, 3)), border_value=1))
    slopes = np.gradient(gaussian_filter(inside, 1.0))
    outwards = -np.stack([slopes[1][row, column], slopes[0][row, column]], axis=1)
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True).clip(1e-9)
    size = len(shown)
    found = _Outline(row, column, outwards, np.zeros(len(row)), shown[row * size // GRID, column * size // GRID])
    return replace(found, lack=_at(target[..., None], found.places)[:, 0] - inside[row, column])


def _far_from_unseen(sight: Sight) -> Bool[np.ndarray, "S S"]:
    """The pixels that are farther than FAR from where the object may go on without being seen."""
    from scipy.ndimage import distance_transform_edt

    if sight.unseen is None or not (sight.unseen > HALF).any():
        return np.ones(sight.rgba.shape[:2], bool)
    return distance_transform_edt(sight.unseen <= HALF) > FAR * len(sight.rgba)


def _spread(outline: _Outline) -> Float[np.ndarray, "G G 2"]:
    """By how much points move, at every pixel: as the nearest part of the outline, less far away from it."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    counts = np.zeros((GRID, GRID))
    moves = np.zeros((GRID, GRID, 2))
    if not len(outline.row):
        return moves
    near = (outline.shown & (np.abs(outline.lack) < FAR))[:, None]
    counts[outline.row, outline.column] = 1
    moves[outline.row, outline.column] = outline.outwards * outline.lack[:, None] * near
    moves = gaussian_filter(moves, (SMOOTH_PX, SMOOTH_PX, 0))
    moves /= gaussian_filter(counts, SMOOTH_PX).clip(1e-12)[..., None]
    distance, (rows, columns) = distance_transform_edt(counts == 0, return_indices=True)
    moves = moves[rows, columns] * (1 - distance / (REACH * GRID)).clip(0)[..., None]
    return gaussian_filter(moves, (SMOOTH_PX / 2, SMOOTH_PX / 2, 0))


def _silhouette(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], camera: ReferenceCamera
) -> Bool[np.ndarray, "G G"]:
    """The pixels that the surface covers."""
    texels = texels_of(camera.project(vertices)[faces].astype(np.float32), GRID)
    seen = np.zeros((GRID, GRID), bool)
    seen[texels.row, texels.column] = True
    return seen


def _cover(seen: Bool[np.ndarray, "G G"], target: Float[np.ndarray, "S S"]) -> float:
    """The share of the mask that these pixels cover."""
    rows, columns = np.nonzero(target > 0)
    size = len(target)
    return float(seen[rows * GRID // size, columns * GRID // size].mean())


def _depth_inside(mask: Bool[np.ndarray, "S S"]) -> Float[np.ndarray, "S S"]:
    """How far every pixel's centre is inside of the edge of the mask, negative outside; fractions of the side."""
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(mask, 1)  # the mask ends where the picture does
    inside, outside = distance_transform_edt(padded) - 0.5, 0.5 - distance_transform_edt(~padded)
    return (np.where(padded, inside, outside)[1:-1, 1:-1] / len(mask)).astype(np.float32)


def _at(picture: Float[np.ndarray, "S S C"], places: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N C"]:
    """What a picture has at these places (x, y; fractions of its side), interpolated."""
    from scipy.ndimage import map_coordinates

    nodes = places[:, ::-1].T * len(picture) - 0.5
    return np.stack([map_coordinates(band, nodes, order=1, mode="nearest") for band in np.moveaxis(picture, -1, 0)], 1)
