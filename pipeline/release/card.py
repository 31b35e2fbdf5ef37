"""README.md and LICENSE of a corpus: what it holds, what made it, and which licences apply.

README.md is a dataset card, as the Hugging Face Hub and `datasets.load_dataset` read it: a head in YAML, then Markdown.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Template

from pipeline.release.licences import LICENCES

README, LICENSE = "README.md", "LICENSE"


@dataclass(frozen=True, slots=True)
class Source:
    """A shard of the corpus."""

    name: str
    location: str  # path or URL
    objects: int
    rejects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the card says of a snapshot."""

    title: str
    snapshot: str  # path of its file in the corpus
    date: str  # ISO 8601, UTC
    objects: int
    rejects: int
    sources: Sequence[Source]
    preset: str  # "" if none is known
    seed: int
    settings: Mapping[str, object]  # key -> value, of those that differ from the defaults
    weights: Mapping[str, str]  # name -> SHA-256 of all files
    licences: Sequence[str]  # of the photos, of the weights and of the backends
    versions: Mapping[str, str]  # package -> version
    note: str  # what to know of the networks; "" if nothing
    columns: Mapping[str, str]  # of objects/*.parquet -> unit or meaning


SIZES = {  # fewer objects than -> the Hub's name
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
}


def readme(about: About) -> bytes:
    """README.md. The title is JSON in its head, which is YAML, too."""
    return CARD.substitute(
        hub_licence=_hub_licence(about.licences),
        title=json.dumps(about.title),
        size=next((name for limit, name in SIZES.items() if about.objects < limit), "100M<n<1B"),
        heading=_words(about.title),
        note=f"\n> {_words(about.note)}\n" if about.note else "",
        objects=about.objects,
        rejects=about.rejects,
        shards=len(about.sources),
        date=about.date,
        snapshot=about.snapshot,
        licences="\n".join(f"- {_words(name)}" for name in sorted(set(about.licences))),
        preset=f"`{about.preset}`" if about.preset else "not known",
        seed=about.seed,
        settings=_table(("setting", "value"), about.settings.items()) or "No setting differs from its default.",
        weights=_table(("weights", "SHA-256 of all files"), about.weights.items()) or "No weights were used.",
        versions=", ".join(f"{package} {version}" for package, version in about.versions.items()),
        columns=_table(("column", "unit or meaning"), about.columns.items()),
        sources=_table(
            ("shard", "location", "objects", "rejects"),
            [(one.name, one.location, one.objects, one.rejects) for one in about.sources],
        ),
    ).encode()


def export_readme(about: About, form: str, where: str | None) -> bytes:
    """README.md of an export in one of the layouts of EXPORTED; `where` says which objects were wanted."""
    return EXPORT.substitute(
        hub_licence=_hub_licence(about.licences),
        title=json.dumps(about.title),
        configs="configs:\n- config_name: default\n  data_files: data/*/*.parquet\n" if form == "hf" else "",
        heading=_words(about.title),
        note=f"\n> {_words(about.note)}\n" if about.note else "",
        objects=about.objects,
        snapshot=about.snapshot,
        date=about.date,
        where=f"`{where.replace('`', ' ')}`" if where else "all objects",
        layout=EXPORTED[form],
        licences="\n".join(f"- {_words(name)}" for name in sorted(set(about.licences))),
        columns=_table(("column", "unit or meaning"), about.columns.items()),
    ).encode()


def license_file(about: About) -> bytes:
    """LICENSE: names the licences and says where their texts are. It holds no text of a licence."""
    return TERMS.substitute(licences="\n\n".join(_terms(name) for name in sorted(set(about.licences)))).encode()


def _terms(name: str) -> str:
    known = LICENCES.get(name)
    if known is None:
        return f"{name}\n    Anything-3D does not know its text. Ask whoever gave the photos, weights or backend."
    lines = [known.terms, f"Its text: {known.url}" if known.url else ""]
    return "\n".join([name, *(f"    {line}" for line in lines if line)])


