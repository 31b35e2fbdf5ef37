"""How good a corpus is: the metrics of one object that are not among its scores, and summaries over objects."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.errors import NumericsError
from anything3d.seed import generators

METRICS = (  # in the order in which an object goes through the stages
    "mask_iou",
    "caption_shape_accuracy",
    "caption_color_accuracy",
    "inversion_gain",
    "inversion_improved",
    "lift_chamfer",
    "azimuth_error_deg",
    "azimuth_within_20deg",
    "reference_psnr_db",
    "mesh_psnr_db",
    "novel_psnr_db",
    "novel_mask_iou",
    "mesh_novel_psnr_db",
    "mesh_novel_mask_iou",
    "chamfer",
    "fscore_5pct",
    "normal_consistency",
    "volume_iou",
    "sa3dao_chamfer",
    "sa3dao_f1",
    "seconds_per_object",
)
AZIMUTH_WITHIN_DEG = 20.0  # the `20deg` in the metric's name
RESAMPLES = 2000  # of the bootstrap; enough for two digits of a 95 % interval (Efron and Tibshirani 1993, ch. 13)


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one number over `n` objects; `low` to `high` is the 95 % bootstrap interval of the mean."""

    mean: float
    median: float
    low: float
    high: float
    n: int


def caption_accuracy(caption: str, true: str, vocabulary: Collection[str]) -> float | None:
    """1 if the caption has `true`, as whole words, and no other word of `vocabulary`, else 0.

    None if `true` is empty.
    """
    if not true:
        return None
    others = set(vocabulary) - set(words(true))
    said = words(caption)
    named = f" {' '.join(words(true))} " in f" {' '.join(said)} "
    return float(named and others.isdisjoint(said))


def words(text: str) -> list[str]:
    """In order, lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def inversion_gain(loss_before: float, loss_after: float) -> float | None:
    """The share of the denoising loss that the inversion took away: 1 all, 0 none, below 0 worse; None if it was 0."""
    return 1 - loss_after / loss_before if loss_before else None


def within(error_deg: float | None, limit_deg: float) -> float | None:
    """1 if the error is `limit_deg` or less, else 0; None if it is not known."""
    return None if error_deg is None else float(error_deg <= limit_deg)


def summary(values: Float[Tensor, "N"], generator: torch.Generator) -> Summary:
    """Mean and median of one number over objects, with the percentile-bootstrap interval of the mean.

    The interval speaks of which objects were drawn, not of the seed. Raises: ValueError without finite values.
    """
    n = len(values)
    if n == 0 or not bool(values.isfinite().all()):
        raise ValueError(f"summary of {n} values, {int((~values.isfinite()).sum())} of them not finite; need 1 or more")
    values = values.double().cpu()
    means = torch.stack([values[torch.randint(n, (n,), generator=generator)].mean() for _ in range(RESAMPLES)])
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return Summary(mean=float(values.mean()), median=float(values.quantile(0.5)), low=low, high=high, n=n)


def summaries(rows: Sequence[Mapping[str, float | None]], seed: int = 0) -> dict[str, Summary]:
    """Every metric over the objects that have it; a metric that none has is left out. Equal rows give equal intervals.

    Raises: NumericsError("metric_not_finite") that names the metric, if a value is NaN or infinite.
    """
    by_name: dict[str, Summary] = {}
    for name, generator in zip(METRICS, generators(seed, "evaluate", METRICS), strict=True):
        values = torch.tensor([value for row in rows if (value := row[name]) is not None], dtype=torch.float64)
        if wrong := int((~values.isfinite()).sum()):
            raise NumericsError("metric_not_finite", f"{name} of {wrong} of {len(values)} objects is NaN or infinite")
        if len(values):
            by_name[name] = summary(values, generator)
    return by_name


def differences(
    ours: Mapping[str, Sequence[Mapping[str, float | None]]],
    theirs: Mapping[str, Sequence[Mapping[str, float | None]]],
    seed: int = 0,
) -> dict[str, Summary]:
    """By how much every metric is higher in `ours` than in `theirs`, over the objects that both have.

    Both map an object to its rows, one for each run (seeds of the same settings), whose mean is the object's number.
    Pairing leaves the objects' own difficulty out of the interval.
    """
    rows = []
    for item in sorted(ours.keys() & theirs.keys()):
        pairs = ((_mean(ours[item], name), _mean(theirs[item], name)) for name in METRICS)
        rows.append(
            {
                name: None if one is None or other is None else one - other
                for name, (one, other) in zip(METRICS, pairs, strict=True)
            }
        )
    return summaries(rows, seed)


def _mean(rows: Sequence[Mapping[str, float | None]], name: str) -> float | None:
    values = [value for row in rows if (value := row[name]) is not None]
    return sum(values) / len(values) if values else None
