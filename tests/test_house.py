"""The house's rule: a folder imports only from folders below it, and the lower ones know nothing of TFX and Beam."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FLOORS = ("pipeline", "components", "serving", "models")  # from the top down
ORCHESTRATION = ("tfx", "tfx_bsl", "apache_beam", "tensorflow_model_analysis", "tensorflow_data_validation")


def imports(text: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file of a package imports, inside functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module or ""]).strip(".")
            yield node.lineno, module
            # 'from a import b' may mean the module a.b.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def forbidden(text: str, package: str) -> list[str]:
    """The imports of a file that the rule forbids, each with its line."""
    floor = FLOORS.index(package.split(".")[0])
    not_here = set(FLOORS[:floor])
    if FLOORS[floor] in ("serving", "models"):
        not_here.update(ORCHESTRATION)
    found = {(line, name.split(".")[0]) for line, name in imports(text, package)}
    return [f"line {line}: {top}" for line, top in sorted(found) if top in not_here]


@pytest.mark.parametrize("floor", FLOORS)
def test_a_folder_imports_only_downwards(floor):
    files = sorted((REPOSITORY / floor).rglob("*.py"))
    assert files
    wrong = {}
    for file in files:
        package = ".".join(file.relative_to(REPOSITORY).parent.parts)
        if found := forbidden(file.read_text(encoding="utf-8"), package):
            wrong[str(file.relative_to(REPOSITORY))] = found
    assert wrong == {}


@pytest.mark.parametrize(
    "package, text, found",
    [
        ("models", "import serving.signatures", ["line 1: serving"]),
        ("models.trunks", "def f():\n  from components.trainer import config", ["line 2: components"]),
        ("models", "import tfx.types as t", ["line 1: tfx"]),
        ("serving", "from apache_beam import io", ["line 1: apache_beam"]),
        ("serving", "from models.ranker import Ranker\nimport tensorflow_transform as tft", []),
        ("components.trainer", "import pipeline.cli, serving\nfrom tfx import types", ["line 1: pipeline"]),
        ("components.trainer", "from . import input\nfrom .. import baseline", []),
        ("pipeline", "import models, serving, components, tfx", []),
    ],
)
def test_the_rule_itself(package, text, found):
    assert forbidden(text, package) == found
