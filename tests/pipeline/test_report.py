"""The report on a corpus: its numbers are those of the Parquet files, and its page is sound whatever a caption says."""

import hashlib
import io
import json
import shutil
from base64 import b64encode
from collections import Counter
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from tomllib import loads

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from anything3d.errors import SourceError
from anything3d.photo.sheet import CELL_PX, cut, sheet, turns
from jobs.cli import app
from pipeline.commit import Part
from pipeline.release.columns import read_columns, read_extents
from pipeline.release.corpus import drop
from pipeline.release.partition import DUPLICATE, Partition, Photos, Rejected, Tally
from pipeline.release.snapshot import MadeBy, Snapshot
from pipeline.report.page import ASSETS, numbers, page, report_of
from pipeline.report.yields import steps
from pipeline.store import Store
from schemas.arrow import published_bytes
from tests import s3
from tests.pipeline.release.galleries import COLORS, HOSTILE, color_of, make, number_of, psnr_of

ROOT = Path(__file__).parents[2]
PRICES = {"gpu_hour": 2.0, "cpu_hour": 0.5, "currency": "EUR"}
SETTINGS = {"seed": 0, "price": PRICES, "resources": {"score": {"num_cpus": 3.0, "threads": 1}}}
KEPT = [number for number in range(10) if number % 5 != 4]  # mesh rejects every fifth object


class Page(HTMLParser):
    """The text of each tag that is closed, and all attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.attributes = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in ("img", "meta", "link"):
            self.open.append([tag, ""])

    def handle_data(self, data):
        if self.open:
            self.open[-1][1] += data

    def handle_endtag(self, tag):
        name, text = self.open.pop()
        assert name == tag
        self.texts.append((tag, text.strip()))

    def of(self, tag):
        return [text for name, text in self.texts if name == tag]


def called(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def rows(store, folder):
    return [row for path in store.paths(folder) for row in store.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Ten objects of two shards, of which two are rejected. For reading only."""
    store, _ = make(tmp_path_factory.mktemp("known"), 5, 3, every=5, made_by=MadeBy("run", "mini", SETTINGS))
    return store


@pytest.fixture(scope="module")
def reported(known):
    return report_of(known.root, None)


def test_all_counts_are_those_of_the_tables(known, reported):
    report, _ = reported
    objects, rejects = rows(known, "objects"), rows(known, "rejects")
    assert (report.objects, report.rejects, report.wanted) == (len(objects), len(rejects), 10) == (8, 2, 10)
    assert {(one.stage, one.kind, one.reason): one.count for one in report.causes} == Counter(
        (row["stage"], row["kind"], row["reason"]) for row in rejects
    )
    by_stage = {step.stage: step for step in report.steps}
    assert [(by_stage[name].items, by_stage[name].done, by_stage[name].kind) for name in ("index", "segment")] == [
        (5, 5, "photos"),
        (10, 10, "masks"),
    ]
    mesh, score = by_stage["mesh"], by_stage["score"]
    assert (mesh.items, mesh.done, mesh.failed, mesh.share) == (10, 8, 2, 0.8)
    assert (score.items, score.done) == (8, 8)
    assert report.funnel[0] == ("photos: index", 5)
    assert report.funnel[2:4] == [("objects: wanted", 10), ("objects: caption", 10)]
    assert report.funnel[-1] == ("objects: score", 8)


def test_distributions_and_ranks_are_those_of_the_tables(known, reported):
    report, _ = reported
    (psnr,) = [one for one in report.distributions if one.name == "mesh_psnr_db"]
    values = np.array([row["mesh_psnr_db"] for row in rows(known, "objects")])
    assert (psnr.count, psnr.least, psnr.most) == (8, values.min(), values.max())
    assert psnr.mean == pytest.approx(values.mean())
    assert list(psnr.bars) == list(np.histogram(values, 40)[0])
    step = (psnr.most - psnr.least) / 2000
    ordered = np.sort(values)
    assert [psnr.p10, psnr.median, psnr.p90] == pytest.approx(list(ordered[[0, 3, 7]]), abs=step)
    (iou,) = [one for one in report.distributions if one.name == "mesh_mask_iou"]
    assert (iou.least, iou.median, iou.most, list(iou.bars)) == (0.5, 0.5, 0.5, [8])
    assert "chamfer" not in [one.name for one in report.distributions]  # no object has it
    ranked = sorted(KEPT, key=psnr_of, reverse=True)
    assert [number_of(one.object_id) for one in report.best] == ranked[:4]
    assert [number_of(one.object_id) for one in report.worst] == ranked[:3:-1]
    assert [one.value for one in report.best] == [psnr_of(number) for number in ranked[:4]]


