"""The packages of the library: which may import which, which need torch, who knows what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from glmtune.workspace.code_inputs import SCRIPTS, code_of

LIBRARY = SCRIPTS / "glmtune"
STEPS = sorted(path.name for path in SCRIPTS.glob("*.py"))
# The modules directly in glmtune/; every package may import them, they import each other only.
GROUND = "the ground"
# Package -> the packages that it may import. docs/architecture.md says what each is.
MAY_IMPORT: dict[str, set[str]] = {
    "synthetic": set(),
    "families": set(),
    "metrics": set(),
    "modeling": set(),
    "data": {"families", "synthetic"},
    "params": {"families", "metrics", "synthetic"},
    "report": {"metrics"},
    "workspace": {"checkpoints", "params"},
    "checkpoints": {"families", "modeling"},
    "generation": {"families", "modeling"},
    "training": {"families"},
    "tuning": {"checkpoints", "families", "modeling", "training"},
    "export": {"checkpoints", "families", "modeling"},
    "miniatures": {"checkpoints", "families", "synthetic", "training"},
    "serving": {"checkpoints", "data", "families", "generation", "modeling"},
    "hubs": {"checkpoints"},
    "commands": {
        *("checkpoints", "data", "export", "families", "generation", "hubs", "metrics", "serving"),
    },
    "steps": {
        *("checkpoints", "families", "generation", "hubs", "metrics", "miniatures", "modeling"),
        *("synthetic", "training", "tuning", "workspace"),
    },
}
# What needs no torch: a step that only handles texts starts in a moment.
TEXT_ONLY = {"synthetic", "families", "metrics", "data", "params", "report", "workspace"}
TEXT_ONLY_MODULES = {
    *("steps.preparing", "steps.tokenizing", "steps.scoring"),
    *("checkpoints.sources", "checkpoints.weight_files"),
    *("generation.answer_log", "miniatures.corpus", "training.notes"),
    *("generation.settings", "miniatures.settings", "training.settings", "tuning.settings"),
    *("serving.catalog", "serving.prompts", "serving.answer_text", "serving.api_types"),
    *("serving.ranges", "serving.connections"),
    *("hubs.sites", "hubs.downloading", "commands.download"),
    *("commands.main", "commands.flags", "commands.texts", "commands.chat", "commands.answer"),
    *("commands.export", "commands.models", "commands.score", "commands.serve"),
}


def package_of(path: Path) -> str:
    """The package a module of the library is in."""
    parts = path.relative_to(LIBRARY).parts
    return parts[0] if len(parts) > 1 else GROUND


def packages_imported(path: Path) -> set[str]:
    """The other packages that a module imports, also inside functions and for types only."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "glmtune":
            _, *parts = str(node.module).split(".")
            names |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("glmtune.")}
    packages = {name if (LIBRARY / name).is_dir() else GROUND for name in names}
    return packages - {package_of(path)}


def modules() -> Iterator[Path]:
    return (path for path in LIBRARY.rglob("*.py") if path != LIBRARY / "__init__.py")


def test_every_package_has_its_rule() -> None:
    packages = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert set(MAY_IMPORT) == packages
    assert set().union(*MAY_IMPORT.values()) < packages


@pytest.mark.parametrize("package", [*MAY_IMPORT, GROUND])
def test_a_package_imports_what_it_may_and_nothing_else(package: str) -> None:
    imported: dict[str, set[str]] = {}
    for path in modules():
        if package_of(path) == package:
            for name in packages_imported(path):
                imported.setdefault(name, set()).add(path.name)
    allowed = MAY_IMPORT.get(package, set())
    assert {n: files for n, files in imported.items() if n not in allowed | {GROUND}} == {}
    assert allowed - set(imported) == set(), "a rule that nothing uses"


def test_packages_import_each_other_in_one_direction() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError


def test_a_package_s_init_says_what_it_is_and_imports_nothing() -> None:
    """It runs whenever one of its modules is imported, and so is an input of every such step."""
    for path in LIBRARY.glob("*/**/__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        assert len(tree.body) == 1, path


def test_the_text_side_of_the_library_needs_no_torch() -> None:
    paths = [path for path in modules() if package_of(path) in TEXT_ONLY]
    names = {".".join(path.relative_to(SCRIPTS).with_suffix("").parts) for path in paths}
    names |= {f"glmtune.{name}" for name in TEXT_ONLY_MODULES}
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import {', '.join(sorted(names))}\n"
    code += "print(*{'torch', 'transformers', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_only_params_reads_params_yaml() -> None:
    reads = re.compile(r"yaml\.(?:safe_load\(|load\(|SafeLoader\))")
    readers = {p for p in LIBRARY.rglob("*.py") if reads.search(p.read_text(encoding="utf-8"))}
    assert readers == {LIBRARY / "params/reading.py"}
    for reader in readers:
        assert [step for step in STEPS if reader in code_of(step)] == []


def test_no_step_depends_on_how_params_yaml_is_checked() -> None:
    """Else another range or sentence in `params` would run the steps again."""
    for step in STEPS:
        assert [path for path in code_of(step) if LIBRARY / "params" in path.parents] == [], step


def test_no_step_depends_on_what_serves_its_results() -> None:
    for step in STEPS:
        found = {
            path.relative_to(LIBRARY).parts[0] for path in code_of(step) if LIBRARY in path.parents
        }
        assert not found & {"serving", "commands"}, step


def test_scripts_do_not_import_each_other() -> None:
    names = {step.removesuffix(".py") for step in STEPS}
    for step in STEPS:
        text = (SCRIPTS / step).read_text(encoding="utf-8")
        imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.M))
        assert not imported & names, step


ASKS_FOR_A_NAME = re.compile(
    r"""\b(?:family|family|method)(?:\.name)?(?:["']\])? (?:[!=]=|in) [("'\[{]"""
)


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ('if method == "full":', True),
        ('if settings["method"] == "full":', True),
        ("family.name != 'chatglm-6b'", True),
        ('settings["family"] in ("chatglm2-6b",)', True),
        ("method == wanted", False),
        ('methods["lora"] == 1', False),
    ],
)
def test_the_guard_sees_every_way_to_ask(line: str, asks: bool) -> None:
    assert bool(ASKS_FOR_A_NAME.search(line)) is asks


def test_only_families_and_tuning_know_families_and_methods() -> None:
    for path in SCRIPTS.rglob("*.py"):
        if not {"families", "tuning"} & set(path.parts):
            assert not ASKS_FOR_A_NAME.search(path.read_text(encoding="utf-8")), path


def test_no_file_is_a_drawer_for_everything() -> None:
    names = {path.stem for path in SCRIPTS.rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}
