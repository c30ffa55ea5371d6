"""The workflow as a whole, on real runs: what an edit reruns, what the results hold."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from workspaces import Workspace, new_workspace

MODEL = "chatglm2-6b"
METHODS = ("none", "ptuning", "lora", "full")
TUNED = METHODS[1:]
REPORT = {"render_report"}

pytestmark = pytest.mark.workflow


def per_method(rule: str, *methods: str) -> set[str]:
    return {f"{rule} {MODEL} {method}" for method in methods}


def from_training(*methods: str) -> set[str]:
    """The jobs of these methods from training on."""
    return per_method("finetune_model", *methods) | from_prediction(*methods)


def from_prediction(*methods: str) -> set[str]:
    """The jobs of these methods from prediction on."""
    return per_method("generate_predictions", *methods) | from_scoring(*methods)


def from_scoring(*methods: str) -> set[str]:
    """The jobs of these methods from scoring on."""
    return per_method("score_predictions", *methods) | REPORT


FROM_TOKENS = {f"tokenize_dataset {MODEL}"} | from_training(*TUNED)
FROM_MODEL = {f"prepare_model {MODEL}"} | FROM_TOKENS | from_prediction("none")
EVERYTHING = {"fetch_dataset"} | FROM_MODEL


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which everything has run once. Tests work on copies."""
    workspace = new_workspace(tmp_path_factory.mktemp("finished") / "project")
    jobs = workspace.snakemake("--cores", "2")
    assert jobs == EVERYTHING
    return workspace


@pytest.fixture
def workspace(finished: Workspace, tmp_path: Path) -> Workspace:
    return finished.copy_to(tmp_path / "project")


