"""evaluate on a corpus of real cells whose objects are the truth itself, so that every number is known beforehand."""

import json
import shutil
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from anything3d.errors import SourceError
from anything3d.quality.summary import METRICS
from anything3d.space.cloud import Cloud, to_ply
from jobs.cli import app
from pipeline.evaluate import evaluate
from pipeline.input.source import content_digest
from pipeline.truth import read_truth
from tests.pipeline.conftest import WRONG_AZIMUTH_DEG, name_files, quiet

TRUTH_NUMBERS = (
    "lift_chamfer",
    "azimuth_error_deg",
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
)


@pytest.fixture(scope="module")
def same_truth(world):
    """The evaluation against the truth that the score stage has read, and its table."""
    found = evaluate(str(world.corpus), [str(world.truth)], quiet)
    return found, table(world)


def another(world, folder):
    """A copy of the truth whose truth.json says the same in other bytes."""
    copy = shutil.copytree(world.truth, folder / "copy.truth")
    (copy / "truth.json").write_text(json.dumps(json.loads((copy / "truth.json").read_bytes()), indent=1))
    return copy


def table(world) -> dict[str, dict]:
    rows = pq.read_table(world.corpus / "evaluation" / "000001.parquet").to_pylist()
    return {row["object_id"]: row for row in rows}


def test_every_finished_object_has_a_row_and_strangers_have_no_truth(world, same_truth):
    found, rows = same_truth
    assert sorted(rows) == sorted([*world.known, world.stranger])
    assert (found.snapshot, found.objects, found.without_truth) == (1, 4, 1)
    assert found.truth == (str(world.truth / "truth.json"),)
    stranger = rows[world.stranger]
    null = {name for name, value in stranger.items() if value is None}
    assert null == {"truth_caption", "unseen_pair", "mask_iou", "caption_shape_accuracy", "caption_color_accuracy",
                    "azimuth_within_20deg", *TRUTH_NUMBERS}  # fmt: skip
    assert [rows[item]["truth_caption"] for item in world.known] == [world.items[item].caption for item in world.known]


def test_a_cell_whose_objects_were_all_rejected_adds_none(world, same_truth):
    found, rows = same_truth
    assert world.commits["score"][-1].counts == {**world.commits["score"][-1].counts, "inputs": 0, "rows": 0}
    assert world.fog not in rows
    assert found.objects == 4


def test_the_numbers_are_those_of_objects_that_are_the_truth_with_one_camera_wrong(world, same_truth):
    _, rows = same_truth
    for item in world.known:
        row, wrong = rows[item], WRONG_AZIMUTH_DEG if item == world.known[1] else 0.0
        assert row["mask_iou"] == 1
        assert (row["caption_shape_accuracy"], row["caption_color_accuracy"]) == (0, 1)
        assert row["inversion_gain"] == pytest.approx(0.2)
        assert row["inversion_improved"] == 1
        assert row["azimuth_error_deg"] == pytest.approx(wrong, abs=1e-3)
        assert row["azimuth_within_20deg"] == (wrong == 0)
        if wrong == 0:
            assert row["lift_chamfer"] < 0.02  # two draws of 4096 from the same 8192 points
            assert row["fscore_5pct"] > 0.9
            assert row["novel_mask_iou"] > 0.8
    assert rows[world.stranger]["inversion_gain"] == pytest.approx(-0.2)
    assert rows[world.stranger]["inversion_improved"] == 0


def test_the_summary_is_the_mean_over_those_that_have_the_number(world, same_truth):
    found, rows = same_truth
    for name in METRICS:
        values = [row[name] for row in rows.values() if row[name] is not None]
        unseen = [row[name] for row in rows.values() if row["unseen_pair"] and row[name] is not None]
        assert found.summary[name].n == len(values) == (4 if rows[world.stranger][name] is not None else 3)
        assert found.summary[name].mean == pytest.approx(sum(values) / len(values))
        assert found.summary_unseen_pairs[name].n == len(unseen) > 0
        assert found.summary_unseen_pairs[name].mean == pytest.approx(sum(unseen) / len(unseen))
    assert found.summary["azimuth_error_deg"].mean == pytest.approx(10, abs=1e-3)  # 30 of one of three
    assert found.summary["azimuth_within_20deg"].mean == pytest.approx(2 / 3)
    assert found.summary["inversion_gain"].mean == pytest.approx(0.1)  # three times 0.2, once -0.2
    assert found.summary["inversion_improved"].mean == 0.75


