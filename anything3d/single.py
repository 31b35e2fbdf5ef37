"""One object of one photo: the method for whoever has no corpus in mind."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from anything3d.errors import Anything3DError, ConfigError, InputError, SourceError
from anything3d.method import Method, MethodConfig, Pace, Say, lift_photos, load_method
from anything3d.models.device import check_device
from anything3d.models.weights import Place
from anything3d.object3d import Box, Object3D, Photo, Point
from anything3d.photo.image import decode_upright
from anything3d.photo.sam_prompts import check_prompt
from anything3d.settings.segment import ImageLimits

Pixels = Tensor | np.ndarray  # uint8 [H, W, 3], sRGB
MINI = MethodConfig()
CPU = Place()
PACE = Pace()


def lift_image(
    photo: str | Path | bytes | Pixels,
    *,
    point: Point | None = None,
    box: Box | None = None,
    config: MethodConfig = MINI,
    place: Place = CPU,
    pace: Pace = PACE,
    say: Say = lambda line: None,
) -> Object3D:
    """The object at a point (x, y) or in a box (left, top, right, bottom) of a photo, in pixels as viewers show it.

    Without either, SAM looks for objects on a grid, and the most prominent one is taken. `photo` is the path or the
    bytes of a JPEG, a PNG or a WebP, or sRGB pixels. The networks of the last call stay loaded. `say` hears of every
    verb before it runs, and of the checkpoints of long ones.

    Raises: InputError if the photo, or what is pointed at, is no good; NumericsError if a verb gives the object up;
    WeightsError; ConfigError if both a point and a box are given, or there is no such device; SourceError if there is
    no such file.
    """
    if point and box:
        raise ConfigError("prompt", "a point and a box are given; give one of them")
    check_device(place.device)
    name = Path(photo).stem if isinstance(photo, str | Path) else "photo"
    pixels = _read(photo, config.segment.limits)
    if prompt := point or box:
        check_prompt(prompt, *pixels.shape[:2])
    say("load the networks")
    on_grid = replace(config, segment=replace(config.segment, source="sam-grid"))
    method = replace(_loaded(on_grid, place, pace), say=say)
    (outcome,) = lift_photos([Photo(name, pixels, prompt or "most prominent")], method).values()
    if isinstance(outcome, Anything3DError):
        raise outcome
    return outcome


def _read(photo: str | Path | bytes | Pixels, limits: ImageLimits) -> UInt8[Tensor, "H W 3"]:
    if isinstance(photo, Tensor | np.ndarray):
        pixels = torch.from_numpy(photo.copy()) if isinstance(photo, np.ndarray) else photo  # a view may run backwards
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InputError("image_mode", f"pixels are uint8 [H, W, 3], sRGB; got {pixels.dtype} {[*pixels.shape]}")
        return pixels
    if isinstance(photo, bytes):
        return decode_upright(photo, limits)
    try:
        with Path(photo).open("rb") as file:
            data = file.read(limits.max_bytes + 1)  # not more than is looked at: the path may be of anything
    except OSError as error:
        raise SourceError("no_photo", f"{photo} cannot be read: {error.strerror}. Correct the path.") from error
    return decode_upright(data, limits)


@lru_cache(maxsize=1)
def _loaded(config: MethodConfig, place: Place, pace: Pace) -> Method:
    return load_method(config, place, pace)
