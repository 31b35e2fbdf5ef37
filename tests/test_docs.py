"""The docs name what exists: files, links, commands, options, settings, imports. The picture is that of the code."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields, is_dataclass
from functools import cache
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer

from jobs.cli import app
from jobs.command import PRESETS
from pipeline.config import Config

ROOT = Path(__file__).parent.parent
DOCS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
LAYERS = ("schemas", "anything3d", "pipeline", "jobs")
FILES = re.compile(rf"`((?:{'|'.join(LAYERS)}|tests|docs)/[\w./-]*|[\w-]+\.(?:md|yaml|toml))`")
SETTINGS = re.compile(rf"`((?:{'|'.join(field.name for field in fields(Config))})(?:\.[a-z_0-9*]+)+)`")
EXAMPLE = {  # what CONTRIBUTING adds
    "anything3d/settings/tint.py",
    "anything3d/tint.py",
    "pipeline/stages/tint.py",
    "anything3d/box.py",
}
QUIET = {"NO_MKDOCS_2_WARNING": "1"}  # of mkdocs-material, about the next major version of mkdocs
OF_A_CORPUS = {"index.html", "snapshot.json", "corpus.json"}


def text(doc):
    return (ROOT / doc).read_text()


def blocks(doc, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", text(doc), re.MULTILINE | re.DOTALL)


def anchors(doc):
    """The names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", text(doc), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("doc", DOCS)
def test_files_that_a_document_names_exist(doc):
    missing = [name for name in FILES.findall(text(doc)) if not (ROOT / name).exists() and name not in EXAMPLE]
    assert not missing, f"{doc} names files that do not exist: {missing}"


@pytest.mark.parametrize("doc", DOCS)
def test_links_of_a_document_lead_somewhere(doc):
    for target in re.findall(r"\]\(([^)\s]+)\)", text(doc)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / doc).parent / path if path else ROOT / doc
        assert file.exists(), f"{doc} links to {target}"
        assert not anchor or anchor in anchors(file), f"{doc} links to {target}"


def commands():
    """Every command line of `anything3d`, of `python -m jobs.*` and of make that a document shows: (doc, words)."""
    for doc in DOCS:
        joined = "\n".join(blocks(doc)).replace("\\\n", " ")
        for line in joined.splitlines() + re.findall(r"`((?:anything3d|make) [^`]+)`", text(doc)):
            command = line.partition(" # ")[0].partition(" | ")[0].replace("[", "").replace("]", "").strip()
            command = re.sub(r"^ray job submit .* -- ", "", command)
            command = re.sub(r"^python -m jobs\.run", "anything3d run", command)
            if command.startswith(("anything3d ", "make ")):
                yield pytest.param(doc, shlex.split(command), id=f"{doc}: {command}")


@pytest.mark.parametrize(("doc", "words"), list(commands()))
def test_commands_and_options_of_the_documents_exist(doc, words):
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", text("Makefile"), re.MULTILINE)
        return
    command, rest = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands") and rest:
        name, *rest = rest
        if re.fullmatch(r"\w+(\|\w+)+", name):  # list|verify|where
            assert set(name.split("|")) <= command.commands.keys()
            return
        assert name in command.commands, f"{doc}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word, value in pairwise([*rest, ""]):
        if word.startswith("--"):
            assert word in known, f"{doc}: {command.name} has no {word}"
        if word == "--preset":
            assert (PRESETS / f"{value}.toml").exists()
        if word == "--set" and "." in value:
            assert_is_setting(value.partition("=")[0])


@pytest.mark.parametrize("doc", DOCS)
def test_settings_that_a_document_names_exist(doc):
    for key in SETTINGS.findall(text(doc)):
        if key not in OF_A_CORPUS:
            assert_is_setting(key)


def assert_is_setting(key):
    known = settings()
    pattern = re.compile(re.escape(key).replace(r"\*", r".*"))
    assert any(pattern.fullmatch(name) for name in known), f"no setting {key}"


@cache
def settings():
    return set(_settings(Config, ""))


def _settings(section, prefix):
    for name, kind in get_type_hints(section).items():
        yield prefix + name
        for part in (kind, *get_args(kind)):
            if is_dataclass(part):
                yield from _settings(part, f"{prefix}{name}.")


@pytest.mark.parametrize(("doc", "code"), [(doc, code) for doc in DOCS for code in blocks(doc, "python")])
def test_python_of_the_documents_imports_what_exists(doc, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in LAYERS:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), f"{doc}: {ast.unparse(node)}"


