"""evaluate: the newest snapshot of a corpus compared with ground truth, one unit of objects at a time.

An object and its true object are paired by their masks, as in the score stage. If the score stage read exactly the
truth.json that is given, its numbers are used. Otherwise the numbers are computed here with the default settings. This
file does not use Ray. A function imports what needs torch when it is called, so that a wrong place costs no torch.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anything3d.errors import DamagedCell, NumericsError, SourceError
from anything3d.settings.score import ScoreConfig
from pipeline.commit import Commit
from pipeline.input import source
from pipeline.input.ids import image_of
from pipeline.location import explained
from pipeline.release.finished import read_objects, released_cells
from pipeline.release.partition import MEND
from pipeline.release.snapshot import Snapshot, snapshot_of
from pipeline.rows import RECONSTRUCTED, reconstruction
from pipeline.store import Store
from pipeline.truth import GivenTruth, Shown, find_truth, given_truth, read_target, truth_by_photo
from schemas.arrow import published_bytes, to_table
from schemas.corpus import ObjectRows
from schemas.records import EvaluationRecord, ScoreRecord

if TYPE_CHECKING:
    from anything3d.quality.accuracy import TruthScores
    from anything3d.quality.summary import Summary

SEED = 0  # of surface samples and bootstraps; a run's default


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A snapshot in numbers; `summary_unseen_pairs` is over the true objects that are marked as held out."""

    snapshot: int
    truth: tuple[str, ...]  # locations of the truth.json files
    objects: int
    without_truth: int
    summary: "dict[str, Summary]"  # by metric; without those that no object has
    summary_unseen_pairs: "dict[str, Summary]"


def evaluate(corpus: str, truths: Sequence[str], say: Callable[[str], None] = lambda line: None) -> Evaluation:
    """The numbers of every finished object, summed up; object by object they go to a table, `table_of`.

    `truths` are X.truth folders or truth.json files, local or URLs. An object that cannot be compared with its truth,
    as its mesh has no extent, is told to `say` and has no truth numbers.

    Raises: SourceError if the corpus, its snapshot or a truth is missing or broken, a photo is in two truths, or the
    truths fit no object; StorageError if one cannot be reached.
    """
    corpus = source.absolute(corpus)
    store, snapshot = snapshot_of(corpus)
    given = [given_truth(location) for location in truths]
    with explained(corpus):
        evaluation, rows = evaluate_snapshot(store, snapshot, given, say)
        write_evaluation(store, snapshot.number, rows)
    return evaluation


def evaluate_snapshot(
    store: Store, snapshot: Snapshot, given: Sequence[GivenTruth], say: Callable[[str], None]
) -> tuple[Evaluation, list[EvaluationRecord]]:
    """A snapshot in numbers, and those of every object. Raises: as `evaluate`."""
    by_photo = truth_by_photo(given)
    try:
        rows = list(evaluated_objects(store, snapshot, by_photo, say))
    except DamagedCell as error:
        raise SourceError("damaged_corpus", f"{error.message} {MEND}") from error
    without_truth = sum(row.unseen_pair is None for row in rows)
    if rows and without_truth == len(rows):
        raise SourceError(
            "truth_fits_nothing",
            f"None of the {len(rows)} objects of {store.root} is in {', '.join(known.path for known in given)}. "
            "Give the truth of the shards that the corpus was made from.",
        )
    evaluation = Evaluation(
        snapshot=snapshot.number,
        truth=tuple(known.path for known in given),
        objects=len(rows),
        without_truth=without_truth,
        summary=summarised(rows),
        summary_unseen_pairs=summarised([row for row in rows if row.unseen_pair]),
    )
    return evaluation, rows


def write_evaluation(store: Store, number: int, rows: Sequence[EvaluationRecord]) -> None:
    """Write the numbers of every object of the snapshot with this number."""
    store.write(table_of(number), published_bytes(to_table(rows, EvaluationRecord)))


def table_of(number: int) -> str:
    """Where the numbers of every object of a snapshot lie in its corpus."""
    return f"evaluation/{number:06d}.parquet"


