"""Settings: layers, misspelt keys, wrong types, and what a change invalidates."""

import pytest

from anything3d.errors import ConfigError, WeightsError
from anything3d.models.published import PUBLISHED
from anything3d.models.weights import packaged
from anything3d.settings.reconstruct import SjcConfig
from jobs.command import read_preset
from pipeline.ablate import read_variants
from pipeline.config import Config, load
from pipeline.stages import STAGES, recipes, weights_of


def fingerprints(*settings: str) -> dict[str, str]:
    return {name: recipe.fingerprint for name, recipe in recipes(load([], settings)).items()}


def changed(*settings: str) -> set[str]:
    before, after = fingerprints(), fingerprints(*settings)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("preset", ["mini", "default", "paper"])
def test_every_preset_loads_and_names_known_weights(preset):
    config = load([read_preset(preset)])
    assert all(packaged(name) or name in PUBLISHED for name in weights_of(config))
    assert packaged(config.caption.weights) == (preset == "mini")


def test_mini_is_what_the_classes_say():
    assert load([read_preset("mini")]) == Config()


def test_paper_is_in_the_authors_numbers():
    """Distances as 3DFuse has them: its field spans 2 of 1.5 / 2.3 canonical lengths, its splats 0.02 of 2 sides."""
    paper = load([read_preset("paper")]).reconstruct
    assert (paper.backend, paper.sjc) == ("sjc", SjcConfig())
    canonical = 1.5 / 2.3
    assert paper.field.half * canonical == pytest.approx(1, abs=1e-3)
    assert paper.field.density_scale == pytest.approx(canonical, abs=1e-3)
    assert paper.disc / 4096**0.5 == pytest.approx(0.02 / 2)
    assert [round(share * 999) for share in (paper.sjc.t_min, paper.sjc.t_max)] == [10, 969]


def test_later_layers_win_and_settings_win_over_all():
    layers = ["[caption]\nbeams = 4\ntop_p = 0.5", "[caption]\nbeams = 5"]
    assert load(layers).caption.beams == 5
    assert load(layers).caption.top_p == 0.5
    assert load(layers, ["caption.beams=6"]).caption.beams == 6


def test_a_bare_word_is_a_string_as_in_a_shell():
    assert load([], ["caption.decoding=nucleus"]) == load([], ['caption.decoding="nucleus"'])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("caption.beems=3", "did you mean 'caption.beams'"),
        ("captoin.beams=3", "did you mean 'caption'"),
        ("caption.beams=x", "caption.beams: Input should be a valid integer"),
        ("caption.beams=true", "caption.beams"),
        ("caption.decoding=greedy", "'beam' or 'nucleus'"),
        ("caption=3", "is a section"),
        ("caption.beams", "key=value"),
        ("caption.=3", "not TOML"),
        ("reconstruct.sds.cfgscale=3", "did you mean 'reconstruct.sds.cfg_scale'"),
    ],
)
def test_a_wrong_setting_is_refused_and_the_message_names_it(setting, says):
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        load([], [setting])


def test_a_config_survives_json():
    config = load([], ["reconstruct.sds.cfg_scale=7", "seed=3"])
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("caption.beams=5", {"caption", "invert", "reconstruct", "mesh", "score"}),
        ("lift.candidates=2", {"lift", "reconstruct", "mesh", "score"}),
        ("mesh.resolution=48", {"mesh", "score"}),
        ("score.points=512", {"score"}),
        ("seed=1", {stage.name for stage in STAGES}),
        ("caption.beams=3", set()),  # the default
        ("resources.lift.num_gpus=0.5", set()),
        ("resources.segment.images_per_batch=8", set()),
        ("resources.segment.prompts_per_batch=64", set()),
        ("resources.lift.batch_clouds=64", set()),
        ("resources.reconstruct.max_points=4194304", set()),
        ("resources.reconstruct.checkpoint_every=20", set()),
        ("units.objects=2", set()),
    ],
)
def test_a_change_invalidates_its_stage_and_what_reads_it(setting, stages):
    assert changed(setting) == stages


def test_missing_weights_are_found_before_anything_starts():
    with pytest.raises(WeightsError, match="blip-large"):
        recipes(load([], ["caption.weights=blip-large"]))


def test_sam_is_needed_only_where_it_is_used():
    recipes(load([], ["segment.weights=nowhere"]))
    with pytest.raises(WeightsError, match="nowhere"):
        recipes(load([], ["segment.weights=nowhere", "segment.source=sam-points"]))


@pytest.mark.parametrize(
    "setting",
    [
        "units.objects=0",
        "units.shards=-1",
        "resources.segment.workers=-1",
        "resources.lift.num_gpus=-0.5",
        "dtype=fp16",
        "caption.beams=0",
        "score.views=0",
        "segment.max_iou=7",
        "segment.max_area_share=-1",
        "segment.min_aspect=9",
        "invert.lr=-1",
        "lift.guidance=-5",
        "index.max_member_bytes=-1",
        "reconstruct.views.fov_deg=[40.0, 180.0]",
        "reconstruct.sds.cfg_scale=nan",
        "reconstruct.sds.losses.tv=inf",
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_starts(setting):
    with pytest.raises(ConfigError, match=rf"^setting: {setting.partition('=')[0]}\b"):
        load([], [setting])


def test_a_share_of_a_gpu_and_a_half_is_refused_and_as_many_as_fit_is_the_default():
    with pytest.raises(ConfigError, match=r"^setting: num_gpus is 1\.5"):
        load([], ["resources.lift.num_gpus=1.5"])
    assert load([], ["resources.lift.num_gpus=2.0"]).resources.lift.workers == 0


def test_paper_selects_nothing_of_what_is_sound():
    config = load([read_preset("paper")]).segment
    total = 1500 * 2250
    assert max(config.min_area_px, config.min_area_share * total) <= 1
    assert (config.max_area_share, config.min_aspect, config.max_edges) == (1, 0, 4)
    assert (config.max_iou, config.max_containment) == (1, 1)
    assert (config.min_predicted_iou, config.min_stability) == (0, 0)
    assert config.max_per_image >= 10**6


def test_the_root_of_weights_is_absolute_wherever_settings_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (variant,) = read_variants('[[variant]]\nname = "x"\nsettings = []\n', [], ["resources.weights_root=nets"])
    for config in (load([], ["resources.weights_root=nets"]), variant.config(seed=0)):
        assert config.resources.weights_root == str(tmp_path / "nets")
    assert load([]).resources.weights_root == ""
