"""Meshes beside the fields that they were cut from: numbers, and a sheet of pictures.

    anything3d world held.tar --scenes 10 --seed 77 --held-out
    anything3d run held.tar --out corpus --max-objects 10
    python -m tests.meshes corpus --truth held.truth --sheet sheet.png --before older-corpus
    python -m tests.meshes corpus --truth held.truth --cut "max_faces=2000 texture_px=256" --cut "surface=0.15"

A second table says in which part of the pictures the squared error lies (PARTS); the sum of a row is its mean, by 1e-4.

`--cut` cuts the same fields again with these settings of the section `mesh`, and judges the file that this gives.
`--before` is a corpus of the same objects whose meshes another version has made. Each object is one row of the sheet:
its crop; then what three cameras see of the field and of every mesh; and two views of the truth.
The cameras are the reference camera, one above it, and one behind the object.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from torch import Tensor, nn

from anything3d.mesh import surface
from anything3d.photo.pixels import WHITE, over
from anything3d.quality import metrics
from anything3d.quality.accuracy import cameras_around, frame_turn, subset
from anything3d.quality.looks import SOLID, Reconstruction, compare, resize
from anything3d.settings.mesh import MeshConfig
from anything3d.settings.reconstruct import POINT_E_DISTANCE, POINT_E_FOV_DEG, RenderConfig
from anything3d.space.camera import Camera, angles, orbit
from anything3d.space.grids import Grids
from anything3d.space.mesh import Mesh, facts, from_glb, to_glb
from anything3d.space.raster import rasterize
from anything3d.space.render import Rendering, composite, render
from pipeline.input import source
from pipeline.release.finished import released_objects
from pipeline.release.snapshot import snapshot_of
from pipeline.rows import RECONSTRUCTED, reconstruction, sight
from pipeline.truth import GivenTruth, find_truth, given_truth, read_target
from schemas.corpus import ObjectRows

SIZE, TILE = 128, 96  # px of the pictures that are compared, and of those of the sheet
SAMPLES = RenderConfig(samples=96)
ANGLES = ((0.0, 55.0), (150.0, 25.0))  # azimuth beyond the reference camera's, and elevation; degrees
COLUMNS = ("photo_psnr", "photo_psnr_mask", "photo_iou", "field_psnr", "novel_psnr", "novel_iou", "chamfer", "f_5pct")
# Parts of pictures: in both silhouettes; within a pixel of the true one's edge; in the true one alone; in the other one
# alone; in none. The true silhouette is the photo's mask, or that of the true views.
PARTS = ("inside", "edge", "missing", "surplus", "outside")
OF_FILE = ("faces", "watertight", "glb_kb", "cpu_s")  # cpu_s: of cutting the mesh and writing the file


def main(
    corpus: str,
    truth: Annotated[str, typer.Option(help="X.truth of the corpus's shard.")],
    sheet: Annotated[Path | None, typer.Option(help="A PNG to write.")] = None,
    before: Annotated[str | None, typer.Option(help="A corpus with older meshes of the same objects.")] = None,
    objects: Annotated[int | None, typer.Option(help="Only so many, evenly spread over the corpus.")] = None,
    cut: Annotated[list[str] | None, typer.Option(help="Settings of mesh, as in 'surface=0.15 max_faces=0'.")] = None,
) -> None:
    """Print the mean of every number for the field, the older mesh and the mesh."""
    given, older = given_truth(truth), {row.object_id: row for row in objects_of(before)} if before else {}
    sums: dict[str, list[list[float]]] = {}
    count, pictures = 0, []
    with torch.inference_mode():
        for row in spread(list(objects_of(corpus)), objects):
            made = reconstruction(row.segment, row.reconstruct, row.mesh, row.lift)
            files = {"before": older[row.object_id].mesh.glb} if row.object_id in older else {}
            files, seconds = {**files, "mesh": row.mesh.glb}, dict[str, float]()
            for settings in cut or []:
                started = time.process_time()
                files[settings] = to_glb(cut_again(row, settings))
                seconds[settings] = time.process_time() - started
            meshes = {name: from_glb(glb) for name, glb in files.items()}
            for name, numbers in numbers_of(made, meshes, row, given):
                of_file = [torch.nan] * len(OF_FILE)
                if name in files:
                    about = facts(meshes[name])
                    of_file = [about.faces, about.watertight, len(files[name]) / 1e3, seconds.get(name, torch.nan)]
                sums.setdefault(name, []).append(numbers + of_file)
            count += 1
            if sheet:
                pictures.append(picture(made, list(meshes.values()), row, given))
    parts = [f"{view}_{part}" for view in ("photo", "novel") for part in PARTS]
    means = {name: torch.tensor(rows, dtype=torch.float64).nanmean(0).tolist() for name, rows in sums.items()}
    columns = dict(zip((*COLUMNS, *parts, *OF_FILE), zip(*means.values(), strict=True), strict=True))
    for names in ((*COLUMNS, *OF_FILE), parts):
        print(f"{count} objects".ljust(32), *(f"{name:>15}" for name in names))
        for number, name in enumerate(means):
            print(name.ljust(32), *(f"{columns[column][number]:15.3f}" for column in names))
    if sheet:
        Image.fromarray((torch.cat(pictures, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(sheet)


def spread(rows: list[ObjectRows], count: int | None) -> list[ObjectRows]:
    """So many of the objects, at even distances."""
    return rows if count is None or count >= len(rows) else [rows[i * len(rows) // count] for i in range(count)]


def objects_of(corpus: str) -> Iterator[ObjectRows]:
    """The objects of the newest snapshot that have a field."""
    store, snapshot = snapshot_of(source.absolute(corpus))
    partitions = [partition for _, partition in sorted(snapshot.partitions.items())]
    for row in released_objects(store, partitions, RECONSTRUCTED):
        if row.reconstruct.field is not None:
            yield row


def cut_again(row: ObjectRows, settings: str) -> Mesh:
    """The surface of the object's field with other settings, which are written as in `surface=0.15 max_faces=0`."""
    given = {name: json.loads(value) for name, value in (pair.split("=") for pair in settings.split())}
    assert row.reconstruct.field is not None
    shape = Grids.from_bytes(row.reconstruct.field)
    mesh = surface(shape, MeshConfig(**given), sight(row.segment, row.reconstruct, row.lift))
    assert isinstance(mesh, Mesh), mesh
    return mesh


