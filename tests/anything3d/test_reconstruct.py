import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from anything3d import seed
from anything3d.distil.losses import LossTerms
from anything3d.distil.state import State
from anything3d.errors import ConfigError, InputError, MachineError, NumericsError, WeightsError
from anything3d.mini import diffusion as mini_diffusion
from anything3d.models.weights import Place
from anything3d.reconstruct import Distiller, Evidence, Reconstructed, load_distiller
from anything3d.settings.reconstruct import (
    POINT_E_DISTANCE,
    POINT_E_FOV_DEG,
    FieldConfig,
    LossConfig,
    ReconstructConfig,
    RenderConfig,
    SdsConfig,
    SjcConfig,
    ViewConfig,
)
from anything3d.space.camera import Camera, orbit, rays
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from anything3d.space.render import composite, render

RADIUS = 0.5
SDS = SdsConfig(render_size=32)
CONFIG = ReconstructConfig(steps=4, sds=SDS, field=FieldConfig(resolution=16), render=RenderConfig(samples=12))
IDS = ["sa_1-0000", "sa_1-0001"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # bit-for-bit comparisons below
    folder = tmp_path_factory.mktemp("diffusion")
    mini_diffusion.save(mini_diffusion.build(0), folder)
    return folder


@pytest.fixture(scope="module")
def reconstructor(weights: Path) -> Distiller:
    return load_distiller(dataclasses.replace(CONFIG, weights=str(weights)), Place())


def with_config(reconstructor: Distiller, **changes: object) -> Distiller:
    config = dataclasses.replace(reconstructor.config, **changes)
    return Distiller(config, reconstructor.denoiser, reconstructor.clip)


def with_sds_weight(weight: float) -> SdsConfig:
    return dataclasses.replace(SDS, losses=LossConfig(sds=weight))


def paint(points: torch.Tensor) -> torch.Tensor:
    """A solid texture: colour by place."""
    return (points * torch.tensor([0.8, 0.8, -0.8]) + 0.5).clamp(0, 1)


def ball_crop(camera: Camera, size: int = 128) -> torch.Tensor:
    """Exact RGBA of the painted ball, "B 4 S S"."""
    origins, directions = rays(camera, size, size)
    along = (origins * directions).sum(-1)
    inside = along.square() - origins.square().sum(-1) + RADIUS**2
    surface = origins + (-along - inside.clamp_min(0).sqrt())[..., None] * directions
    return torch.cat([paint(surface), (inside > 0).float()[..., None]], dim=-1).permute(0, 3, 1, 2)


def evidence_of(reconstructor: Distiller, azimuths: list[float]) -> Evidence:
    """Painted balls seen from these azimuths, with noisy clouds of one colour."""
    n = len(azimuths)
    value = torch.ones(n)
    camera = orbit(torch.tensor(azimuths), 20 * value, POINT_E_DISTANCE * value, POINT_E_FOV_DEG * value)
    points = torch.randn(1, 512, 3, generator=torch.Generator().manual_seed(0)).expand(n, -1, -1)
    points = points / points.norm(dim=-1, keepdim=True) * RADIUS
    colors = torch.full_like(points, 0.5)
    concept = reconstructor.denoiser.embed_prompts(["a red sphere"] * n)
    return Evidence(ball_crop(camera), concept, Cloud(points.contiguous(), colors), camera)


def last_state(reconstructor: Distiller, evidence: Evidence, ids: list[str], state: bytes | None = None) -> State:
    *_, last = reconstructor.run(evidence, seed.generators(0, "reconstruct", ids), state)
    return last


def test_a_field_that_looks_less_like_its_photo_than_its_cloud_is_replaced_by_the_clouds_surface(reconstructor):
    """Of two objects with clouds in the right colours, one has been painted over."""
    strict = with_config(reconstructor, max_fall=0.05)
    evidence = evidence_of(reconstructor, [0.0, 120.0])
    evidence = dataclasses.replace(evidence, cloud=Cloud(evidence.cloud.points, paint(evidence.cloud.points)))
    surface = Field.from_cloud(evidence.cloud, CONFIG.field)
    colors = torch.stack([surface.color_grid[0], torch.full_like(surface.color_grid[1], -4.0)]).detach()
    begun = State.begin(surface, seed.generators(0, "reconstruct", IDS), len(LossTerms._fields))
    state = dataclasses.replace(begun, color_grid=colors)

    same, black = strict.finish(evidence, state)
    assert (same.kept, black.kept) == ("field", "cloud")
    assert same.rise == pytest.approx(0, abs=1e-5)
    assert black.rise < -0.05
    assert torch.equal(black.field.color_grid, surface.rounded().color_grid[1:])
    _, handed_over = strict.finish(evidence, state, surface)  # and not made a second time
    assert torch.equal(handed_over.field.color_grid, black.field.color_grid)
    assert handed_over.rise == black.rise
    for lenient in (with_config(reconstructor, max_fall=1.9), Distiller(CONFIG, reconstructor.denoiser, None)):
        _, kept = lenient.finish(evidence, state)
        assert kept.kept == "field"
        assert torch.equal(kept.field.color_grid, colors[1:].half().float())


def test_a_concept_s_adapter_reaches_the_distillation(reconstructor):
    evidence = evidence_of(reconstructor, [0.0, 120.0])
    fresh = reconstructor.denoiser.adapt(1, seed.generators(0, "invert", IDS))
    generator = torch.Generator().manual_seed(5)
    strong = fresh.each(lambda factor: torch.randn(factor.shape, generator=generator) * 0.3)
    plain, same, other = (
        last_state(
            reconstructor,
            dataclasses.replace(evidence, concept=dataclasses.replace(evidence.concept, adapter=adapter)),
            IDS,
        )
        for adapter in (None, fresh, strong)
    )
    torch.testing.assert_close(same.color_grid, plain.color_grid, rtol=0, atol=1e-5)
    assert (other.color_grid - plain.color_grid).abs().max() > 1e-3


def test_coarse_steps_see_views_of_half_the_size(reconstructor):
    """Distillation, opacity and the cloud's silhouette; what the photo tells of an edge depends on the size."""
    alone = LossConfig(reference_rgb=0.0, reference_mask=0.0)
    coarse, small, whole = (
        with_config(reconstructor, sds=SdsConfig(render_size=size, coarse_until=until, losses=alone))
        for size, until in ((32, 0.5), (16, 0.0), (32, 0.0))
    )
    evidence = evidence_of(reconstructor, [30.0, 200.0])
    half_way, end = coarse.run(evidence, seed.generators(0, "reconstruct", IDS), checkpoint_every=2)
    small_half_way, small_end = small.run(evidence, seed.generators(0, "reconstruct", IDS), checkpoint_every=2)
    torch.testing.assert_close(half_way.color_grid, small_half_way.color_grid, rtol=0, atol=1e-6)
    torch.testing.assert_close(half_way.density_grid, small_half_way.density_grid, rtol=0, atol=1e-6)
    for other in (small_end, last_state(whole, evidence, IDS)):
        assert (end.color_grid - other.color_grid).abs().max() > 1e-3


def sizes_of_steps(reconstructor: Distiller, **settings: object) -> tuple[list[int], list[int]]:
    """At which sizes pictures came to the cheap encoder and to the denoiser's own, in four steps."""
    cheap, own, denoiser = [], [], reconstructor.denoiser

    def encode_into(sizes):
        def encode(pixels):
            sizes.append(pixels.shape[-1])
            return denoiser.encode(pixels)

        return encode

    config = dataclasses.replace(CONFIG, sds=dataclasses.replace(SDS, **settings))
    worker = Distiller(config, dataclasses.replace(denoiser, encode=encode_into(own)), None, encode=encode_into(cheap))
    last_state(worker, evidence_of(worker, [30.0]), IDS[:1])
    return cheap, own


def test_the_cheap_encoder_and_half_the_image_end_at_their_shares_of_the_steps(reconstructor):
    quick = {"encoder": "linear"}
    assert sizes_of_steps(reconstructor, **quick, encoder_until=0.5) == ([64, 64], [64, 64])
    assert sizes_of_steps(reconstructor, **quick, encoder_until=1.0) == ([64] * 4, [])
    assert sizes_of_steps(reconstructor, **quick, encoder_until=0.0) == ([], [64] * 4)
    assert sizes_of_steps(reconstructor, **quick, encoder_until=0.75, denoiser_coarse_until=0.5) == ([32, 32, 64], [64])


@pytest.mark.parametrize("settings", [{"encoder": "linear", "encoder_until": 1.0}, {"denoiser_coarse_until": 1.0}])
def test_with_the_cheap_settings_the_field_still_moves_and_differently(weights, reconstructor, settings):
    config = dataclasses.replace(CONFIG, weights=str(weights), sds=dataclasses.replace(SDS, **settings))
    evidence = evidence_of(reconstructor, [30.0, 200.0])
    cheap = last_state(load_distiller(config, Place()), evidence, IDS)
    still = last_state(with_config(reconstructor, sds=with_sds_weight(0.0)), evidence, IDS)
    for other in (still, last_state(reconstructor, evidence, IDS)):
        assert (cheap.color_grid - other.color_grid).abs().max() > 1e-3
    alone = last_state(load_distiller(config, Place()), evidence.rows(torch.tensor([1])), IDS[1:])
    torch.testing.assert_close(cheap.losses[1:], alone.losses, atol=1e-4, rtol=1e-3)
    assert (cheap.density_grid[1:] - alone.density_grid).abs().mean() < 1e-3  # as in a batch, below


def test_photo_and_cloud_alone_reach_25_db_at_the_reference_view(reconstructor):
    fit = with_config(
        reconstructor,
        steps=40,
        sds=SdsConfig(losses=LossConfig(sds=0.0)),
        field=FieldConfig(resolution=24),
        render=RenderConfig(24),
    )
    evidence = evidence_of(reconstructor, [30.0])
    (made,) = fit.finish(evidence, last_state(fit, evidence, IDS[:1]))
    assert isinstance(made, Reconstructed), made
    with torch.no_grad():
        seen = composite(render(made.field, evidence.camera, 64, RenderConfig()), 1.0)
    crop = torch.nn.functional.avg_pool2d(evidence.crops[:, :3] * evidence.crops[:, 3:] + 1 - evidence.crops[:, 3:], 2)
    assert -10 * (seen - crop).square().mean().log10() > 25
    assert made.losses["sds"] == 0
    assert made.opacity > 0.9
    assert made.fog < 0.05


def test_what_another_object_hides_is_not_carved_away(reconstructor):
    fit = with_config(reconstructor, steps=30, sds=with_sds_weight(0.0))
    evidence = evidence_of(reconstructor, [30.0])
    hidden = evidence.crops.clone()
    hidden[..., 40:] = 0  # something before the ball's right side
    evidence = dataclasses.replace(evidence, crops=hidden)
    (made,) = fit.finish(evidence, last_state(fit, evidence, IDS[:1]))
    assert isinstance(made, Reconstructed), made
    with torch.no_grad():
        seen = render(made.field, evidence.camera, 32, RenderConfig()).alpha[0]
    assert seen[14:18, 12:20].min() > 0.9


def test_the_rim_that_another_object_hides_is_not_carved_away_if_its_mask_is_known(reconstructor):
    """Nearer to the cloud's outline than RIM, the mask is right and the cloud is wrong, but for known occluders."""
    fit = with_config(reconstructor, steps=40, sds=with_sds_weight(0.0))
    evidence = evidence_of(reconstructor, [30.0])
    begins = int((evidence.crops[0, 3] > 0.5).any(0).nonzero().max()) - 6  # of 128 columns
    other = torch.zeros(128, 128, dtype=torch.bool)
    other[:, begins:] = True
    cut = evidence.crops * ~other
    seen = {}
    for name, unseen in (("blind", None), ("told", other[None].float())):
        known = dataclasses.replace(evidence, crops=cut, unseen=unseen)
        (made,) = fit.finish(known, last_state(fit, known, IDS[:1]))
        assert isinstance(made, Reconstructed), made
        with torch.no_grad():
            alpha = render(made.field, evidence.camera, 128, RenderConfig()).alpha[0]
        seen[name] = alpha[60:68, begins : begins + 5].mean().item()
    assert seen["blind"] < 0.75
    assert seen["told"] > 0.95


@pytest.mark.parametrize("changes", [{}, {"backend": "sjc", "sds": SdsConfig()}], ids=["sds", "sjc"])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(reconstructor, changes):
    reconstructor = with_config(reconstructor, **changes)
    evidence = evidence_of(reconstructor, [30.0, 120.0])
    undisturbed = list(reconstructor.run(evidence, seed.generators(0, "reconstruct", IDS), checkpoint_every=2))
    assert [state.step for state in undisturbed] == [2, 4]
    strangers = [torch.Generator(), torch.Generator()]  # their own state must not matter
    (resumed,) = reconstructor.run(evidence, strangers, undisturbed[0].to_bytes(), checkpoint_every=2)
    assert resumed.to_bytes() == undisturbed[1].to_bytes()
    (finished,) = reconstructor.run(evidence, strangers, resumed.to_bytes())
    assert finished.to_bytes() == resumed.to_bytes()


def test_the_states_are_stored_in_order_and_what_storing_raises_ends_the_call(reconstructor):
    every_two = Distiller(reconstructor.config, reconstructor.denoiser, None, checkpoint_every=2)
    evidence, stored = evidence_of(reconstructor, [30.0]), []
    first, again, second = (seed.generators(0, "reconstruct", IDS[:1]) for _ in range(3))
    every_two(evidence, first, again, None, stored.append)
    assert stored == [state.to_bytes() for state in every_two.run(evidence, second, checkpoint_every=2)]

    def full(state: bytes) -> None:
        raise MachineError("machine", f"{len(state)} bytes find no room")

    with pytest.raises(MachineError, match="find no room"):
        every_two(evidence, second, again, None, full)


def test_an_object_gets_in_a_batch_what_it_gets_alone(reconstructor):
    pair = evidence_of(reconstructor, [30.0, 120.0])
    together = last_state(reconstructor, pair, IDS)
    for b, azimuth in enumerate([30.0, 120.0]):
        alone = last_state(reconstructor, evidence_of(reconstructor, [azimuth]), IDS[b : b + 1])
        torch.testing.assert_close(together.losses[b], alone.losses[0], atol=1e-4, rtol=1e-3)
        moved = (together.density_grid[b] - alone.density_grid[0]).abs()
        assert moved.mean() < 1e-3  # Adam makes a full step of a rounding difference where the gradient is about 0


def test_distillation_moves_the_field(reconstructor):
    evidence = evidence_of(reconstructor, [30.0])
    with_sds = last_state(with_config(reconstructor, sds=with_sds_weight(100.0)), evidence, IDS[:1])
    without = last_state(with_config(reconstructor, sds=with_sds_weight(0.0)), evidence, IDS[:1])
    assert with_sds.losses[0, 0] > 0
    assert (with_sds.color_grid - without.color_grid).abs().max() > 0.05


def test_a_nan_stays_with_its_object(reconstructor):
    evidence = evidence_of(reconstructor, [30.0, 120.0])
    evidence.crops[1, 0, 60:70, 60:70] = torch.nan
    state = last_state(reconstructor, evidence, IDS)
    sound, broken = reconstructor.finish(evidence, state)
    assert isinstance(sound, Reconstructed)
    assert isinstance(broken, NumericsError)
    assert broken.reason == "field_not_finite"


class Broken(nn.Module):
    """A UNet that says NaN of these rows at some calls, and whatever the real one says else."""

    def __init__(self, unet: nn.Module, rows: slice = slice(None), calls: range = range(1000)) -> None:
        super().__init__()
        self.unet, self.rows, self.calls, self.called = unet, rows, calls, 0

    def forward(self, noisy, t, **conditions):
        answer = self.unet(noisy, t, **conditions)[0].clone()
        if self.called in self.calls:
            answer[self.rows] = torch.nan
        self.called += 1
        return (answer,)


def broken(reconstructor: Distiller, max_dropped: float = 0.05, **where: object) -> Distiller:
    lenient = with_config(reconstructor, max_dropped=max_dropped, min_opacity=0.0, max_fog=1.0)
    denoiser = dataclasses.replace(reconstructor.denoiser, unet=Broken(reconstructor.denoiser.unet, **where))
    return Distiller(lenient.config, denoiser, None)


@pytest.mark.parametrize("azimuths", [[30.0], [30.0, 120.0]], ids=["alone", "batch"])
def test_a_denoiser_that_says_nan_of_all_objects_ends_the_run(reconstructor, azimuths):
    worker, evidence = broken(reconstructor), evidence_of(reconstructor, azimuths)
    state = last_state(worker, evidence, IDS[: len(azimuths)])
    assert state.dropped.tolist() == [CONFIG.steps * CONFIG.views.count] * len(azimuths)
    with pytest.raises(WeightsError, match=r"weights_not_finite: .* in float32 says NaN or Inf"):
        worker.finish(evidence, state)


@pytest.mark.parametrize("part", ["unet", "controlnet", "vae"])
def test_whichever_network_is_broken_the_run_ends(weights, part):
    worker = load_distiller(dataclasses.replace(CONFIG, weights=str(weights), max_fall=2.0), Place())
    denoiser = worker.denoiser
    with torch.no_grad():
        if part == "unet":
            denoiser.unet.conv_out.bias.fill_(torch.inf)
        elif part == "controlnet":
            denoiser.controlnet.controlnet_mid_block.bias.fill_(torch.inf)
    if part == "vae":
        encode = denoiser.encode
        denoiser = dataclasses.replace(denoiser, encode=lambda pixels: encode(pixels) * torch.inf)
    worker = Distiller(worker.config, denoiser, None)
    evidence = evidence_of(worker, [30.0])
    with pytest.raises(WeightsError, match="weights_not_finite"):
        worker.finish(evidence, last_state(worker, evidence, IDS[:1]))


def test_more_dropped_predictions_than_the_share_reject_their_object_only(reconstructor):
    """Rows of a call: the views of object 0, then 1, without and with the prompt. One step of four is lost for 1."""
    rows, evidence = slice(CONFIG.views.count, 2 * CONFIG.views.count), evidence_of(reconstructor, [30.0, 120.0])
    for limit, calls, share in ((0.05, range(1), 0.25), (0.3, range(1), 0.25), (0.3, range(2), 0.5)):
        worker = broken(reconstructor, limit, rows=rows, calls=calls)
        sound, lossy = worker.finish(evidence, last_state(worker, evidence, IDS))
        assert isinstance(sound, Reconstructed)
        assert sound.dropped == 0
        if share > limit:
            assert isinstance(lossy, NumericsError)
            assert lossy.reason == "denoiser_not_finite"
            assert f"{share:.1%}" in lossy.message
        else:
            assert isinstance(lossy, Reconstructed)
            assert lossy.dropped == share


def test_an_object_alone_that_makes_a_sound_network_say_nan_does_not_end_the_run(reconstructor):
    worker, evidence = broken(reconstructor, calls=range(4)), evidence_of(reconstructor, [30.0])
    (lost,) = worker.finish(evidence, last_state(worker, evidence, IDS[:1]))
    assert isinstance(lost, NumericsError)
    assert lost.reason == "denoiser_not_finite"


def test_dropped_predictions_are_counted_across_a_restart(reconstructor):
    evidence = evidence_of(reconstructor, [30.0, 120.0])
    whole, first, second = (
        broken(reconstructor, calls=range(1, 3)),
        broken(reconstructor, calls=range(1, 3)),
        broken(reconstructor, calls=range(1)),  # after two steps, its calls are counted anew
    )
    undisturbed = last_state(whole, evidence, IDS)
    saved = next(first.run(evidence, seed.generators(0, "reconstruct", IDS), checkpoint_every=2))
    resumed = last_state(second, evidence, IDS, saved.to_bytes())
    assert saved.dropped.tolist() == [CONFIG.views.count] * 2
    assert resumed.to_bytes() == undisturbed.to_bytes()
    assert resumed.dropped.tolist() == [2 * CONFIG.views.count] * 2


def test_a_similarity_that_is_nan_is_no_verdict_for_the_field(weights):
    worker = load_distiller(dataclasses.replace(CONFIG, weights=str(weights), max_fog=1.0), Place())
    with torch.no_grad():
        worker.clip.visual_projection.weight.fill_(torch.nan)
    evidence = evidence_of(worker, [30.0])
    with pytest.raises(WeightsError, match="clip in float32"):
        worker.finish(evidence, last_state(worker, evidence, IDS[:1]))


def test_a_state_of_an_older_layout_is_no_state(reconstructor):
    from safetensors.torch import load, save

    evidence = evidence_of(reconstructor, [30.0, 120.0])
    state = next(iter(reconstructor.run(evidence, seed.generators(0, "reconstruct", IDS), checkpoint_every=2)))
    tensors = load(state.to_bytes())
    former = {name: value for name, value in tensors.items() if name != "dropped"}
    fewer = tensors | {"losses": tensors["losses"][:, :4].contiguous()}
    for older in (former, fewer):
        with pytest.raises(InputError, match="bad_checkpoint"):
            reconstructor.fit(save(older), 2)
    assert reconstructor.fit(state.to_bytes(), 2).step == state.step


@pytest.mark.parametrize(("raw", "reason"), [(-20.0, "field_empty"), (20.0, "field_fog")])
def test_a_field_that_is_no_object_is_refused(reconstructor, raw, reason):
    evidence = evidence_of(reconstructor, [30.0, 120.0])
    state = last_state(with_config(reconstructor, steps=1, sds=with_sds_weight(0.0)), evidence, IDS)
    state.density_grid[0] = raw
    refused, kept = reconstructor.finish(evidence, state)
    assert isinstance(refused, NumericsError)
    assert refused.reason == reason
    assert isinstance(kept, Reconstructed)
    assert torch.equal(kept.field.density_grid, state.field(reconstructor.config.field).row(1).rounded().density_grid)


def test_checkpoints_of_another_batch_are_refused(reconstructor):
    evidence = evidence_of(reconstructor, [30.0, 120.0])
    state = next(iter(reconstructor.run(evidence, seed.generators(0, "reconstruct", IDS), checkpoint_every=2)))
    run = reconstructor.run(evidence_of(reconstructor, [30.0]), [torch.Generator()], state.to_bytes())
    with pytest.raises(InputError, match="bad_checkpoint"):
        next(run)


@pytest.mark.parametrize("size", [50, None])
def test_bytes_that_are_no_state_are_refused(size):
    field = Field.from_cloud(Cloud(torch.rand(1, 8, 3) - 0.5, torch.rand(1, 8, 3)), FieldConfig(resolution=4))
    with pytest.raises(InputError, match="bad_checkpoint"):
        State.from_bytes(field.to_bytes(0)[:size])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReconstructConfig(steps=0),
        lambda: ReconstructConfig(max_dropped=1.0),
        lambda: FieldConfig(half=0.0),
        lambda: RenderConfig(samples=0),
        lambda: ViewConfig(distance=(2.0, 1.0)),
        lambda: ViewConfig(elevation_deg=(0.0, 90.0)),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="setting"):
        make()


@pytest.mark.parametrize(
    ("settings", "section"),
    [({"sjc": SjcConfig(lr=0.1)}, "sjc"), ({"backend": "sjc", "sds": SdsConfig(cfg_scale=7.0)}, "sds")],
)
def test_settings_of_another_backend_are_refused(settings, section):
    with pytest.raises(ConfigError, match=f"setting: reconstruct.{section} has settings, but reconstruct.backend is"):
        ReconstructConfig(**settings)
