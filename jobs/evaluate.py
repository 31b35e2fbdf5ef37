"""`anything3d evaluate` says how good a corpus is. It needs objects whose shape is known."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jobs.command import CorpusArgument, LogFile, Verbose, errors_as_one_line, logs

if TYPE_CHECKING:
    from pipeline.evaluate import Evaluation

TITLES = (
    f"{'metric':<24}{'mean':>10}   {'95 % of the mean':<22}{'median':>10}{'n':>7}{'mean, unseen pairs':>21}{'n':>7}"
)


def evaluate(
    corpus: CorpusArgument,
    truth: Annotated[
        list[str],
        typer.Option(
            help="What is known of the objects: a folder X.truth or its truth.json, local or URL; repeatable. With "
            "--protocol: the local folder of the set."
        ),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the summary to this file too.", dir_okay=False)
    ] = None,
    protocol: Annotated[
        Literal["sa3dao", "gso"] | None,
        typer.Option(help="Compare with a set of true meshes as its owners publish it, by their measures, after ICP."),
    ] = None,
    points: Annotated[
        int, typer.Option(min=2, help="Samples of each surface, with --protocol; SA-3DAO takes a million.")
    ] = 1_000_000,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Compare a corpus with the truth.

    Sums up the newest snapshot; the numbers of every object go to CORPUS/evaluation/.
    """
    with errors_as_one_line(), logs(verbose, log_file):
        if protocol is not None:
            return by_protocol(corpus, truth, protocol, points, json_file)
        import json
        from dataclasses import asdict

        from anything3d.errors import NoObject
        from pipeline.evaluate import evaluate as evaluate_corpus

        evaluation = evaluate_corpus(corpus, truth, say=lambda line: typer.echo(line, err=True))
        for line in lines(evaluation):
            print(line)
        if json_file:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(asdict(evaluation), indent=1) + "\n")
        if not evaluation.objects:
            raise NoObject("no_objects", f"snapshot {evaluation.snapshot} has no object to compare")


def by_protocol(
    corpus: str, folders: list[str], protocol: Literal["sa3dao", "gso"], points: int, json_file: Path | None
) -> None:
    """Print the means of the protocol's measures, and write all numbers to the file."""
    import json
    from dataclasses import asdict

    from anything3d.errors import ConfigError
    from pipeline.protocol import compare

    if len(folders) != 1:
        raise ConfigError("protocol_set", f"--protocol needs one --truth, the folder of the set; given: {folders}")
    found = compare(corpus, Path(folders[0]), protocol, points, say=lambda line: typer.echo(line, err=True))
    print(f"{'measure':<24}{'mean':>10}   {'95 % of the mean':<22}{'median':>10}{'n':>7}")
    for name, one in found.summary.items():
        spread = f"{one.low:.4f} .. {one.high:.4f}"
        print(f"{name:<24}{one.mean:>10.4f}   {spread:<22}{one.median:>10.4f}{one.n:>7}")
    print(
        f"snapshot {found.snapshot}: {len(found.objects)} objects compared, {found.others} others; "
        f"{len(found.missing)} of {found.true_meshes} true meshes have no object"
    )
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(asdict(found), indent=1) + "\n")


def lines(evaluation: "Evaluation") -> Iterator[str]:
    """One line a metric, then what the means are over."""
    from anything3d.quality.summary import METRICS

    yield TITLES
    for name in METRICS:
        one, unseen = evaluation.summary.get(name), evaluation.summary_unseen_pairs.get(name)
        spread = f"{one.low:.3f} .. {one.high:.3f}" if one else "-"
        yield (
            f"{name:<24}{_number(one.mean if one else None)}   {spread:<22}{_number(one.median if one else None)}"
            f"{one.n if one else 0:>7}{_number(unseen.mean if unseen else None):>21}{unseen.n if unseen else 0:>7}"
        )
    without = evaluation.without_truth
    yield f"snapshot {evaluation.snapshot}: {evaluation.objects} objects, {without} of them without truth"
    yield "95 % of the mean: bootstrap over objects; unseen pairs: shape and colour never trained on together"


def _number(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>10}"


if __name__ == "__main__":
    typer.run(evaluate)
