"""Every error stands in the tree of errors.py, and every reason code that is raised stands in reasons.toml."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from anything3d import errors
from anything3d.errors import Anything3DError
from anything3d.reasons import GROUPS, REASONS
from jobs.docs import DOCS, pages
from pipeline.config import load

ROOT = Path(__file__).parent.parent
PRODUCT = ("schemas", "anything3d", "pipeline", "jobs")
SENTENCES = re.compile(r"([A-Z`][^\n|]*[.]){1,3}")


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every file of the product, parsed."""
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def subclasses(kind: type) -> set[type]:
    return {kind, *(one for below in kind.__subclasses__() for one in subclasses(below))}


def name_of(node: ast.expr) -> str:
    """The last name of `a`, `b.a`; "" for other expressions."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def constants() -> dict[str, list[str]]:
    """Names of the product that stand for a string, or for several."""
    found: dict[str, list[str]] = {}
    for _, tree in trees():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values = [part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
                found[node.targets[0].id] = [value for value in values if isinstance(value, str)]
    return found


def codes_in(tree: ast.Module, named: dict[str, list[str]]) -> Iterator[tuple[int, str]]:
    """(line, code) of every reason that is raised or compared; the code is "" where it cannot be read."""
    kinds = {kind.__name__ for kind in subclasses(Anything3DError)}
    for node in ast.walk(tree):
        reasons: list[ast.expr] = []
        if isinstance(node, ast.Call) and name_of(node.func) in kinds:
            reasons = node.args[:1]
        elif isinstance(node, ast.Call) and name_of(node.func) == "RejectRecord":
            reasons = node.args[3:4]
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "reason":
            reasons = node.comparators
        for reason in reasons:
            for code in codes_of(reason, named):
                yield node.lineno, code


def codes_of(reason: ast.expr, named: dict[str, list[str]]) -> list[str]:
    if isinstance(reason, ast.Constant):
        return [str(reason.value)]
    if isinstance(reason, ast.IfExp):
        return codes_of(reason.body, named) + codes_of(reason.orelse, named)
    if name_of(reason) == "reason":  # of an error that is passed on
        return []
    return named.get(name_of(reason), [""])


def test_every_error_stands_in_the_tree_under_its_parent():
    for package in PRODUCT:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            importlib.import_module(module.name)
    drawn = {}  # name -> depth
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([│ ]*[├└]── )?([A-Z][A-Za-z0-9]+)  +\w", line):
            drawn[match[2]] = len(match[1] or "") // 4
    depths = {kind.__name__: len(kind.__mro__) - len(Anything3DError.__mro__) for kind in subclasses(Anything3DError)}
    assert drawn == depths


def test_no_error_of_the_product_stands_outside_the_tree():
    ours = {kind.__name__ for kind in subclasses(Anything3DError)}
    outside = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name not in ours
        if any(re.search("(Error|Exception|Interrupt)$", name_of(base)) or name_of(base) in ours for base in node.bases)
    ]
    assert outside == []


def test_the_code_of_every_reason_can_be_read_in_the_source():
    named = constants()
    hidden = [f"{path.name}:{line}" for path, tree in trees() for line, code in codes_in(tree, named) if not code]
    assert hidden == []


def test_every_reason_that_the_product_raises_is_explained_and_no_other():
    named = constants()
    raised = {code for _, tree in trees() for _, code in codes_in(tree, named)}
    assert raised - REASONS.keys() == set()
    assert REASONS.keys() - raised == set()


def test_every_reason_stands_once_and_in_whole_sentences():
    codes = [code for group in GROUPS for code in group.reasons]
    assert len(codes) == len(set(codes))
    for code, reason in REASONS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", code)
        assert SENTENCES.fullmatch(reason.meaning), code
        assert SENTENCES.fullmatch(reason.remedy), code


def test_the_settings_that_the_reasons_name_exist():
    settings = load([], [])
    for reason in REASONS.values():
        for section, key in re.findall(r"`([a-z]+)\.(\w+)", reason.meaning + reason.remedy):
            if hasattr(settings, section) and section != "resources":
                assert hasattr(getattr(settings, section), key), f"{section}.{key}"


def test_the_pages_that_are_made_from_the_code_are_fresh():
    for name, text in pages().items():
        assert (DOCS / name).read_text() == text, f"give `python -m jobs.docs`: docs/{name} is stale"
