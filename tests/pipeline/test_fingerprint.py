from __future__ import annotations

import importlib.metadata
import shutil

import pytest

from pipeline.fingerprint import code_fingerprint, reached_modules

FILES = {
    "components/__init__.py": "",
    "components/trainer/__init__.py": "from components.trainer.component import Trainer\n",
    "components/trainer/component.py": "class Trainer: ...\n",
    "components/trainer/run_fn.py": (
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "import tensorflow as tf\n"
        "from models import ranker\n"
        "from . import loop\n"
        "if TYPE_CHECKING:\n"
        "    from models import only_types\n"
        "def run_fn():\n"
        "    from models.heads.plain import Plain\n"
        "    return ranker, loop, Plain\n"
    ),
    "components/trainer/loop.py": "from ..shared import VALUE\n",
    "components/shared.py": "VALUE = 1\n",
    "components/other.py": "VALUE = 1\n",
    "models/__init__.py": "",
    "models/ranker.py": "import models.encoder\n",
    "models/encoder.py": "import models.ranker  # a cycle\n",
    "models/heads/__init__.py": "",
    "models/heads/plain.py": "class Plain: ...\n",
    "models/heads/entire_space.py": "",
    "models/only_types.py": "",
    "elsewhere/models.py": "",
}
NAME = "components.trainer.run_fn"
REACHED = {
    "components",
    "components.shared",
    "components.trainer",
    "components.trainer.component",
    "components.trainer.loop",
    "components.trainer.run_fn",
    "models",
    "models.encoder",
    "models.heads",
    "models.heads.plain",
    "models.ranker",
}


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "here"
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_reaches_what_is_imported_and_no_more(tree):
    assert set(reached_modules(NAME, root=tree)) == REACHED


@pytest.mark.parametrize("path", FILES)
def test_changes_with_reached_modules_only(tree, path):
    before = code_fingerprint(NAME, root=tree)
    with open(tree / path, "a") as file:
        file.write("ADDED = 1\n")
    changed = code_fingerprint(NAME, root=tree) != before
    assert changed == (module_name(path) in REACHED)


def test_comments_docstrings_and_layout_do_not_count(tree):
    before = code_fingerprint(NAME, root=tree)
    (tree / "components/shared.py").write_text('"""What is shared."""\n\n# A comment.\nVALUE  =  1\n')
    assert code_fingerprint(NAME, root=tree) == before
    (tree / "components/shared.py").write_text("VALUE = 2\n")
    assert code_fingerprint(NAME, root=tree) != before


def test_does_not_depend_on_the_path_or_the_order(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "there")
    names = (NAME, "components.other")
    assert code_fingerprint(*names, root=tree) == code_fingerprint(*names[::-1], root=tmp_path / "there")


def test_a_module_of_its_own_name_and_package_counts(tree):
    before = code_fingerprint(NAME, root=tree)
    (tree / "components/shared.py").rename(tree / "components/moved.py")
    (tree / "components/trainer/loop.py").write_text("from ..moved import VALUE\n")
    assert code_fingerprint(NAME, root=tree) != before


def test_changes_with_the_versions_of_tensorflow_and_tfx(tree, monkeypatch):
    before = code_fingerprint(NAME, root=tree)
    version = importlib.metadata.version
    for package in ("tensorflow", "tfx"):
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, p=package: "0.0" if name == p else version(name)
        )
        assert code_fingerprint(NAME, root=tree) != before


@pytest.mark.parametrize("name", ["models.missing", "tensorflow", ""])
def test_unknown_modules_are_refused(tree, name):
    with pytest.raises(ValueError, match=f"got '{name}'"):
        code_fingerprint(name, root=tree)


def test_own_code():
    reached = reached_modules("pipeline.fingerprint")
    assert reached == ("pipeline", "pipeline.fingerprint")
    assert len(code_fingerprint("models.section")) == 64
