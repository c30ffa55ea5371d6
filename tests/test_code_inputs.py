"""Which code a step runs: the inputs of its rule are what its process really imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from glmtune.code_inputs import SCRIPTS, code_of

STEPS = sorted(path.name for path in SCRIPTS.glob("*.py"))
# The modules that a script imports only when there is something to compute.
COMPUTED_BY = {
    "prepare_model.py": ("glmtune.preparing", "glmtune.miniature"),
    "finetune_model.py": ("glmtune.finetuning",),
    "generate_predictions.py": ("glmtune.predicting",),
}


def modules_after(step: str, *also: str) -> set[str]:
    """The names in sys.modules after a process has imported a script and more."""
    names = ", ".join([step.removesuffix(".py"), *also])
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import {names}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def as_module(path: Path) -> str:
    name = ".".join(path.relative_to(SCRIPTS).with_suffix("").parts)
    return name.removesuffix(".__init__")


@pytest.mark.parametrize("step", STEPS)
def test_a_step_declares_exactly_the_code_it_imports(step: str) -> None:
    loaded = {name for name in modules_after(step, *COMPUTED_BY.get(step, ())) if "glmtune" in name}
    declared = {as_module(path) for path in code_of(step)} - {step.removesuffix(".py")}
    assert declared == loaded


@pytest.mark.parametrize("step", STEPS)
def test_a_step_starts_without_torch(step: str) -> None:
    assert not {"torch", "transformers"} & modules_after(step)


def test_scripts_do_not_import_each_other() -> None:
    names = {step.removesuffix(".py") for step in STEPS}
    for step in STEPS:
        text = (SCRIPTS / step).read_text(encoding="utf-8")
        imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.M))
        assert not imported & names, step


def test_only_families_and_tuning_know_generations_and_methods() -> None:
    asks = re.compile(r"\b(?:generation|family|method)(?:\.name)? [!=]= [\"']")
    for path in SCRIPTS.rglob("*.py"):
        if not {"families", "tuning"} & set(path.parts):
            assert not asks.search(path.read_text(encoding="utf-8")), path


def test_no_file_is_a_drawer_for_everything() -> None:
    names = {path.stem for path in SCRIPTS.rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}