def _hub_licence(names: Sequence[str]) -> str:
    """The lines on the licence in the head of the card. One that the Hub knows is named; all else is in LICENSE."""
    known = LICENCES.get(names[0]) if len(set(names)) == 1 else None
    if known and known.hub:
        return f"license: {known.hub}"
    return f"license: other\nlicense_name: see-license-file\nlicense_link: {LICENSE}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; "" without rows."""
    cells = [[_words(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *cells]) if cells else ""


def _words(value: object) -> str:
    """Something from outside as words on one line. Signs of Markdown and HTML are escaped, except the underscore."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"([\\`*\[\]<>|#&])", r"\\\1", re.sub(r"\s", " ", text))


CARD = Template("""---
$hub_licence
pretty_name: $title
language:
- en
task_categories:
- image-to-3d
- text-to-3d
size_categories:
- $size
tags:
- 3d
- mesh
- point-cloud
configs:
- config_name: objects
  default: true
  data_files: objects/*.parquet
- config_name: rejects
  data_files: rejects/*.parquet
---
# $heading
$note
This corpus holds 3D objects that [Anything-3D](https://arxiv.org/abs/2304.10261) has made from photographs. Each object
has a crop of its photo, a mask, a caption, a point cloud, a coloured mesh and scores. The table `rejects` says which
items were left out, and why.

| objects | rejects | shards | snapshot | date |
| --- | --- | --- | --- | --- |
| $objects | $rejects | $shards | `$snapshot` | $date |

## How to read it
```python
import datasets

objects = datasets.load_dataset("PATH OF THE CORPUS")["train"]  # one row for each object
rejects = datasets.load_dataset("PATH OF THE CORPUS", "rejects")["train"]  # one row for each item that was left out
```
The files of an object lie in the WebDataset tar that its column `asset_tar` names. The columns `glb_offset` and
`glb_size` say where its mesh lies in that tar. There are two such columns for each file. `assets/index.json` lists all
tars, for the package `wids`.

## Licence
The column `licence` says which licences apply to an object. All of them apply at the same time. LICENSE says where
their texts are. These are the licences of the whole corpus:

$licences

## What made it
The preset is $preset. The seed is $seed.

$settings

$weights

The versions are: $versions.

## Columns of `objects`
$columns

## Shards
$sources
""")

TERMS = Template("""The licences of this corpus
===========================

This file is no licence. It names the licences that apply to the content of this corpus: those of the photos, those of
the weights of all networks, and those of the backends that made the objects. The column "licence" of the objects names
the licences of each object. Where an object has several licences, all of them apply at the same time.

$licences
""")

EXPORTED = {  # format of an export -> what it holds
    "hf": (
        "`datasets.load_dataset` reads this folder. The column `crop` is the crop of the photo. The column `glb` is the"
        " mesh, as the bytes of a GLB file."
    ),
    "objaverse": (
        "The layout is that of Objaverse 1.0. `object-paths.json.gz` maps each uid to its GLB file in `glbs/`."
        " `metadata/*.json.gz` maps each uid to its annotation. `license` in an annotation is the column `licence`."
    ),
    "lance": (
        '`lance.dataset("objects.lance")` reads the objects. The column `crop` is the crop of the photo, as PNG. The'
        " column `glb` is the mesh, as a blob."
    ),
    "obj": (
        "`object-paths.json.gz` maps each object to its OBJ file in `objs/`. Its MTL file and its texture lie beside"
        " it. An object without a texture has the colour of each vertex behind its coordinates."
        " `metadata/*.json.gz` has the columns of each object."
    ),
    "ply": (
        "`object-paths.json.gz` maps each object to its PLY file in `plys/`, which is binary and has the colour of each"
        " vertex. `metadata/*.json.gz` has the columns of each object."
    ),
    "usdz": (
        "`object-paths.json.gz` maps each object to its USDZ file in `usdzs/`. `metadata/*.json.gz` has the columns of"
        " each object."
    ),
}

EXPORT = Template("""---
$hub_licence
pretty_name: $title
language:
- en
task_categories:
- image-to-3d
- text-to-3d
tags:
- 3d
- mesh
$configs---
# $heading
$note
This export holds 3D objects that [Anything-3D](https://arxiv.org/abs/2304.10261) has made from photographs.

| objects | snapshot | date | which objects |
| --- | --- | --- | --- |
| $objects | `$snapshot` | $date | $where |

$layout

## Licence
The column `licence` says which licences apply to an object. All of them apply at the same time. LICENSE says where
their texts are. These are the licences of the whole corpus:

$licences

## Columns
$columns
""")
