"""The pictures of README and of docs/gallery.md, made from a corpus on the disk.

make demo
python -m tests.pictures sheet demo/corpus docs/demo.png
python -m tests.pictures gallery demo/corpus docs
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import typer
from PIL import Image

from pipeline.release.snapshot import snapshot_of

CELL_PX = 128  # side of a picture of the sheet
TURNS = 4  # views of a mesh, in equal steps all round
ABOVE = {"x": 0, "y": 0, "width": 1280, "height": 850}  # px of the page: without the location of the shard

app = typer.Typer(help=__doc__)


@app.command()
def sheet(corpus: Path, picture: Path) -> None:
    """One column for each object: its crop, and four views of its turntable, the first from the photo's side."""
    columns = [[crop, *views] for _, crop, views in sorted(objects(corpus), key=lambda one: one[0])]
    whole = Image.new("RGB", (CELL_PX * len(columns), CELL_PX * (1 + TURNS)), "white")
    for column, cells in enumerate(columns):
        for row, cell in enumerate(cells):
            whole.paste(cell.resize((CELL_PX, CELL_PX)), (column * CELL_PX, row * CELL_PX))
    whole.save(picture)


def objects(corpus: Path) -> Iterator[tuple[str, Image.Image, list[Image.Image]]]:
    """Every object of the newest snapshot: its id, its crop on white, and the views of its mesh."""
    _, snapshot = snapshot_of(str(corpus.absolute()))
    for path in [tar.path for partition in snapshot.partitions.values() for tar in partition.tars]:
        with tarfile.open(corpus / path) as tar:
            files = {member.name: tar.extractfile(member) for member in tar}
            data = {name: file.read() for name, file in files.items() if file is not None}
        for name in [name.removesuffix(".turntable.webp") for name in data if name.endswith(".turntable.webp")]:
            crop = Image.open(io.BytesIO(data[f"{name}.png"])).convert("RGBA")
            white = Image.alpha_composite(Image.new("RGBA", crop.size, "white"), crop).convert("RGB")
            yield name, white, list(turns(Image.open(io.BytesIO(data[f"{name}.turntable.webp"]))))


def turns(turntable: Image.Image) -> Iterator[Image.Image]:
    """TURNS of the frames, at equal distances."""
    frames = getattr(turntable, "n_frames", 1)
    for turn in range(TURNS):
        turntable.seek(turn * frames // TURNS)
        yield turntable.convert("RGB")


@app.command()
def gallery(corpus: str, folder: Path) -> None:
    """The page with its histograms in light and dark colours, one object with its mesh, and the rejects."""
    from playwright.sync_api import sync_playwright

    from tests.pipeline.release.test_browser import ARGUMENTS, CHROMIUM, opened
    from tests.pipeline.release.test_serve import running

    store, snapshot = snapshot_of(str(Path(corpus).absolute()))
    with sync_playwright() as started, running(store, snapshot) as (_, _, server):
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for scheme, name in (("dark", "gallery-dark"), ("light", "gallery")):
            with opened(chromium, server.url, color_scheme=scheme) as page:
                page.get_by_label("Sort by").select_option("mesh_psnr_db")
                page.locator("summary").click()
                page.locator(".histogram").first.wait_for()
                page.wait_for_load_state("networkidle")
                page.screenshot(path=folder / f"{name}.png")
        with opened(chromium, server.url) as page:
            page.get_by_role("listitem").first.get_by_role("link").click()
            page.get_by_role("button", name="Show the mesh").click()
            page.wait_for_selector("canvas[data-drawn]")
            page.wait_for_load_state("networkidle")
            page.screenshot(path=folder / "gallery-object.png", clip=ABOVE)
            page.get_by_role("button", name="Close").click()
            page.get_by_role("tab", name="Rejects").click()
            page.get_by_role("list", name="Examples of rejects").get_by_role("listitem").first.wait_for()
            page.screenshot(path=folder / "gallery-rejects.png")


if __name__ == "__main__":
    app()
