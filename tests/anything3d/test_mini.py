"""What the packaged mini networks have learnt, on a few held-out objects; random ones in their place must fail.

The thresholds lie safely below what docs/mini-models.md reports for many more objects.
"""

import dataclasses
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from anything3d import seed
from anything3d.backend import load_captioner
from anything3d.invert import load_inverter
from anything3d.mini import blip, clip, diffusion, dino, pointe, sam, taesd
from anything3d.mini.training import blip as blip_training
from anything3d.mini.training import data
from anything3d.mini.training import diffusion as diffusion_training
from anything3d.mini.training import dino as dino_training
from anything3d.mini.training import pointe as pointe_training
from anything3d.mini.training import sam as sam_training
from anything3d.mini.training.batch import Rows, crops, every, rgba
from anything3d.mini.training.clip import all_captions
from anything3d.mini.training.data import STUFF, Objects, Scenes
from anything3d.mini.words import COLORS
from anything3d.models import weights
from anything3d.models.clip import load_clip
from anything3d.models.diffusion import load_denoiser
from anything3d.models.dino import load_dino
from anything3d.models.encoder import explained
from anything3d.models.pointe import load_point_denoiser
from anything3d.models.sam import load_sam
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.quality import metrics
from anything3d.quality.metrics import psnr_db
from anything3d.settings.caption import CaptionConfig
from anything3d.settings.invert import InvertConfig
from anything3d.settings.segment import SegmentConfig

OBJECTS, SCENES = 24, 10
LARGE_PX = 40  # longer side of the box of an object that the grid shall find
FOUND_IOU = 0.75


@dataclass(frozen=True, eq=False)
class HeldOut:
    objects: Objects
    scenes: Scenes


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> HeldOut:
    work = tmp_path_factory.mktemp("held-out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.BLOCKS, ("objects", "held-out"), (1, OBJECTS))
        patch.setitem(data.BLOCKS, ("scenes", "held-out"), (1, SCENES))
        return HeldOut(data.load_objects("held-out", work), data.load_scenes("held-out", work))


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """The same folders with networks that have learnt nothing."""
    folder = tmp_path_factory.mktemp("random")
    sam.save(sam.build(1), folder / "sam")
    blip.save(blip.build(1), folder / "blip")
    clip.save(clip.build(1), folder / "clip")
    diffusion.save(diffusion.build(1), folder / "diffusion")
    dino.save(dino.build(1), folder / "dino")
    taesd.save(taesd.build(1), folder / "taesd")
    pointe.save(pointe.build(1), folder)
    return folder


def seen(held_out: HeldOut, count: int):
    """Crops as the pipeline makes them, and which objects they show."""
    rows = every(held_out.objects, count)
    return rows, crops(held_out.objects, rows, torch.Generator().manual_seed(0))


def names(count):
    return seed.generators(0, "test", [str(row) for row in range(count)])


def mask_iou(folder, held_out):
    """Mean IoU of masks from one point."""
    return sam_training.judge(load_sam(str(folder / "sam"), Place()), held_out.scenes)["mask_iou"]


def found_objects(folder, held_out):
    """Share of the objects LARGE_PX across or more, in three scenes, that SAM finds from a grid of points, unasked."""
    network, scenes, config = load_sam(str(folder / "sam"), Place()), held_out.scenes, SegmentConfig()
    best = []
    for rgb, label in zip(scenes.rgb[:3], scenes.label[:3], strict=True):
        rows = network.grid(rgb.permute(1, 2, 0), 12, config.min_predicted_iou, config.min_stability)
        masks = [mask.decode(mask.encode_runs(row.lengths), *label.shape) for row in rows]
        for value in range(1, STUFF):
            segment = label == value
            across = max(segment.any(0).sum(), segment.any(1).sum())
            if across >= LARGE_PX:
                best.append(max((float(metrics.mask_iou(one[None], segment[None])) for one in masks), default=0.0))
    return sum(iou >= FOUND_IOU for iou in best) / len(best)


def pairs(objects, rows):
    """Which of all captions is true."""
    return objects.shape[rows.item] * len(COLORS) + objects.color[rows.item]


def right_captions(folder, held_out):
    """Share of crops of which shape and colour are told right."""
    network = load_captioner(CaptionConfig(weights=str(folder / "blip")), Place())
    rows, pictures = seen(held_out, OBJECTS)
    solid = torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)
    told = [row.text for row in network(solid, names(OBJECTS))]
    true = [all_captions()[pair] for pair in pairs(held_out.objects, rows)]
    return sum(map(str.__eq__, told, true)) / OBJECTS


def right_texts(folder, held_out):
    """Share of crops whose own caption is the nearest of all in CLIP's space."""
    network = load_clip(str(folder / "clip"), Place())
    rows, pictures = seen(held_out, OBJECTS)
    nearest = (network.image_embeddings(pictures) @ text_embeddings(folder / "clip", all_captions()).T).argmax(1)
    return float((nearest == pairs(held_out.objects, rows)).float().mean())


def text_embeddings(folder, texts):
    """What CLIP, which the product shows images only, makes of texts."""
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    tokens = CLIPTokenizer.from_pretrained(folder, local_files_only=True)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return torch.nn.functional.normalize(model.text_projection(model.text_model(**tokens).pooler_output), dim=-1)