def test_of_a_shard_with_many_objects_the_best_and_the_worst_are_shown(tmp_path):
    store, _ = make(tmp_path, photos=15, per_shard=15)
    report, _ = report_of(store.root, None)
    ranked = sorted(range(30), key=psnr_of, reverse=True)
    assert [number_of(one.object_id) for one in report.best] == ranked[:8]
    assert [number_of(one.object_id) for one in report.worst] == ranked[:-9:-1]


def test_a_value_that_is_no_number_counts_nowhere(tmp_path):
    store = Store(str(tmp_path))
    table = pa.table({"a": [1.0, float("nan"), None, 3.0], "b": [float("inf"), 2.0, 4.0, float("nan")]})
    data = published_bytes(table)
    store.write("shards/s/objects-x.parquet", data)
    part = Part("shards/s/objects-x.parquet", len(data), hashlib.sha256(data).hexdigest(), 4)
    assert read_extents(store, part, ["a", "b", "c"]) == {"a": (1.0, 3.0), "b": (2.0, float("inf"))}
    from pipeline.report.distributions import _finite

    assert [_finite(table[name]).to_pylist() for name in ("a", "b")] == [[1.0, 3.0], [2.0, 4.0]]


def test_costs_are_those_of_the_settings_of_the_shards(reported):
    report, _ = reported
    by_stage = {step.stage: step for step in report.steps}
    score, mesh = by_stage["score"], by_stage["mesh"]
    assert score.costs == {"EUR": pytest.approx((2.0 * score.gpu_seconds + 0.5 * 3.0 * score.seconds) / 3600)}
    assert mesh.costs == {"EUR": pytest.approx((2.0 * mesh.gpu_seconds + 0.5 * 1.0 * mesh.seconds) / 3600)}
    assert report.costs == {"EUR": pytest.approx(sum(step.costs["EUR"] for step in report.steps))}


def test_photos_of_another_shard_are_no_yield_and_whole_inputs_stand_apart():
    nothing = Part("", 0, "", 0)
    index, segment = Tally(1, 1, 9, 1, 0, 0, 2.0, 0.0), Tally(3, 8, 20, 4, 1, 0, 6.0, 0.0)
    rejected = (
        Rejected("index", "skipped", DUPLICATE, 0, 2),
        Rejected("index", "skipped", "foreign_member", 0, 1),
        Rejected("segment", "failed", "image_truncated", 1, 0),
        Rejected("segment", "skipped", "too_small", 0, 4),
    )
    one = Partition("s", "", "", "", 20, 20, 8, "", (), {}, {"index": index, "segment": segment}, rejected,
                    Photos("", "", ""), {}, nothing, {}, ())  # fmt: skip
    first, second = steps(Snapshot(1, 0, "", MadeBy("run"), {"s": one}), {"index": {"EUR": 1.5}})
    assert (first.items, first.done, first.skipped, first.whole) == (10, 7, 3, 0)
    assert (first.seconds_per_input, first.costs) == (2.0, {"EUR": 1.5})
    assert (second.items, second.done, second.skipped, second.failed, second.whole) == (24, 20, 4, 0, 1)
    assert second.seconds_per_input == 6.0 / 8


