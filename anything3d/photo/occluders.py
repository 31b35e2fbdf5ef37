"""Occluders: which other masks of a photo may stand before an object.

A mask does not say how far away its object is. Things mostly stand on something, and a camera mostly looks down on
them. Then what stands nearer ends lower in the photo. So another mask counts as an occluder if it ends lower.

What carries an object, or surrounds it, often ends lower, too: a plate, a rug. If its box has all of the object's box
in it, it does not count. Neither does a thing through which the object is seen, such as a table before it.
"""

from collections.abc import Sequence

from anything3d.photo.mask import Box
from anything3d.photo.select import ObjectMask


def occluders(own: ObjectMask, others: Sequence[ObjectMask], square: Box) -> list[str]:
    """The masks (COCO's compressed run lengths) of those of the others that may stand before `own`.

    Left out are those whose box does not reach into the square of the object's crop.
    """
    return [
        one.counts
        for one in others
        if _end(one.box) > _end(own.box) and not _contains(one.box, own.box) and _share_a_pixel(one.box, square)
    ]


def _end(box: Box) -> int:
    return box[1] + box[3]


def _contains(outer: Box, inner: Box) -> bool:
    return all(
        outer[axis] <= inner[axis] and inner[axis] + inner[axis + 2] <= outer[axis] + outer[axis + 2] for axis in (0, 1)
    )


def _share_a_pixel(a: Box, b: Box) -> bool:
    return all(max(a[axis], b[axis]) < min(a[axis] + a[axis + 2], b[axis] + b[axis + 2]) for axis in (0, 1))