def solids_above_others(folder, held_out):
    """How often a crop is more like its own solid from another side than like another grey solid, as DINOv2 sees it."""
    network = load_dino(str(folder / "dino"), Place())
    rows, draw = every(held_out.objects, OBJECTS), torch.Generator().manual_seed(0)
    pair = dino_training.pair_of(held_out.objects, rows, dino_training.grey(OBJECTS), draw)
    photos, views = network.image_embeddings(*pair).chunk(2)
    cosines = photos @ views.T
    return float((cosines.diagonal()[:, None] > cosines).sum() / (OBJECTS * (OBJECTS - 1)))


def decoded_psnr(folder, held_out):
    """Of pictures through the VAE and back, dB."""
    denoiser = load_denoiser(str(folder / "diffusion"), Place())
    pictures = rgba(held_out.objects, every(held_out.objects, OBJECTS))
    white = pictures[:, :3] * pictures[:, 3:] + 1 - pictures[:, 3:]
    with torch.no_grad():
        return float(psnr_db(denoiser.decode_latents(denoiser.encode_image(white)), white).mean())


def explained_latents(folder, held_out):
    """Share of the variance of the VAE's latents of crops that the TAESD explains."""
    from diffusers import AutoencoderTiny

    tiny = AutoencoderTiny.from_pretrained(folder / "taesd", torch_dtype=torch.float32)
    denoiser = load_denoiser(str(folder / "diffusion"), Place())
    _, pictures = seen(held_out, OBJECTS)
    with torch.no_grad():
        found = dataclasses.replace(denoiser, encode=lambda pixels: tiny.encode(pixels).latents).encode_image(pictures)
        return explained(found, denoiser.encode_image(pictures))


@cache
def drawn(folder, held_out):
    return diffusion_training.judge_pictures(load_denoiser(str(folder / "diffusion"), Place()), held_out.objects)


def drawn_outlines(folder, held_out):
    """IoU of drawn and true outlines, under caption and depth."""
    return drawn(folder, held_out)["outline_iou"]


def drawn_colors(folder, held_out):
    """Share of drawn pictures in the caption's colour."""
    return drawn(folder, held_out)["color_accuracy"]


def inversions_that_help(folder, held_out):
    """Share of e* that explain the crop better than its true caption does, on noise that the fit never saw."""
    rows = Rows(torch.arange(8), torch.ones(8, dtype=torch.long))
    inverter = load_inverter(InvertConfig(weights=str(folder / "diffusion")), Place())
    found = inverter(rgba(held_out.objects, rows), diffusion_training.captions_of(held_out.objects, rows), names(8))
    return sum(row.loss_after < row.loss_before < 0.5 for row in found) / 8  # a network that sees nothing has loss 1


def colors_that_inversion_finds(folder, held_out):
    """Share of e* that begin at a caption of another colour and end nearest the right one's, among all colours."""
    rows = Rows(torch.arange(8), torch.ones(8, dtype=torch.long))
    right, n_colors = pairs(held_out.objects, rows), len(COLORS)
    wrong = right - right % n_colors + (right + 4) % n_colors
    captions = all_captions()
    inverter = load_inverter(InvertConfig(weights=str(folder / "diffusion")), Place())
    found = inverter(rgba(held_out.objects, rows), [captions[pair] for pair in wrong.tolist()], names(8))
    hits = 0
    for row, pair in zip(found, right.tolist(), strict=True):
        first = pair - pair % n_colors
        known = inverter.denoiser.embed_prompts(captions[first : first + n_colors]).embeddings
        hits += int((known - row.concept.embeddings).flatten(1).norm(dim=1).argmin()) == pair % n_colors
    return hits / 8


@cache
def drafts(folder, held_out):
    network, seen_by = load_point_denoiser(str(folder / "pointe"), Place()), load_clip(str(folder / "clip"), Place())
    return pointe_training.judge_drafts(network, seen_by, held_out.objects, 8)


def draft_closeness(folder, held_out):
    """Minus the mean Chamfer distance of Point-E's drafts to the truth."""
    return -drafts(folder, held_out)["chamfer"]


def draft_colors(folder, held_out):
    """Minus the mean difference of its points' colours from the truth's."""
    return -drafts(folder, held_out)["color_error"]


MEASURES = {
    mask_iou: 0.6,
    found_objects: 0.2,
    right_captions: 0.6,
    right_texts: 0.5,
    solids_above_others: 0.7,
    decoded_psnr: 28.0,
    explained_latents: 0.9,
    drawn_outlines: 0.65,
    drawn_colors: 0.7,
    inversions_that_help: 0.7,
    colors_that_inversion_finds: 0.7,
    draft_closeness: -0.06,
    draft_colors: -0.12,
}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_the_packaged_network_has_learnt(measure, held_out):
    assert measure(weights.PACKAGED, held_out) >= MEASURES[measure]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_a_random_network_fails(measure, held_out, random_weights):
    assert measure(random_weights, held_out) < MEASURES[measure]


def test_the_manifest_says_what_is_trained():
    folders = [path.name for path in weights.PACKAGED.iterdir() if path.is_dir()]
    assert sorted(name for name in folders if not weights.trained(name)) == []


def test_all_packaged_networks_are_small():
    files = [path for path in weights.PACKAGED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * 2**20


def test_unseen_pairs_are_half_of_what_is_held_out(held_out):
    asked = pairs(held_out.objects, every(held_out.objects, OBJECTS))
    share = torch.isin(asked, torch.tensor(blip_training.unseen_pairs())).float().mean()
    assert 0.2 < share < 0.8
