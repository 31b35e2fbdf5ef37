"""Coloured point clouds in the canonical frame (camera.py), and PLY, the format in which they are stored.

The PLY is binary little endian. It has one element `vertex` with float x y z and uchar red green blue, 15 bytes for
each point.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from anything3d.errors import InputError

SIZES = {  # bytes of a scalar property, by both names that the PLY specification gives it
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
MAX_HEADER = 4096  # bytes; ours has 190
NEIGHBOURS = 4  # a point has so many near it, if it is not a stray one; a speck of fewer points is one, too
# A point is a stray one if its NEIGHBOURS-th is farther than so many times the median of all points. 34 clouds of the
# mini world have at most 5.1.
STRAY = 8.0
CHUNK = 256  # points of each cloud whose distances to all others are held at a time
LAYOUT = {"x": "float", "y": "float", "z": "float", "red": "uchar", "green": "uchar", "blue": "uchar"}
ALIASES = {"float32": "float", "uint8": "uchar"}


@dataclass(frozen=True, slots=True)
class Cloud:
    """B clouds of N points each; colours in [0, 1]."""

    points: Float[Tensor, "B N 3"]
    colors: Float[Tensor, "B N 3"]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: slice | Tensor) -> "Cloud":
        return Cloud(self.points[rows], self.colors[rows])

    def to(self, device: torch.device | str) -> "Cloud":
        return Cloud(self.points.to(device), self.colors.to(device))

    def is_finite(self) -> Bool[Tensor, "B"]:
        """Which clouds have no NaN and no Inf."""
        return self.points.isfinite().flatten(1).all(1) & self.colors.isfinite().flatten(1).all(1)


def normalise(cloud: Cloud) -> Cloud:
    """Each cloud moved and scaled so that its bounding box has its centre at 0 and its longest side is 1.

    A cloud without extent has no scale: it becomes a point at the origin (`distinct_points` tells).
    """
    low, high = cloud.points.amin(1, keepdim=True), cloud.points.amax(1, keepdim=True)
    longest = (high - low).amax(-1, keepdim=True)
    scale = torch.where(longest > 0, longest, torch.ones_like(longest))
    return Cloud((cloud.points - (low + high) / 2) / scale, cloud.colors)


def strays(cloud: Cloud) -> Bool[Tensor, "B N"]:
    """Which points are far from all but a few others. One of them would decide where the bounding box ends."""
    points = cloud.points.float()
    count = min(NEIGHBOURS + 1, points.shape[1])  # the nearest one is the point itself
    parts = [_distances(rows, points).topk(count, largest=False).values[..., -1] for rows in points.split(CHUNK, 1)]
    apart = torch.cat(parts, dim=1)
    usual = apart.median(dim=1, keepdim=True).values
    return (usual > 0) & (apart > STRAY * usual)


def gathered(cloud: Cloud, stray: Bool[Tensor, "B N"]) -> Cloud:
    """The cloud with every stray point moved onto the nearest point that is none, whose colour it takes."""
    points = cloud.points.float()
    parts = [
        _distances(rows, points).masked_fill(stray[:, None], torch.inf).argmin(-1) for rows in points.split(CHUNK, 1)
    ]
    own = torch.arange(points.shape[1], device=points.device)
    source = torch.where(stray, torch.cat(parts, dim=1), own)[..., None]
    return Cloud(cloud.points.take_along_dim(source, 1), cloud.colors.take_along_dim(source, 1))


def _distances(a: Float[Tensor, "B n 3"], b: Float[Tensor, "B N 3"]) -> Float[Tensor, "B n N"]:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def distinct_points(cloud: Cloud, grid: float) -> UInt8[Tensor, "B"]:
    """How many cells of side `grid` (canonical units) hold a point, counted up to 255; 0 if a number is not finite."""
    cells = (torch.nan_to_num(cloud.points.double(), 0.0, 0.0, 0.0) / grid).round().clamp(-(2**19), 2**19).long()
    keys = ((cells[..., 0] << 42) + (cells[..., 1] << 21) + cells[..., 2]).sort(dim=1).values
    count = 1 + (keys.diff(dim=1) != 0).sum(1)
    return (count * cloud.is_finite()).clamp(max=255).to(torch.uint8)


def to_ply(cloud: Cloud) -> bytes:
    """One cloud (B = 1) as PLY; colours are rounded to 8 bits."""
    assert len(cloud) == 1, f"to_ply writes one cloud, got {len(cloud)}"
    points = cloud.points[0].float().cpu().contiguous().view(torch.uint8)
    colors = (cloud.colors[0].float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    properties = "".join(f"property {kind} {name}\n" for name, kind in LAYOUT.items())
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n"
    return header.encode("ascii") + torch.cat([points, colors], dim=1).numpy().tobytes()


def from_ply(data: bytes) -> Cloud:
    """The cloud (B = 1) of a binary little-endian PLY whose first element is `vertex` with the properties of LAYOUT.

    Other scalar properties of a vertex, and elements after it, are passed over.

    Raises: InputError("bad_ply") if the header is not of that kind, the points are cut short, there are none, or a
    coordinate is not finite.
    """
    count, properties, start = _parse_header(data)
    offsets, stride = {}, 0
    for name, kind in properties:
        offsets[name] = stride
        stride += SIZES[kind]
    if count < 1:
        raise InputError("bad_ply", f"{count} points; at least 1 is needed")
    if len(data) - start < count * stride:
        raise InputError("bad_ply", f"{count} points need {count * stride} bytes, {len(data) - start} are there")
    rows = torch.frombuffer(bytearray(data[start : start + count * stride]), dtype=torch.uint8).view(count, stride)
    points = torch.cat([rows[:, offsets[axis] : offsets[axis] + 4] for axis in "xyz"], dim=1)
    points = points.contiguous().view(torch.float32)
    colors = torch.stack([rows[:, offsets[name]] for name in ("red", "green", "blue")], dim=1)
    if not points.isfinite().all():
        raise InputError("bad_ply", "a coordinate is NaN or infinite")
    return Cloud(points[None], colors[None].float() / 255)


def from_plies(files: Sequence[bytes]) -> Cloud:
    """Clouds of equally many points, one PLY each, as one batch.

    Raises: InputError as `from_ply`.
    """
    return join([from_ply(data) for data in files])


def join(clouds: Sequence[Cloud]) -> Cloud:
    """Clouds of equally many points as one batch."""
    return Cloud(torch.cat([cloud.points for cloud in clouds]), torch.cat([cloud.colors for cloud in clouds]))


def rounded(cloud: Cloud) -> Cloud:
    """The cloud as its PLY has it: the colours are rounded to 8 bits."""
    return Cloud(cloud.points.float(), (cloud.colors.float().clamp(0, 1) * 255).round() / 255)


def _parse_header(data: bytes) -> tuple[int, list[tuple[str, str]], int]:
    """Number of points, (name, type) of a vertex's properties in order, and where the points start."""
    head, end, _ = data[:MAX_HEADER].partition(b"end_header\n")
    if not end or not head.startswith(b"ply\n") or not head.isascii():
        raise InputError("bad_ply", f"starts with {data[:12]!r}; expected a PLY header of up to {MAX_HEADER} bytes")
    lines = [line.split() for line in head.decode("ascii").splitlines()[1:]]
    lines = [line for line in lines if line and line[0] not in ("comment", "obj_info")]
    if [line[1:2] for line in lines if line[0] == "format"] != [["binary_little_endian"]]:
        raise InputError("bad_ply", f"format {lines[0] if lines else None}; only binary_little_endian is read")
    elements = [row for row, line in enumerate(lines) if line[0] == "element"]
    if not elements or len(vertex := lines[elements[0]]) != 3 or vertex[1] != "vertex" or not vertex[2].isdecimal():
        raise InputError("bad_ply", "the first element is not `vertex` with a count")
    stop = elements[1] if len(elements) > 1 else len(lines)
    properties = [_parse_property(line) for line in lines[elements[0] + 1 : stop]]
    kinds = {name: ALIASES.get(kind, kind) for name, kind in properties}
    if wrong := [f"{kind} {name}" for name, kind in LAYOUT.items() if kinds.get(name) != kind]:
        raise InputError("bad_ply", f"vertex lacks the properties {', '.join(wrong)}")
    return int(vertex[2]), properties, len(head) + len(end)


def _parse_property(line: list[str]) -> tuple[str, str]:
    if len(line) != 3 or line[0] != "property" or line[1] not in SIZES:
        raise InputError("bad_ply", f"vertex has {' '.join(line)[:80]!r}; only scalar properties are read")
    return line[2], line[1]
