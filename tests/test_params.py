"""params.yaml: what is refused, in which words, and what each step is given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmtune.errors import ParamsError
from glmtune.families.long_history import LONG_HISTORY
from glmtune.families.registry import FAMILIES
from glmtune.params.checks import find_mistakes
from glmtune.params.models import METHODS
from glmtune.params.presets import preset_names
from glmtune.params.values import Params, read_params

ROOT = Path(__file__).resolve().parents[1]
SCHEMA_FILE = ROOT / "workflow/schemas/params.schema.yaml"
MODEL = "chatglm2-6b"
SEEDED = ("", ".seed-43")
PresetFile = Callable[[str], Path]


@pytest.fixture
def values(preset_file: PresetFile) -> dict[str, Any]:
    return read_params(preset_file("smoke")).values


def mistakes_with(values: dict[str, Any], key: str, value: Any) -> list[str]:
    section = values
    *sections, last = key.split(".")
    for name in sections:
        section[name] = dict(section[name])
        section = section[name]
    section[last] = value
    return list(find_mistakes(values))


def test_the_shipped_file_is_valid() -> None:
    assert read_params(ROOT / "params.yaml").runs


@pytest.mark.parametrize("name", preset_names(ROOT))
def test_every_preset_is_valid_and_begins_with_the_untuned_model(
    preset_file: PresetFile, name: str
) -> None:
    params = read_params(preset_file(name))
    assert params.runs
    assert not params.trains(params.methods[0])


@pytest.mark.parametrize("text", ["1e-2", "0.01", "1E-2", ".01", "1.0e-2"])
def test_a_number_may_be_written_in_any_way(
    preset_file: PresetFile, tmp_path: Path, text: str
) -> None:
    smoke = preset_file("smoke").read_text(encoding="utf-8")
    file = tmp_path / "params.yaml"
    file.write_text(smoke.replace("\nlr: 2e-2", f"\nlr: {text}"), encoding="utf-8")
    assert read_params(file).file.lr == 0.01


def test_a_number_on_the_command_line_is_a_number(preset_file: PresetFile) -> None:
    """Snakemake hands on strings: of `lr=1e-2`, and of all in `training={max_steps: 7, …}`."""
    training = {
        "max_steps": "7",
        "weight_decay": "1E-1",
        "keep_best": "false",
        "eval_steps": "null",
    }
    overrides = {"lr": "1e-2", "training": training, "protocol": "thudm"}
    params = read_params(preset_file("smoke"), overrides=overrides)
    assert params.file.lr == 0.01
    settings = params.training_settings("ptuning")
    assert (settings["lr"], settings["max_steps"], settings["weight_decay"]) == (0.01, 7, 0.1)
    assert (settings["keep_best"], settings["eval_steps"]) == (False, None)
    assert params.file.protocol == "thudm"
    assert settings["batch_size"] == params.file.training.batch_size


def test_a_wrong_value_on_the_command_line_is_refused_like_one_in_the_file(
    preset_file: PresetFile,
) -> None:
    with pytest.raises(ParamsError, match='lr: found "1e-2x"; expected a number$'):
        read_params(preset_file("smoke"), overrides={"lr": "1e-2x"})
    with pytest.raises(ParamsError, match="unknown key 'lrate'"):
        read_params(preset_file("smoke"), overrides={"lrate": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found null; expected `key: value` lines"),
        ("- lr\n", 'found ["lr"]; expected `key: value` lines'),
        ("lr: [1\n", "not readable as YAML: while parsing a flow sequence"),
        ("lr: 1\n\tseed: 2\n", "not readable as YAML: "),
    ],
    ids=["empty", "a list", "broken", "a tabulator"],
)
def test_a_file_that_is_no_parameters_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        read_params(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_answered_with_the_way_back(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file; `git checkout params.yaml` restores it"):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", "fast", 'lr: found "fast"; expected a number'),
        ("lr", 0, "lr: found 0; expected more than 0"),
        ("pre_seq_len", 1.5, "pre_seq_len: found 1.5; expected a whole number"),
        ("pre_seq_len", 0, "pre_seq_len: found 0; expected at least 1"),
        ("dataset", "adgenn", 'dataset: found "adgenn"; expected one of "sample", "adgen"'),
        ("seeds", [1, 1], "seeds: found [1, 1]; expected no duplicates"),
        (
            "data.adgen_sources",
            ["x" * 1001],
            "data.adgen_sources.0: found 1,001 characters; expected at most 1,000",
        ),
        ("seeds", list(range(1001)), "seeds: found 1001 entries; expected at most 1000"),
        (
            "data.on_bad_rows",
            "drop",
            'data.on_bad_rows: found "drop"; expected one of "error", "skip"',
        ),
        ("data.max_dev_rows", 0, "data.max_dev_rows: found 0; expected at least 1"),
        (
            "data.max_dev_rows",
            "ten",
            'data.max_dev_rows: found "ten"; expected a whole number or null',
        ),
        (
            "models.chatglm3-6b-base",
            {"source": "miniature", "template": "alpaca"},
            'models.chatglm3-6b-base.template: found "alpaca"; expected one of finetune-demo, '
            "chatglm3-base-tuning",
        ),
        ("quantization_bit", 3, "quantization_bit: found 3; expected one of null, 8, 4"),
        ("quantization_bit", 8.0, "quantization_bit: found 8.0; expected a whole number or null"),
        ("torch_threads", 10**5, "torch_threads: found 100000; expected at most 1024"),
        (
            "methods.lora.dropout",
            1.0,
            "methods.lora.dropout: found 1.0; expected less than 1",
        ),
        (
            "training.optimizer",
            "sgd",
            'training.optimizer: found "sgd"; expected one of "adamw", "adamw_8bit", '
            '"paged_adamw_8bit", "adafactor"',
        ),
        (
            "training.report_to",
            ["mlflow"],
            'training.report_to.0: found "mlflow"; expected one of "tensorboard", "swanlab", '
            '"wandb"',
        ),
        (
            "training.launcher.processes",
            0,
            "training.launcher.processes: found 0; expected at least 1",
        ),
        (
            "methods.full.launcher",
            {"processes": "two", "sharding": "none"},
            'methods.full.launcher.processes: found "two"; expected a whole number, or "all"',
        ),
        (
            "training.launcher",
            {"processes": 2, "sharding": "none", "shard": 2},
            "training.launcher: unknown key 'shard'; known keys: processes, sharding. "
            "Did you mean 'sharding'?",
        ),
        ("methods.full.batch_size", 0, "methods.full.batch_size: found 0; expected at least 1"),
        (
            "methods.lora.launcher",
            {"processes": 2, "sharding": "zero3"},
            "methods.lora.launcher.sharding: found zero3, but methods.lora trains few weights, "
            "which are not sharded; set it to none here, and for full fine-tuning in its own "
            "entry: methods.full.launcher",
        ),
        (
            "methods.full",
            {
                **{"lr": 1e-3, "optimizer": "adafactor"},
                "launcher": {"processes": 2, "sharding": "zero2"},
            },
            'methods.full.launcher.sharding: found zero2 with optimizer "adafactor"; expected '
            "adamw, whose moments can be sharded",
        ),
        (
            "methods.full.launcher",
            {"processes": 1, "sharding": "zero2"},
            "methods.full.launcher: found sharding zero2 with 1 process, which has nothing to "
            "shard; set processes to more, or to all, or sharding to none",
        ),
        (
            "training.early_stopping_patience",
            3,
            "training.early_stopping_patience: found 3, but eval_steps is null; "
            "set eval_steps to the number of steps between two dev loss measurements",
        ),
        (
            "methods.full",
            {"lr": 1e-3, "keep_best": True},
            "methods.full.keep_best: found true, but eval_steps is null; "
            "set eval_steps to the number of steps between two dev loss measurements",
        ),
        ("generation.top_p", 1.2, "generation.top_p: found 1.2; expected at most 1"),
        ("generation.do_sample", 1, "generation.do_sample: found 1; expected true or false"),
        ("generation.batch_size", 0, "generation.batch_size: found 0; expected at least 1"),
        (
            "generation.batch_size",
            "many",
            'generation.batch_size: found "many"; expected a whole number, or "auto"',
        ),
        (
            "generation.batch_size",
            True,
            'generation.batch_size: found true; expected a whole number, or "auto"',
        ),
        ("models", {}, "models: found {}; expected at least one entry"),
        (
            "models.mine",
            {"source": "miniature", "family": "chatglm-6b", "generation": "chatglm-6b"},
            "models.mine: unknown key 'generation'; known keys: config, family, revision, source, "
            "template, tokenizer. It is now called 'family'",
        ),
        (
            "models.glm4",
            {"source": "miniature"},
            'models: unknown "glm4"; known: chatglm-6b, chatglm2-6b, chatglm3-6b-base, glm-4-9b; '
            "or give the entry a `family:`",
        ),
        (
            "methods.qlora",
            {},
            'methods.qlora: unknown method "qlora"; known: none, ptuning, lora, full; '
            "or give the entry a `method:`",
        ),
        ("methods.full", {}, "methods.full: missing key 'lr'"),
        ("methods.none", {"lr": 1}, "methods.none: unknown key 'lr'; known keys: method"),
        (
            "models.chatglm-6b",
            {"source": "miniature", "config": {}},
            "models.chatglm-6b.config: only for source random; found miniature; remove the key",
        ),
        ("methods.none", None, "methods.none: found null; expected a section of keys"),
        ("methods.lora.rank", 8.5, "methods.lora.rank: found 8.5; expected a whole number"),
        (
            "methods.lora.target_modules",
            "query_key_value",
            'methods.lora.target_modules: found "query_key_value"; expected a list of names, or '
            '"all-linear"',
        ),
        (
            "methods.lora.target_modules",
            ["dense", 3],
            "methods.lora.target_modules.1: found 3; expected a string",
        ),
        (
            "methods.lora.init",
            "svd",
            'methods.lora.init: found "svd"; expected one of "default", "pissa", "olora"',
        ),
        ("methods.lora.dora", "yes", 'methods.lora.dora: found "yes"; expected true or false'),
        (
            "methods.lora.lora_plus_ratio",
            0.5,
            "methods.lora.lora_plus_ratio: found 0.5; expected at least 1",
        ),
        (
            "methods.lora.target_modules",
            [],
            "methods.lora.target_modules: found []; expected at least one entry",
        ),
        (
            "models.chatglm-6b.source",
            None,
            "models.chatglm-6b.source: found null; expected a string",
        ),
        ("training.max_steps", True, "training.max_steps: found true; expected a whole number"),
        ("seed", 2**32, "seed: found 4294967296; expected at most 4294967295"),
        (
            "miniature.literal_share",
            0.95,
            "miniature: literal_share + general_share: found 1.05; expected at most 1",
        ),
        ("dataset", {"train": "a.json"}, "dataset: missing key 'dev'"),
        ("examples", "all", 'examples: found "all"; expected one of "auto"'),
        ("examples", [3], "examples.0: found 3; expected a string"),
        ("dataset", {"train": 3, "dev": "a"}, "dataset.train: found 3; expected a string"),
        ("dataset", {"train": "a", "dev": 1}, "dataset.dev: found 1; expected less than 1"),
        ("dataset", {"train": "a", "dev": 0}, "dataset.dev: found 0; expected more than 0"),
        (
            "dataset",
            {"train": [{"path": "a"}, {"path": "b", "share": 1.5}], "dev": "c"},
            "dataset.train.1.share: found 1.5; expected less than 1",
        ),
        (
            "dataset",
            {"train": [{"path": "a", "shares": 0.1}], "dev": "c"},
            "dataset.train.0: unknown key 'shares'; known keys: path, share. Did you mean 'share'?",
        ),
        (
            "dataset",
            {"train": [{"path": "a", "share": 0.1}], "dev": "c"},
            "dataset.train: found a share for every part; expected one part without a share, "
            "all of whose rows are used; remove the share of your own data",
        ),
        (
            "dataset",
            {"train": [{"path": "a"}, *[{"path": "b", "share": 0.5}] * 2], "dev": "c"},
            "dataset.train: found shares that add up to 1; expected less than 1",
        ),
        (
            "dataset",
            {"train": "a", "dev": 0.5, "valid": 0.75},
            "dataset: found shares that add up to 1.25; expected less than 1",
        ),
        (
            "dataset",
            {"train": "a.json", "dev": "b.json", "columns": "x"},
            "dataset: unknown key 'columns'; known keys: dev, format, history_column, "
            "prompt_column, response_column, train, valid. Did you mean 'prompt_column'?",
        ),
        (
            "models.Mine",
            {"source": "miniature", "family": "chatglm-6b"},
            "models: the name \"Mine\" becomes a folder name: use a-z, 0-9, '.', '_' and '-'",
        ),
        (
            "models.mine",
            {"source": "miniature", "family": "chatglm4"},
            'models.mine.family: found "chatglm4"; expected one of "chatglm-6b", '
            '"chatglm2-6b", "chatglm3-6b-base", "glm-4-9b"',
        ),
        (
            "methods.mine",
            {"method": "qlora"},
            'methods.mine.method: unknown method "qlora"; known: none, ptuning, lora, full',
        ),
        (
            "methods.lora.alpha",
            10**400,
            f"methods.lora.alpha: found 1{56 * '0'}...; expected a number",
        ),
        (
            "methods.mine",
            {"method": "mine"},
            'methods.mine.method: unknown method "mine"; known: none, ptuning, lora, full',
        ),
        (
            "miniature.hidden_size",
            40,
            "miniature.hidden_size: found 40; expected a multiple of 8 x num_heads = 16 "
            "(rotary embeddings need heads of a multiple of 8)",
        ),
    ],
)
def test_a_mistake_is_one_line_with_key_finding_and_choice(
    values: dict[str, Any], key: str, value: Any, message: str
) -> None:
    assert mistakes_with(values, key, value) == [message]


def test_a_method_that_takes_away_the_dev_losses_is_told_what_needed_them(
    values: dict[str, Any],
) -> None:
    values["training"] |= {"eval_steps": 50, "keep_best": True}
    lora = values["methods"]["lora"] | {"eval_steps": None}
    assert mistakes_with(values, "methods.lora", lora) == [
        "methods.lora.keep_best: found true, but eval_steps is null; "
        "set eval_steps to the number of steps between two dev loss measurements"
    ]


@pytest.mark.parametrize(("key", "value"), [("dora", True), ("init", "pissa"), ("init", "olora")])
def test_variants_of_lora_that_need_the_base_s_own_weights_are_told_so(
    values: dict[str, Any], key: str, value: Any
) -> None:
    values["methods"] = {"mine": values["methods"]["lora"] | {"method": "lora", key: value}}
    assert mistakes_with(values, "quantization_bit", 4) == [
        f"methods.mine.{key}: found {json.dumps(value)}, which computes with the base's own "
        "weights, but quantization_bit is 4; set that to null or remove "
        f"methods.mine.{key}"
    ]
    values["methods"]["mine"] |= {"dora": False, "init": "default", "rslora": True}
    assert mistakes_with(values, "quantization_bit", 4) == []


def test_an_unknown_key_is_answered_with_the_nearest(values: dict[str, Any]) -> None:
    (mistake,) = mistakes_with(values, "lrr", 1)
    assert mistake.startswith("unknown key 'lrr'; known keys: data, dataset, ")
    assert mistake.endswith("Did you mean 'lr'?")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("eval_steps", "Did you mean 'training.eval_steps'?"),
        (
            "batch_size",
            "Did you mean 'miniature.batch_size' or 'training.batch_size' or "
            "'generation.batch_size'?",
        ),
        ("rank", "Did you mean 'methods.lora.rank'?"),
    ],
)
def test_a_key_of_a_section_at_the_top_level_is_answered_with_its_full_name(
    values: dict[str, Any], key: str, hint: str
) -> None:
    (mistake,) = mistakes_with(values, key, 4)
    assert mistake.endswith(hint)


def test_all_mistakes_are_reported_together(tmp_path: Path, values: dict[str, Any]) -> None:
    file = tmp_path / "params.yaml"
    values |= {"lr": "fast", "seed": -1, "sede": 1}
    values["methods"] = {"lora": {**values["methods"]["lora"], "rnk": 3}, "full": {}}
    values["models"] = {"glm4": {"source": "own/glm4", "family": "chatglm2-6b"}}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        read_params(file)
    found = str(caught.value).splitlines()
    known = "alpha, batch_size, dora, dropout, early_stopping_patience, eval_steps, "
    known += "gradient_accumulation_steps, gradient_checkpointing, init, keep_best, "
    known += "launcher, logging_steps, lora_plus_ratio, lr, lr_scheduler, max_grad_norm, "
    known += "max_steps, method, "
    known += (
        "optimizer, rank, report_to, rslora, save_steps, target_modules, warmup_ratio, weight_decay"
    )
    assert found[0].startswith(f"{file}: unknown key 'sede'; known keys: data, dataset, ")
    assert found[0].endswith("Did you mean 'seed'?")
    assert found[1:] == [
        f'{file}: lr: found "fast"; expected a number',
        f"{file}: seed: found -1; expected at least 0",
        f"{file}: methods.full: missing key 'lr'",
        f"{file}: methods.lora: unknown key 'rnk'; known keys: {known}. Did you mean 'rank'?",
        f"{file}: models.glm4.revision: missing; own/glm4 needs a commit hash of 40 digits (0-9, "
        "a-f), so that every run gets the same weights; for a local folder write ./own/glm4",
    ]


def test_quantized_weights_and_full_fine_tuning_exclude_each_other(values: dict[str, Any]) -> None:
    (mistake,) = mistakes_with(values, "quantization_bit", 4)
    assert "methods.full trains all weights" in mistake


def test_a_hub_id_needs_a_pinned_commit(values: dict[str, Any]) -> None:
    entry = {"source": "someone/chatglm2-6b"}
    (mistake,) = mistakes_with(values, "models.chatglm2-6b", entry)
    assert mistake.startswith(
        "models.chatglm2-6b.revision: missing; someone/chatglm2-6b needs a co"
    )
    assert mistakes_with(values, "models.chatglm2-6b", entry | {"revision": "a" * 40}) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "modelscope:a/b", "revision": "v1.0.12"}, None),
        ({"source": "modelscope:a/b", "revision": "a" * 40}, None),
        (
            {"source": "modelscope:a/b"},
            "revision: missing; modelscope:a/b needs a commit, tag or br",
        ),
        (
            {"source": "modelscope:a/b", "revision": "../c"},
            'revision: found "../c"; expected a comm',
        ),
        ({"source": "modelscope:a/b", "revision": 1.0}, "revision: found 1.0; expected a string"),
        ({"source": "modelscope:a/b", "revision": None}, "revision: found null; expected a string"),
        (
            {"source": "modelscope:b", "revision": "v1"},
            'source: found "modelscope:b"; expected mod',
        ),
        (
            {"source": "modelscope:a/..", "revision": "v1"},
            'source: found "modelscope:a/.."; expect',
        ),
    ],
)
def test_a_model_on_modelscope_has_an_owner_and_a_revision(
    values: dict[str, Any], entry: dict[str, Any], message: str | None
) -> None:
    found = mistakes_with(values, "models.chatglm2-6b", entry)
    assert [each[: len(f"models.chatglm2-6b.{message}")] for each in found] == (
        [f"models.chatglm2-6b.{message}"] if message else []
    )


def test_the_top_level_knobs_belong_to_ptuning(values: dict[str, Any]) -> None:
    values["lr"], values["pre_seq_len"] = 0.5, 7
    params = Params.of(values)
    ptuning = params.training_settings("ptuning")
    assert (ptuning["lr"], ptuning["pre_seq_len"]) == (0.5, 7)
    for method in ("lora", "full"):
        settings = params.training_settings(method)
        assert settings["lr"] != 0.5
        assert "pre_seq_len" not in settings


def test_an_entry_of_methods_overrides_the_shared_training(values: dict[str, Any]) -> None:
    values["methods"] = {"long": {**values["methods"]["ptuning"], "method": "ptuning", "lr": 0.3}}
    values["methods"]["long"]["max_steps"] = 99
    settings = Params.of(values).training_settings("long")
    assert (settings["method"], settings["lr"], settings["max_steps"]) == ("ptuning", 0.3, 99)


@pytest.mark.parametrize("method", METHODS)
def test_an_entry_may_have_any_name(values: dict[str, Any], method: str) -> None:
    """The registries, the schema and the parameters agree on the methods and families."""
    entry = {**values["methods"][method], "method": method}
    values["methods"] = {"my-entry.2": entry}
    values["models"] = {f"my-{name}": {"source": "miniature", "family": name} for name in FAMILIES}
    assert list(find_mistakes(values)) == []
    params = Params.of(values)
    assert params.tuning_method("my-entry.2") == method
    assert params.trains("my-entry.2") == (method != "none")
    assert [params.family(model) for model in params.models] == list(FAMILIES)
    expected = [(f"my-{name}", "my-entry.2") for name in FAMILIES]
    assert [(run.model, run.method) for run in params.runs] == expected


@pytest.mark.parametrize("method", [name for name in METHODS if name != "none"])
def test_another_name_for_an_entry_is_no_other_training(
    values: dict[str, Any], method: str
) -> None:
    """So a renamed entry is found in the store and not trained again."""
    renamed = {"mine": {**values["methods"][method], "method": method}}
    first = Params.of(values).training_settings(method)
    assert Params.of(values | {"methods": renamed}).training_settings("mine") == first


@pytest.mark.parametrize("key", ["seed", "torch_threads", "quantization_bit"])
def test_what_decides_every_number_is_in_the_settings_of_training_and_family(
    values: dict[str, Any], key: str
) -> None:
    params = Params.of(values)
    assert params.training_settings("lora")[key] == values[key]
    assert params.generation_settings(MODEL)[key] == values[key]


def test_what_a_long_history_becomes_is_the_same_in_training_and_family(
    values: dict[str, Any],
) -> None:
    for choice in LONG_HISTORY:
        params = Params.of(values | {"long_history": choice})
        assert params.token_limits()["long_history"] == choice
        assert params.generation_settings(MODEL)["long_history"] == choice


def test_no_training_key_decides_how_texts_are_generated(values: dict[str, Any]) -> None:
    first = Params.of(values).generation_settings(MODEL)
    changed = values | {"lr": 0.5, "training": {**values["training"], "max_steps": 99}}
    assert Params.of(changed).generation_settings(MODEL) == first
    assert {key: first[key] for key in values["generation"]} == values["generation"]


def test_the_miniature_s_keys_decide_no_model_of_another_source(values: dict[str, Any]) -> None:
    values["models"] = {
        "chatglm-6b": {"source": "miniature"},
        "chatglm2-6b": {"source": "./weights"},
        "mine": {"source": "random", "family": "chatglm2-6b", "config": {"num_layers": 2}},
    }
    params = Params.of(values)
    miniature = params.model_settings("chatglm-6b")
    assert miniature["miniature"] == values["miniature"]
    assert miniature["family"] == "chatglm-6b"
    assert "miniature" not in params.model_settings("chatglm2-6b")
    assert params.model_settings("mine")["config"] == {"num_layers": 2}


def test_the_sample_is_described_by_its_size_and_seed(values: dict[str, Any]) -> None:
    sample = Params.of(values | {"seed": 7, "sample": {"train_rows": 5, "dev_rows": 2}})
    assert sample.dataset_flags({}).startswith("--sample --train-rows 5 --dev-rows 2 --seed 7 --on")
    assert sample.dataset_files() == {}


def test_own_data_is_described_by_its_files_and_columns(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Params.of(values | {"dataset": {"train": "a", "dev": "b c", "prompt_column": "my q"}})
    assert own.dataset_flags({"train": "links/train", "dev": "links/dev"}) == (
        "--train links/train --dev links/dev --seed 42 --prompt-column 'my q' "
        "--no-tools --on-bad-rows error --max-leakage 0.05"
    )
    only_chatglm3 = Params.of(
        own.values | {"models": {"chatglm3-6b-base": {"source": "miniature"}}}
    )
    assert "--no-tools" not in only_chatglm3.dataset_flags({"train": "a", "dev": "b"})
    (tmp_path / "a").touch()
    with pytest.raises(ParamsError) as caught:
        own.dataset_files()
    assert str(caught.value) == (
        f"params.yaml: dataset.dev: no such file 'b c' ({tmp_path / 'b c'}); "
        "a relative path starts at the root of the repository"
    )
    (tmp_path / "b c").touch()
    assert own.dataset_files() == {"train": tmp_path / "a", "dev": tmp_path / "b c"}


def test_parts_and_held_out_shares_are_described_by_their_flags(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = [{"path": "sample"}, {"path": "b c"}, {"path": "general", "share": 0.25}]
    mixed = Params.of(values | {"dataset": {"train": parts, "dev": 0.1, "valid": "v"}})
    for name in ("b c", "v"):
        (tmp_path / name).touch()
    assert mixed.dataset_files() == {"train_1": tmp_path / "b c", "valid": tmp_path / "v"}
    sizes = values["sample"]
    assert mixed.dataset_flags({"train_1": "links/1", "valid": "links/v"}).startswith(
        "--train sample --train links/1 --mix general --share 0.25 --dev-share 0.1 "
        "--valid links/v --seed 42 --no-tools "
        f"--train-rows {sizes['train_rows']} --dev-rows {sizes['dev_rows']} --on-bad-rows error"
    )
    assert mixed.has_valid
    assert not Params.of(values).has_valid
    (tmp_path / "b c").unlink()
    with pytest.raises(ParamsError, match="^params.yaml: dataset.train.1.path: no such file 'b"):
        mixed.dataset_files()


@pytest.mark.parametrize(
    ("dataset", "first"),
    [
        ("sample", "类型#裙*风格#简约"),
        ("adgen", "类型#上衣*材质#牛仔布"),
        ({"train": [{"path": "sample"}, {"path": "general", "share": 0.1}], "dev": 0.1}, "类型#裙"),
        ({"train": "sample", "dev": "mine.json"}, None),
        ({"train": "mine.json", "dev": 0.1}, None),
    ],
)
def test_the_example_prompts_suit_the_data_set(
    values: dict[str, Any], dataset: Any, first: str | None
) -> None:
    """For a user's own data there are none: the report shows dev rows."""
    examples = Params.of(values | {"dataset": dataset, "examples": "auto"}).examples
    assert bool(examples) == bool(first)
    assert "".join(examples).startswith(first or "")
    named = Params.of(values | {"dataset": dataset, "examples": ["我的"]})
    assert named.examples == ["我的"]