def test_seconds_are_the_cells_shared_by_their_objects(world, same_truth):
    _, rows = same_truth
    (segment,) = world.commits["segment"]
    for place, some in enumerate([world.known[:2], [world.known[2], world.stranger]]):
        later = [world.commits[name][place] for name in ("caption", "invert", "lift", "reconstruct", "mesh", "score")]
        seconds = segment.seconds / segment.counts["rows"] + sum(commit.seconds for commit in later) / 2
        assert [rows[item]["seconds_per_object"] for item in some] == [pytest.approx(seconds)] * 2


def test_numbers_of_another_truth_file_are_computed_anew_and_the_same(world, same_truth, tmp_path):
    copy = another(world, tmp_path)
    found = evaluate(str(world.corpus), [str(copy / "truth.json")], quiet)
    assert found.truth == (str(copy / "truth.json"),)
    assert found.without_truth == 1
    before = same_truth[1]
    for item, row in table(world).items():
        assert row == {
            name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            for name, value in before[item].items()
        }


def test_only_numbers_that_are_computed_anew_need_the_true_surfaces(world, same_truth, tmp_path):
    copy = another(world, tmp_path)
    shutil.rmtree(copy / "points")
    with pytest.raises(SourceError, match=r"bad_truth.*points/.*is missing"):
        evaluate(str(world.corpus), [str(copy)], quiet)
    (world.truth / "points").rename(world.truth / "elsewhere")
    again = evaluate(str(world.corpus), [f"{world.truth}/"], quiet)
    (world.truth / "elsewhere").rename(world.truth / "points")
    assert again == same_truth[0]


def test_a_truth_that_is_written_again_while_a_run_goes_on_is_refused(world, tmp_path):
    path = another(world, tmp_path) / "truth.json"
    digest = content_digest(str(path))
    path.write_bytes((world.truth / "truth.json").read_bytes())
    with pytest.raises(SourceError, match=f"truth_changed: {path}"):
        read_truth(str(path), digest)
    assert read_truth(str(path), content_digest(str(path))).shard == world.shard.name


def test_several_truths_know_each_their_photos_and_none_knows_a_photo_twice(world, tmp_path):
    """The photos shared out over two files: the same objects are known."""
    whole = json.loads((world.truth / "truth.json").read_bytes())
    halves = []
    for number, names in enumerate((sorted(whole["images"])[:1], sorted(whole["images"])[1:])):
        half = shutil.copytree(world.truth, tmp_path / f"{number}.truth")
        body = {**whole, "images": {name: whole["images"][name] for name in names}}
        (half / "truth.json").write_text(json.dumps(body))
        halves.append(str(half))
    assert evaluate(str(world.corpus), halves, quiet).without_truth == 1
    with pytest.raises(SourceError, match="truth_twice"):
        evaluate(str(world.corpus), [*halves, str(world.truth)], quiet)


def test_a_truth_that_fits_no_object_is_refused_and_nothing_is_written(world, same_truth, tmp_path):
    other = json.loads((world.truth / "truth.json").read_bytes()) | {"images": {}}
    (tmp_path / "truth.json").write_text(json.dumps(other))
    before = table(world)
    done = CliRunner().invoke(app, ["evaluate", str(world.corpus), "--truth", str(tmp_path)])
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert "truth_fits_nothing: None of the 4 objects" in last
    assert f"{tmp_path}/truth.json" in last
    assert table(world) == before


