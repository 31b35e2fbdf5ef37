"""A photo together with its annotations, from the bytes of both."""

from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from anything3d.errors import InputError
from anything3d.photo.annotation import Annotation, parse_annotations
from anything3d.photo.image import ImageLimits, decode_image


@dataclass(frozen=True, slots=True)
class AnnotatedPhoto:
    """A photo and one entry for each annotation of it, in order: the annotation, or what is wrong with it."""

    image: UInt8[Tensor, "H W 3"]  # sRGB
    entries: list[Annotation | InputError]


def read_annotated(image: bytes, annotations: bytes, image_id: str, limits: ImageLimits) -> AnnotatedPhoto | InputError:
    """The photo in a JPEG or PNG with the annotations in SA-1B's JSON, or what is wrong with one of the two files.

    The error is as `parse_annotations` and `decode_image` raise it. It is returned, so that it costs this photo only.
    """
    try:
        size, entries = parse_annotations(annotations, image_id)
        return AnnotatedPhoto(decode_image(image, limits, size), entries)
    except InputError as error:
        return error
