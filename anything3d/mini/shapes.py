"""The mini world's objects: thirteen shapes with random proportions, and nine colours with slight variation.

Every object is in its canonical frame: it is upright, its bounding box is centred at 0, and its longest side is 1. The
handle of a mug is at the front (+z). Boxes, pyramids, tables, capsules and dumbbells lie along x with their longer
side: if it were random, no image could show the frame. The other shapes are round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from anything3d.errors import ConfigError
from anything3d.mini.draw import chance, pick, uniform
from anything3d.mini.solids import Body, Box, Dome, Handle, Lathe, Piece, Pyramid, Rod, Torus, Vector, assemble
from anything3d.mini.words import COLORS, SHAPES

Tone = Literal["color", "shade", "cream", "grey"]  # of a piece: the caption's colour, a darker one, or a neutral one

PIGMENTS: dict[str, Vector] = {
    "red": (0.82, 0.11, 0.10),
    "orange": (0.96, 0.50, 0.08),
    "yellow": (0.95, 0.86, 0.14),
    "green": (0.16, 0.62, 0.20),
    "cyan": (0.14, 0.78, 0.82),
    "blue": (0.13, 0.26, 0.84),
    "purple": (0.50, 0.17, 0.70),
    "pink": (0.97, 0.54, 0.72),
    "white": (0.95, 0.95, 0.93),
}
BRIGHTNESS = (0.88, 1.06)  # factor, per object
TINT = 0.035  # largest change of one channel, per object
SHADE = 0.72  # factor of a darker piece
CREAM: Vector = (0.86, 0.80, 0.66)
GREY: Vector = (0.42, 0.42, 0.44)
SYMMETRY_DEG = {  # smallest turn about y that leaves the shape as it is; 0: any turn, 360: none
    **dict.fromkeys(("sphere", "cylinder", "cone", "torus", "mushroom", "bottle", "lamp"), 0.0),
    **dict.fromkeys(("box", "pyramid", "table", "capsule", "dumbbell"), 180.0),
    "mug": 360.0,
}
UNSEEN_SHARE = 0.5  # of a held-out scene's objects, that are of a pair never trained on

ALL_PAIRS = tuple((shape, color) for shape in SHAPES for color in COLORS)
HELD_OUT_PAIRS = frozenset(  # 15 of 117; each shape and each colour lacks one or two
    (shape, color) for i, shape in enumerate(SHAPES) for j, color in enumerate(COLORS) if (i + 3 * j) % 8 == 0
)
SEEN = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)
UNSEEN = tuple(pair for pair in ALL_PAIRS if pair in HELD_OUT_PAIRS)


@dataclass(frozen=True, slots=True)
class Object:
    """One thing in its canonical frame."""

    shape: str
    color: str
    body: Body
    albedo: tuple[Vector, ...]  # colour of each piece


def sample_object(generator: torch.Generator, held_out: bool) -> Object:
    """A random object of a training pair, or, of the held-out split, of any pair (half of them unseen)."""
    pairs = UNSEEN if held_out and chance(generator, UNSEEN_SHARE) else SEEN
    return make_object(*pick(generator, pairs), generator)


def make_object(shape: str, color: str, generator: torch.Generator) -> Object:
    """An object of a given pair with random proportions.

    Raises: ConfigError("unknown_shape") or ("unknown_color").
    """
    if color not in PIGMENTS:
        raise ConfigError("unknown_color", f"{color!r}; known are {', '.join(COLORS)}")
    pieces, tones = make_pieces(shape, generator)
    brightness = uniform(generator, *BRIGHTNESS)
    red, green, blue = (
        min(1.0, max(0.0, channel * brightness + uniform(generator, -TINT, TINT))) for channel in PIGMENTS[color]
    )
    paint: dict[Tone, Vector] = {
        "color": (red, green, blue),
        "shade": (red * SHADE, green * SHADE, blue * SHADE),
        "cream": CREAM,
        "grey": GREY,
    }
    return Object(shape, color, assemble(*pieces), tuple(paint[tone] for tone in tones))


def make_pieces(shape: str, generator: torch.Generator) -> tuple[Sequence[Piece], Sequence[Tone]]:
    """Parts in any units with y up, and the tone of each.

    Raises: ConfigError("unknown_shape").
    """
    match shape:
        case "sphere":
            return [Piece("ball", Rod(0.0, 1.0))], ["color"]
        case "box":
            width, height, depth = (uniform(generator, low, 1) for low in (0.5, 0.4, 0.5))
            half = (max(width, depth), height, min(width, depth))
            return [Piece("block", Box(half, 0.05 * min(half)))], ["color"]
        case "cylinder":
            return [Piece("body", _pillar(1.0, uniform(generator, 0.7, 3.0), 0.05))], ["color"]
        case "cone":
            height = uniform(generator, 1.5, 3.0)
            return [Piece("body", Lathe(((0, 0), (1, 0), (0, height)), 0.04))], ["color"]
        case "torus":
            return [Piece("ring", Torus(1.0, uniform(generator, 0.22, 0.45)))], ["color"]
        case "capsule":
            return [Piece("body", Rod(uniform(generator, 0.7, 2.0), 1.0))], ["color"]
        case "pyramid":
            depth, height = uniform(generator, 0.75, 1), uniform(generator, 0.9, 2.0)
            return [Piece("body", Pyramid(1.0, depth, height))], ["color"]
        case "mug":
            return _mug(generator), ["color", "shade"]
        case "table":
            return _table(generator), ["color", "shade"]
        case "mushroom":
            return _mushroom(generator), ["color", "cream"]
        case "bottle":
            return _bottle(generator), ["color", "shade"]
        case "dumbbell":
            return _dumbbell(generator), ["color", "grey"]
        case "lamp":
            return _lamp(generator), ["color", "shade", "grey"]
        case _:
            raise ConfigError("unknown_shape", f"{shape!r}; known are {', '.join(SHAPES)}")


def _pillar(radius: float, height: float, rounding: float) -> Lathe:
    """A cylinder on y = 0, its edges rounded within these measures."""
    r, top = radius - rounding, height - rounding
    return Lathe(((0.0, rounding), (r, rounding), (r, top), (0.0, top)), rounding)


def _mug(generator: torch.Generator) -> Sequence[Piece]:
    height, wall, tube = uniform(generator, 1.6, 2.6), 0.12, uniform(generator, 0.10, 0.13)
    lip = wall / 2  # the outline runs in the middle of the wall, half a thickness inside
    inner, outer, floor, top = 1 - wall, 1 - lip, 2 * lip, height - lip
    cup = Lathe(((0, lip), (outer, lip), (outer, top), (inner, top), (inner, floor + lip), (0, floor + lip)), lip)
    reach = uniform(generator, 0.28, 0.38) * height  # from the handle's middle to its ends
    radius = min(reach, uniform(generator, 0.35, 0.45))
    handle = Handle(radius, tube, reach - radius)
    return [Piece("cup", cup), Piece("handle", handle, (0.0, height / 2, 1.0))]


def _table(generator: torch.Generator) -> Sequence[Piece]:
    depth, height = uniform(generator, 0.55, 1), uniform(generator, 0.8, 1.5)
    top, leg = uniform(generator, 0.06, 0.10), uniform(generator, 0.07, 0.12)
    inset = leg + uniform(generator, 0.0, 0.12)
    plate = Piece("top", Box((1.0, top, depth), 0.03), (0.0, height - top, 0.0))
    half = (height - top) / 2
    legs = Piece("legs", Box((leg, half, leg), 0.02), (1.0 - inset, half, depth - inset), mirrored=True)
    return [plate, legs]


def _mushroom(generator: torch.Generator) -> Sequence[Piece]:
    radius, cap, length = uniform(generator, 0.28, 0.42), uniform(generator, 0.6, 0.95), uniform(generator, 0.6, 1.2)
    foot, neck = radius * uniform(generator, 1.0, 1.35), 0.8 * radius
    stem = Lathe(((0, 0.06), (foot - 0.06, 0.06), (neck, length), (neck, length + 0.1), (0, length + 0.1)), 0.06)
    return [Piece("cap", Dome(1.0, cap), (0.0, length, 0.0)), Piece("stem", stem)]


def _bottle(generator: torch.Generator) -> Sequence[Piece]:
    body, shoulder = uniform(generator, 1.8, 2.8), uniform(generator, 0.5, 0.9)
    neck, long = uniform(generator, 0.28, 0.38), uniform(generator, 0.5, 0.9)
    bend = tuple(  # a quarter of a cosine from the body's radius to the neck's
        (neck + (0.9 - neck) * fall, body + shoulder * rise)
        for fall, rise in ((1.0, 0.0), (0.96, 0.17), (0.85, 0.34), (0.66, 0.52), (0.40, 0.70), (0.15, 0.86), (0.0, 1.0))
    )
    end = body + shoulder + long
    glass = Lathe(((0, 0.1), (0.9, 0.1), *bend, (neck, end), (0, end)), 0.1)
    cap = _pillar(neck + 0.16, uniform(generator, 0.3, 0.45), 0.04)
    return [Piece("bottle", glass), Piece("cap", cap, (0.0, end, 0.0))]


def _dumbbell(generator: torch.Generator) -> Sequence[Piece]:
    reach = uniform(generator, 1.4, 2.2)
    weight = Piece("weights", Rod(0.0, 1.0), (reach, 0.0, 0.0), mirrored=True)
    return [weight, Piece("bar", Rod(reach, uniform(generator, 0.28, 0.42)))]


def _lamp(generator: torch.Generator) -> Sequence[Piece]:
    height, bottom = uniform(generator, 2.4, 3.4), 1.0
    top, shade = uniform(generator, 0.45, 0.75), uniform(generator, 0.9, 1.3)
    foot, start = uniform(generator, 0.55, 0.8), height - shade
    cone = Lathe(  # a thin wall, open above and below
        ((bottom - 0.03, start), (top - 0.03, height - 0.03), (top - 0.07, height - 0.03), (bottom - 0.07, start),
         (bottom - 0.03, start)), 0.03,
    )  # fmt: skip
    base = _pillar(foot, 0.18, 0.05)
    pole = _pillar(uniform(generator, 0.08, 0.12), height - 0.15, 0.04)
    return [Piece("shade", cone), Piece("base", base), Piece("pole", pole)]