def test_a_subset_is_described_by_its_sizes(values: dict[str, Any]) -> None:
    values["data"] = {**values["data"], "max_train_rows": 100, "on_bad_rows": "skip"}
    flags = Params.of(values | {"dataset": "adgen"}).dataset_flags({})
    assert flags == "--adgen --seed 42 --on-bad-rows skip --max-train-rows 100 --max-leakage 0.05"


def test_places_of_adgen_are_tried_in_the_order_given(values: dict[str, Any]) -> None:
    values["data"] = {**values["data"], "adgen_sources": ["https://a.example/x", "my file.tgz"]}
    flags = Params.of(values | {"dataset": "adgen"}).dataset_flags({})
    assert flags.startswith(
        "--adgen --adgen-source https://a.example/x --adgen-source 'my file.tgz' --seed 42"
    )


def test_several_seeds_tune_each_method_with_each_of_them(values: dict[str, Any]) -> None:
    params = Params.of(values | {"seeds": [7, 43]})
    assert params.methods == ["none", *(m + s for m in ("ptuning", "lora", "full") for s in SEEDED)]
    assert params.training_settings("lora")["seed"] == 7
    other = params.training_settings("lora.seed-43")
    assert other == {**params.training_settings("lora"), "seed": 43}
    runs = {run.method: run for run in params.runs}
    assert (runs["lora.seed-43"].entry, runs["lora.seed-43"].seed) == ("lora", 43)
    assert params.generation_settings(MODEL)["seed"] == 42


