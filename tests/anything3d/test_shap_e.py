"""Shap-E on random weights at toy size: the files, the numbers of diffusers' own pipeline, and its frame by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ShapEImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.spatial import cKDTree

from anything3d.backend import load_reconstructor
from anything3d.distil.evidence import Evidence, FinishedMesh, Reconstructor
from anything3d.errors import InputError, NumericsError, WeightsError
from anything3d.mesh import checked
from anything3d.models.shap_e import load_shap_e
from anything3d.models.weights import Place
from anything3d.photo.pixels import over
from anything3d.settings.reconstruct import ReconstructConfig
from anything3d.settings.shap_e import ShapEConfig
from anything3d.shap_e import ShapEMeshes, canonical, decoded
from anything3d.space.mesh import Mesh, decode_srgb, is_watertight, signed_volumes, unit_box
from anything3d.space.sight import found_camera
from tests import shap_e as toy

# diffusers' sampler lets numpy copy a tensor in the way that numpy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
STEPS, GUIDANCE = 3, 3.0
WEDGE = (-0.25, -0.125, -0.5, 0.2)  # inside where z < 0.4 - x / 2 - y / 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return toy.write(tmp_path_factory.mktemp("shap-e"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same folder, to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def network(folder):
    return load_shap_e(str(folder), Place())


def with_field(folder, distance):
    network = load_shap_e(str(folder), Place())
    toy.set_field(network.pipeline.shap_e_renderer, distance)
    return network


def crops(rows):
    """Squares of other colours, whole in the middle and transparent around it."""
    rgba = torch.rand(rows, 4, toy.SIDE, toy.SIDE, generator=torch.Generator().manual_seed(7)).mul(255).round() / 255
    rgba[:, 3] = 0
    rgba[:, 3, 8:24, 8:24] = 1
    return rgba


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def meshes(network, resolution=12):
    return ShapEMeshes(ShapEConfig(weights="toy", steps=STEPS, guidance=GUIDANCE, resolution=resolution), network)


@pytest.mark.parametrize("guidance", [3.0, 1.0], ids=["guided", "not guided"])
def test_a_batch_has_the_latents_that_diffusers_samples_of_each_picture_alone(folder, network, guidance):
    theirs = ShapEImg2ImgPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    images = over(crops(3), 1.0)
    ours = network.sample(images, generators(5, 6, 7), STEPS, guidance)
    for row, seed in enumerate((5, 6, 7)):
        picture = Image.fromarray((images[row] * 255).round().byte().permute(1, 2, 0).numpy())
        said = theirs(
            picture,
            generator=torch.Generator().manual_seed(seed),
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="latent",
        )
        torch.testing.assert_close(ours[row], said.images[0], rtol=0, atol=1e-4)
    assert (ours[0] - ours[1]).abs().max() > 0.1


def fill_table(decoder):
    """A table of triangles that touch every edge which the surface crosses; the official one is in the weights only."""
    edges = [(corner, corner + step) for step in (1, 2, 4) for corner in range(8) if not corner & step]
    for case in range(256):
        crossed = [index for index, (a, b) in enumerate(edges) if (case >> a & 1) != (case >> b & 1)]
        for triangle in range(0, len(crossed), 3):
            some = crossed[triangle : triangle + 3]
            decoder.cases[case, triangle // 3] = torch.tensor((some * 3)[:3])
            decoder.masks[case, triangle // 3] = True


def test_a_mesh_has_every_vertex_of_diffusers_own_mesh_and_its_colour(network):
    """Ours may have more: scikit-image puts one inside some cells, where the case is ambiguous."""
    resolution, (latents,) = 20, network.sample(over(crops(1), 1.0), generators(5), STEPS, GUIDANCE)
    ours = decoded(network, latents, resolution)
    renderer = toy.build().shap_e_renderer  # the same seed, the same weights
    fill_table(renderer.mesh_decoder)
    theirs = renderer.decode_to_mesh(latents[None], "cpu", grid_size=resolution)
    turned = canonical(theirs.verts.numpy())
    known = unit_box(Mesh(turned, theirs.faces.numpy(), np.zeros_like(turned))).vertices
    assert len(known) > 1000
    far, nearest = cKDTree(ours.vertices).query(known)
    assert far.max() < 1e-3
    assert far.mean() < 1e-5
    linear = torch.stack([theirs.vertex_channels[name] for name in "RGB"], dim=1).numpy()
    _, colors = network.look_up(latents, theirs.verts)
    np.testing.assert_allclose(decode_srgb(colors.numpy()), linear, atol=1e-5)
    assert np.abs(ours.colors[nearest] - colors.numpy()).mean() < 1e-3


def test_up_front_and_right_are_where_a_wedge_of_known_height_says(folder):
    """Shap-E: z up, front -y. The wedge is cut off by its cube, whose side becomes 1, but for a cell."""
    mesh = decoded(with_field(folder, WEDGE), torch.zeros(4 * toy.HIDDEN, toy.WIDTH), 64)
    assert checked(mesh) is mesh
    x, y, z = mesh.vertices.T
    for (right, front), height in {(-1, 1): 0.5, (-1, -1): 0.325, (1, 1): 0.075, (1, -1): -0.175}.items():
        corner = (np.abs(x - right / 2) < 0.03) & (np.abs(z - front / 2) < 0.03)
        assert y[corner].max() == pytest.approx(height, abs=0.04)
        assert y[corner].min() == pytest.approx(-0.5, abs=0.04)
    up = 2 * mesh.vertices  # the colours are sigmoid(x, y, z) of Shap-E's axes
    expected = 1 / (1 + np.exp(-np.stack([up[:, 0], -up[:, 2], up[:, 1]], axis=1)))
    np.testing.assert_allclose(mesh.colors, expected, atol=0.03)
    assert is_watertight(mesh.faces)
    volume = float(signed_volumes(mesh.vertices, mesh.faces).sum())
    assert volume == pytest.approx(0.7, abs=0.02)  # the height above the ground in the middle, and outward triangles


def test_an_object_is_the_same_alone_and_in_any_batch(network):
    backend, all_crops = meshes(network), crops(3)
    assert isinstance(backend, Reconstructor)
    together = backend(Evidence(all_crops), generators(5, 6, 7), [])
    turned = backend(Evidence(all_crops.flip(0)), generators(7, 6, 5), [])
    for row, seed in enumerate((5, 6, 7)):
        (alone,) = backend(Evidence(all_crops[row : row + 1]), generators(seed), [])
        for other in (together[row], turned[2 - row]):
            assert isinstance(other, FinishedMesh)
            np.testing.assert_array_equal(other.mesh.faces, alone.mesh.faces)
            np.testing.assert_allclose(other.mesh.vertices, alone.mesh.vertices, atol=1e-3)
            assert (
                np.abs(other.mesh.colors - alone.mesh.colors).mean() < 1e-3
            )  # frequencies up to 2^14 enlarge roundings
            assert np.isfinite(other.reference.intrinsics).all()  # of a shapeless mesh, several directions are the best


def test_the_search_for_the_camera_knows_what_may_hide_the_object(network):
    backend, seen = meshes(network), crops(1)
    hidden = torch.zeros(1, toy.SIDE, toy.SIDE)
    hidden[:, toy.SIDE // 2 :] = 1
    (blind,) = backend(Evidence(seen), generators(5), [])
    (told,) = backend(Evidence(seen, unseen=hidden), generators(5), [])
    assert told.reference == found_camera(told.mesh, seen[0], hidden[0], torch.device("cpu"))
    assert told.reference != blind.reference


def test_the_renderer_keeps_nothing_of_an_object(network):
    before = {name: value.clone() for name, value in network.pipeline.shap_e_renderer.state_dict().items()}
    meshes(network)(Evidence(crops(1)), generators(5), [])
    for name, value in network.pipeline.shap_e_renderer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_object_that_is_not_finite_is_a_reject_and_its_neighbour_is_as_without_it(network):
    spoilt = crops(2)
    spoilt[0, 0, 12, 12] = torch.nan
    lost, kept = meshes(network)(Evidence(spoilt), generators(5, 6), [])
    assert isinstance(lost, NumericsError)
    assert lost.reason == "shap_e_not_finite"
    (alone,) = meshes(network)(Evidence(spoilt[1:]), generators(6), [])
    np.testing.assert_allclose(kept.mesh.vertices, alone.mesh.vertices, atol=1e-3)


@pytest.mark.parametrize(
    ("distance", "reason"),
    [((0.0, 0.0, 0.0, -0.5), "empty_surface"), ((0.0, 0.0, torch.nan, 0.5), "shap_e_not_finite")],
)
def test_a_field_without_a_surface_is_a_reject(folder, distance, reason):
    (outcome,) = meshes(with_field(folder, distance))(Evidence(crops(1)), generators(5), [])
    assert isinstance(outcome, NumericsError)
    assert outcome.reason == reason


def test_a_network_that_says_nan_of_everything_ends_the_run(folder):
    network = load_shap_e(str(folder), Place())
    network.pipeline.prior.proj_to_clip_embeddings.bias[0] = torch.inf  # the sampler clips it to a sound number
    backend = ShapEMeshes(ShapEConfig(weights="toy", steps=STEPS, guidance=1.0, resolution=8), network)
    for rows in (1, 2):
        with pytest.raises(WeightsError, match=r"weights_not_finite: toy in float32"):
            backend(Evidence(crops(rows)), generators(*range(rows)), [])


def test_the_settings_reach_the_sampler(folder):
    section = {"weights": str(folder), "resolution": 8}
    seen = []
    for more in ({"steps": 1}, {"steps": 2}, {"steps": 2, "guidance": 1.0}):
        config = ReconstructConfig(backend="shap-e", shap_e=ShapEConfig(**section, **more))
        backend = load_reconstructor(config, Place())
        calls = []
        backend.shap_e.pipeline.prior.register_forward_hook(
            lambda _, given, __, calls=calls: calls.append(len(given[0]))
        )
        backend(Evidence(crops(2)), generators(1, 2), [])
        seen.append(calls)
    assert seen == [[4], [4, 4, 4], [2, 2, 2]]  # one call, then two a step; both halves of the guidance at once
    with pytest.raises(InputError, match="bad_checkpoint"):
        backend.fit(b"", 2)


def publish(folder):
    """The layout that openai has published: names and numbers of float16, an older library's, and a pickle."""
    encoder = {
        f"vision_model.{name.removeprefix('vision_model.')}": value.half()
        for name, value in load_file(folder / ENCODER).items()
    }
    save_file(encoder, folder / "image_encoder/model.fp16.safetensors", {"format": "pt"})
    prior = {name: value.half() for name, value in load_file(folder / PRIOR).items()}
    save_file(prior, folder / "prior/diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    torch.save(load_file(folder / RENDERER), folder / "shap_e_renderer/diffusion_pytorch_model.bin")
    for name in (ENCODER, PRIOR, RENDERER, "model_index.json"):
        (folder / name).unlink()


ENCODER = "image_encoder/model.safetensors"
PRIOR, RENDERER = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("prior", "shap_e_renderer"))