EDITS: dict[str, tuple[str, object, set[str]]] = {
    "the same value written otherwise": ("lr", "2e-2", set()),
    "lr": ("lr", 0.01, from_training("ptuning")),
    "pre_seq_len": ("pre_seq_len", 3, from_training("ptuning")),
    "lora's rank": ("methods.lora.rank", 4, from_training("lora")),
    "another kind of lora": ("methods.lora.dora", True, from_training("lora")),
    "full's lr": ("methods.full.lr", 3e-3, from_training("full")),
    "max_steps of all": ("training.max_steps", 5, from_training(*TUNED)),
    "a decoding parameter": ("generation.max_new_tokens", 9, from_prediction(*METHODS)),
    "the examples": ("examples", ["类型#裙*颜色#白色"], from_prediction(*METHODS)),
    "token limits": ("max_target_tokens", 60, FROM_TOKENS),
    "long histories": ("long_history", "official", FROM_TOKENS | from_prediction("none")),
    "the miniature": ("miniature.max_steps", 5, FROM_MODEL),
    "the seed": ("seed", 43, EVERYTHING),
    "another seed of the tunings": ("seeds", [43], from_training(*TUNED)),
    "a second seed of the tunings": (
        "seeds",
        [42, 43],
        from_training(*(f"{method}.seed-43" for method in TUNED)),
    ),
    "a subset": ("data.max_train_rows", 32, EVERYTHING - {f"prepare_model {MODEL}"}),
    "a mixture": (
        "dataset",
        {"train": [{"path": "sample"}, {"path": "general", "share": 0.2}], "dev": "sample"},
        EVERYTHING - {f"prepare_model {MODEL}"},
    ),
    "rows that choose the best step": (
        "dataset",
        {"train": "sample", "dev": "sample", "valid": 0.1},
        EVERYTHING - {f"prepare_model {MODEL}"},
    ),
    "whose scores stand in the table": ("protocol", "mindformers", from_scoring(*METHODS)),
    "how the official figures were decoded": ("protocol", "thudm", from_prediction(*METHODS)),
    "a method removed": ("methods.lora", ..., REPORT),
    "a method added": (
        "methods.ptuning-long",
        {"method": "ptuning", "pre_seq_len": 6, "prefix_projection": True, "prefix_dropout": 0.1},
        from_training("ptuning-long"),
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_params_reruns_what_it_affects_and_nothing_else(
    workspace: Workspace, edit: str
) -> None:
    key, value, expected = EDITS[edit]
    workspace.edit(key, value)
    assert workspace.would_run() == expected


def packages_with(name: str, refusal: str, workspace: Workspace, folder: Path) -> str:
    """A PYTHONPATH with a package that the workspace's params need; without it they are refused."""
    folder.mkdir()
    if importlib.util.find_spec(name) is None:
        output = workspace.run("snakemake", "-n", ok=False)
        assert refusal in output
        assert "Traceback" not in output
    (folder / f"{name}.py").touch()
    return str(folder)


def test_more_processes_retrain_nothing_but_shards_need_deepspeed(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.edit("training.launcher.processes", 2)
    assert workspace.would_run() == REPORT
    workspace.edit("methods.full.launcher", {"processes": "all", "sharding": "zero3"})
    refusal = "launcher.sharding: found zero3, which needs DeepSpeed; install it"
    packages = packages_with("deepspeed", refusal, workspace, tmp_path / "packages")
    assert workspace.snakemake("-n", PYTHONPATH=packages) == REPORT


def test_showing_losses_retrains_nothing_but_needs_its_package(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.edit("methods.lora.report_to", ["wandb"])
    refusal = "training.report_to: found wandb, not installed; install what is missing"
    packages = packages_with("wandb", refusal, workspace, tmp_path / "packages")
    assert workspace.snakemake("-n", PYTHONPATH=packages) == REPORT
    workspace.run("snakemake", "--cores", "1", PYTHONPATH=packages)
    assert workspace.snakemake("-n", PYTHONPATH=packages) == set()
    flags = ("-n", "-p", "--forcerun", "finetune_model")
    command = workspace.run("snakemake", *flags, PYTHONPATH=packages)
    assert command.count("--report-to wandb") == 1  # the others have no tracker


def test_a_comment_in_params_reruns_nothing(workspace: Workspace) -> None:
    path = workspace.path / "params.yaml"
    path.write_text("# mine\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert workspace.would_run() == set()


CODE = {
    "workflow/scripts/score_predictions.py": from_scoring(*METHODS),
    "workflow/scripts/glmtune/metrics/scorings.py": from_scoring(*METHODS),
    "workflow/scripts/glmtune/metrics/significance.py": REPORT,
    "workflow/scripts/glmtune/generation/batches.py": from_prediction(*METHODS),
    "workflow/scripts/glmtune/tuning/lora.py": from_training(*TUNED) | from_prediction("none"),
    "workflow/scripts/glmtune/params/values.py": set(),
    "workflow/scripts/glmtune/workspace/outputs.py": set(),
    "README.md": set(),
}


@pytest.mark.parametrize("file", CODE)
def test_an_edit_of_code_reruns_the_steps_that_use_it(workspace: Workspace, file: str) -> None:
    with (workspace.path / file).open("a", encoding="utf-8") as text:
        text.write("\n# edited\n")
    assert workspace.would_run() == CODE[file]


def test_a_second_run_says_that_nothing_is_to_be_done(workspace: Workspace) -> None:
    output = workspace.run("snakemake")
    assert "Nothing to be done" in output


def test_touched_files_rerun_nothing(workspace: Workspace) -> None:
    for path in workspace.path.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts and ".git" not in path.parts:
            path.touch()
    assert workspace.would_run() == set()


def test_metrics_hold_every_model_and_method(finished: Workspace) -> None:
    metrics = json.loads((finished.path / "results/metrics.json").read_text())
    assert set(metrics) == {MODEL}
    assert set(metrics[MODEL]) == set(METHODS)
    for scores in metrics[MODEL].values():
        assert {"bleu-4", "rouge-1", "rouge-2", "rouge-l"} <= set(scores)


def test_predictions_are_in_the_order_of_the_dev_rows(finished: Workspace) -> None:
    read: Callable[[str], list[dict]] = lambda name: [  # noqa: E731
        json.loads(line) for line in (finished.path / name).read_text().splitlines()
    ]
    dev = read("data/dataset/dev.jsonl")
    for method in METHODS:
        rows = read(f"results/predictions/{MODEL}/{method}.jsonl")
        assert [(row["prompt"], row["labels"]) for row in rows] == [
            (row["content"], row["summary"]) for row in dev
        ]
        assert all(isinstance(row["predict"], str) for row in rows)


def test_the_full_checkpoint_is_a_model_folder(finished: Workspace) -> None:
    from glmtune import load_model, load_tokenizer

    folder = finished.path / "results/checkpoints" / MODEL / "full"
    assert load_tokenizer(folder).encode("白色")
    assert load_model(folder).num_parameters() > 0


def test_no_result_holds_a_path_of_the_machine(finished: Workspace) -> None:
    for name, content in finished.files().items():
        assert str(finished.path).encode() not in content, name


@pytest.mark.slow
def test_any_number_of_cores_gives_the_same_bytes(finished: Workspace, tmp_path: Path) -> None:
    other = new_workspace(tmp_path / "other", in_git=False)
    other.snakemake("--cores", "1")
    assert other.files() == finished.files()


def test_mistakes_in_params_are_reported_together_and_stop_the_run(workspace: Workspace) -> None:
    workspace.edit("lr", "fast")
    workspace.edit("methods.lora.rnk", 8)
    output = workspace.run("snakemake", ok=False)
    assert 'params.yaml: lr: found "fast"; expected a number' in output
    assert "methods.lora: unknown key 'rnk'" in output
    assert "Did you mean 'rank'?" in output
    assert "Traceback" not in output


def test_missing_user_files_are_named_before_anything_runs(workspace: Workspace) -> None:
    workspace.edit("dataset", {"train": "mine/train.json", "dev": "mine/dev.json"})
    output = workspace.run("snakemake", ok=False)
    assert "dataset.train: no such file 'mine/train.json'" in output
    assert "Traceback" not in output


def test_dvc_records_every_output_of_a_rule_and_nothing_else(finished: Workspace) -> None:
    lines = [line.split("\t") for line in finished.run("snakemake", "--summary").splitlines()]
    header = next(n for n, cells in enumerate(lines) if cells[0] == "output_file")
    outputs = {cells[0] for cells in lines[header + 1 :] if len(cells) > 1}
    stage = yaml.safe_load((finished.path / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    sections = (stage["workflow"][name] for name in ("outs", "metrics", "plots"))
    recorded = {name for section in sections for entry in section for name in entry}
    recorded.remove(".snakemake/metadata")  # Snakemake's own, which no rule writes

    def covered_by(output: str) -> list[str]:
        return [name for name in recorded if output == name or output.startswith(f"{name}/")]

    assert {output: covered_by(output) for output in outputs if len(covered_by(output)) != 1} == {}
    assert recorded == {name for output in outputs for name in covered_by(output)}
