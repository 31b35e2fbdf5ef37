"""How well numbers that need no truth predict the true F-score: rank correlations over the objects of corpora.

    anything3d world held.tar --scenes 10 --seed 78 --held-out
    anything3d run held.tar --out corpus
    python -m tests.tiers corpus

Each line has Spearman's correlation of one number with `fscore_5pct`, its p value against none, and its 95 % interval
(bootstrap over objects). Objects without truth do not count.
"""

from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import typer
from scipy.stats import spearmanr

TRUE = "fscore_5pct"
TIERS = ("C", "B", "A")
SIGNALS = (
    "reference_psnr_db",
    "reference_mask_iou",
    "mesh_psnr_db",
    "mesh_mask_iou",
    "mesh_clip_similarity",
    "mesh_dino_similarity",
    "mesh_dino_reference",
    "camera_match",
    "log_probability",
    "reference_rgb_loss",
    "reference_mask_loss",
    "fog",
    "likeness_rise",
    "front_back_similarity",
    "self_intersections",
    "thin_share",
    "hidden_share",
    "components",
    "watertight",
)
RESAMPLES = 2000


def main(corpora: list[Path]) -> None:
    """Print the table of these corpora together."""
    rows = [row for corpus in corpora for row in ds.dataset(corpus / "objects").to_table().to_pylist()]
    known = [row for row in rows if row[TRUE] is not None]
    typer.echo(f"{len(known)} objects with truth of {len(rows)}")
    true = np.array([row[TRUE] for row in known])
    letters = np.array([TIERS.index(row["quality"]) for row in known])
    for number in (2, 1, 0):
        some = true[letters == number]
        typer.echo(f"{TIERS[number]}: {len(some):3} objects, {TRUE} {some.mean() if len(some) else np.nan:.2f}")
    typer.echo(line("quality", letters, true))
    for name in SIGNALS:
        pairs = [(row[name], row[TRUE]) for row in known if row[name] is not None]
        typer.echo(line(name, *np.array(pairs, float).reshape(-1, 2).T))


def line(name: str, values: np.ndarray, true: np.ndarray) -> str:
    """One number's correlation."""
    if len(set(values.tolist())) < 2:
        return f"{name:<24}n {len(values):3}   the same for all objects"
    found, generator = spearmanr(values, true), np.random.default_rng(0)
    draws = [generator.integers(len(values), size=len(values)) for _ in range(RESAMPLES)]
    again = [spearmanr(values[draw], true[draw]).statistic for draw in draws if len(set(values[draw].tolist())) > 1]
    low, high = np.quantile(again, [0.025, 0.975])
    return f"{name:<24}n {len(values):3}   {found.statistic:+.2f}   p {found.pvalue:.4f}   {low:+.2f} .. {high:+.2f}"


if __name__ == "__main__":
    typer.run(main)
