"""SAM: its prompts, its precision, and what counts as its weights."""

import json
import tarfile
from dataclasses import replace

import pytest
import torch

from anything3d.errors import NumericsError, WeightsError
from anything3d.mini import sam as mini_sam
from anything3d.mini.world import write_world
from anything3d.models.sam import build, load_sam, prompting
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.photo.image import decode_upright
from anything3d.settings.segment import ImageLimits
from tests.largest import Largest

HEIGHT, WIDTH = 200, 300


def photo():
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack([rows % 256, columns % 256, (rows + columns) % 256], dim=-1).to(torch.uint8)


@pytest.mark.parametrize("prompt", ["point", "box"])
def test_prompts_in_batches_give_what_segment_anything_gives_one_by_one(toy_sam, prompt):
    from segment_anything import SamPredictor

    sam, image = load_sam(str(toy_sam), Place()), photo()
    prompts = torch.tensor([[40.0, 50.0], [220.0, 150.0]] if prompt == "point" else [[20.0, 30.0, 90.0, 120.0]] * 2)
    (found,) = sam.prompt([image], [prompts], 1, 32)
    predictor = SamPredictor(sam.network)
    predictor.set_image(image.numpy())
    for row, mine in zip(prompts.numpy(), found, strict=True):
        masks, iou, _ = (
            predictor.predict(point_coords=row[None], point_labels=torch.ones(1).numpy())
            if prompt == "point"
            else predictor.predict(box=row, multimask_output=False)
        )
        expected = torch.from_numpy(masks[iou.argmax()])
        differing = mask.decode(mask.encode_runs(mine.lengths), HEIGHT, WIDTH) ^ expected
        assert mine.predicted_iou == pytest.approx(float(iou.max()), abs=1e-5)
        assert differing.float().mean() < 1e-3  # pixels whose logit is 0 up to rounding


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A photo of the mini world and its annotations."""
    place = tmp_path_factory.mktemp("world") / "world.tar"
    write_world(place, scenes=1, seed=2, size=256)
    with tarfile.open(place) as tar:
        members = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
    (jpg,) = (data for name, data in members.items() if name.endswith(".jpg"))
    (record,) = (json.loads(data) for name, data in members.items() if name.endswith(".json"))
    return decode_upright(jpg, ImageLimits()), record


def test_masks_of_a_trained_sam_equal_segment_anythings(world):
    """On a photo of the mini world, at every annotated point and box: IoU 0.999 and more."""
    from segment_anything import SamPredictor

    image, record = world
    sam = load_sam("sam", Place())
    predictor = SamPredictor(sam.network)
    predictor.set_image(image.numpy())
    points = torch.tensor([entry["point_coords"][0] for entry in record["annotations"]])
    x, y, width, height = torch.tensor([entry["bbox"] for entry in record["annotations"]], dtype=torch.float32).T
    for prompts in (points, torch.stack([x, y, x + width - 1, y + height - 1], dim=1)):
        (found,) = sam.prompt([image], [prompts], 1, 5)
        assert len(found) == len(prompts) > 5
        for row, mine in zip(prompts.numpy(), found, strict=True):
            masks, iou, _ = (
                predictor.predict(point_coords=row[None], point_labels=torch.ones(1).numpy())
                if len(row) == 2
                else predictor.predict(box=row, multimask_output=False)
            )
            theirs = torch.from_numpy(masks[iou.argmax()])
            ours = mask.decode(mask.encode_runs(mine.lengths), *image.shape[:2])
            assert (ours & theirs).sum() >= 0.999 * (ours | theirs).sum()


@pytest.mark.parametrize("limits", [(0.6, 0.7), (0.0, 0.0)])
def test_the_grid_gives_what_segment_anythings_generator_gives(world, monkeypatch, limits):
    """Equal masks, IoUs and order, however few masks are enlarged at once."""
    from segment_anything import SamAutomaticMaskGenerator

    sam, (image, _) = load_sam("sam", Place()), world
    generator = SamAutomaticMaskGenerator(
        sam.network,
        points_per_side=4,
        points_per_batch=7,
        pred_iou_thresh=limits[0],
        stability_score_thresh=limits[1],
        output_mode="uncompressed_rle",
    )
    theirs = generator.generate(image.numpy())
    for at_once in (1, 3 * 256 * 256, prompting.LOGITS_PX):
        monkeypatch.setattr(prompting, "LOGITS_PX", at_once)
        ours = sam.grid(image, 4, *limits, 7)
        assert len(ours) == len(theirs) > 2
        for mine, expected in zip(ours, theirs, strict=True):
            assert mine.lengths.tolist() == expected["segmentation"]["counts"]
            assert mine.predicted_iou == expected["predicted_iou"]
            assert mine.stability_score == expected["stability_score"]


def test_a_large_photo_never_has_more_logits_at_once_than_the_limit(toy_sam, monkeypatch):
    pixels = 1800 * 1500  # more than two photos have numbers of the encoder's attention
    monkeypatch.setattr(prompting, "LOGITS_PX", 3 * pixels)  # as many as the photo has colours
    sam, image = load_sam(str(toy_sam), Place()), photo().repeat_interleave(9, 0).repeat_interleave(5, 1)
    assert image.shape[0] * image.shape[1] == pixels
    points = torch.rand(8, 2) * 1500
    with Largest() as largest:
        assert len(sam.prompt([image], [points], 1, 32)[0]) == 8
        assert len(sam.prompt([image], [torch.tensor([[20.0, 30.0, 90.0, 120.0]] * 8)], 1, 32)[0]) == 8
        sam.grid(image, 2, -10.0, 0.0, 32)
    assert pixels < largest.numbers <= 3 * pixels


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["iou_prediction_head.layers.2", "output_upscaling.3", "transformer.norm_final_attn"])
def test_what_is_not_finite_is_no_empty_mask(toy_sam, part, value):
    """Thresholds make an empty mask of NaN, a full one of infinity; the IoU head may stay finite."""
    sam = load_sam(str(toy_sam), Place())
    assert sam.is_sound()
    broken = sam.network.mask_decoder.get_submodule(part).bias
    broken.data = torch.full_like(broken, value)
    assert not sam.is_sound()
    with pytest.raises(NumericsError, match="sam_not_finite"):
        sam.grid(photo(), 2, 0.6, 0.7)
    for prompts in (torch.tensor([[40.0, 50.0], [220.0, 150.0]]), torch.tensor([[20.0, 30.0, 90.0, 120.0]])):
        (found,) = sam.prompt([photo()], [prompts], 1, 1)
        assert [one.is_finite for one in found] == [False] * len(prompts)


def test_half_precision_is_the_encoders_only_and_changes_little(toy_sam):
    prompts = torch.tensor([[40.0, 50.0]])
    exact, half = (load_sam(str(toy_sam), Place(dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert half.network.image_encoder.pos_embed.dtype == torch.bfloat16
    assert half.network.mask_decoder.iou_token.weight.dtype == torch.float32
    ((a,),), ((b,),) = (sam.prompt([photo()], [prompts], 1, 1) for sam in (exact, half))
    assert a.predicted_iou == pytest.approx(b.predicted_iou, abs=0.05)


def test_the_toy_sam_is_small_and_its_seed_decides():
    first, again, other = mini_sam.build(3), mini_sam.build(3), mini_sam.build(4)
    assert 1e6 < sum(value.numel() for value in first.parameters()) < 1.5e6
    assert torch.equal(first.image_encoder.pos_embed, again.image_encoder.pos_embed)
    key = "mask_decoder.iou_token.weight"
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_our_parts_have_the_tensors_of_the_official_models():
    from segment_anything import sam_model_registry

    shape = replace(
        mini_sam.SHAPE,
        image_size=1024,
        patch_size=16,
        width=768,
        depth=12,
        heads=12,
        window=14,
        global_blocks=(2, 5, 8, 11),
        prompt_width=256,
        decoder_heads=8,
        decoder_mlp=2048,
        iou_hidden=256,
    )
    with torch.device("meta"):
        ours, official = build(shape).state_dict(), sam_model_registry["vit_b"]().state_dict()
    assert len(official) == 314
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in official.items()}


def test_an_official_checkpoint_is_recognised_by_its_shapes(tmp_path, monkeypatch):
    import segment_anything

    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", lambda: mini_sam.build(0))
    monkeypatch.setattr("anything3d.models.sam.loading.OFFICIAL", {mini_sam.SHAPE.width: "vit_b"})
    network = mini_sam.build(7)
    torch.save(network.state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    loaded = load_sam(str(tmp_path), Place()).network
    assert torch.equal(loaded.image_encoder.pos_embed, network.image_encoder.pos_embed)
    key = "mask_decoder.iou_token.weight"
    assert torch.equal(loaded.state_dict()[key], network.state_dict()[key])


class Payload:
    def __reduce__(self):
        return (print, ("this ran",))


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    torch.save({"image_encoder.pos_embed": Payload()}, tmp_path / "sam.pth")
    with pytest.raises(WeightsError, match="weights_broken"):
        load_sam(str(tmp_path), Place())
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{}, {"image_encoder.pos_embed": torch.zeros(1, 4, 4, 100)}, [1, 2]])
def test_a_checkpoint_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="weights_mismatch"):
        load_sam(str(tmp_path), Place())


def test_damaged_or_incomplete_weights_are_refused(toy_sam, tmp_path):
    (tmp_path / "config.json").write_text((toy_sam / "config.json").read_text())
    with pytest.raises(WeightsError, match="weights_broken"):
        load_sam(str(tmp_path), Place())
    (tmp_path / "model.safetensors").write_bytes((toy_sam / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="weights_broken"):
        load_sam(str(tmp_path), Place())
    (tmp_path / "model.safetensors").write_bytes((toy_sam / "model.safetensors").read_bytes())
    wider = json.loads((toy_sam / "config.json").read_text()) | {"width": 160}
    (tmp_path / "config.json").write_text(json.dumps(wider))
    with pytest.raises(WeightsError, match="weights_mismatch"):
        load_sam(str(tmp_path), Place())
    with pytest.raises(WeightsError, match="weights_missing"):
        load_sam(str(tmp_path / "nowhere"), Place())
