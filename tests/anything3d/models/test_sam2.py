"""SAM 2: a toy-sized one with random weights, in its owner's layout, beside transformers' own processor and model."""

import json
import shutil

import pytest
import torch

from anything3d.errors import NumericsError, WeightsError
from anything3d.mini import sam as mini_sam
from anything3d.models.sam import load_sam, prompting
from anything3d.models.sam.sam2 import Sam2
from anything3d.models.weights import PACKAGED, Place
from anything3d.photo import mask
from anything3d.segment import load_segmenter
from anything3d.settings.segment import SegmentConfig

HEIGHT, WIDTH, SIDE = 200, 300, 128
POINTS = torch.tensor([[40.0, 50.0], [220.0, 150.0], [299.0, 0.0]])
BOXES = torch.tensor([[20.0, 30.0, 90.0, 120.0], [100.0, 10.0, 290.0, 190.0]])


def photo():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 5, 7, generator=generator) * 255
    return (
        torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")[0]
        .clamp(0, 255)
        .permute(1, 2, 0)
        .byte()
    )


def settings():
    """As the owner's, at toy size."""
    from transformers import Sam2VideoConfig, Sam2VisionConfig
    from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig

    encoder = Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[SIDE, SIDE],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        blocks_per_stage=[1, 1, 2, 1],
        global_attention_blocks=[3],
        window_size_per_stage=[8, 4, 8, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=encoder,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    return Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32},
        image_size=SIDE,
        memory_attention_hidden_size=32,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=32,
        memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=32,
        memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=32,
    )


