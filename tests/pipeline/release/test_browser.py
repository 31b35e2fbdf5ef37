"""The gallery in a real Chromium, from the disk and from the server, with 10 and with 10,000 objects.

python -m pytest -s tests/pipeline/release/test_browser.py    prints load times and bytes
"""

import itertools
import os
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.release.duplicates import table_of
from pipeline.release.gallery.data import DIGITS, rounded, script
from pipeline.release.snapshot import newest
from pipeline.release.view import write_pages
from pipeline.report.page import page as page_of
from pipeline.report.page import report_of
from pipeline.store import Store
from schemas.arrow import published_bytes, to_table
from schemas.duplicates import DuplicateRecord
from tests.pipeline.release.galleries import COLORS, HOSTILE, color_of, glb, make, number_of, psnr_of
from tests.pipeline.release.test_against import served
from tests.pipeline.release.test_gallery import content
from tests.pipeline.release.test_serve import running

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
expect = playwright.expect  # it waits, and asks the page nothing that its security policy forbids
WITHIN_MS = 60_000  # a page that is not there by then is broken; a busy machine may need most of it
expect.set_options(timeout=WITHIN_MS)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("chromium"),
]
# Chromium as root has no sandbox. Without a GPU, SwiftShader draws.
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(chromium, url, **settings):
    """The page when it is ready; whatever its console says of an error fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, **settings)
    page, said = context.new_page(), []
    page.set_default_timeout(WITHIN_MS)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"{request.url} failed"))
    try:
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        yield page
        # SwiftShader warns that it is slow when pixels are read from it.
        assert [line for line in said if "GPU stall due to ReadPixels" not in line] == []
    finally:
        context.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make(tmp_path_factory.mktemp("small"), photos=5, per_shard=3, every=5)


@pytest.fixture(scope="module")
def addresses(small):
    """Of the page on the disk, and of the page of the server."""
    store, snapshot = small
    with running(store, snapshot) as (_, _, server):
        yield {"disk": (Path(store.root) / "index.html").as_uri(), "server": server.url}


def ids(page):
    return [text.split(" ")[0] for text in page.locator("#cards .small").all_inner_texts()]


def wait_for(page, said):
    expect(page.locator("#said")).to_have_text(re.compile(f"^{re.escape(said)}"))


def shows(page, wanted):
    """Wait until these are the cards of the page; fails if they never are."""
    expect(page.locator("#cards .small")).to_have_text([re.compile(rf"^{re.escape(name)}\b") for name in wanted])


ALL = ["sa_0-0000", "sa_0-0001", "sa_1-0000", "sa_1-0001", "sa_2-0001", "sa_3-0000", "sa_3-0001", "sa_4-0000"]


@pytest.mark.parametrize("how", ["disk", "server"])
def test_objects_are_shown_sorted_and_filtered(chromium, addresses, how):
    with opened(chromium, addresses[how]) as page:
        assert ids(page) == ALL
        assert HOSTILE.replace("\u2028", "") in page.locator("#cards .caption").nth(3).text_content().replace(
            "\u2028", ""
        )
        assert page.title() == "corpus - Anything-3D"  # no caption has run a script
        assert page.locator("#cards img, #cards script").count() == 0

        page.get_by_label("Sort by").select_option("mesh_psnr_db")
        best_first = sorted(ALL, key=lambda name: -psnr_of(number_of(name)))
        shows(page, best_first)
        page.get_by_label("Order").select_option("up")
        shows(page, best_first[::-1])

        page.get_by_label("Caption or id").fill("BOX green")
        shows(page, ["sa_2-0001"])
        page.get_by_label("Caption or id").fill("<script>document")
        shows(page, ["sa_1-0001"])
        assert page.locator("#said").inner_text() == "1 object of 8."
        page.get_by_role("button", name="Reset").click()
        wait_for(page, "8 objects.")
        page.get_by_label("Shard").select_option("sa_0000003")
        wait_for(page, "3 objects")
        shows(page, ALL[5:])
        assert page.locator("#quality").is_hidden()  # the corpus has no tiers


def test_a_drag_over_a_histogram_and_its_fields_filter(chromium, addresses):
    with opened(chromium, addresses["disk"]) as page:
        page.locator("summary").click()
        bars = page.get_by_role("img", name="mesh_psnr_db of the objects")
        bars.wait_for()
        box = bars.bounding_box()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 9)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 9, steps=3)
        page.mouse.up()
        values = {name: psnr_of(number_of(name)) for name in ALL}
        middle = (min(values.values()) + max(values.values())) / 2
        wanted = [name for name in ALL if values[name] >= middle]
        wait_for(page, f"{len(wanted)} objects of 8")
        shows(page, wanted)
        page.get_by_label("mesh_psnr_db, least").fill("29")
        page.get_by_label("mesh_psnr_db, least").press("Enter")
        shows(page, ["sa_2-0001"])
        page.get_by_role("button", name="No limits of mesh_psnr_db").click()
        wait_for(page, "8 objects.")


def middle_of(page):
    """The colour in the middle of the canvas, as three levels."""
    return page.evaluate("""() => {
        const canvas = document.querySelector("dialog canvas");
        const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
        const context = copy.getContext("2d");
        context.drawImage(canvas, 0, 0);
        return Array.from(context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data).slice(0, 3);
    }""")


def has_hue(levels, color):
    """Whether a lit pixel has the colour: its strong channels are strong, and its weak ones weak."""
    scale = max(levels) / max(color)
    return max(levels) > 100 and max(abs(a - scale * b) for a, b in zip(levels, color, strict=True)) < 45


@pytest.mark.parametrize("object_id", ["sa_0-0000", "sa_0-0001", "sa_1-0000"])
def test_the_mesh_is_drawn_in_its_colour(chromium, addresses, object_id):
    with opened(chromium, f"{addresses['server']}#object={object_id}") as page:
        page.get_by_role("button", name="Show the mesh").click()
        page.wait_for_selector("canvas[data-drawn]")
        color = color_of(number_of(object_id))
        assert has_hue(middle_of(page), COLORS[color]), middle_of(page)
        assert not any(has_hue(middle_of(page), other) for name, other in COLORS.items() if name != color)
        picture = page.locator("dialog img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
        assert picture == [96, 96]  # of the turntable


def test_from_the_disk_the_reader_chooses_the_tar(chromium, small, addresses):
    store, _ = small
    with opened(chromium, f"{addresses['disk']}#object=sa_3-0001") as page:
        assert "anything3d view CORPUS" in page.locator("dialog .note").inner_text()
        tar = page.locator("dialog .note code").nth(1).inner_text()
        page.locator("dialog input[type=file]").set_input_files(f"{store.root}/{tar}")
        page.get_by_role("button", name=f"Show the mesh ({len(glb('yellow')):,} bytes)").click()
        page.wait_for_selector("canvas[data-drawn]")
        assert has_hue(middle_of(page), COLORS["yellow"]), middle_of(page)


def test_the_keyboard_is_enough(chromium, addresses):
    with opened(chromium, addresses["server"]) as page:
        page.get_by_role("listitem").first.get_by_role("link").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="sa_0-0001")
        dialog.get_by_role("button", name="Show the mesh").wait_for()
        assert "object=sa_0-0001" in page.url
        dialog.get_by_role("button", name="Show the mesh").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("canvas[data-drawn]")
        before = page.locator("canvas").screenshot()
        assert page.evaluate("document.activeElement.tagName") == "CANVAS"
        for key in ("ArrowLeft", "ArrowUp", "+"):
            page.keyboard.press(key)
            after = page.locator("canvas").screenshot()
            assert after != before, key
            before = after
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_be_hidden()
        expect(page).not_to_have_url(re.compile("object="))
        page.get_by_role("tab", name="Objects").focus()
        page.keyboard.press("ArrowRight")
        page.get_by_role("list", name="Examples of rejects").get_by_role("listitem").first.wait_for()
        assert page.get_by_role("tab", name="Rejects").get_attribute("aria-selected") == "true"
        page.go_back()
        expect(page.locator("#objects")).to_be_visible()


def test_everything_has_a_name_for_a_screen_reader(chromium, addresses):
    with opened(chromium, addresses["disk"]) as page:
        page.locator("summary").click()
        page.locator(".histogram").first.wait_for()
        unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, a, [role=img], img")]
            .filter((one) => !(one.getAttribute("aria-label") || one.alt || one.textContent.trim()
                || (one.labels && one.labels.length)))
            .map((one) => one.outerHTML)""")
        assert unnamed == []
        assert page.get_by_role("list", name="Objects").get_by_role("listitem").count() == 8
        assert page.get_by_role("img", name="photo with the outlined mask").count() == 8


