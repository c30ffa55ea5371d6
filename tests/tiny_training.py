"""Trainings of tiny models, for the tests of training and of resuming it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import prompt, tiny_model
from transformers import TrainerCallback

from glmtune.checkpoints.saving import save_model
from glmtune.checkpoints.sources import hash_model
from glmtune.families.family import Example
from glmtune.families.tokenized import TokenizedRows, from_examples, tokenized_file
from glmtune.files import write_json
from glmtune.labels import IGNORED_LABEL
from glmtune.seeding import seed_everything
from glmtune.training.train import TrainingOutcome, train
from glmtune.tuning.registry import METHODS
from glmtune.tuning.settings import SETTINGS as KINDS
from glmtune.tuning.settings import pick_settings

# What the manifest of the tokenized rows says of them.
SPLIT = {"rows": 24, "target_tokens": 80, "spelled_tokens": 0, "cut_answers": 0}
FAMILY_NAMES = ("chatglm-6b", "chatglm2-6b")  # the third has the second's architecture
TUNINGS = tuple(name for name in METHODS if name != "none")
SETTINGS: dict[str, Any] = {
    "seed": 5,
    "lr": 1e-2,
    "max_steps": 4,
    "batch_size": 4,
    "gradient_accumulation_steps": 1,
    "lr_scheduler": "linear",
    "warmup_ratio": 0.25,
    "weight_decay": 0.01,
    "optimizer": "adamw",
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_steps": 2,
    "eval_steps": None,
    "keep_best": False,
    "early_stopping_patience": None,
    "torch_threads": 1,
    "quantization_bit": None,
    "pre_seq_len": 3,
    "prefix_projection": False,
    "prefix_dropout": 0.1,
    "rank": 2,
    "alpha": 4,
    "dropout": 0.1,
    "target_modules": ["query_key_value"],
}
# The variants of LoRA, by what the tests call them.
LORA_KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "olora": {"init": "olora"},
    "lora+": {"lora_plus_ratio": 4},
    "pissa, dora and rslora": {"init": "pissa", "dora": True, "rslora": True},
}

ALL_KEYS = {field.name for kind in KINDS.values() for field in fields(kind)}


def settings_of(method: str, **changes: Any) -> Any:
    """The settings of a tuning with one method."""
    values = SETTINGS | changes | {"method": method}
    assert values.keys() <= ALL_KEYS
    return pick_settings(values)


@pytest.fixture(scope="session")
def rows() -> TokenizedRows:
    """Rows of different lengths."""
    return make_rows()


def make_rows() -> TokenizedRows:
    """24 rows of different lengths."""
    random = np.random.default_rng(0)
    examples = []
    for _ in range(24):
        question = prompt([int(i) for i in random.integers(5, 60, random.integers(2, 9))])
        answer = [int(i) for i in random.integers(5, 60, random.integers(1, 7))]
        examples.append(Example(question + answer, [IGNORED_LABEL] * len(question) + answer))
    return from_examples(examples)


def write_inputs(folder: Path, family: str, rows: TokenizedRows) -> None:
    """A tiny model and tokenized data, as the steps before a training leave them."""
    save_model(tiny_model(family), folder / "model")
    files = hash_model(folder / "model")
    write_json(folder / "model.json", {"source": "folder", "files": files})
    (folder / "data").mkdir()
    for split in ("train", "dev"):
        with tokenized_file(folder / f"data/{split}.safetensors") as append:
            append(rows)
    write_json(folder / "data/manifest.json", {"pad_token_id": 3, "splits": {"train": SPLIT}})


def tune(
    family_name: str,
    method: str,
    rows: TokenizedRows,
    work: Path,
    *callbacks: TrainerCallback,
    adam_beta2: float = 0.999,
    **changes: Any,
) -> tuple[Any, TrainingOutcome]:
    settings = settings_of(method, **changes)
    seed_everything(settings.seed, threads=1)
    model = METHODS[method].prepare(tiny_model(family_name), settings)
    rates = METHODS[method].rates(settings)
    outcome = train(
        model.train(),
        rows,
        rows,
        settings,
        pad_token_id=3,
        work=work,
        adam_beta2=adam_beta2,
        rates=rates,
        callbacks=callbacks,
    )
    return model, outcome


def losses(outcome: TrainingOutcome) -> list[float]:
    return [point["loss"] for point in outcome.curve]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_bits(first: Any, second: Any) -> None:
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
