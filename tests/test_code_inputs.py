"""Which code a step runs: the inputs of its rule are what its process really imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glmtune.checkpoints.sources import hash_model
from glmtune.families.registry import FAMILIES
from glmtune.files import write_json, write_jsonl
from glmtune.workspace import code_inputs
from glmtune.workspace.code_inputs import SCRIPTS, code_of

STEPS = sorted(path.name for path in SCRIPTS.glob("*.py"))
# The modules that a script imports only when there is something to compute.
COMPUTED_BY = {
    "fetch_dataset.py": ("glmtune.data.adgen.fetching",),
    "export_model.py": ("glmtune.export.exporting",),
    "prepare_model.py": (
        *("glmtune.steps.preparing", "glmtune.miniatures.building"),
        *("glmtune.hubs.downloading", "glmtune.hubs.sites"),
    ),
    "finetune_model.py": ("glmtune.steps.finetuning",),
    "generate_predictions.py": ("glmtune.steps.predicting",),
    "score_predictions.py": ("glmtune.steps.scoring",),
}


def modules_after(step: str, *also: str) -> set[str]:
    """The names in sys.modules after a new process has imported a script and more."""
    names = ", ".join([step.removesuffix(".py"), *also])
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import {names}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def as_module(path: Path) -> str:
    name = ".".join(path.relative_to(SCRIPTS).with_suffix("").parts)
    return name.removesuffix(".__init__")


# Each step is imported by a child of a process that has imported the slow packages.
IMPORT_EACH = """
import json, os, sys, peft, torch, transformers.trainer
sys.path.insert(0, sys.argv[1])
for step, also in json.loads(sys.argv[2]).items():
    sys.stdout.flush()
    if os.fork() == 0:
        for name in (step.removesuffix(".py"), *also):
            __import__(name)
        print(step, *(name for name in sys.modules if name.startswith("glmtune")))
        break
    if os.wait()[1] != 0:
        sys.exit(f"{step} cannot be imported")
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """The library's modules that each step needs from its start to its end."""
    wanted = {step: COMPUTED_BY.get(step, ()) for step in STEPS}
    command = [sys.executable, "-c", IMPORT_EACH, str(SCRIPTS), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {step: set(names) for step, *names in map(str.split, done.stdout.splitlines())}


@pytest.mark.workflow
@pytest.mark.parametrize("step", STEPS)
def test_a_step_declares_exactly_the_code_it_imports(
    step: str, imported: dict[str, set[str]]
) -> None:
    modules = {as_module(path) for path in code_of(step) if path.suffix == ".py"}
    declared = modules - {step.removesuffix(".py")}
    assert declared == imported[step]


def test_what_a_page_is_made_of_renders_the_report_again_and_nothing_else() -> None:
    files = {step: {path.name for path in code_of(step) if path.suffix != ".py"} for step in STEPS}
    assert {"page.css", "page.js", "published.json"} <= files.pop("render_report.py")
    assert set().union(*files.values()) == set()


def test_a_miniature_depends_on_nothing_that_only_tunes_packs_or_reads_models() -> None:
    """An edit of these would make every miniature anew, and train again all that was tuned on it.

    Imports inside functions count.
    """
    library = SCRIPTS / "glmtune"
    files = {path.relative_to(library).as_posix() for path in library.rglob("*.py")}
    code = {path.relative_to(SCRIPTS).as_posix() for path in code_of("prepare_model.py")}
    names = {name.removeprefix("glmtune/") for name in code}
    assert "training/train.py" in names
    unneeded = {
        *("checkpoints/adapters.py", "checkpoints/adapter_checks.py", "checkpoints/prefix.py"),
        *("checkpoints/loading.py", "checkpoints/filling.py", "checkpoints/tensors.py"),
        *("modeling/quantization.py", "training/throughput.py", "training/notes.py"),
    }
    unneeded |= {name for name in files if name.startswith(("modeling/dequantizer", "tuning/"))}
    assert unneeded <= files
    assert names & unneeded == set()


@pytest.mark.parametrize("step", STEPS)
def test_a_step_starts_without_torch(step: str) -> None:
    assert not {"torch", "transformers"} & modules_after(step)


def test_data_is_fetched_tokenised_and_scored_without_torch(tmp_path: Path) -> None:
    """Not only imported: the whole run of such a step takes a second."""
    model = tmp_path / "model"
    FAMILIES["chatglm2-6b"].train_tokenizer(["颜色是白色。"], model, vocab_size=20)
    write_json(tmp_path / "model.json", {"files": hash_model(model)})
    answers = [{"prompt": "问", "labels": "白色的裙子", "predict": "白色"}]
    write_jsonl(tmp_path / "predictions.jsonl", answers)
    runs = {
        "fetch_dataset": "--sample --train-rows 9 --dev-rows 3 --seed 1 --out-dir data",
        "tokenize_dataset": "--data data --model model --model-manifest model.json "
        "--family chatglm2-6b "
        "--max-source-tokens 20 --max-target-tokens 20 --long-history shorten --out-dir tokenized",
        "score_predictions": "--predictions predictions.jsonl --metrics scores.json",
    }
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
    for step, flags in runs.items():
        code += f"import {step}; sys.argv = {[step, *flags.split()]}; {step}.main()\n"
    code += "print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert (tmp_path / "tokenized/manifest.json").is_file()
    assert (tmp_path / "scores.json").is_file()


def test_another_line_of_code_is_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for the steps that run it, also where a function imports it."""
    (tmp_path / "glmtune/parts").mkdir(parents=True)
    library = {
        "early.py": "from glmtune import inner\n",
        "late.py": "def main():\n    from glmtune.parts import deep\n",
        "glmtune/__init__.py": "",
        "glmtune/inner.py": "import json\n",
        "glmtune/parts/__init__.py": "",
        "glmtune/parts/deep.py": "if TYPE_CHECKING:\n    from glmtune import inner\n",
    }
    for name, text in library.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code_inputs, "SCRIPTS", tmp_path)
    before = {step: code_inputs.hash_code(step) for step in ("early.py", "late.py")}
    (tmp_path / "glmtune/parts/deep.py").write_text("changed = True\n")
    assert code_inputs.hash_code("early.py") == before["early.py"]
    assert code_inputs.hash_code("late.py") != before["late.py"]