@pytest.mark.parametrize(("dtype", "far"), [("float32", 0.001), ("float16", 0.005), ("bfloat16", 0.03)])
def test_the_published_layout_loads_and_16_bits_sample_nearly_the_same(copy, network, dtype, far):
    publish(copy)
    loaded = load_shap_e(str(copy), Place(dtype=dtype))
    kinds = [next(part.parameters()).dtype for part in (loaded.pipeline.prior, loaded.pipeline.image_encoder)]
    assert kinds == [getattr(torch, dtype)] * 2
    assert next(loaded.pipeline.shap_e_renderer.parameters()).dtype == torch.float32
    images = over(crops(2), 1.0)
    first, other = (one.sample(images, generators(5, 6), STEPS, GUIDANCE) for one in (network, loaded))
    assert other.dtype == torch.float32
    assert float((first - other).abs().mean()) < far


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def of_texts(folder):
    shutil.rmtree(folder / "image_encoder")


def another_noise(folder):
    rewrite(folder / "scheduler/scheduler_config.json", prediction_type="epsilon")


def another_prior(folder):
    rewrite(folder / "prior/config.json", _class_name="UNet2DConditionModel")


def another_size(folder):
    rewrite(folder / "image_processor/preprocessor_config.json", crop_size={"height": 16, "width": 16})