def test_rejects_are_shown_with_crop_reason_and_message(chromium, addresses):
    with opened(chromium, f"{addresses['disk']}#tab=rejects") as page:
        shown = page.get_by_role("list", name="Examples of rejects").get_by_role("listitem")
        shown.nth(1).wait_for()
        assert shown.count() == 2
        assert "object 4 has no surface <b>at all</b>" in shown.first.inner_text()
        assert shown.first.get_by_role("img").count() == 1
        page.get_by_role("link", name="empty_surface").click()
        page.wait_for_selector("a[aria-current]")
        assert "cause=mesh%2Ffailed%2Fempty_surface" in page.url


def test_the_report_draws_its_charts_without_a_network(chromium, small, tmp_path):
    store, _ = small
    report, pictures = report_of(store.root, None)
    (tmp_path / "report.html").write_bytes(page_of(report, pictures))
    with opened(chromium, (tmp_path / "report.html").as_uri(), offline=True) as page:
        assert page.title() == "corpus: report - Anything-3D"  # no caption has run a script
        assert page.locator("#funnel svg g[aria-label=bar] rect").count() == len(report.funnel) == 9
        assert page.locator("#outcomes svg g[aria-label=bar] rect").count() == 9  # mesh has done and failed ones
        assert page.locator("#seconds svg g[aria-label=bar] rect").count() == 8
        charts = page.locator("#distributions figure")
        assert charts.locator("figcaption").all_inner_texts() == [one.name for one in report.distributions]
        for place, one in enumerate(report.distributions):
            drawn = charts.nth(place).locator("svg g[aria-label=rect] rect")
            assert drawn.count() == sum(count > 0 for count in one.bars), one.name
        broken = page.evaluate("[...document.images].filter((one) => one.complete && !one.naturalWidth).length")
        assert (page.locator("img").count(), broken) == (len(pictures), 0)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_unknown_object_is_said(chromium, addresses):
    with opened(chromium, f"{addresses['disk']}#object=sa_77-0000") as page:
        assert "has no object sa_77-0000" in page.locator("dialog").inner_text()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return make(tmp_path_factory.mktemp("large"), photos=5000, per_shard=1000, every=50)