def test_pictures_show_crop_and_mesh_and_the_crop_of_a_reject(reported):
    report, pictures = reported
    for one in [*report.best, *report.worst]:
        with Image.open(io.BytesIO(pictures[one.object_id])) as picture:
            assert picture.size == (2 * CELL_PX, CELL_PX)  # this turntable has one view
            for side in range(2):
                seen = picture.convert("RGB").getpixel((side * CELL_PX + CELL_PX // 2, CELL_PX // 2))
                assert near(seen, COLORS[color_of(number_of(one.object_id))])
    (cause,) = report.causes
    assert [number_of(one.item) for one in cause.examples] == [4, 9]
    for one in cause.examples:
        assert one.message == f"object {number_of(one.item)} has no surface <b>at all</b>"
        with Image.open(io.BytesIO(pictures[one.picture])) as picture:
            seen = picture.convert("RGB").getpixel((CELL_PX // 2, CELL_PX // 2))
        assert near(seen, COLORS[color_of(number_of(one.item))])


def near(seen, color):
    return max(abs(a - b) for a, b in zip(seen, color, strict=True)) < 16


def test_the_page_has_the_numbers_and_escapes_what_comes_from_outside(known, tmp_path):
    done = called(known.root, "--out", tmp_path / "new" / "page.html")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/new/page.html\n"), done.output
    html = (tmp_path / "new" / "page.html").read_text()
    shown = Page(html)
    assert HOSTILE in shown.of("p")
    assert sum("has no surface <b>at all</b>" in text for text in shown.of("p")) == 2
    scripts = [(name, value) for tag, name, value in shown.attributes if tag == "script"]
    assert scripts == [("type", "application/json"), ("id", "numbers")]
    charts, script = shown.of("script")  # no third one
    assert not [name for _, name, _ in shown.attributes if name.startswith("on")]
    sources = [value for _, name, value in shown.attributes if name in ("src", "href")]
    assert len(sources) == 8 + 2 + 1
    assert all(value.startswith("data:") for value in sources)
    (policy,) = [value for _, name, value in shown.attributes if name == "content" and value.startswith("default-src")]
    within = html.rpartition("<script>")[2].partition("</script>")[0]
    assert script == within.strip()
    assert f"'sha256-{b64encode(hashlib.sha256(within.encode()).digest()).decode()}'" in policy
    cells = shown.of("td")
    assert [cells[at + 1 : at + 5] for at, text in enumerate(cells) if text == "objects"][-2:] == [
        ["10", "8", "80.0 %", "0"],
        ["8", "8", "100.0 %", "0"],
    ]
    told = json.loads(called(known.root, "--json").stdout)
    assert {name: told[name] for name in ("funnel", "steps", "distributions")} == json.loads(charts)
    assert not Path("report.html").exists()


def test_json_is_the_same_numbers_and_holds_no_pictures(known, reported):
    report, _ = reported
    told = json.loads(called(known.root, "--json").stdout)
    assert told == json.loads(json.dumps(numbers(report)))
    assert told["causes"][0]["examples"][0].keys() == {"item", "shard", "message"}
    assert told["corpus"] == known.root


@pytest.fixture(scope="module")
def shrunk(known, tmp_path_factory):
    """The same corpus after its second shard was taken out."""
    root = tmp_path_factory.mktemp("shrunk") / "corpus"
    shutil.copytree(known.root, root)
    drop(str(root), ["sa_0000003"])
    return str(root)


def test_changes_are_those_since_the_snapshot_that_is_named_or_the_one_before(shrunk):
    for against in (None, 1):
        report, _ = report_of(shrunk, against)
        found = report.changes.objects
        assert (report.snapshot, found.before, report.objects) == (2, 1, 5)
        assert (found.added, found.gone, found.changed, found.same, found.shards_gone) == (0, 3, 0, 5, 1)
        assert found.scores["mesh_psnr_db"].before == pytest.approx(np.mean([psnr_of(number) for number in KEPT]))
        assert found.scores["mesh_psnr_db"].after == pytest.approx(np.mean([psnr_of(number) for number in KEPT[:5]]))
        assert [(one.count, one.before) for one in report.causes] == [(1, 2)]
    assert "(before: 2)" in page(*report_of(shrunk, 1)).decode()
    assert report_of(shrunk, 2)[0].changes.objects.same == 5
    assert called(shrunk, "--against", 2, "--json").exit_code == 0
    done = called(shrunk, "--against", 7)
    assert done.exit_code == 2
    assert f"no_snapshot: {shrunk} has no snapshot 7" in done.stderr


def test_without_an_earlier_snapshot_nothing_is_compared(reported):
    report, pictures = reported
    assert report.changes is None
    assert "There is no earlier snapshot" in page(report, pictures).decode()


def test_a_corpus_without_objects_has_a_page(tmp_path):
    store, _ = make(tmp_path, photos=2, per_shard=2, every=1)
    report, pictures = report_of(store.root, None)
    assert (report.objects, report.rejects, report.distributions, report.best, report.worst) == (0, 4, [], [], [])
    assert report.ranked_by is None
    html = page(report, pictures).decode()
    assert "This snapshot has no object." in html
    assert "No object has a number." in html
    assert len(report.causes[0].examples) == 4


def test_where_no_corpus_is_there_is_no_page(tmp_path):
    done = called(tmp_path / "nothing", "--out", tmp_path / "page.html")
    assert done.exit_code == 2
    assert done.stderr.startswith("anything3d: no_snapshot: ")
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_have_gone_are_left_out_and_said(known, tmp_path, caplog):
    shutil.copytree(known.root, tmp_path / "corpus")
    store = Store(str(tmp_path / "corpus"))
    gone, *_ = [path for path in store.paths("assets") if path.endswith(".tar")]
    store.delete([gone, *(path for path in store.paths("gallery") if path.endswith(".webp"))])
    report, pictures = report_of(store.root, None)
    assert 0 < len([one for one in [*report.best, *report.worst] if one.object_id in pictures]) < 8
    assert [one.picture for one in report.causes[0].examples] == ["", ""]
    assert f"{gone}: there is no picture of sa_0-0000" in caplog.text
    assert page(report, pictures).count(b"<img ") == len(pictures)


def test_a_corpus_in_a_bucket_has_the_same_report(known, reported):
    with s3.serve() as bucket:
        remote = Store("s3://b/corpus")
        for path in known.paths(""):
            if not path.startswith("cells/"):
                remote.write(path, known.read(path))
        done = called("s3://b/corpus", "--out", "s3://b/reports/page.html", "--json")
        assert {**json.loads(done.stdout), "corpus": known.root} == json.loads(json.dumps(numbers(reported[0])))
        assert HOSTILE in Page(bucket.objects["reports/page.html"].decode()).of("p")
        assert not [path for _, path, _ in bucket.asked if "/cells/" in path]


def test_of_a_large_table_only_the_named_columns_are_read_and_damage_is_found():
    texts = ["".join(hashlib.sha256(b"%d %d" % (n, k)).hexdigest() for k in range(4)) for n in range(10_000)]
    data = published_bytes(pa.table({"text": texts, "score": [float(n) for n in range(10_000)]}))
    part = Part("shards/s/objects-x.parquet", len(data), hashlib.sha256(data).hexdigest(), 10_000)
    with s3.serve() as bucket:
        store = Store("s3://b/corpus")
        store.write(part.path, data)
        assert read_columns(store, part, ["score", "other"]).to_pydict() == {"score": [float(n) for n in range(10_000)]}
        assert read_extents(store, part, ["score"]) == {"score": (0.0, 9999.0)}
        assert bucket.sent < len(data) / 2
        store.write(part.path, data[:-9] + bytes([data[-9] ^ 255]) + data[-8:])  # the end of its footer
        with pytest.raises(SourceError, match="damaged_corpus"):
            read_columns(store, part, ["score"])
        store.write(part.path, data[:1000] + bytes([data[1000] ^ 255]) + data[1001:])  # a page of the first column
        with pytest.raises(SourceError, match="damaged_corpus"):
            read_columns(store, part, ["text"])


def test_pictures_are_cut_out_of_a_sheet_and_a_turntable():
    colors = [
        (200, 0, 0),
        (0, 200, 0),
        (0, 0, 200),
        (200, 200, 0),
        (0, 200, 200),
        (200, 0, 200),
        (9, 9, 9),
        (99, 99, 99),
    ]
    pictures = [Image.new("RGB", (CELL_PX, CELL_PX), color) for color in colors]
    whole = sheet(pictures, 4)
    assert all(near(cut(whole, at, 4).getpixel((64, 64)), color) for at, color in enumerate(colors))
    out = io.BytesIO()
    pictures[0].save(out, "WEBP", save_all=True, append_images=pictures[1:], lossless=True)
    seen = [picture.getpixel((64, 64)) for picture in turns(out.getvalue(), 3)]
    assert seen == [colors[0], colors[2], colors[5]]
    assert len(turns(out.getvalue(), 99)) == 8


def test_the_bundle_is_the_one_that_the_docs_name_and_a_wheel_has_it():
    bundle = (ASSETS / "plot.js").read_bytes()
    assert hashlib.sha256(bundle).hexdigest() in (ROOT / "docs" / "report.md").read_text()
    assert bundle.startswith(b"/*\nObservable Plot 0.6.17 and what it needs of D3, ISC licence.")
    assert b"</script" not in bundle
    assert b"<!--" not in bundle
    patterns = loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline.report"]
    assert all(any(fnmatch(f"assets/{path.name}", one) for one in patterns) for path in ASSETS.iterdir())