def test_the_first_seed_alone_is_the_same_training(values: dict[str, Any]) -> None:
    """So trying a second seed does not train the first again."""
    alone = Params.of(values).training_settings("lora")
    assert Params.of(values | {"seeds": [42, 43]}).training_settings("lora") == alone


def test_a_name_that_looks_like_a_further_seed_is_refused(values: dict[str, Any]) -> None:
    values["methods"] = {"lora.seed-1": {**values["methods"]["lora"], "method": "lora"}}
    (mistake,) = find_mistakes(values)
    assert "'.seed-', which is reserved for further seeds" in mistake


def test_the_official_protocol_samples_and_cuts_whatever_family_says(
    values: dict[str, Any],
) -> None:
    ours = Params.of(values).generation_settings(MODEL)
    official = Params.of(values | {"protocol": "thudm"}).generation_settings(MODEL)
    assert (ours["do_sample"], ours["reference_tokens"]) == (False, None)
    assert (official["do_sample"], official["top_p"], official["temperature"]) == (True, 0.7, 0.95)
    assert official["reference_tokens"] == 64
    assert (ours["long_history"], official["long_history"]) == ("shorten", "official")
    assert official["max_new_tokens"] == ours["max_new_tokens"]


def test_an_unknown_protocol_is_answered_with_the_choices(values: dict[str, Any]) -> None:
    (mistake,) = mistakes_with(values, "protocol", "rouge")
    assert mistake.startswith('protocol: found "rouge"; expected one of glmtune, thudm, ')


