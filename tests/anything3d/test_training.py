"""How the mini networks are trained: data, batches, the loop. What they have learnt is tested in test_mini.py."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from anything3d.errors import ConfigError, InputError, WeightsError
from anything3d.lift import canonical
from anything3d.mini import clip, training
from anything3d.mini import diffusion as mini_diffusion
from anything3d.mini import pointe as mini_pointe
from anything3d.mini import sam as mini_sam
from anything3d.mini.shapes import SEEN, make_object
from anything3d.mini.tokens import save_bert_tokenizer, save_clip_tokenizer
from anything3d.mini.training import batch, blip, data, diffusion, dino, loop, pointe, sam, taesd
from anything3d.mini.training import clip as clip_training
from anything3d.mini.training import scenes as drawing
from anything3d.mini.words import COLORS, SHAPES
from anything3d.models.pointe.networks import CoarseShape
from anything3d.models.sam import Sam1
from anything3d.models.weights import PACKAGED
from anything3d.photo import mask
from anything3d.space.camera import angles, orbit, project


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with tiny sets: four objects, three scenes, of both splits."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        for name, split in list(data.BLOCKS):
            patch.setitem(data.BLOCKS, (name, split), (2, 2) if name == "objects" else (1, 3))
        yield folder


@pytest.fixture(scope="module")
def objects(work):
    return data.load_objects("training", work)


@pytest.fixture(scope="module")
def scenes(work):
    return data.load_scenes("training", work)


# data


def test_objects_are_framed_whole_and_their_points_lie_on_what_is_seen(objects):
    assert len(objects) == 4
    for item in range(4):
        for view in range(data.VIEWS):
            rows = torch.tensor([item]), torch.tensor([view])
            where, depth = project(objects.cameras(*rows), objects.points[item : item + 1].float())
            assert where.min() > 0
            assert where.max() < 1
            seen = objects.depth[item, view].float()
            column, row = (where[0] * data.VIEW_PX).long().clamp(0, data.VIEW_PX - 1).unbind(-1)
            behind = depth[0] - seen[row, column]  # >= 0 but for pixels at edges: nothing lies before what is seen
            inside = objects.rgba[item, view, 3][row, column] == 255
            assert behind[inside].quantile(0.1) > -0.06
            assert (behind[inside].abs() < 0.03).float().mean() > 0.2  # and a good part is what is seen


def test_signed_distances_are_negative_inside(objects):
    sdf = objects.sdf.float()
    for item in range(4):
        axis = ((objects.points[item].float() + 0.5) * data.SDF_CELLS).long().clamp(0, data.SDF_CELLS - 1)
        at_surface = sdf[item, axis[:, 0], axis[:, 1], axis[:, 2]]
        assert at_surface.abs().max() < 1 / data.SDF_CELLS  # a cell's centre is at most sqrt(3)/2 cells away
        assert sdf[item].min() < 0 < sdf[item].max()


def test_blocks_that_are_there_are_not_rendered_again(work, objects):
    said = []
    data.render_data("objects", "training", work, said.append)
    assert said == []
    path = work / "data" / "objects-training-001.safetensors"
    before = path.read_bytes()
    path.unlink()
    data.render_data("objects", "training", work, said.append)
    assert said == ["rendered objects (training), block 2 of 2"]
    assert path.read_bytes() == before  # the same seeds give the same pictures


def test_a_set_of_an_older_version_is_refused(work, tmp_path):
    cut = data.load_crops("training", work)
    old = tmp_path / "data" / "crops-training-000.safetensors"
    old.parent.mkdir()
    save_file({"rgba": cut.rgba, "iou": cut.iou, "shape": cut.shape, "color": cut.color}, old)
    with pytest.raises(InputError, match=r"old_data: .*crops-training-000.* has no direction, sdf; remove all crops-"):
        data.load_crops("training", tmp_path)


def test_scenes_say_what_every_pixel_is(scenes):
    for label, rgb in zip(scenes.label, scenes.rgb, strict=True):
        beyond = label == 0
        assert (rgb[:, beyond] == 0).all()
        assert ((label > 0) & (label <= 5)).any()
        assert (label >= data.STUFF).any()


def test_crops_show_their_own_object_by_the_masks_of_sam(work):
    cut = data.load_crops("training", work)
    assert len(cut) > 3
    assert cut.rgba.shape[1:] == (4, data.VIEW_PX, data.VIEW_PX)
    assert cut.iou.min() >= data.LEAST_IOU
    assert cut.iou.min() < 1  # the masks are not the true ones
    inside = cut.rgba[:, 3] > 0
    sides = torch.maximum(inside.any(1).sum(1), inside.any(2).sum(1)) / data.VIEW_PX
    assert sides.median() == pytest.approx(1 / data.CUT.context, abs=2.1 / data.VIEW_PX)  # edges fade
    assert sides.max() < 1 / data.CUT.context + 0.05  # less where the photo ends, or a far speck fades
    pairs = zip(cut.shape.tolist(), cut.color.tolist(), strict=True)
    assert all((SHAPES[shape], COLORS[color]) in SEEN for shape, color in pairs)


def test_a_crop_of_another_thing_is_left_out(monkeypatch):
    def kept(least):
        monkeypatch.setattr(data, "LEAST_IOU", least)
        return [float(row["iou"]) for row in data._render_crops(generator(3), False)]

    every = kept(0.0)
    assert len(every) > 2
    worst = min(every)
    assert kept(worst + 1e-4) == [iou for iou in every if iou > worst + 1e-4]


# batches


def test_a_new_frame_centres_what_is_visible():
    inside = torch.zeros(1, 64, 64, dtype=torch.bool)
    inside[0, 8:24, 32:40] = True  # rows 8..23, columns 32..39: centre (36, 16), sides 8 x 16
    theta = batch._frame(inside, torch.tensor([2.0]))
    # side 32 of 64 px: scale 1/2; centre (36, 16) in [-1, 1] is (0.125, -0.5)
    assert theta[0].tolist() == [[0.5, 0, 0.125], [0, 0.5, -0.5]]


def test_crops_are_pictures_over_white(objects):
    rows = batch.every(objects, 4)
    pictures = batch.crops(objects, rows, generator())
    assert pictures.shape == (4, 3, 64, 64)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert (pictures[:, :, 0, 0] > 0.95).all()  # corners: no object reaches them, and noise lies under the mask only


def test_crops_cut_by_sam_are_white_outside_their_masks(work):
    cut = data.load_crops("training", work)
    rows = torch.arange(len(cut))
    pictures = batch.cut_by_sam(cut, rows).pixels
    beside = (cut.rgba[:, 3:] == 0).expand_as(pictures)
    assert (pictures[beside] == 1).all()
    inside = (cut.rgba[:, 3:] == 255).expand_as(pictures)
    torch.testing.assert_close(pictures[inside], cut.rgba[:, :3][inside] / 255)
    drawn = batch.draw_cut_by_sam(cut, 64, generator())
    kinds = {"same": 0, "mirrored": 0, "occluded": 0}
    for row in range(64):
        as_it_is, turned = ((drawn.pixels[row] == whole).flatten(1).all(1) for whole in (pictures, pictures.flip(3)))
        kinds["same" if as_it_is.any() else "mirrored" if turned.any() else "occluded"] += 1
        for match, side in ((as_it_is, 1.0), (turned, -1.0)):
            if match.any():  # the truth goes with the picture
                seen = int(match.nonzero()[0])
                assert drawn.shape[row] == cut.shape[seen]
                assert drawn.color[row] == cut.color[seen]
                assert torch.equal(drawn.distances[row], batch.cut_by_sam(cut, torch.tensor([seen])).distances[0])
                assert torch.equal(drawn.direction[row], cut.direction[seen] * torch.tensor([side, 1.0, 1.0]))
    assert min(kinds.values()) > 6


@pytest.mark.parametrize("shape", SHAPES)
def test_every_body_of_the_mini_world_is_as_it_was_in_a_mirror(shape):
    sdf = data._sdf(make_object(shape, COLORS[0], generator()))
    torch.testing.assert_close(sdf, sdf.flip(0), atol=1e-4, rtol=0)


def test_a_crop_knows_its_object_and_from_where_it_is_seen():
    scene, _ = data._photo(generator(3), False, data.PHOTO_PX)
    placed = {(one.item.shape, one.item.color): one for one in scene.objects}
    crops = data._render_crops(generator(3), False)
    assert len(crops) > 2
    for crop in crops:
        one = placed[SHAPES[int(crop["shape"])], COLORS[int(crop["color"])]]
        azimuth, elevation = angles(one.seen_by(scene.camera))
        away = orbit(azimuth, elevation, torch.ones(1), torch.ones(1)).pose[0, :3, 3]
        torch.testing.assert_close(crop["direction"], away, atol=1e-4, rtol=0)
        assert torch.equal(crop["sdf"], data._sdf(one.item).half())


def test_half_of_a_step_are_crops_cut_by_sam(work, objects):
    cut, drawing = data.load_crops("training", work), generator()
    seen = batch.draw_seen(objects, cut, 9, generator())
    torch.testing.assert_close(seen.direction.norm(dim=1), torch.ones(9))
    alone = batch.seen_alone(objects, batch.draw(objects, 5, drawing), drawing)
    by_sam = batch.draw_cut_by_sam(cut, 4, drawing)
    for field in dataclasses.fields(batch.Seen):
        ours, first, second = (getattr(one, field.name) for one in (seen, alone, by_sam))
        assert torch.equal(ours, torch.cat([first, second]))


def test_some_objects_are_occluded(objects):
    rows = batch.Rows(torch.zeros(64, dtype=torch.long), torch.zeros(64, dtype=torch.long))
    seen = batch.rgba(objects, rows)
    found = batch._occlude(seen, batch.rgba(objects, batch.draw(objects, 64, generator())), generator(1))
    changed = (found != seen).flatten(1).any(1).float().mean()
    assert 0.05 < changed < 0.5


def test_true_distances_have_their_surface_where_the_true_points_are(objects):
    rows = batch.draw(objects, 32, generator())
    points = pointe.model_units(objects, rows, 200, generator())[:, :3].mT
    shape = CoarseShape(4, data.SDF_CELLS)
    apart = []
    for grid in (batch.distances(objects, rows), batch.distances(objects, rows).transpose(1, 2)):
        discs = shape.surface(grid)
        far = torch.where(discs.log_weight[:, None] > -2, torch.cdist(points, discs.centre[..., :3]), torch.inf)
        apart.append(far.amin(2).mean())
    assert apart[0] < 0.1  # model units; cells are 0.167 wide
    assert apart[0] < 0.8 * apart[1]


# prompts and losses of SAM


def test_paint_changes_hues_and_nothing_else(objects):
    pixels = batch.crops(objects, batch.draw(objects, 64, generator()), generator(1))
    paint = batch.Paint.draw(64, generator(2))
    painted = paint.apply(pixels)
    assert 10 < int(paint.changes.sum()) < 40
    assert torch.equal(painted[~paint.changes], pixels[~paint.changes])
    torch.testing.assert_close(painted.amax(1), pixels.amax(1))  # the brightest channel, so white stays white
    assert (painted.amin(1) >= pixels.amin(1) - 1e-6).all()
    points = pixels.flatten(2)
    torch.testing.assert_close(paint.apply(points), painted.flatten(2))


def test_the_dense_loss_is_small_where_embeddings_tell_segments_apart():
    label = torch.ones(2, 256, 256, dtype=torch.uint8)
    label[:, 64:128, 32:160], label[:, 150:, :] = 2, data.STUFF
    coarse = label[:, 2::4, 2::4]
    one_hot = torch.stack([coarse == value for value in (1, 2, data.STUFF)], dim=1).float()
    embedding = nn.functional.pad(9 * one_hot.flatten(2), (0, 0, 0, sam.EMBEDDING - 3))
    trained = sam.Trained(0)
    assert sam.dense_loss(trained, embedding, label, generator()) < 0.1
    assert sam.dense_loss(trained, 0 * embedding, label, generator()) > 1


def test_a_token_that_lies_at_its_segment_costs_little():
    trained = sam.Trained(0)
    cells = torch.zeros(1, sam.EMBEDDING, 6)
    cells[0, 0] = torch.tensor([0.0, 0.0, 0.0, 9.0, 9.0, 9.0])
    same = torch.tensor([[[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]])
    at, elsewhere = cells[:, :, 0, None].mT, cells[:, :, 4, None].mT
    assert sam.near_loss(trained.near(at, cells), same) < 0.1
    assert sam.near_loss(trained.near(elsewhere, cells), same) > 1


def test_points_lie_in_their_segments_and_everywhere_in_them():
    segment = torch.zeros(1, 16, 16, dtype=torch.bool)
    segment[0, 3, 2:6] = segment[0, 9, 12] = True
    found = {tuple(drawing.points(segment, generator(seed))[0].long().tolist()) for seed in range(60)}
    assert found == {(2, 3), (3, 3), (4, 3), (5, 3), (12, 9)}


def test_boxes_lie_around_their_segments(monkeypatch):
    monkeypatch.setattr(drawing, "BOX_JITTER", 0.0)
    segment = torch.zeros(1, 16, 16, dtype=torch.bool)
    segment[0, 3:8, 2:6] = True
    assert drawing.boxes(segment, generator())[0].tolist() == [2, 3, 6, 8]


def test_decoding_many_images_at_once_is_what_sam_does_for_each():
    network = mini_sam.build(0).eval()
    images = [torch.randint(256, (256, 256, 3), generator=generator(i), dtype=torch.uint8) for i in range(2)]
    asked = torch.tensor([[40.0, 50.0], [200.0, 90.0]])
    with torch.no_grad():
        pixels = torch.stack([image.permute(2, 0, 1).float() for image in images])
        features = network.image_encoder(torch.stack([network.preprocess(image) for image in pixels]))
        logits, predicted_iou, _ = sam.decode(network, features, asked)
    rows = Sam1(network).prompt(images, [asked[:1], asked[1:]], 2, 8)
    for b in range(2):
        best = int(predicted_iou[b, 1:].argmax()) + 1  # the first is the mask of unambiguous prompts
        assert rows[b][0].predicted_iou == pytest.approx(float(predicted_iou[b, best]), abs=1e-5)
        large = torch.nn.functional.interpolate(logits[b : b + 1, best : best + 1], (256, 256), mode="bilinear")[0, 0]
        found = mask.decode(mask.encode_runs(rows[b][0].lengths), 256, 256)
        assert ((large > 0) == found).float().mean() > 0.999


def test_a_perfect_mask_costs_nothing_and_its_complement_much():
    share = torch.zeros(1, 8, 8)
    share[:, 2:5, 2:5] = 1
    logits = (share * 40 - 20)[:, None]
    assert sam.mask_loss(logits, torch.ones(1, 1), share) < 1e-3
    # focal 4 * 20 nats * 1, dice 1 - 1 / (55 + 9 + 1), IoU 0 predicted as 0
    assert sam.mask_loss(-logits, torch.zeros(1, 1), share) == pytest.approx(80 + 1 - 1 / 65, rel=1e-3)


def test_every_prompt_belongs_to_its_scene(scenes):
    owner, segment = drawing.choose(scenes.label, False, generator())
    assert len(owner) == len(scenes) * drawing.PROMPTS
    for row, inside in zip(owner.tolist(), segment, strict=True):
        assert len(scenes.label[row][inside].unique()) == 1


def test_pasted_objects_have_labels_of_their_own(scenes):
    several = [drawing.draw(scenes, generator(number)) for number in range(6)]
    assert several[0].rgb.shape == (drawing.BATCH, 3, 256, 256)
    labels = {label for drawn in several for label in drawn.label.unique().tolist()}
    assert any(drawing.PASTED_LABEL < label < data.STUFF for label in labels)


def test_a_closer_look_shows_one_object_and_what_is_around_it():
    label = torch.full((256, 256), data.STUFF, dtype=torch.long)
    label[100:130, 20:40] = 1  # 20 x 30 px; a part of 0.2 sides has 51 px
    label[180:250, 200:256] = 2  # 56 x 70 px, at the photo's corner
    label[0:3, 0:3] = 3  # too small to be asked for
    sides, shown = set(), set()
    for number in range(40):
        side, centre = drawing._closer(label, torch.tensor(9.0), torch.zeros(2), generator(number))
        low, high = ((centre - side + 1) * 128).round(), ((centre + side + 1) * 128).round()
        assert low.min() >= 0
        assert high.max() <= 256
        x, y, end_x, end_y = (int(edge) for edge in (*low, *high))
        whole = [k for k in (1, 2) if (label[y:end_y, x:end_x] == k).sum() == (label == k).sum()]
        assert len(whole) == 1
        shown.add(whole[0])
        sides.add((whole[0], round(float(side) * 256)))
    assert shown == {1, 2}
    assert {side for k, side in sides if k == 1} <= set(range(51, 67))
    assert {side for k, side in sides if k == 2} <= set(range(84, 155))
    empty = torch.full((256, 256), data.STUFF, dtype=torch.long)
    assert drawing._closer(empty, torch.tensor(0.9), torch.zeros(2), generator())[0] == 0.9  # the part that was given


# words


def test_tokens_are_those_of_the_tokenizers(tmp_path):
    from transformers import BertTokenizer, CLIPTokenizer

    texts = ["a red mug", "an orange torus", "front view of a white lamp", ""]
    save_clip_tokenizer(tmp_path / "clip", clip.CONTEXT)
    expected = CLIPTokenizer.from_pretrained(tmp_path / "clip")(texts, padding="max_length", max_length=clip.CONTEXT)
    assert clip_training.tokens_of(texts).tolist() == expected["input_ids"]
    save_bert_tokenizer(tmp_path / "bert", 32)
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "bert")
    for row, text in zip(blip.tokens_of(texts[:3]).tolist(), texts, strict=False):
        assert tokenizer.decode(row, skip_special_tokens=True) == text
        assert row[0] == tokenizer.convert_tokens_to_ids("[DEC]")


def test_captions_of_all_pairs_stand_at_their_places(objects):
    texts = clip_training.all_captions()
    rows = batch.every(objects, 4)
    seen = batch.seen_alone(objects, rows, generator())
    for place, item in zip(seen.pair.tolist(), rows.item.tolist(), strict=True):
        assert texts[place].endswith(f"{COLORS[objects.color[item]]} {SHAPES[objects.shape[item]]}")
    assert len(blip.unseen_pairs()) == 15


# clouds


def test_model_units_are_point_es_axes_and_come_back(objects):
    rows = batch.every(objects, 2)
    clean = pointe.model_units(objects, rows, 2048, generator())
    assert clean[:, :3].abs().max() <= 1.02
    assert clean[:, 3:].abs().max() <= 1.001
    cloud, _ = canonical(pointe.data_units(clean))
    for row in range(2):
        true = objects.points[row].float()
        assert torch.cdist(cloud.points[row], true).amin(1).max() < 5e-3


def test_the_loss_of_a_network_that_copies_its_input_is_the_noise(monkeypatch):
    noise = pointe.Noise("base", "cpu")
    assert torch.all(noise.sigmas[1:] > noise.sigmas[:-1])
    times = noise._times(4000, generator())
    sigmas = noise.sigmas[times]
    assert sigmas.min() < 0.02
    assert 0.9 < sigmas.max() < 1.1
    clean = torch.rand(2, 6, 32, generator=generator()) - 0.5
    network = mini_pointe.build(0).base
    monkeypatch.setattr(network, "forward", lambda x, t, *, embeddings, low_res: x)
    monkeypatch.setattr(noise, "_times", lambda count, generator: torch.full((count,), 40))
    loss = noise.loss(network, clean, torch.zeros(2, 128, 64), None, generator())
    sigma = float(noise.sigmas[40])  # the copy is off by the noise, of which alpha_bar takes a little away
    assert loss == pytest.approx(sigma**2, rel=0.2)


def test_hints_are_near_where_the_surface_is(objects):
    rows = batch.every(objects, 4)
    hint = diffusion.hints(objects, rows, generator())
    assert hint.shape == (4, 3, 64, 64)
    covered, solid = hint[:, 0] > 0, batch.rgba(objects, rows)[:, 3] > 0.5
    iou = (covered & solid).sum((1, 2)) / (covered | solid).sum((1, 2))
    assert iou.min() > 0.5


def test_prompts_are_captions_with_the_right_view_or_nothing(objects):
    rows = batch.Rows(torch.zeros(200, dtype=torch.long), torch.zeros(200, dtype=torch.long))
    said = set(diffusion.prompts(objects, rows, generator()))
    (text,) = diffusion.captions_of(objects, batch.every(objects, 1))
    azimuth = float(objects.azimuth_deg[0, 0])
    around = "front" if azimuth < 45 or azimuth >= 315 else "back" if 135 <= azimuth < 225 else "side"
    view = "overhead" if objects.elevation_deg[0, 0] > 60 else around
    assert said == {"", text, f"{view} view of {text}"}


# the loop


def line_training(steps, seen=None):
    """Fit y = 3 x with one weight."""
    torch.manual_seed(0)
    network = nn.Linear(1, 1, bias=False)

    def loss(generator):
        x = torch.randn(8, 1, generator=generator)
        return (network(x) - 3 * x).square().mean()

    def save(folder):
        folder.mkdir(exist_ok=True)
        torch.save(network.state_dict(), folder / "line.pt")

    return loop.Training("line", network, loss, save, lambda: {"weight": float(network.weight)}, steps, 0.1, every=20)


def test_training_learns_and_keeps_the_averaged_weights(tmp_path):
    said = []
    loop.train(line_training(400), tmp_path, 0, "cpu", said.append)
    lines = [json.loads(line) for line in (tmp_path / "line" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(20, 401, 20))
    assert lines[-1]["loss"] < 0.01 * lines[0]["loss"]
    kept = torch.load(tmp_path / "weights" / "line.pt", weights_only=True)["weight"]
    assert float(kept) == pytest.approx(3, abs=0.1) == lines[-1]["weight"]
    assert len(said) == 20


def test_an_interrupted_training_ends_where_a_whole_one_does(tmp_path):
    class Interrupted(Exception):
        pass

    def stop(line):
        if "step 40" in line:
            raise Interrupted

    loop.train(line_training(100), tmp_path / "whole", 0, "cpu", print)
    stopping = line_training(100)
    calls = []

    def loss(generator):
        calls.append(1)
        if len(calls) == 50:
            raise Interrupted
        return stopping.loss(generator)

    with pytest.raises(Interrupted):
        loop.train(
            loop.Training("line", stopping.networks, loss, stopping.save, stopping.score, 100, 0.1, every=20),
            tmp_path / "cut", 0, "cpu", print,
        )  # fmt: skip
    loop.train(line_training(100), tmp_path / "cut", 0, "cpu", print)  # goes on from step 40
    ends = [torch.load(tmp_path / name / "weights" / "line.pt", weights_only=True) for name in ("whole", "cut")]
    assert torch.equal(ends[0]["weight"], ends[1]["weight"])


def test_a_training_can_keep_the_mean_of_its_start_and_its_end(tmp_path):
    whole, half = line_training(100), dataclasses.replace(line_training(100), start_share=0.25)
    begun = float(half.networks.weight.detach())
    loop.train(whole, tmp_path / "whole", 0, "cpu", print)
    loop.train(half, tmp_path / "half", 0, "cpu", print)
    again = dataclasses.replace(line_training(100), start_share=0.25)
    again.networks.weight.data.fill_(7.0)  # the checkpoint knows where the training began
    loop.train(again, tmp_path / "half", 0, "cpu", print)
    kept, mean = (
        torch.load(tmp_path / name / "weights" / "line.pt", weights_only=True)["weight"] for name in ("whole", "half")
    )
    assert float(mean) == pytest.approx(0.25 * begun + 0.75 * float(kept), abs=1e-6)
    none = dataclasses.replace(line_training(100), start_share=0.0)  # another share of a finished training
    loop.train(none, tmp_path / "half", 0, "cpu", print)
    again = torch.load(tmp_path / "half" / "weights" / "line.pt", weights_only=True)["weight"]
    assert torch.equal(again, kept)
    with pytest.raises(InputError, match="bad_checkpoint"):
        loop.train(line_training(100), tmp_path / "half", 0, "cpu", print)


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    loop.train(line_training(20), tmp_path, 0, "cpu", print)
    other = nn.Linear(2, 1)
    training = loop.Training("line", other, lambda g: other(torch.ones(1, 2)).sum(), lambda f: None, dict, 20, 0.1)
    with pytest.raises(InputError, match="bad_checkpoint"):
        loop.train(training, tmp_path, 0, "cpu", print)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_products_are_in_bfloat16_where_the_device_has_them(tmp_path, monkeypatch, has_bf16):
    monkeypatch.setattr(loop, "has_bfloat16", lambda device: has_bf16)
    network, kinds = nn.Linear(2, 2), set()

    def loss(generator):
        made = network(torch.ones(1, 2))
        kinds.add(made.dtype)
        return made.float().sum()

    learning = loop.Training("line", network, loss, lambda folder: None, dict, 1, 0.1, bf16=True)
    loop.train(learning, tmp_path, 0, "cpu", print)
    assert kinds == {torch.bfloat16 if has_bf16 else torch.float32}


def test_the_rate_rises_then_falls():
    rates = [loop.rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01, abs=1e-3)
    assert rates[99] == pytest.approx(1, abs=0.03)
    assert rates[-1] == pytest.approx(loop.LAST_RATE, abs=1e-3)
    assert max(rates) == max(rates[90:110])


def test_what_a_network_is_trained_on_must_be_there(tmp_path):
    with pytest.raises(WeightsError, match="anything3d train vae"):
        training.train_network("diffusion", tmp_path, seed=0, device="cpu", steps=1, progress=print)
    with pytest.raises(ConfigError, match="pointe-upsampler"):
        training.train_network("nerf", tmp_path, seed=0, device="cpu", steps=1, progress=print)
    with pytest.raises(WeightsError, match="not_trained"):
        training.install("vae", tmp_path)


def test_a_training_begins_with_the_packaged_weights(work):
    training.train_network("blip", work, seed=0, device="cpu", steps=1, packaged_share=0.5, progress=print)
    begun, packaged = (load_file(folder / "blip" / "model.safetensors") for folder in (work / "weights", PACKAGED))
    assert begun.keys() == packaged.keys()
    for name, value in packaged.items():  # AdamW's first step changes a weight by the rate at most, 3e-6 of 1e-3 * 0.3
        torch.testing.assert_close(begun[name], value, atol=1e-4, rtol=2e-3)
    assert any((begun[name] != value).any() for name, value in packaged.items())


def test_a_training_of_packaged_weights_has_the_rate_that_is_asked_for(work):
    before = load_file(PACKAGED / "blip" / "model.safetensors")
    changes = []
    for rate in (1.0, 0.5):
        shutil.rmtree(work / "blip", ignore_errors=True)
        training.train_network(
            "blip", work, seed=0, device="cpu", steps=1, packaged_share=0.0, packaged_rate=rate, progress=print
        )
        after = torch.load(work / "blip" / "checkpoint.pt", weights_only=True)["networks"]
        changes.append(torch.cat([(after[name] - value).flatten() for name, value in before.items()]))
    assert float(changes[0].abs().mean()) > 1e-6  # AdamW's first step, at 1 % of 1e-3
    assert float(changes[0].norm() / changes[1].norm()) == pytest.approx(2, rel=0.02)


def test_a_training_of_sam_begins_with_the_packaged_sam_and_new_layers_beside_it(work):
    training.train_network("sam", work, seed=0, device="cpu", steps=1, packaged_share=0.5, progress=print)
    begun, packaged = (load_file(folder / "sam" / "model.safetensors") for folder in (work / "weights", PACKAGED))
    assert begun.keys() == packaged.keys()
    for name, value in packaged.items():  # AdamW's first step changes a weight by 1 % of 6e-4 * 0.3
        torch.testing.assert_close(begun[name].float(), value.float(), atol=1e-4, rtol=2e-3)
    assert any((begun[name] != value).any() for name, value in packaged.items())
    checkpoint = torch.load(work / "sam" / "checkpoint.pt", weights_only=True)
    assert {"dense.weight", "asked.weight", "reach"} <= checkpoint["networks"].keys()


def test_a_training_of_clip_begins_with_the_packaged_clip_and_with_the_layers_of_point_e_that_read_shapes(work):
    training.train_network("clip", work, seed=0, device="cpu", steps=1, packaged_share=0.5, progress=print)
    begun, packaged = (load_file(folder / "clip" / "model.safetensors") for folder in (work / "weights", PACKAGED))
    assert begun.keys() == packaged.keys()
    for name, value in packaged.items():
        torch.testing.assert_close(begun[name].float(), value.float(), atol=1e-4, rtol=2e-3)
    reader = load_file(work / "weights" / clip_training.SHAPE_READER)
    base = load_file(PACKAGED / "pointe" / "model.safetensors")
    for name, value in reader.items():
        kept = base[name.replace("pool.", "image_pool.").replace("grid.", "shape.grid.")]
        torch.testing.assert_close(value, kept.float(), atol=1e-4, rtol=2e-3)
    # Point-E goes on with the layers that CLIP has left
    reader = {name: value + 1 for name, value in reader.items()}
    save_file(reader, work / "weights" / clip_training.SHAPE_READER)
    training.train_network("pointe", work, seed=0, device="cpu", steps=1, packaged_share=0.5, progress=print)
    after = load_file(work / "weights" / "pointe" / "model.safetensors")
    for name, value in base.items():
        own = name.replace("image_pool.", "pool.").replace("shape.grid.", "grid.")
        torch.testing.assert_close(after[name].float(), reader.get(own, value.float()), atol=1e-3, rtol=2e-3)


def test_layers_that_are_not_packaged_cannot_be_begun_with(work):
    with pytest.raises(ConfigError, match="not one file with all layers"):
        training.train_network("vae", work, seed=0, device="cpu", steps=1, packaged_share=0.5, progress=print)


# the TAESD


def test_a_taesd_learns_both_ways_from_a_vae_and_no_training_set(work):
    mini_diffusion.save_vae(mini_diffusion.build(0).vae, work / "weights" / "diffusion", scaling_factor=0.5)
    learning = taesd.training(work, 0, "cpu")
    loss = learning.loss(generator())
    assert torch.equal(loss, learning.loss(generator()))
    loss.backward()
    network = learning.networks
    for half in (network.encoder, network.decoder):
        assert all((weight.grad != 0).any() for weight in half.parameters())
    with torch.no_grad():
        assert learning.score()["explained"] < 0.5


# the DINOv2


def test_a_pair_shows_one_solid_from_two_sides_in_one_paint(objects):
    rows = batch.every(objects, 4)
    photos, views = dino.pair_of(objects, rows, dino.grey(4), generator())
    assert photos.shape == views.shape == (4, 3, 64, 64)
    assert (views.amax(1) - views.amin(1)).max() < 1e-6  # no hue
    white = (views > 0.999).all(1)
    assert white[:, 0].all()  # white around, also where the view is wider than it was rendered
    own = objects.rgba[rows.item, rows.view, 3] == 0
    assert ((white != own).flatten(1).sum(1) > 20).all()  # another view than the crop's


def test_dino_learns_to_find_a_solid_again(work):
    learning = dino.training(work, 0, "cpu")
    loss = learning.loss(generator())
    assert torch.equal(loss, learning.loss(generator()))
    loss.backward()
    unused = {name for name, weight in learning.networks.named_parameters() if weight.grad is None}
    assert unused == {"embeddings.mask_token"}
    with torch.no_grad():
        scores = learning.score()
    assert scores["cosine_same"] == pytest.approx(1, abs=0.1)  # a network that has learnt nothing: all are alike
    assert scores["cosine_other"] == pytest.approx(1, abs=0.1)
    assert 0 <= scores["above_others"] <= 1
