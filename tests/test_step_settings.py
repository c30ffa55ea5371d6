"""What a step gets from params.yaml: any text, of any length, reaches it as it is."""

from __future__ import annotations

import json
import subprocess
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from steps import run_step
from workspaces import new_workspace

from glmtune.errors import ParamsError, ResourceError
from glmtune.generation.settings import PredictionSettings
from glmtune.miniatures.settings import MiniatureSettings, ModelSettings
from glmtune.params.presets import preset_names
from glmtune.params.values import read_params
from glmtune.tuning.settings import SETTINGS, settings_class, without_defaults
from glmtune.workspace.step_settings import FOLDER, read_settings, typed, with_flags, write_settings

ROOT = Path(__file__).resolve().parents[1]
PresetFile = Callable[[str], Path]
# Prompt templates are the commonest prompts of all; `{model}` is also a wildcard of the rules.
TEMPLATES = [
    "把{城市}译成英语",
    "写一句{color}裙子的广告",
    "{0}",
    "介绍{model}",
    "'\"\\\n$HOME`ls`",  # what a shell would read otherwise
]
# Of finetune_model.
FLAGS = ["--method", "full", "--lr", "1e-3", "--max-steps", "4", "--batch-size", "2", "--seed", "1"]
# What Linux takes as one argument, such as the whole command of `bash -c`.
LONGEST_ARGUMENT = 128 * 1024


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = {"examples": TEMPLATES, "lr": 0.01, "source": None}
    name = write_settings(tmp_path, values)
    assert read_settings(str(tmp_path / FOLDER / f"{name}.json")) == values


def test_the_name_is_the_contents(tmp_path: Path) -> None:
    name = write_settings(tmp_path, {"a": 1, "b": 2})
    assert write_settings(tmp_path, {"b": 2, "a": 1}) == name
    assert write_settings(tmp_path, {"a": 1, "b": 3}) != name


def test_a_file_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    name = write_settings(tmp_path, ["裙子"])
    file = tmp_path / FOLDER / f"{name}.json"
    file.write_bytes(file.read_bytes()[:5])
    write_settings(tmp_path, ["裙子"])
    assert read_settings(str(file)) == ["裙子"]


def test_a_folder_that_takes_no_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / ".glmtune").touch()  # even root cannot make a folder of it
    with pytest.raises(ResourceError, match="cannot be written .*; free some space"):
        write_settings(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), ("{", "not JSON"), ("\udcff", "not JSON")],
)
def test_unusable_settings_are_one_message(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "settings.json"
    if content is not None:
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ParamsError, match=message):
        read_settings(str(file))


def test_each_key_of_a_training_reaches_its_step(preset_file: PresetFile) -> None:
    params = read_params(preset_file("smoke"))
    for method in SETTINGS:
        flags, others = params.training_flags(method), params.other_training_settings(method)
        assert not flags.keys() & others.keys(), "each value stands in one place"
        values = with_flags(Namespace(settings=others, **flags), *flags)
        assert values == params.training_settings(method)
        assert without_defaults(typed(settings_class(values), values)) == values


@pytest.mark.parametrize("protocol", ["glmtune", "thudm"])
def test_each_key_of_a_generation_reaches_its_step(protocol: str, preset_file: PresetFile) -> None:
    params = read_params(preset_file("smoke"), {"protocol": protocol})
    values = params.generation_settings("chatglm2-6b")
    assert asdict(typed(PredictionSettings, values)) == values


@pytest.mark.parametrize("name", preset_names(ROOT))
def test_each_key_of_a_model_reaches_its_step(name: str, preset_file: PresetFile) -> None:
    params = read_params(preset_file(name))
    for model in params.models:
        values = params.model_settings(model)
        settings = asdict(typed(ModelSettings, values, miniature=MiniatureSettings))
        assert {key: value for key, value in settings.items() if value is not None} == values


def finetune_with(values: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """The step, run with these values in its file of settings."""
    file = folder / FOLDER / f"{write_settings(folder, values)}.json"
    flags = ["--model", "m", "--model-manifest", "m.json", "--data", "data"]
    for output in ("checkpoint", "manifest", "curve", "runtime"):
        flags += [f"--{output}", "x"]
    return run_step("finetune_model", *flags, *FLAGS, "--settings", file, folder=folder)


def test_settings_of_another_version_are_one_message(
    tmp_path: Path, preset_file: PresetFile
) -> None:
    values = read_params(preset_file("smoke")).other_training_settings("full")
    del values["save_steps"]
    done = finetune_with(values | {"warmup": 3}, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: --settings: missing key 'save_steps'; unknown key 'warmup'; "
        "expected the keys batch_size, "
    )
    assert done.stderr.count("\n") == 1


def test_a_value_is_a_flag_or_in_the_settings_but_not_both(
    tmp_path: Path, preset_file: PresetFile
) -> None:
    done = finetune_with(read_params(preset_file("smoke")).training_settings("full"), tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: --settings: found batch_size, lr, max_steps, method, seed, which the command gives "
        "as flags; remove them from the file\n"
    )


@pytest.mark.workflow
def test_texts_of_params_yaml_never_stand_in_a_command(tmp_path: Path) -> None:
    """Snakemake would take their braces for wildcards, and the system has a longest command."""
    workspace = new_workspace(tmp_path / "project", in_git=False)
    prompts = [*TEMPLATES, *(f"第{n}条：写一段连衣裙的广告" * 5 for n in range(1700))]
    workspace.edit("examples", prompts)
    for split in ("train", "dev"):
        rows = [{"问{题}": f"{split}{n}", "答{model}": "好"} for n in range(4)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (workspace.path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    columns = {"prompt_column": "问{题}", "response_column": "答{model}"}
    workspace.edit("dataset", {"train": "train.jsonl", "dev": "dev.jsonl", **columns})

    output = workspace.run("snakemake", "-n", "-p", "--verbose")

    commands = [line for line in output.splitlines() if "python workflow/scripts/" in line]
    assert len(commands) == 15
    assert not any("译成英语" in line or "连衣裙" in line for line in commands)
    assert max(len(line.encode()) for line in commands) < LONGEST_ARGUMENT
    fetching = next(line for line in commands if "fetch_dataset" in line)
    assert "'问{题}'" in fetching
    assert "'答{model}'" in fetching
    kept = [read_settings(str(path)) for path in (workspace.path / FOLDER).glob("*.json")]
    assert prompts in kept


def test_an_optional_key_at_its_default_changes_no_settings(preset_file: PresetFile) -> None:
    values = read_params(preset_file("smoke")).training_settings("lora")
    written = typed(settings_class(values), values | {"dora": False, "lora_plus_ratio": 1})
    assert without_defaults(written) == values
    other = typed(settings_class(values), values | {"dora": True})
    assert without_defaults(other) == values | {"dora": True}