def test_ten_thousand_objects_open(chromium, large):
    store, snapshot = large
    began = time.perf_counter()
    with opened(chromium, (Path(store.root) / "index.html").as_uri()) as page:
        loaded = time.perf_counter() - began
        assert snapshot.objects == 9800
        wait_for(page, "9,800 objects.")
        assert len(ids(page)) == 60

        began = time.perf_counter()
        page.get_by_label("Sort by").select_option("mesh_psnr_db")
        kept = [number for number in range(10_000) if number % 50 != 49]
        best = sorted(kept, key=lambda number: -rounded(psnr_of(number), DIGITS))[:60]  # equal ones: in their order
        shows(page, [f"sa_{number // 2}-{number % 2:04d}" for number in best])
        took = time.perf_counter() - began

        page.get_by_label("Caption or id").fill("red lamp")
        wanted = [number for number in kept if number % 4 == 0 and number % 5 == 1]
        wait_for(page, f"{len(wanted)} objects of 9,800")
        page.get_by_role("button", name="Reset").click()
        wait_for(page, "9,800 objects.")
        page.get_by_label("Page", exact=True).fill("164")
        page.get_by_label("Page", exact=True).press("Enter")
        expect(page.locator("#cards li")).to_have_count(20)
        assert ids(page)[-1] == "sa_4999-0000"
    indices = sum(partition.gallery["objects"].bytes for partition in snapshot.partitions.values())
    gallery = store.entries("gallery")
    sheets = sum(entry.bytes for path, entry in gallery.items() if path.endswith(".webp"))
    pages = sum(entry.bytes for path, entry in gallery.items() if "/sa_" in path and path.endswith(".js"))
    print(f"\nopened in {loaded:.2f} s, sorted in {took:.2f} s; bytes an object: {indices / 9800:.0f} in the indices,"
          f" {pages / 9800:.0f} in the pages, {sheets / 9800:.0f} in the sheets")  # fmt: skip


