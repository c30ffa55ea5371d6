"""Dev losses during training: measuring, keeping the best weights, stopping early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_training import assert_equal_bits, settings_of, tune
from tiny_training import rows as rows  # a fixture
from transformers import TrainerCallback

from glmtune.families.tokenized import TokenizedRows
from glmtune.seeding import seed_everything
from glmtune.training.train import TrainingOutcome, train
from glmtune.training.trainer import mean_loss
from glmtune.tuning.registry import METHODS

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


def test_valid_rows_choose_the_weights_and_the_dev_loss_is_that_of_dev(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    end = rows.offsets[8]
    valid = TokenizedRows(rows.input_ids[:end], rows.labels[:end], rows.offsets[:9])
    settings = settings_of("full", **MEASURED, keep_best=True)
    seed_everything(settings.seed, threads=1)
    model = METHODS["full"].prepare(tiny_model("chatglm2-6b"), settings)
    outcome = train(
        *(model.train(), rows, rows, settings),
        pad_token_id=3,
        work=tmp_path,
        valid=valid,
        callbacks=[Spoil()],
    )
    measured = {int(p["step"]): p["valid_loss"] for p in outcome.curve if "valid_loss" in p}
    assert not dev_curve(outcome)
    assert outcome.best_step == min(measured, key=measured.__getitem__) == 4
    assert mean_loss(model, valid, 4, pad_token_id=3) == pytest.approx(measured[4], rel=1e-6)
    assert outcome.dev_loss == pytest.approx(mean_loss(model, rows, 4, pad_token_id=3), rel=1e-6)
    assert outcome.dev_loss != pytest.approx(measured[4], rel=1e-3)


def test_a_training_without_progress_stops_early(rows: TokenizedRows, tmp_path: Path) -> None:
    _, outcome = tune(
        "chatglm2-6b", "full", rows, tmp_path, Spoil(), **MEASURED, early_stopping_patience=1
    )
    assert list(dev_curve(outcome)) == [2, 4, 6]
    assert outcome.steps == 6
    assert outcome.best_step is None