def contracts():
    return tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"]


@cache
def picture():
    """The picture of docs/architecture.md: node -> label, layer -> its nodes, and the arrows."""
    (drawn,) = blocks("docs/architecture.md", "mermaid")
    labels = dict(re.findall(r'^ +(\w+)\["(.*?)"\]$', drawn, re.MULTILINE))
    layers = {}
    for name, inside in re.findall(r'subgraph \w+ \["(\w+): .*?"\]\n(.*?)^ +end', drawn, re.MULTILINE | re.DOTALL):
        layers[name] = re.findall(r'^ +(\w+)\["', inside, re.MULTILINE)
    names = dict(re.findall(r'subgraph (\w+) \["(\w+):', drawn))
    arrows = {(names.get(a, a), names.get(b, b)) for a, b in re.findall(r"^ +(\w+) --> (\w+)$", drawn, re.MULTILINE)}
    return labels, layers, arrows


def test_the_picture_has_the_layers_of_the_import_contract():
    _, layers, arrows = picture()
    (contract,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    assert list(layers) == contract
    assert {arrow for arrow in arrows if set(arrow) <= set(layers)} == set(pairwise(contract))


def test_the_picture_has_the_rooms_that_exist():
    labels, layers, _ = picture()
    drawn = {label.partition("<br>")[0] for label in labels.values()}
    rooms = {f"{path.parent.relative_to(ROOT)}/" for layer in LAYERS for path in ROOT.glob(f"{layer}/*/__init__.py")}
    assert {label for label in drawn if label.endswith("/")} == rooms | {f"{layer}/" for layer in LAYERS}
    assert all(labels[node].startswith(f"{layer}/") for layer, nodes in layers.items() for node in nodes), (
        "a room is drawn in the layer that its path begins with"
    )


def test_forbidden_imports_of_the_document_are_those_of_the_contracts():
    said = text("docs/architecture.md").partition("## The way")[0]
    rows = re.findall(r"^\| (`.*`) \| (`.*`) \|", said, re.MULTILINE)
    assert {tuple(frozenset(re.findall(r"`([\w.]+)`", cell)) for cell in row) for row in rows} == {
        (frozenset(contract["source_modules"]), frozenset(contract["forbidden_modules"]))
        for contract in contracts()
        if contract["type"] == "forbidden"
    }
    for contract in contracts():
        if contract["type"] == "protected":
            (importer,), (room,) = contract["allowed_importers"], contract["protected_modules"]
            assert f"Only `{importer}` may import `{room}`." in said


@cache
def imports():
    """module -> the modules of the product that it imports, at its top or inside of a function."""
    modules = {}
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            modules[name.removesuffix(".__init__")] = path
    found = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= (inner & modules.keys()) or ({node.module} & modules.keys())
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names} & modules.keys()
        found[name] = targets - {name}
    return found


def test_no_module_imports_itself_through_others():
    list(TopologicalSorter(imports()).static_order())  # raises CycleError, which names the circle


def test_rooms_import_only_what_the_picture_allows():
    labels, layers, arrows = picture()
    folders = {}  # path without its slash or ending -> node; the longest one is a module's
    for node in layers["anything3d"]:
        for part in labels[node].split("<br>"):
            if part.startswith("anything3d/"):
                folders[part.removesuffix("/").removesuffix(".py").replace("/", ".")] = node

    def node_of(module):
        return folders[max((name for name in folders if f"{module}.".startswith(f"{name}.")), key=len)]

    below = {node: {b for a, b in arrows if a == node} for node in layers["anything3d"]}
    for node in TopologicalSorter(below).static_order():
        below[node] = below[node].union(*(below[b] for b in below[node]))
    upward = [
        f"{module} imports {target}; the picture has no arrow {node_of(module)} --> {node_of(target)}"
        for module, targets in imports().items()
        for target in targets
        if module.startswith("anything3d.") and target.startswith("anything3d.")
        if node_of(target) not in below[node_of(module)] | {node_of(module)}
    ]
    assert not upward, "\n".join(upward)


def test_the_documents_are_a_site_without_a_broken_link(tmp_path):
    """Strict: a page that no menu names is an error, too, and so is a link to a heading that is not there."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **QUIET})
    assert ended.returncode == 0, ended.stderr
    assert "Start in five minutes" in (tmp_path / "site" / "index.html").read_text()