def evaluated_objects(
    store: Store, snapshot: Snapshot, by_photo: Mapping[str, GivenTruth], say: Callable[[str], None]
) -> Iterator[EvaluationRecord]:
    """The rows of all finished objects, cell by cell."""
    done = 0
    for commits in released_cells(store, list(snapshot.partitions.values())):
        ids = store.read_column(commits["score"].rows, "object_id")
        if not ids:  # all were rejected on the way; stages behind worked on nothing
            continue
        seconds = seconds_per_object(commits)
        truths = {known.digest for item in ids if (known := by_photo.get(image_of(item)))}
        heavy = () if truths <= {commits["score"].inputs["truth"]} else RECONSTRUCTED  # else the numbers are there
        for rows in read_objects(store, commits, ids, heavy):
            known = by_photo.get(rows.segment.image_id)
            shown = find_truth(rows.segment, known.says) if known else None
            numbers = truth_numbers(rows, commits["score"], shown, known, say) if shown and known else None
            yield evaluated(rows, shown, numbers, seconds)
            done += 1
        say(f"{done} of {snapshot.objects} objects")


def seconds_per_object(commits: Mapping[str, Commit]) -> float:
    """Of all cells; a cell's seconds are shared by the objects it worked on, segment's by those it made."""
    return sum(
        commit.seconds / commit.counts["rows" if stage == "segment" else "inputs"] for stage, commit in commits.items()
    )


def truth_numbers(
    rows: ObjectRows, cell: Commit, shown: Shown, known: GivenTruth, say: Callable[[str], None]
) -> "ScoreRecord | TruthScores | None":
    """The score row, if its cell read the same truth; else the same numbers anew; None if there can be none."""
    if cell.inputs["truth"] == known.digest:
        return rows.score
    from anything3d.quality.accuracy import against_truth
    from anything3d.seed import generators
    from pipeline.stages.score import ScoreStage

    made = reconstruction(rows.segment, rows.reconstruct, rows.mesh, rows.lift)
    target = read_target(shown, known.path)
    try:
        generator = generators(SEED, ScoreStage.name, [rows.object_id])[0]
        return against_truth(made, target, ScoreConfig(), generator)
    except NumericsError as error:
        say(f"{rows.object_id} cannot be compared with its truth: {error}")
        return None


def evaluated(
    rows: ObjectRows, shown: Shown | None, numbers: "ScoreRecord | TruthScores | None", seconds: float
) -> EvaluationRecord:
    """The row of one object."""
    from anything3d.quality import summary as measures

    caption, concept = rows.caption.caption if rows.caption else None, rows.invert
    azimuth_error = numbers.azimuth_error_deg if numbers else None
    return EvaluationRecord(
        object_id=rows.object_id,
        caption=caption,
        truth_caption=shown.item.caption if shown else None,
        unseen_pair=shown.item.held_out if shown else None,
        mask_iou=shown.mask_iou if shown else None,
        caption_shape_accuracy=named(caption, shown.item.shape, shown.vocabulary.shapes) if shown else None,
        caption_color_accuracy=named(caption, shown.item.color, shown.vocabulary.colors) if shown else None,
        inversion_gain=measures.inversion_gain(concept.loss_before, concept.loss_after) if concept else None,
        inversion_improved=float(concept.loss_after < concept.loss_before) if concept else None,
        lift_chamfer=numbers.lift_chamfer if numbers else None,
        azimuth_error_deg=azimuth_error,
        azimuth_within_20deg=measures.within(azimuth_error, measures.AZIMUTH_WITHIN_DEG),
        reference_psnr_db=rows.score.reference_psnr_db,
        mesh_psnr_db=rows.score.mesh_psnr_db,
        novel_psnr_db=numbers.novel_psnr_db if numbers else None,
        novel_mask_iou=numbers.novel_mask_iou if numbers else None,
        mesh_novel_psnr_db=numbers.mesh_novel_psnr_db if numbers else None,
        mesh_novel_mask_iou=numbers.mesh_novel_mask_iou if numbers else None,
        chamfer=numbers.chamfer if numbers else None,
        fscore_5pct=numbers.fscore_5pct if numbers else None,
        normal_consistency=numbers.normal_consistency if numbers else None,
        volume_iou=numbers.volume_iou if numbers else None,
        sa3dao_chamfer=numbers.sa3dao_chamfer if numbers else None,
        sa3dao_f1=numbers.sa3dao_f1 if numbers else None,
        seconds_per_object=seconds,
    )


def named(caption: str | None, true: str, vocabulary: Collection[str]) -> float | None:
    """As `caption_accuracy`; None, too, if there is no caption, or the truth does not say what else it could say."""
    from anything3d.quality import summary as measures

    return measures.caption_accuracy(caption, true, vocabulary) if caption is not None and vocabulary else None


def summarised(rows: Sequence[EvaluationRecord]) -> "dict[str, Summary]":
    """Each metric over these objects."""
    from anything3d.quality import summary as measures

    return measures.summaries([{name: getattr(row, name) for name in measures.METRICS} for row in rows], SEED)