def test_decoding_decides_no_training(values: dict[str, Any]) -> None:
    params = Params.of(values)
    decoding = set(values["generation"]) - set(values["training"])
    assert not decoding & set(params.training_settings("lora"))


def test_the_untuned_run_comes_first(values: dict[str, Any]) -> None:
    values["methods"] = {"lora": values["methods"]["lora"], "none": {}}
    assert Params.of(values).methods == ["none", "lora"]


def test_the_schema_for_editors_is_what_is_checked() -> None:
    command = [sys.executable, "tools/params_schema.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_schema_explains_every_key() -> None:
    schema = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    for section in [schema, *schema["$defs"].values()]:
        for key, value in section["properties"].items():
            assert "description" in value or "$ref" in value, key


def test_every_key_of_the_default_file_is_explained() -> None:
    """Each key has a comment above it, or above the keys it stands with."""
    explained, lines = False, (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line.strip():
            explained = False
        elif line.lstrip().startswith("#"):
            explained = True
        else:
            assert explained, f"no comment above {line!r}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pre_seq_len", 16.0, "pre_seq_len: found 16.0; expected a whole number"),
        ("lr", float("nan"), "lr: found NaN; expected a number"),
        (
            "models.chatglm-6b",
            {"source": "a/b", "revision": "main"},
            'models.chatglm-6b.revision: found "main"; '
            "expected a commit hash of 40 digits (0-9, a-f)",
        ),
    ],
)
def test_numbers_and_commits_are_what_they_say(
    values: dict[str, Any], key: str, value: Any, message: str
) -> None:
    assert mistakes_with(values, key, value) == [message]
