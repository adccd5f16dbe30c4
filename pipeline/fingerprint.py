"""A fingerprint of the code that a component runs, for the cache key: TFX's own ignores importable functions."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

FIRST_PARTY = ("pipeline", "components", "serving", "models")
_PINNED = ("tensorflow", "tfx")
_ROOT = Path(__file__).resolve().parents[1]


def code_fingerprint(*modules: str, root: Path = _ROOT) -> str:
    """A digest of the named modules and of every first-party module that they import, directly or not.

    Imports are found without running anything, inside functions too; packages on the way to a module count, as
    Python runs their `__init__`. Imports for type checkers only do not count. Comments, docstrings and layout do not
    change the digest, the versions of TensorFlow and TFX do. It is the same on every machine and path.

    Args:
      modules: dotted names, such as 'components.trainer.run_fn'.
      root: folder of the first-party packages.

    Returns:
      64 hexadecimal digits.

    Raises:
      ValueError: if a name is not a first-party module.
    """
    digest = hashlib.sha256()
    for package in _PINNED:
        digest.update(f"{package}=={importlib.metadata.version(package)}\n".encode())
    for name, code in sorted(_reached(modules, root).items()):
        digest.update(f"{name}\n{code}\n".encode())
    return digest.hexdigest()


def reached_modules(*modules: str, root: Path = _ROOT) -> tuple[str, ...]:
    """Names of the modules that the fingerprint of `modules` covers, sorted."""
    return tuple(sorted(_reached(modules, root)))


def _reached(modules: tuple[str, ...], root: Path) -> dict[str, str]:
    """Modules by name, each with what counts of its code."""
    found: dict[str, str] = {}
    queue = []
    for name in modules:
        if _find(name, root) is None:
            raise ValueError(f"expected a module under {', '.join(FIRST_PARTY)}, got '{name}'")
        queue += _with_parents(name)
    while queue:
        name = queue.pop()
        path = _find(name, root)
        if name in found or path is None:  # None: a name inside a module, or a third party's
            continue
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name], imported = _parsed(path.read_bytes(), package, str(path))
        queue += imported
    return found


@functools.cache
def _parsed(source: bytes, package: str, filename: str) -> tuple[str, tuple[str, ...]]:
    """The code of a module without comments, docstrings and layout, and the modules that it may import.

    Cached, because most modules are reached from several components.
    """
    tree = ast.parse(source, filename=filename)
    imported = dict.fromkeys(parent for name in _imports(tree, package) for parent in _with_parents(name))
    return ast.dump(_without_docstrings(tree)), tuple(imported)


def _find(name: str, root: Path) -> Path | None:
    parts = name.split(".")
    if parts[0] not in FIRST_PARTY:
        return None
    base = root.joinpath(*parts)
    return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that a module may import; 'from a import b' gives a.b, a module or not."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([base] if base else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)
    children: Iterator[ast.AST] | list[ast.stmt] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = node.orelse
    for child in children:
        yield from _imports(child, package)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
