"""Contact sheets show what each trained network does on held-out data. They load what was saved."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from anything3d import seed
from anything3d.backend import load_captioner, load_lifter
from anything3d.caption import Captioned
from anything3d.mini.training.batch import Rows, crops, cut_by_sam, every, rgba
from anything3d.mini.training.data import PROMPTS, STUFF, load_crops, load_objects, load_scenes
from anything3d.mini.training.diffusion import captions_of, draw_pictures, hints
from anything3d.mini.training.dino import pair_of, plain
from anything3d.mini.training.scenes import LEAST_PX, points
from anything3d.models.clip import load_clip
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.dino import load_dino
from anything3d.models.encoder import load_taesd
from anything3d.models.sam import load_sam
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.photo.pixels import over
from anything3d.settings.caption import CaptionConfig
from anything3d.settings.lift import LiftConfig
from anything3d.settings.reconstruct import POINT_E_FOV_DEG
from anything3d.space.camera import orbit
from anything3d.space.cloud import Cloud
from anything3d.space.depth import splat

CELL_PX = 128
TITLE_PX = 14
INK, PAPER = (20, 20, 20), (255, 255, 255)
CLOUD_VIEWS_DEG = (30.0, 150.0, 270.0)  # azimuths


def sheet(name: str, work: Path) -> Image.Image:
    """The contact sheet of one of NETWORKS, from the weights below WORK/weights and held-out data."""
    makers: dict[str, Callable[[Path], Image.Image]] = {
        "vae": _vae,
        "diffusion": _diffusion,
        "taesd": _taesd,
        "sam": _sam,
        "blip": _blip,
        "clip": _clip,
        "dino": _dino,
        "pointe": _pointe,
        "pointe-upsampler": _pointe,
    }
    with torch.no_grad():
        return makers[name](work)


def table(rows: Sequence[Sequence[tuple[Float[Tensor, "3 H W"], str]]]) -> Image.Image:
    """Pictures in [0, 1] in rows, each with a line of text below."""
    height = CELL_PX + TITLE_PX
    page = Image.new("RGB", (CELL_PX * max(map(len, rows)), height * len(rows)), PAPER)
    draw = ImageDraw.Draw(page)
    for y, row in enumerate(rows):
        for x, (picture, text) in enumerate(row):
            shown = F.interpolate(picture[None].float().clamp(0, 1), (CELL_PX, CELL_PX), mode="nearest")[0]
            pixels = (shown.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            page.paste(Image.fromarray(pixels), (x * CELL_PX, y * height))
            draw.text((x * CELL_PX + 3, y * height + CELL_PX + 1), text[:22], INK)
    return page


def _vae(work: Path) -> Image.Image:
    held_out = load_objects("held-out", work)
    pictures = over(rgba(held_out, every(held_out, 16)), 1.0)
    denoiser = _denoiser(work)
    decoded = denoiser.decode_latents(denoiser.encode_image(pictures))
    lines = []
    for rows in (slice(0, 8), slice(8, 16)):
        lines += [
            [(picture, "true") for picture in pictures[rows]],
            [(picture, "decoded") for picture in decoded[rows]],
        ]
    return table(lines)


def _diffusion(work: Path) -> Image.Image:
    held_out = load_objects("held-out", work)
    rows = every(held_out, 12)
    denoiser = _denoiser(work)
    texts = captions_of(held_out, rows)
    hint = hints(held_out, rows, torch.Generator().manual_seed(0))
    true = over(rgba(held_out, rows), 1.0)
    columns = (
        (true, texts),
        (hint, ["depth hint"] * 12),
        (draw_pictures(denoiser, texts, hint), ["caption and depth"] * 12),
        (draw_pictures(denoiser, texts, None), ["caption alone"] * 12),
    )
    return table([list(zip(pictures, titles, strict=True)) for pictures, titles in columns])


def _sam(work: Path) -> Image.Image:
    scenes = load_scenes("held-out", work)
    network = load_sam(_folder(work, "sam"), Place())
    generator = torch.Generator().manual_seed(0)
    cells = []
    for rgb, label in zip(scenes.rgb[:12], scenes.label[:12], strict=True):
        sizes = torch.bincount(label.flatten(), minlength=256)
        segments = torch.stack([label == i for i in range(1, STUFF) if sizes[i] >= LEAST_PX])
        asked = points(segments, generator)
        predicted = network.prompt([rgb.permute(1, 2, 0)], [asked], 1, 32)[0]
        picture = rgb.float() / 255
        for row, (x, y) in zip(predicted, asked.long().tolist(), strict=True):
            inside = mask.decode(mask.encode_runs(row.lengths), *label.shape)
            tint = torch.rand(3, 1, generator=generator)
            edge = inside ^ (F.max_pool2d(inside[None].float(), 3, 1, 1)[0] > 0)
            picture[:, inside] = 0.6 * picture[:, inside] + 0.4 * tint
            picture[:, edge] = 1.0
            picture[:, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = 0.0
        cells.append((F.interpolate(picture[None], (CELL_PX, CELL_PX), mode="area")[0], ""))
    return table([cells[:6], cells[6:]])


def _blip(work: Path) -> Image.Image:
    """Captions of crops with nearly true masks, in three lines, and of crops that SAM's masks cut, in two."""
    held_out = load_objects("held-out", work)
    cut = load_crops("held-out", work)
    captioner = load_captioner(CaptionConfig(weights=_folder(work, "blip")), Place())
    judged = crops(held_out, every(held_out, 24), torch.Generator().manual_seed(0))
    pictures = torch.cat([judged, cut_by_sam(cut, PROMPTS * torch.arange(16)).pixels])
    opaque = torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)
    said = captioner(opaque, seed.generators(0, "sheet", [str(row) for row in range(40)]))
    words = [row.text if isinstance(row, Captioned) else str(row) for row in said]
    cells = list(zip(pictures, words, strict=True))
    return table([cells[first : first + 8] for first in range(0, 40, 8)])