def test_a_million_objects_open(chromium, large, tmp_path):
    """The five shards of `large` 103 times, each under a name of its own; only the catalogue knows them."""
    store, _ = large
    root = Path(store.root)
    shutil.copytree(root / "gallery", tmp_path / "gallery", ignore=shutil.ignore_patterns("sa_*"))
    shutil.copy(root / "index.html", tmp_path)
    known = content(store.read("gallery/catalogue.js"))
    shards = []
    for shard, number in itertools.product(known["shards"], range(103)):
        name, path = f"{shard['name']}-{number}", shard["files"]["objects"]
        own = path.replace(shard["name"], name)
        (tmp_path / own).parent.mkdir(parents=True)
        os.link(root / path, tmp_path / own)
        os.symlink(root / "gallery" / shard["name"], tmp_path / "gallery" / name)
        shards.append({**shard, "name": name, "files": {"objects": own}})
    (tmp_path / "gallery" / "catalogue.js").write_bytes(script({**known, "shards": shards}))

    began = time.perf_counter()
    with opened(chromium, (tmp_path / "index.html").as_uri()) as page:
        loaded = time.perf_counter() - began
        wait_for(page, "1,009,400 objects.")
        assert len(ids(page)) == 60
        began = time.perf_counter()
        page.get_by_label("Sort by").select_option("mesh_psnr_db")
        expect(page.locator("#cards .small").first).to_contain_text("mesh_psnr_db")
        took = time.perf_counter() - began
        assert len(set(ids(page))) == 1  # the best of each copy
        page.get_by_label("Caption or id").fill("red lamp")
        began = time.perf_counter()
        wait_for(page, f"{103 * 500:,} objects of 1,009,400")
        found = time.perf_counter() - began
    (catalogue,) = [len((tmp_path / "gallery" / "catalogue.js").read_bytes())]
    print(f"\na million objects opened in {loaded:.2f} s, read and sorted in {took:.2f} s, searched in {found:.2f} s;"
          f" the catalogue has {catalogue / len(shards):.0f} bytes a shard")  # fmt: skip


def test_near_duplicates_are_left_out_or_shown_alone(chromium, small, tmp_path):
    store = Store(str(shutil.copytree(small[0].root, tmp_path / "corpus")))
    mark = DuplicateRecord("sa_1-0000", "sa_0-0000", 0.997)
    store.write(table_of(1), published_bytes(to_table([mark], DuplicateRecord)))
    write_pages(store, newest(store))
    with opened(chromium, (Path(store.root) / "index.html").as_uri()) as page:
        shows(page, ALL)
        page.get_by_label("Near-duplicates").select_option("left out")
        shows(page, [name for name in ALL if name != "sa_1-0000"])
        page.get_by_label("Near-duplicates").select_option("only these")
        shows(page, ["sa_1-0000"])
        assert "looks like sa_0-0000, cosine 0.997" in page.locator("#cards .small").inner_text()
        page.locator("#cards a").click()
        page.locator("#detail").get_by_role("link", name="sa_0-0000").click()
        expect(page.locator("#detail-title")).to_have_text("sa_0-0000")


def test_without_a_table_of_near_duplicates_there_is_no_such_filter(chromium, addresses):
    with opened(chromium, addresses["disk"]) as page:
        expect(page.get_by_label("Near-duplicates")).to_be_hidden()


@pytest.mark.parametrize("width", [1280, 390])
def test_two_snapshots_side_by_side_are_no_wider_than_the_screen(chromium, small, width):
    store, snapshot = small
    with served(store.root, snapshot.number) as server:
        context = chromium.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        page.goto(f"{server.url}?state=same")
        expect(page.locator("#pairs li")).to_have_count(len(ALL))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        context.close()