def test_an_object_that_cannot_be_compared_is_told_and_the_others_are_not_lost(world, tmp_path):
    """Its true surface has no extent."""
    copy = another(world, tmp_path)
    point = Cloud(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3))
    (copy / world.items[world.known[0]].surface).write_bytes(to_ply(point))
    with pytest.raises(SourceError, match=rf"bad_truth: {copy}/truth\.json: points/.* is not the file"):
        evaluate(str(world.corpus), [str(copy)], quiet)
    name_files(copy)
    told: list[str] = []
    found = evaluate(str(world.corpus), [str(copy)], told.append)
    assert any(line.startswith(world.known[0]) and "points_without_extent" in line for line in told)
    assert (found.summary["chamfer"].n, found.summary["mask_iou"].n, found.without_truth) == (2, 3, 1)


def test_a_corpus_without_its_cells_is_refused(world, tmp_path):
    for folder in ("snapshots", "shards"):
        shutil.copytree(world.corpus / folder, tmp_path / folder)
    with pytest.raises(SourceError, match=r"damaged_corpus: .*cells/.*commit\.json has gone"):
        evaluate(str(tmp_path), [str(world.truth)], quiet)


def test_the_command_prints_and_writes_the_summary(world, same_truth, tmp_path):
    path = tmp_path / "new" / "summary.json"
    done = CliRunner().invoke(app, ["evaluate", str(world.corpus), "--truth", str(world.truth), "--json", str(path)])
    assert done.exit_code == 0, done.output
    written, found = json.loads(path.read_text()), same_truth[0]
    assert set(written) == {"snapshot", "truth", "objects", "without_truth", "summary", "summary_unseen_pairs"}
    assert written["truth"] == [str(world.truth / "truth.json")]
    assert written["summary"]["inversion_gain"] == asdict(found.summary["inversion_gain"])
    assert list(written["summary"]) == list(METRICS)
    lines = done.stdout.splitlines()
    gain = next(line.split() for line in lines if line.startswith("inversion_gain"))
    assert (gain[1], gain[5], gain[6]) == ("0.100", "0.200", "4")
    assert "4 objects, 1 of them without truth" in done.stdout


class Forbidding(BaseHTTPRequestHandler):
    """An S3 that lets nobody in."""

    def do_GET(self):
        self.send_error(403)

    do_HEAD = do_PUT = do_GET  # noqa: N815

    def log_message(self, format, *args):
        pass


def test_storage_that_refuses_is_one_line(world, monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Forbidding)
    Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for corpus, known in (("s3://closed/corpus", world.truth), (world.corpus, "s3://closed/world.truth")):
        done = CliRunner().invoke(app, ["evaluate", str(corpus), "--truth", str(known)])
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1
        assert "anything3d: storage: s3://closed/" in done.stderr
        assert "credentials" in done.stderr
    server.shutdown()
    server.server_close()


def test_inside_a_ray_job_relative_paths_are_refused(world, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for corpus, known in (("corpus", str(world.truth)), (str(world.corpus), "world.truth")):
        done = CliRunner().invoke(app, ["evaluate", corpus, "--truth", known])
        assert done.exit_code == 2
        assert "relative_path" in done.stderr


@pytest.mark.parametrize(
    ("corpus", "known", "says"),
    [
        ("nowhere", "world.truth", "no_snapshot"),
        ("empty", "world.truth", "no_snapshot"),
        ("corpus", "nowhere.truth", "no_truth"),
        ("corpus", "world.tar", "no_truth"),
        ("corpus", "broken.json", "bad_truth"),
    ],
)
def test_what_is_missing_or_broken_ends_in_one_line(world, corpus, known, says):
    folder = world.corpus.parent
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "broken.json").write_text("{")
    done = CliRunner().invoke(app, ["evaluate", str(folder / corpus), "--truth", str(folder / known)])
    assert done.exit_code == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "nowhere").exists()
    assert not (folder / "nowhere.truth").exists()


def test_a_damaged_part_is_one_line_and_the_run_computes_it_again(world, tmp_path):
    corpus = shutil.copytree(world.corpus, tmp_path / "corpus")
    part = world.commits["score"][0].rows.path
    (corpus / part).write_bytes((corpus / part).read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"damaged_corpus: .* has to be computed again\. Give `anything3d verify`"):
        evaluate(str(corpus), [str(world.truth)], say=lambda line: None)
    assert world.store.commit_at(part.rpartition("/")[0]) is not None
    assert type(world.store)(str(corpus)).commit_at(part.rpartition("/")[0]) is None