def _clip(work: Path) -> Image.Image:
    """Crops, and those others that CLIP finds most like them."""
    held_out = load_objects("held-out", work)
    rows = every(held_out, 256)
    clip = load_clip(_folder(work, "clip"), Place())
    pictures = crops(held_out, rows, torch.Generator().manual_seed(0))
    embeddings = clip.image_embeddings(pictures)
    nearest = (embeddings @ embeddings.T).topk(5).indices[:8]
    words = [words.removeprefix("a ") for words in captions_of(held_out, rows)]
    return table([[(pictures[i], words[i]) for i in row] for row in nearest.tolist()])


def _dino(work: Path) -> Image.Image:
    """Crops, and those solids, from other sides, that DINOv2 finds most like them."""
    held_out = load_objects("held-out", work)
    rows = every(held_out, 256)
    pair = pair_of(held_out, rows, plain(len(rows)), torch.Generator().manual_seed(0))
    seen, known = load_dino(_folder(work, "dino"), Place()).image_embeddings(*pair).chunk(2)
    lines = []
    for crop, nearest in enumerate((seen @ known.T).topk(5).indices[:8].tolist()):
        found = [(pair[1][other], "the same" if other == crop else "") for other in nearest]
        lines.append([(pair[0][crop], "crop"), *found])
    return table(lines)


def _pointe(work: Path) -> Image.Image:
    """Crops, their clouds from three sides, and the true surfaces from the same."""
    held_out = load_objects("held-out", work)
    rows = Rows(torch.arange(8), torch.arange(8) % held_out.rgba.shape[1])
    config = LiftConfig(
        weights=_folder(work, "pointe"),
        upsampler_weights=_folder(work, "pointe-upsampler"),
        clip_weights=_folder(work, "clip"),
    )
    views = rgba(held_out, rows)
    lifted = load_lifter(config, Place())(views, seed.generators(0, "sheet", [str(row) for row in range(8)]))
    lines = []
    for row, outcome in enumerate(lifted):
        assert not isinstance(outcome, Exception), outcome
        true = Cloud(held_out.points[row : row + 1, :1024].float(), held_out.colors[row : row + 1, :1024] / 255)
        pictures = [*_look_at(outcome.cloud), *_look_at(true)]
        titles = [f"match {outcome.match:.2f}", "", "", "truth", "", ""]
        lines.append([(over(views[row : row + 1], 1.0)[0], "crop"), *zip(pictures, titles, strict=True)])
    return table(lines)


def _look_at(cloud: Cloud) -> list[Float[Tensor, "3 S S"]]:
    pictures = []
    for azimuth in CLOUD_VIEWS_DEG:
        one = torch.ones(1)
        camera = orbit(azimuth * one, 25 * one, 2.2 * one, POINT_E_FOV_DEG * one)
        _, color, alpha = splat(cloud, camera, CELL_PX, 0.4 / cloud.points.shape[1] ** 0.5)
        pictures.append((color + 1 - alpha[:, None])[0])
    return pictures


def _taesd(work: Path) -> Image.Image:
    held_out = load_objects("held-out", work)
    pictures, denoiser = over(rgba(held_out, every(held_out, 8)), 1.0), _denoiser(work)
    quick = replace(denoiser, encode=load_taesd(_folder(work, "taesd"), denoiser, Place()))
    lines = [(pictures, "true")]
    lines += [
        (one.decode_latents(one.encode_image(pictures)), name) for one, name in ((denoiser, "VAE"), (quick, "TAESD"))
    ]
    return table([[(picture, name) for picture in row] for row, name in lines])


def _folder(work: Path, name: str) -> str:
    return str((work / "weights" / name).resolve())


def _denoiser(work: Path) -> Denoiser:
    return load_denoiser(_folder(work, "diffusion"), Place())
