"""evaluate: the newest snapshot of a corpus against ground truth, one unit of objects at a time. No Ray in here.

An object and its true object are paired by their masks, as the score stage does it. Where that stage has read the very
truth.json that is given, its numbers are taken; else they are computed here with the default settings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anything3d.errors import DamagedCell, NumericsError, SourceError
from anything3d.mini.words import COLORS, SHAPES
from anything3d.quality import summary as measures
from anything3d.quality import truth
from anything3d.quality.metrics import Summary
from anything3d.score import ScoreConfig, TruthScores, against_truth
from anything3d.seed import generators
from pipeline import source
from pipeline.commit import Commit, unsealed
from pipeline.location import explained
from pipeline.release.snapshot import joined
from pipeline.stages.score import ScoreStage, reconstruction
from pipeline.store import Store
from pipeline.truth import Shown, find_truth, read_target
from pipeline.truth import read_truth as read_digested_truth
from schemas.arrow import parquet_bytes, to_table
from schemas.corpus import OBJECT_RECORDS
from schemas.records import EvaluationRecord, ScoreRecord

SEED = 0  # of surface samples and bootstraps; a run's default


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A snapshot in numbers; `summary_unseen_pairs` is over the true objects that are marked as held out."""

    snapshot: str
    truth: tuple[str, ...]  # locations of the truth.json files
    objects: int
    without_truth: int
    summary: dict[str, Summary]  # by metric; without those that no object has
    summary_unseen_pairs: dict[str, Summary]


@dataclass(frozen=True, slots=True)
class GivenTruth:
    """One truth.json."""

    path: str  # absolute or a URL
    digest: str
    says: truth.Truth


def evaluate(corpus: str, truths: Sequence[str], say: Callable[[str], None] = print) -> Evaluation:
    """The numbers of every finished object, summed up; object by object they go to evaluation/<snapshot>.parquet.

    `truths` are X.truth folders or truth.json files, local or URLs. An object that cannot be compared with its truth,
    as its mesh has no extent, is told to `say` and has no truth numbers.

    Raises: SourceError if the corpus, its snapshot or a truth is missing or broken, a photo is in two truths, or the
    truths fit no object; StorageError if one cannot be reached.
    """
    corpus = source.absolute(corpus)
    body = newest_snapshot(corpus)
    given = [read_truth(location) for location in truths]
    by_photo = truth_by_photo(given)
    with explained(corpus):
        try:
            rows = list(evaluated_objects(Store(corpus), body, by_photo, say))
        except DamagedCell as error:
            raise SourceError("damaged_corpus", f"{error.message}; give the command of the run again") from error
        without_truth = sum(row.unseen_pair is None for row in rows)
        if rows and without_truth == len(rows):
            raise SourceError(
                "truth_fits_nothing",
                f"none of the {len(rows)} objects of {corpus} is in {', '.join(known.path for known in given)}; "
                "give the truth of the shards that it was made from",
            )
        Store(corpus).write(f"evaluation/{body['id']}.parquet", parquet_bytes(to_table(rows, EvaluationRecord)))
    return Evaluation(
        snapshot=body["id"],
        truth=tuple(known.path for known in given),
        objects=len(rows),
        without_truth=without_truth,
        summary=summarised(rows),
        summary_unseen_pairs=summarised([row for row in rows if row.unseen_pair]),
    )


def evaluated_objects(
    store: Store, body: Mapping[str, Any], by_photo: Mapping[str, GivenTruth], say: Callable[[str], None]
) -> Iterator[EvaluationRecord]:
    """The rows of all finished objects, cell by cell."""
    done = 0
    for commits in released_cells(store, body):
        ids = store.read_column(commits["score"].rows, "object_id")
        if not ids:  # all were rejected on the way; stages behind worked on nothing
            continue
        seconds = seconds_per_object(commits)
        for records in joined(store, commits, ids):
            known = by_photo.get(records["segment"].image_id)
            found = find_truth(records["segment"], known.says) if known else None
            numbers = truth_numbers(records, commits["score"], found, known, say) if found and known else None
            yield evaluated(records, found, numbers, seconds)
            done += 1
        say(f"{done} of {body['objects']} objects")


def newest_snapshot(corpus: str) -> dict[str, Any]:
    """What snapshot.json says."""
    path = f"{corpus.rstrip('/')}/snapshot.json"
    with explained(corpus):
        try:
            return unsealed(source.read(path))
        except FileNotFoundError as error:
            raise SourceError("no_snapshot", f"no {path}; give the --out of a finished `anything3d run`") from error
        except ValueError as error:
            raise SourceError(
                "no_snapshot",
                f"{path} is damaged or of an earlier version ({error}); give the command of the run again",
            ) from error


