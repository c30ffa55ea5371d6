"""Dev losses during training: measuring, keeping the best weights, stopping early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import assert_equal_bits, tune
from tiny_training import rows as rows  # a fixture
from transformers import TrainerCallback

from glmtune.families.tokenized import TokenizedRows
from glmtune.training.train import TrainingOutcome
from glmtune.training.trainer import mean_loss

pytestmark = pytest.mark.numeric


def dev_curve(outcome: TrainingOutcome) -> dict[int, float]:
    return {int(p["step"]): p["dev_loss"] for p in outcome.curve if "dev_loss" in p}


def test_measuring_dev_losses_changes_nothing(rows: TokenizedRows, tmp_path: Path) -> None:
    plain, _ = tune("chatglm2-6b", "ptuning", rows, tmp_path / "1", max_steps=5)
    model, outcome = tune("chatglm2-6b", "ptuning", rows, tmp_path / "2", max_steps=5, eval_steps=2)
    assert_equal_bits(plain, model)
    assert list(dev_curve(outcome)) == [2, 4, 5]
    assert outcome.dev_loss == dev_curve(outcome)[5]
    assert outcome.dev_loss == pytest.approx(mean_loss(model, rows, 4, pad_token_id=3), rel=1e-6)


MEASURED = {"max_steps": 10, "eval_steps": 2, "save_steps": 4}


class Spoil(TrainerCallback):
    """Makes a model worse than ever before, so that its best step is the same on every machine."""

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == 5:
            with torch.no_grad():
                given["model"].transformer.output_layer.weight.mul_(-20)


def test_the_weights_with_the_lowest_dev_loss_are_kept(rows: TokenizedRows, tmp_path: Path) -> None:
    model, outcome = tune(
        "chatglm2-6b", "full", rows, tmp_path, Spoil(), **MEASURED, keep_best=True
    )
    measured = dev_curve(outcome)
    assert min(measured, key=measured.__getitem__) == 4 < outcome.steps == 10
    assert (outcome.best_step, outcome.dev_loss) == (4, measured[4])
    assert mean_loss(model, rows, 4, pad_token_id=3) == pytest.approx(measured[4], rel=1e-6)


def test_a_training_without_progress_stops_early(rows: TokenizedRows, tmp_path: Path) -> None:
    _, outcome = tune(
        "chatglm2-6b", "full", rows, tmp_path, Spoil(), **MEASURED, early_stopping_patience=1
    )
    assert list(dev_curve(outcome)) == [2, 4, 6]
    assert outcome.steps == 6
    assert outcome.best_step is None
