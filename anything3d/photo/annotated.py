"""A photo together with what is known of its objects: annotations, or what SAM is prompted with."""

from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from anything3d.errors import InputError
from anything3d.photo.annotation import Annotation, parse_annotations
from anything3d.photo.image import decode_image, decode_upright
from anything3d.photo.prompt import Prompt, parse_prompts
from anything3d.settings.segment import ImageLimits, Source

KINDS: dict[Source, str] = {"sam-boxes": "boxes", "sam-points": "points"}  # what SAM is prompted with


@dataclass(frozen=True, slots=True)
class AnnotatedPhoto:
    """A photo and one entry for each of its annotations or prompts, in order: it itself, or what is wrong with it."""

    image: UInt8[Tensor, "H W 3"]  # sRGB
    entries: list[Annotation | Prompt | InputError]


def read_annotated(image: bytes, annotations: bytes, image_id: str, limits: ImageLimits) -> AnnotatedPhoto | InputError:
    """The photo in a JPEG or PNG with the annotations in SA-1B's JSON, or what is wrong with one of the two files.

    The error is as `parse_annotations` and `decode_image` raise it. It is returned, so that it costs this photo only.
    """
    try:
        size, entries = parse_annotations(annotations, image_id)
        return AnnotatedPhoto(decode_image(image, limits, size), [*entries])
    except InputError as error:
        return error


def read_prompted(
    image: bytes, prompts: str | None, source: Source, limits: ImageLimits
) -> AnnotatedPhoto | InputError:
    """A photo without annotations, turned as viewers show it, with its boxes or points if `source` asks for them.

    `prompts` is JSON as `parse_prompts` reads it, or None. The error, which is returned, is as `decode_upright` and
    `parse_prompts` raise it, or no_annotations or no_prompts.
    """
    try:
        if source == "annotations":
            raise InputError(
                "no_annotations",
                "the photo has no annotations of SA-1B. With segment.source=sam-grid, SAM finds its objects;"
                " sam-boxes and sam-points take them from a file of prompts",
            )
        entries: list[Annotation | Prompt | InputError] = []
        if source in KINDS:
            known = parse_prompts(prompts)[KINDS[source]] if prompts is not None else []
            if not known:
                raise InputError("no_prompts", f"the file of prompts has no {KINDS[source]} of this photo")
            entries += known
        return AnnotatedPhoto(decode_upright(image, limits), entries)
    except InputError as error:
        return error