@pytest.fixture(scope="module")
def owners(tmp_path_factory):
    """A folder as the owner publishes it: the memory for videos is in the file, and `model_type` says so."""
    from transformers import Sam2ImageProcessor, Sam2VideoModel

    folder = tmp_path_factory.mktemp("weights") / "sam2.1-hiera-toy"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Sam2VideoModel(settings())
        for value in network.parameters():  # some begin as zeros
            value.data.add_(torch.randn_like(value) * 0.2)
        shared = network.shared_image_embedding.positional_embedding
        network.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    network.save_pretrained(folder)
    Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    entries = json.loads((folder / "config.json").read_text())
    assert entries["model_type"] == "sam2_video"
    for part in ("prompt_encoder_config", "mask_decoder_config"):
        entries[part]["model_type"] = ""  # which the owner's have
    (folder / "config.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def folder(owners, tmp_path):
    """One that a test may damage."""
    return shutil.copytree(owners, tmp_path / owners.name)


def pixels_of(one):
    return mask.decode(mask.encode_runs(one.lengths), HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def theirs(owners):
    """What transformers' processor and model say of the photo at one point or box."""
    from transformers import Sam2ImageProcessor, Sam2Model, Sam2Processor

    processor = Sam2Processor(Sam2ImageProcessor.from_pretrained(owners))
    network = Sam2Model.from_pretrained(owners).eval()

    def ask(row):
        prompt = {"input_points": [[[row.tolist()]]]} if len(row) == 2 else {"input_boxes": [[row.tolist()]]}
        inputs = processor(images=photo().numpy(), return_tensors="pt", **prompt)
        sizes = inputs.pop("original_sizes")
        with torch.inference_mode():
            found = network(**inputs, multimask_output=len(row) == 2)
        return processor.post_process_masks(found.pred_masks, sizes)[0][0], found.iou_scores[0, 0]

    return ask


def test_a_prompt_finds_its_island_in_the_stretched_photo(owners):
    """200 x 300 px are 8 x 8 pixels of these logits: (150, 150) is x 4, y 6, and (225, 100) is x 6, y 4."""
    logits = torch.full((1, 8, 8), -1.0)
    logits[0, 6, 4], logits[0, 4, 6] = 1.0, 4.0
    unsure, sure = torch.tensor([[150.0, 150.0]]), torch.tensor([[225.0, 100.0]])
    sam = load_sam(str(owners), Place())
    kept, none = sam.sure_of(logits, unsure, (HEIGHT, WIDTH), 0.5)
    assert torch.equal(kept, logits)
    assert none.tolist() == [0.0]
    kept, half = sam.sure_of(logits, sure, (HEIGHT, WIDTH), 0.5)
    assert kept[0, [6, 4], [4, 6]].tolist() == [-1.0, 4.0]
    assert half.tolist() == [0.5]


@pytest.mark.parametrize("prompts", [POINTS, BOXES], ids=["points", "boxes"])
def test_prompts_in_batches_give_what_transformers_gives_one_by_one(owners, theirs, prompts):
    sam = load_sam(str(owners), Place())
    assert isinstance(sam, Sam2)
    first, none, again = sam.prompt([photo()] * 3, [prompts, prompts[:0], prompts[:1]], 2, 2)
    assert (len(first), len(none), len(again)) == (len(prompts), 0, 1)
    assert torch.equal(pixels_of(again[0]), pixels_of(first[0]))
    for row, mine in zip(prompts, first, strict=True):
        masks, ious = theirs(row)
        assert len(masks) == (3 if len(row) == 2 else 1)
        assert mine.predicted_iou == pytest.approx(float(ious.max()), abs=1e-5)
        expected = masks[ious.argmax()]
        assert 0.01 < expected.float().mean() < 0.99
        assert (pixels_of(mine) ^ expected).float().mean() < 1e-3  # pixels whose logit is 0 up to rounding


def test_the_grid_gives_what_transformers_gives_at_its_points(owners, theirs, monkeypatch):
    """All three masks of each point. None is a duplicate: the boxes of random masks are the whole photo."""
    monkeypatch.setattr(prompting, "DUPLICATE_IOU", 1.0)
    found = load_sam(str(owners), Place()).grid(photo(), 2, 0.0, 0.0, 3)
    answers = [theirs(torch.tensor([x * WIDTH, y * HEIGHT])) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    masks, ious = (torch.cat(several) for several in zip(*answers, strict=True))
    assert [one.predicted_iou for one in found] == pytest.approx(sorted(ious.tolist(), reverse=True), abs=1e-5)
    for mine in found:
        alike = masks[(ious - mine.predicted_iou).abs() < 2e-5]
        assert (alike ^ pixels_of(mine)).float().mean(dim=(1, 2)).min() < 1e-3


def test_a_folder_without_the_memory_for_videos_is_the_same_network(owners, tmp_path):
    from transformers import Sam2Model

    Sam2Model.from_pretrained(owners).save_pretrained(tmp_path)
    shutil.copy(owners / "preprocessor_config.json", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam2"
    one, other = (load_sam(str(path), Place()).network.state_dict() for path in (owners, tmp_path))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_half_precision_is_the_encoders_only_and_changes_little(owners):
    exact, half = (load_sam(str(owners), Place(dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert (exact.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    rest = [value for name, value in half.network.named_parameters() if not name.startswith("vision_encoder.")]
    assert {value.dtype for value in rest} == {torch.float32}
    (a,), (b,) = (sam.prompt([photo()], [POINTS], 1, 32) for sam in (exact, half))
    assert [one.predicted_iou for one in a] == pytest.approx([one.predicted_iou for one in b], abs=0.05)


@pytest.mark.parametrize("part", ["iou_prediction_head.proj_out", "upscale_conv2", "transformer.layer_norm_final_attn"])
def test_what_is_not_finite_is_no_empty_mask(owners, part):
    sam = load_sam(str(owners), Place())
    assert sam.is_sound()
    broken = sam.network.mask_decoder.get_submodule(part).bias
    broken.data = torch.full_like(broken, float("nan"))
    assert not sam.is_sound()
    with pytest.raises(NumericsError, match="sam_not_finite"):
        sam.grid(photo(), 2, 0.6, 0.7)
    for prompts in (POINTS, BOXES):
        (found,) = sam.prompt([photo()], [prompts], 1, 1)
        assert [one.is_finite for one in found] == [False] * len(prompts)


@pytest.mark.parametrize(("source", "prompt"), [("sam-points", (150, 90)), ("sam-boxes", (50, 30, 220, 150))])
def test_a_segmenter_takes_sam_2_by_the_name_of_its_folder(owners, theirs, source, prompt):
    place = Place(weights_root=str(owners.parent))
    config = SegmentConfig(source=source, weights=owners.name, crop_size=64, min_region_px=0)
    found = load_segmenter(config, place).at(photo(), prompt)
    _, ious = theirs(torch.tensor(prompt, dtype=torch.float32))
    assert (found.mask.source, found.crop.rgba.shape) == (source, (64, 64, 4))
    assert found.mask.predicted_iou == pytest.approx(float(ious.max()), abs=1e-5)


def of_sam_1(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    torch.save(mini_sam.build(0).state_dict(), folder / "sam_vit_b_01ec64.pth")


def packaged_sam(folder):
    shutil.rmtree(folder)
    shutil.copytree(PACKAGED / "sam", folder)


def other_family(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "sam3_video"}))


def memory_only(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(
        {key: value for key, value in load_file(path).items() if key.startswith("memory_")}, path, {"format": "pt"}
    )


def wider(folder):
    entries = json.loads((folder / "config.json").read_text())
    entries["mask_decoder_config"]["iou_head_hidden_dim"] = 48
    (folder / "config.json").write_text(json.dumps(entries))


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def without_preprocessor(folder):
    (folder / "preprocessor_config.json").unlink()


def smaller_pictures(folder):
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text().replace("128", "64"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (of_sam_1, r"weights_missing: .*no config\.json; SAM 2 is read .*, not from sam_vit_b_01ec64\.pth"),
        (packaged_sam, "weights_unsupported: .*config.json: model_type is None; supported: sam2, sam2_video"),
        (other_family, "weights_unsupported: .*model_type is 'sam3_video'; supported: sam2, sam2_video"),
        (memory_only, "weights_mismatch: .*tensors of the architecture are missing, mask_decoder"),
        (wider, "weights_broken: .*sam2.1-hiera-toy"),
        (cut, "weights_broken: .*sam2.1-hiera-toy"),
        (without_preprocessor, "weights_broken: .*sam2.1-hiera-toy"),
        (smaller_pictures, "weights_mismatch: .*preprocessor_config.json makes pictures of 64 x 64 px, .* takes 128"),
    ],
)
def test_what_is_no_whole_sam_2_is_refused(folder, damage, says):
    damage(folder)
    with pytest.raises(WeightsError, match=says):
        load_sam(str(folder), Place())
