"""Two snapshots side by side: real pages of a real server on loopback, of corpora whose numbers are known."""

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from anything3d.errors import ConfigError, SourceError
from pipeline.release import against as module
from pipeline.release.against import Against, Asked, asked_for
from pipeline.release.corpus import Corpus, drop
from pipeline.release.gallery.data import script, unscript, write
from pipeline.release.serve import Server
from tests.pipeline.release.galleries import HOSTILE, MADE_BY, make, number_of, psnr_of
from tests.pipeline.release.test_serve import ask

SCORE = "mesh_psnr_db"
CHANGES = {"sa_0-0000": -3.0, "sa_1-0000": 2.0, "sa_1-0001": None}  # of the score; None: it has none any more


def changed(store, partition):
    """The partition with other numbers, without its second object, and with one more."""
    listed = unscript(store.read(partition.gallery["objects"].path))
    for name, change in CHANGES.items():
        place = listed["ids"].index(name)
        value = listed["numbers"][SCORE][place]
        listed["numbers"][SCORE][place] = None if change is None else value + change
    assert listed["ids"][1] == "sa_0-0001"
    listed["ids"][1] = "sa_9-0000"
    part = write(store, f"shards/{partition.shard}", "gallery", "js", script(listed), len(listed["ids"]))
    return replace(partition, gallery={**partition.gallery, "objects": part}, digest="another")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Three shards of two photos and four objects. Then: one changes, one goes, and one stays."""
    store, before = make(tmp_path_factory.mktemp("both"), photos=6, per_shard=2)
    first, second, third = before.partitions.values()
    Corpus(store).publish(MADE_BY, {first.shard: changed(store, first)})
    drop(store.root, [third.shard])
    with served(store.root, before.number) as server:
        yield store, before, (first.shard, second.shard, third.shard), server


@contextmanager
def served(root, number):
    server = Server(root, 0, number)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def shown(server, query=""):
    """The objects of a page, in order, and its text."""
    status, _, body = ask(server, f"/against{query}")
    assert status == 200
    return re.findall(r'<li id="([^"]+)"', body.decode()), body.decode()


def test_objects_are_matched_by_id_and_counted_by_what_has_happened(both):
    *_, server = both
    ids, text = shown(server)
    assert ids == ["sa_0-0000", "sa_1-0000", "sa_1-0001"]  # -3 dB, 2 dB, and not known
    assert re.findall(r">(\w+) \((\d+)\)<", text) == [("changed", "3"), ("new", "1"), ("gone", "5"), ("same", "4")]
    assert shown(server, "?state=new")[0] == ["sa_9-0000"]
    assert shown(server, "?state=gone")[0] == ["sa_0-0001", "sa_4-0000", "sa_4-0001", "sa_5-0000", "sa_5-0001"]
    assert shown(server, "?state=same")[0] == ["sa_2-0000", "sa_2-0001", "sa_3-0000", "sa_3-0001"]


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("change", ["sa_0-0000", "sa_1-0000", "sa_1-0001"]),
        ("fall", ["sa_0-0000", "sa_1-0000", "sa_1-0001"]),
        ("rise", ["sa_1-0000", "sa_0-0000", "sa_1-0001"]),
        ("id", ["sa_0-0000", "sa_1-0000", "sa_1-0001"]),
    ],
)
def test_changed_objects_are_sorted_by_the_change_of_a_score(both, order, wanted):
    *_, server = both
    assert shown(server, f"?state=changed&score={SCORE}&order={order}")[0] == wanted
    pairs = server.shown.against.pairs(Asked("changed", SCORE, order))
    assert {pair.object_id: pair.change and round(pair.change, 2) for pair in pairs} == CHANGES


def test_both_pictures_and_scores_stand_side_by_side_and_can_be_fetched(both):
    *_, server = both
    _, text = shown(server, f"?score={SCORE}")
    old = psnr_of(number_of("sa_0-0000"))
    assert f"{SCORE}: {old:.4g}" in text
    assert f"{SCORE}: {old - 3:.4g}" in text
    assert f"{SCORE}: none" in text
    assert "<img src=x" not in text  # the caption of the fourth object
    assert "&lt;img src=x" in text
    assert HOSTILE not in text
    sheets = set(re.findall(r"url\('/([^']+)'\)", text + shown(server, "?state=gone")[1]))
    assert len(sheets) == 2  # of the shard that has changed, and of the one that has gone
    for sheet in sheets:
        assert ask(server, f"/{sheet}")[0] == 200
    # The objects of a shard lie in its sheet in their order, crop beside render, four across, 128 pixels each.
    places = re.findall(r"background-position:-(\d+)px -(\d+)px", text)
    assert places == [
        *([("0", "0"), ("128", "0")] * 2),
        *([("512", "0"), ("640", "0")] * 2),
        *([("768", "0"), ("896", "0")] * 2),
    ]


def test_pages_hold_all_objects_once_in_every_order(both, monkeypatch):
    *_, server = both
    monkeypatch.setattr(module, "PER_PAGE", 2)
    for state, count in (("changed", 3), ("gone", 5), ("same", 4)):
        whole = [name for page in (1, 2, 3) for name in shown(server, f"?state={state}&page={page}")[0]]
        assert len(whole) == len(set(whole)) == count
    assert "Page 1 of 3" in shown(server, "?state=gone")[1]
    assert "page=2" in shown(server, "?state=gone")[1]


def test_a_shard_with_the_same_list_is_not_read(both):
    store, before, (changed_one, same, _), server = both
    now = server.shown.against.now
    for shard, is_read in ((same, False), (changed_one, True)):
        path = Path(store.root) / now.partitions[shard].gallery["objects"].path
        path.rename(path.with_suffix(".away"))
        try:
            if is_read:
                with pytest.raises(SourceError, match="has gone, or is damaged"):
                    Against(store, before, now).html(Asked())
            else:
                assert "same (4)" in Against(store, before, now).html(Asked())
        finally:
            path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("query", ["?state=none", "?score=x", "?order=x", "?page=0", "?page=x", "?page=%D9%A1"])
def test_a_page_that_cannot_be_is_refused(both, query):
    *_, server = both
    assert ask(server, f"/against{query}")[0] == 400


def test_without_a_second_snapshot_there_is_no_such_page(both):
    store, *_ = both
    with served(store.root, None) as server:
        assert ask(server, "/against")[0] == 404
    with pytest.raises(SourceError, match="no snapshot 99"):
        Server(store.root, 0, 99)
    with pytest.raises(ConfigError):
        asked_for({"page": ["-1"]})
