"""Non-finite losses and weights stop a training, and its last good checkpoint stays."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from tiny_training import SETTINGS, assert_equal_bits, settings_of, tune
from tiny_training import rows as rows  # a fixture
from tqdm import tqdm
from transformers import TrainerCallback, TrainerState

from glmtune.errors import ResourceError
from glmtune.families.family import Example
from glmtune.families.tokenized import TokenizedRows, from_examples
from glmtune.labels import IGNORED_LABEL
from glmtune.seeding import seed_everything
from glmtune.training import callbacks
from glmtune.training.resuming import checkpoints_in
from glmtune.training.train import train
from glmtune.tuning.registry import METHODS

pytestmark = pytest.mark.numeric


class Spoil(TrainerCallback):
    """Sets a trained weight, or its gradient, to NaN in one step."""

    def __init__(self, step: int, what: str) -> None:
        self.step, self.what = step, what

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weight = next(w for w in kwargs["model"].parameters() if w.requires_grad)
        if state.global_step == self.step - 1:
            spoilt = weight.data if self.what == "weight" else weight.grad
            spoilt.fill_(float("nan"))


def without_targets(rows: TokenizedRows) -> TokenizedRows:
    return from_examples(
        Example([int(i) for i in rows[i][0]], [IGNORED_LABEL] * len(rows[i][0]))
        for i in range(len(rows))
    )


def test_a_non_finite_loss_stops_training_with_step_and_cause(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    with pytest.raises(ResourceError, match=r"the loss is nan at step \d: .* lower lr"):
        tune("chatglm2-6b", "full", rows, tmp_path, lr=1e30, max_steps=5, max_grad_norm=1e30)


def test_non_finite_weights_do_not_replace_good_ones(rows: TokenizedRows, tmp_path: Path) -> None:
    """The loss of a step is computed with the weights before it."""
    whole, _ = tune("chatglm2-6b", "full", rows, tmp_path / "whole", max_steps=6)
    with pytest.raises(ResourceError) as caught:
        tune("chatglm2-6b", "full", rows, tmp_path / "1", Spoil(4, "gradient"), max_steps=6)
    message = str(caught.value)
    kept = tmp_path / "1" / "checkpoint-2"
    assert "the weights contain NaN or inf after step 4: " in message
    assert message.endswith(f"lower lr; the last good checkpoint is {kept}")
    assert checkpoints_in(tmp_path / "1") == [kept]
    resumed, _ = tune("chatglm2-6b", "full", rows, tmp_path / "1", max_steps=6)
    assert_equal_bits(whole, resumed)


def test_the_last_step_is_checked_even_without_logging(rows: TokenizedRows, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the loss is nan at step 5"):
        tune(
            *("chatglm2-6b", "lora", rows, tmp_path, Spoil(4, "weight")),
            max_steps=5,
            logging_steps=3,
            save_steps=100,
        )
    assert checkpoints_in(tmp_path) == []


def test_rows_without_a_target_are_named_as_the_cause(rows: TokenizedRows, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"the loss is 0.0 at step 1: .* rows without a target"):
        tune("chatglm2-6b", "ptuning", without_targets(rows), tmp_path)


def test_dev_rows_without_a_target_are_named_as_the_cause(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    settings = settings_of("lora")
    seed_everything(settings.seed, threads=1)
    model = METHODS["lora"].prepare(tiny_model("chatglm2-6b"), settings)
    with pytest.raises(ResourceError, match="the dev loss is nan at step 4: .* dev rows without"):
        train(model, rows, without_targets(rows), settings, pad_token_id=3, work=tmp_path)


def test_a_batch_without_a_target_does_not_stop_training(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ids = [[int(i) for i in random.integers(5, 60, 6)] for _ in range(8)]
    some = from_examples(
        Example(row, [IGNORED_LABEL] * 6 if i % 4 == 0 else [IGNORED_LABEL] * 3 + row[3:])
        for i, row in enumerate(ids)
    )
    changes = {"batch_size": 1, "max_steps": 8, "logging_steps": 8, "save_steps": 8}
    model, outcome = tune("chatglm2-6b", "full", some, tmp_path, **changes)
    assert 0 < outcome.train_loss < 10
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


def test_a_training_that_changes_nothing_is_an_error(rows: TokenizedRows, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"4 steps changed no trainable weight: lr 1e-60 is"):
        tune("chatglm2-6b", "full", rows, tmp_path, lr=1e-60, weight_decay=0.0)


def test_a_single_step_has_no_warm_up(rows: TokenizedRows, tmp_path: Path) -> None:
    """The first step of a warm-up has learning rate 0."""
    _, outcome = tune("chatglm2-6b", "lora", rows, tmp_path, max_steps=1, warmup_ratio=0.05)
    assert outcome.curve[0]["learning_rate"] == SETTINGS["lr"]


def test_the_time_left_is_that_of_the_steps_after_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training of 110 steps, resumed at 100: the first takes a minute, each further one 2 s."""
    now = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    monkeypatch.setattr(callbacks, "tqdm", functools.partial(tqdm, disable=False))
    progress, state = callbacks.ProgressWithLoss(), TrainerState(max_steps=110, global_step=100)
    progress.on_train_begin(None, state, None)
    shown = []
    for seconds in (60, 2, 2, 2):
        now += seconds
        state.global_step += 1
        progress.on_step_end(None, state, None)
        shown.append(str(progress.training_bar).partition("<")[2].partition(",")[0])
    progress.on_train_end(None, state, None)
    assert shown == ["?", "00:16", "00:14", "00:12"]