def read_truth(location: str) -> GivenTruth:
    """The truth in a folder, or of a truth.json."""
    path = location if location.endswith(".json") else f"{location.rstrip('/')}/truth.json"
    path = source.absolute(path)
    with explained(path):
        try:
            found = source.content_digest(path)
            return GivenTruth(path, found, read_digested_truth(path, found))
        except FileNotFoundError as error:
            raise SourceError("no_truth", f"no {path}; give a folder X.truth or a truth.json") from error


def truth_by_photo(given: Sequence[GivenTruth]) -> dict[str, GivenTruth]:
    """Which truth knows a photo, by the photo's id."""
    by_photo: dict[str, GivenTruth] = {}
    for known in given:
        for image_id in known.says.images:
            if (other := by_photo.setdefault(image_id, known)) is not known:
                raise SourceError("truth_twice", f"{image_id} is in {other.path} and in {known.path}; give one of them")
    return by_photo


def released_cells(store: Store, body: Mapping[str, Any]) -> Iterator[dict[str, Commit]]:
    """Stage -> commit of the cell, for every unit of objects of the snapshot, in order of the units' names."""
    folders = {(stage, unit): folder for stage, unit, _, folder in body["commits"]}
    segments = {digest: folder for stage, _, digest, folder in body["commits"] if stage == "segment"}
    for unit in [unit for stage, unit in folders if stage == "score"]:
        later = {stage: _commit(store, folders[stage, unit]) for stage in OBJECT_RECORDS if stage != "segment"}
        yield {"segment": _commit(store, segments[later["score"].inputs["segment"]]), **later}


def _commit(store: Store, folder: str) -> Commit:
    commit = store.commit_at(folder)
    if commit is None:
        raise SourceError("no_commit", f"{store.root}/{folder}/commit.json has gone; was the corpus cleaned?")
    return commit


def seconds_per_object(commits: Mapping[str, Commit]) -> float:
    """Of all cells; a cell's seconds are shared by the objects it worked on, segment's by those it made."""
    return sum(
        commit.seconds / commit.counts["rows" if stage == "segment" else "inputs"] for stage, commit in commits.items()
    )


def truth_numbers(
    records: Mapping[str, Any], cell: Commit, found: Shown, known: GivenTruth, say: Callable[[str], None]
) -> ScoreRecord | TruthScores | None:
    """The score row, if its cell read the same truth; else the same numbers anew; None if there can be none."""
    if cell.inputs["truth"] == known.digest:
        return records["score"]
    item = (records["segment"], records["lift"], records["reconstruct"], records["mesh"])
    object_id = records["segment"].object_id
    target = read_target(found, known.path)
    try:
        generator = generators(SEED, ScoreStage.name, [object_id])[0]
        return against_truth(reconstruction(item), target, ScoreConfig(), generator)
    except NumericsError as error:
        say(f"{object_id} cannot be compared with its truth: {error}")
        return None


def evaluated(
    records: Mapping[str, Any], found: Shown | None, numbers: ScoreRecord | TruthScores | None, seconds: float
) -> EvaluationRecord:
    """The row of one object."""
    caption, concept = records["caption"].caption, records["invert"]
    azimuth_error = numbers.azimuth_error_deg if numbers else None
    return EvaluationRecord(
        object_id=records["segment"].object_id,
        caption=caption,
        truth_caption=found.item.caption if found else None,
        unseen_pair=found.item.held_out if found else None,
        mask_iou=found.mask_iou if found else None,
        caption_shape_accuracy=measures.caption_accuracy(caption, found.item.shape, SHAPES) if found else None,
        caption_color_accuracy=measures.caption_accuracy(caption, found.item.color, COLORS) if found else None,
        inversion_gain=measures.inversion_gain(concept.loss_before, concept.loss_after),
        inversion_improved=float(concept.loss_after < concept.loss_before),
        lift_chamfer=numbers.lift_chamfer if numbers else None,
        azimuth_error_deg=azimuth_error,
        azimuth_within_20deg=measures.within(azimuth_error, measures.AZIMUTH_WITHIN_DEG),
        reference_psnr_db=records["score"].reference_psnr_db,
        novel_psnr_db=numbers.novel_psnr_db if numbers else None,
        novel_mask_iou=numbers.novel_mask_iou if numbers else None,
        chamfer=numbers.chamfer if numbers else None,
        fscore_5pct=numbers.fscore_5pct if numbers else None,
        seconds_per_object=seconds,
    )


def summarised(rows: Sequence[EvaluationRecord]) -> dict[str, Summary]:
    return measures.summaries([{name: getattr(row, name) for name in measures.METRICS} for row in rows], SEED)
