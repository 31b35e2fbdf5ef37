"""The card of a corpus is one that the Hub and `datasets` read; LICENSE names all licences, and invents none."""

from dataclasses import replace

import datasets
import pyarrow as pa
import pytest
import yaml
from huggingface_hub import DatasetCard

from anything3d.errors import ConfigError
from anything3d.models.published import PUBLISHED
from anything3d.models.weights import OURS
from pipeline.config import Config
from pipeline.release.card import About, Source, license_file, readme
from pipeline.release.licences import LICENCES, check_use
from schemas.arrow import objects_table, published_bytes, to_table
from schemas.corpus import ASSETS, OBJECT_COLUMNS, metadata, span_names
from schemas.records import RejectRecord
from tests.schemas.test_corpus import ROWS

ABOUT = About(
    title='Mugs: "all" of #20',
    snapshot="snapshots/000017.json",
    date="2026-11-28T14:00:00Z",
    objects=1200,
    rejects=30,
    sources=[Source("sa_000020", "s3://bucket/a|b_c/sa_000020.tar", 1200, 30)],
    preset="default",
    seed=7,
    settings={"segment.min_area_px": 64, "caption.prompt": "a | b\n# no heading"},
    weights={"blip-large": "ab" * 32},
    licences=["MIT", "SA-1B Dataset Research License", "MIT"],
    versions={"anything3d": "0.1.0", "torch": "2.15.0"},
    note="",
    columns={column.name: column.about for column in OBJECT_COLUMNS},
)


def head(about):
    return yaml.safe_load(readme(about).decode().split("---\n")[1])


def test_the_head_of_the_card_says_what_the_hub_wants_to_know():
    said = head(ABOUT)
    assert said["pretty_name"] == ABOUT.title
    assert said["size_categories"] == ["1K<n<10K"]
    assert (said["license"], said["license_link"]) == ("other", "LICENSE")
    assert head(replace(ABOUT, licences=[OURS]))["license"] == "apache-2.0"
    assert DatasetCard(readme(ABOUT).decode()).data.to_dict()["task_categories"] == ["image-to-3d", "text-to-3d"]


@pytest.mark.parametrize(
    ("objects", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (2 * 10**7, "10M<n<100M"), (10**9, "100M<n<1B")],
)
def test_the_size_is_the_hubs_name_for_it(objects, size):
    assert head(replace(ABOUT, objects=objects))["size_categories"] == [size]


def test_what_comes_from_outside_is_plain_text_in_one_cell():
    text = readme(replace(ABOUT, note="Untrained: <b>x</b>")).decode()
    assert "| s3://bucket/a\\|b_c/sa_000020.tar | 1200 | 30 |" in text
    assert "| caption.prompt | a \\| b \\# no heading |" in text
    assert "> Untrained: \\<b\\>x\\</b\\>" in text
    assert text.count("\n# ") == 1
    assert "$" not in text


def test_the_card_names_everything_that_made_the_corpus():
    text = readme(ABOUT).decode().replace("\\", "")
    for said in ("`default`", "The seed is 7", "ab" * 32, "anything3d 0.1.0", *ABOUT.columns, *ABOUT.licences):
        assert said in text, said
    assert "No weights were used" in readme(replace(ABOUT, weights={})).decode()


def test_the_licence_file_names_each_licence_once_and_says_where_its_text_is():
    text = license_file(replace(ABOUT, licences=[*ABOUT.licences, "unknown (mine)"])).decode()
    assert text.count("\nMIT\n") == 1
    assert "It allows research only." in text
    assert LICENCES["MIT"].url in text
    assert "unknown (mine)\n    Anything-3D does not know its text." in text
    assert "It allows research only." not in license_file(replace(ABOUT, licences=["MIT"])).decode()


def test_the_text_of_every_licence_of_published_weights_and_of_the_default_photos_is_known():
    names = {OURS, Config().licence, *(weights.licence for weights in PUBLISHED.values())}
    assert names <= LICENCES.keys()


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("Apache-2.0; MIT", ["commercial", "research"]),
        ("CreativeML OpenRAIL-M; MIT", ["commercial", "research"]),
        ("MIT; SA-1B Dataset Research License", ["research"]),
        ("CC-BY-NC-4.0; MIT", ["research"]),
        ("MIT; unknown (mine)", []),
        ("not stated", []),
    ],
)
def test_all_licences_of_an_object_have_to_allow_a_use(licence, allowed):
    for use in ("commercial", "research"):
        if use in allowed:
            check_use(use, {"MIT": 3, licence: 2})
            continue
        with pytest.raises(ConfigError, match=r"\(2 objects\)"):
            check_use(use, {"MIT": 3, licence: 2})


@pytest.mark.filterwarnings("ignore")
def test_datasets_takes_the_tables_that_the_card_names_and_no_other_file(tmp_path):
    rejects = to_table([RejectRecord("sa_1", "index", "failed", "missing_json", "no JSON", 1)], RejectRecord)
    other = published_bytes(pa.table({"x": [1]}))
    row = {**metadata(ROWS), **dict.fromkeys([name for suffix in ASSETS for name in span_names(suffix)], 0)}
    for path, data in {
        "README.md": readme(ABOUT),
        "objects/sa_000020-ab.parquet": published_bytes(objects_table([], "")),
        "objects/sa_000021-cd.parquet": published_bytes(objects_table([row], "assets/sa_000021/sa_1.tar")),
        "rejects/sa_000020-ab.parquet": published_bytes(rejects),
        "rejects/sa_000021-cd.parquet": published_bytes(rejects.slice(0, 0)),
        "shards/sa_000020/objects-ab.parquet": other,
        "evaluation/000017.parquet": other,
    }.items():
        (tmp_path / "corpus" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / path).write_bytes(data)
    corpus, cache = str(tmp_path / "corpus"), str(tmp_path / "cache")
    assert datasets.load_dataset(corpus, "rejects", cache_dir=cache)["train"].to_list() == rejects.to_pylist()
    objects = datasets.load_dataset(corpus, cache_dir=cache)
    assert list(objects) == ["train"]
    assert objects["train"].to_list() == objects_table([row], "assets/sa_000021/sa_1.tar").to_pylist()
