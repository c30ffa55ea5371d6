"""Which files of the library a script runs: inputs of its rule, and part of its results' key.

Found by reading import statements, also those inside functions, and `call_in_fork("module", …)` of
fork_server.py, so the list is known before anything runs and costs milliseconds. Files beside the
modules of a package, such as the style of a page, count as its code.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

DATA_FILES = (".css", ".html", ".js", ".json")
SCRIPTS = Path(__file__).resolve().parents[2]


def python_path() -> str:
    """The PYTHONPATH of a process that imports this library, with the user's own after it."""
    return os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")]))


def code_of(script: str) -> list[Path]:
    """A script of `workflow/scripts` and every library file that it imports, sorted.

    Example: code_of("fetch_dataset.py") -> [.../glmtune/__init__.py, .../glmtune/errors.py, ...]
    """
    found: set[Path] = set()
    waiting = [SCRIPTS / script]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            if path.suffix == ".py":
                waiting.extend(_imported_files(path))
    return sorted(found)


def hash_code(script: str) -> str:
    """One SHA-256 over the names and contents of `code_of(script)`."""
    digest = hashlib.sha256()
    for path in code_of(script):
        digest.update(path.relative_to(SCRIPTS).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _imported_files(path: Path) -> frozenset[Path]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    modules = (module for node in _running_nodes(tree) for module in _modules_of(node))
    return frozenset(file for module in modules for file in _files_of(module))


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below `node`, except below `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _running_nodes(child)


def _modules_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        # `from glmtune.families import chatglm` names a module, not only a member.
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "call_in_fork":
        yield ast.literal_eval(node.args[0])


def _files_of(module: str) -> Iterator[Path]:
    """The library files that importing a dotted name runs: its packages and itself."""
    parts = module.split(".")
    if parts[0] != "glmtune":
        return
    for length in range(1, len(parts) + 1):
        base = SCRIPTS.joinpath(*parts[:length])
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                yield path
        # Not the modules' caches, which are in a folder.
        yield from (path for path in base.glob("*.*") if path.suffix in DATA_FILES)