def another_renderer(folder):
    shapes = [[4, 93], *[[4, 4]] * 3]
    small = toy.ShapERenderer(param_shapes=shapes, d_latent=toy.WIDTH, d_hidden=4)
    small.save_pretrained(folder / "shap_e_renderer")


def a_tensor_less(folder):
    tensors = load_file(folder / PRIOR)
    del tensors["proj_in.bias"]
    save_file(tensors, folder / PRIOR, {"format": "pt"})


def damaged(folder):
    (folder / RENDERER).write_bytes(b"cut")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (of_texts, r"weights_unsupported: .*no image_encoder, as in the Shap-E that reads texts"),
        (another_noise, r"weights_unsupported: .*scheduler_config.json: it has .*'epsilon'"),
        (another_prior, r"weights_unsupported: .*prior/config.json: _class_name is 'UNet2DConditionModel'"),
        (another_size, r"weights_mismatch: .*crop_size is 16, not 32"),
        (another_renderer, r"weights_mismatch: .*num_embeddings is 32, not 16"),
        (a_tensor_less, r"weights_mismatch: .*1 tensors of the architecture are missing, proj_in.bias"),
        (damaged, r"weights_broken: .*shap_e_renderer"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_is_another_one_is_refused(copy, fault, said):
    fault(copy)
    with pytest.raises(WeightsError, match=said):
        load_shap_e(str(copy), Place())