def numbers_of(
    made: Reconstruction, meshes: dict[str, Mesh], row: ObjectRows, given: GivenTruth
) -> Iterator[tuple[str, list[float]]]:
    """COLUMNS, then PARTS of the photo and of the novel views, of the field and of each mesh.

    A number is NaN where the object has no truth, or a field has no such number.
    """
    crop, mask = resize(over(made.crop[None], WHITE), SIZE), resize(made.crop[None, 3:], SIZE)[:, 0]
    shown = find_truth(row.segment, given.says)
    own = look(made, None, made.reference, SIZE)
    for name, mesh in {"field": made.mesh, **meshes}.items():
        field = name == "field"
        vertices = torch.from_numpy(mesh.vertices)
        seen = own if field else look(made, mesh, made.reference, SIZE)
        psnr, iou = compare(seen, crop, mask)
        squares = (composite(seen, WHITE).clamp(0, 1) - crop).square().mean(1)
        inside = -10 * ((squares * mask).sum() / mask.sum()).log10()
        of_field = metrics.psnr_db(composite(seen, WHITE), composite(own, WHITE))
        parts = errors_in_parts(seen, crop, mask)
        numbers = [float(psnr), float(inside), float(iou), torch.nan if field else float(of_field)]
        if shown is not None:
            target = read_target(shown, given.path)
            turn = frame_turn(made.reference, target)
            cameras = cameras_around(vertices, target.cameras, turn)
            novel = look(made, None if field else mesh, cameras, target.views.shape[-1])
            psnr, iou = compare(novel, over(target.views, WHITE), target.views[:, 3])
            parts += errors_in_parts(novel, over(target.views, WHITE), target.views[:, 3])
            numbers += [float(psnr.mean()), float(iou.mean())]
            if not field:
                generator = torch.Generator().manual_seed(0)
                true = metrics.normalise_points(subset(target.points, 4096, generator)[None])
                points = metrics.sample_surface(vertices, torch.from_numpy(mesh.faces), 4096, generator)
                points = metrics.normalise_points(points[None] @ turn.T)
                numbers += [float(metrics.chamfer(points, true)), float(metrics.fscore(points, true, 0.05))]
        numbers += [torch.nan] * (len(COLUMNS) - len(numbers))
        yield name, numbers + parts + [torch.nan] * (2 * len(PARTS) - len(parts))


def errors_in_parts(seen: Rendering, white: Tensor, alpha: Tensor) -> list[float]:
    """The squared error of pictures on white in each of PARTS, as a share of all pixels; 1e-4."""
    mask, solid = alpha > SOLID, seen.alpha > SOLID
    wider, narrower = (nn.functional.max_pool2d(part.float(), 3, stride=1, padding=1) > 0 for part in (mask, ~mask))
    edge = wider & narrower
    parts = (mask & solid & ~edge, edge, mask & ~solid & ~edge, solid & ~mask & ~edge, ~mask & ~solid & ~edge)
    squares = (composite(seen, WHITE).clamp(0, 1) - white).square().mean(1)
    return [float((squares * part).mean()) * 1e4 for part in parts]


def look(made: Reconstruction, mesh: Mesh | None, camera: Camera, size: int) -> Rendering:
    """What the cameras see of the mesh, or else of the field."""
    if mesh is not None:
        return rasterize(mesh, camera, size)
    assert made.field is not None
    return render(made.field, camera, size, SAMPLES)


def picture(made: Reconstruction, meshes: list[Mesh], row: ObjectRows, given: GivenTruth) -> Tensor:
    """The object's row of the sheet, [3, height, width]."""
    azimuth, _ = angles(made.reference)
    distance, fov = torch.tensor([POINT_E_DISTANCE]), torch.tensor([POINT_E_FOV_DEG])
    cameras = [made.reference]
    cameras += [orbit(azimuth + turn, torch.tensor([elevation]), distance, fov) for turn, elevation in ANGLES]
    tiles = [resize(over(made.crop[None], WHITE), TILE)]
    tiles += [composite(look(made, mesh, camera, TILE), WHITE) for camera in cameras for mesh in (None, *meshes)]
    shown = find_truth(row.segment, given.says)
    views = torch.ones(2, 4, TILE, TILE) if shown is None else read_target(shown, given.path).views
    tiles += [resize(over(views, WHITE)[[number]], TILE) for number in (0, len(views) // 2)]
    framed = [torch.nn.functional.pad(tile[0].clamp(0, 1), (1, 1, 1, 1), value=0.5) for tile in tiles]
    return torch.cat(framed, 2)


if __name__ == "__main__":
    typer.run(main)
