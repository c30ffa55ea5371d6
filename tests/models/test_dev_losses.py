"""Dev losses on the way: measured, the lowest kept, an early end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_training import assert_equal_bits, tune
from tiny_training import rows as rows  # a fixture

from glmtune.tokenized import TokenizedRows
from glmtune.trainer import mean_loss
from glmtune.training import TrainingOutcome

pytestmark = pytest.mark.numeric


def dev_curve(outcome: TrainingOutcome) -> dict[int, float]:
    return {int(p["step"]): p["dev_loss"] for p in outcome.curve if "dev_loss" in p}


def test_dev_losses_on_the_way_change_nothing(rows: TokenizedRows, tmp_path: Path) -> None:
    plain, _ = tune("chatglm2-6b", "ptuning", rows, tmp_path / "1", max_steps=5)
    model, outcome = tune("chatglm2-6b", "ptuning", rows, tmp_path / "2", max_steps=5, eval_steps=2)
    assert_equal_bits(plain, model)
    assert list(dev_curve(outcome)) == [2, 4, 5]
    assert outcome.dev_loss == dev_curve(outcome)[5]
    assert outcome.dev_loss == pytest.approx(mean_loss(model, rows, 4, pad_token_id=3), rel=1e-6)


# At this rate the dev loss rises now and then: after the second step, and at the end.
TOO_FAST = {
    **{"lr": 0.3, "lr_scheduler": "constant", "warmup_ratio": 0.0},
    **{"max_steps": 10, "eval_steps": 2, "save_steps": 4},
}


def test_the_weights_of_the_lowest_dev_loss_are_kept(rows: TokenizedRows, tmp_path: Path) -> None:
    model, outcome = tune("chatglm2-6b", "full", rows, tmp_path, **TOO_FAST, keep_best=True)
    measured = dev_curve(outcome)
    best = min(measured, key=measured.__getitem__)
    assert best < outcome.steps == 10
    assert (outcome.best_step, outcome.dev_loss) == (best, measured[best])
    assert mean_loss(model, rows, 4, pad_token_id=3) == pytest.approx(measured[best], rel=1e-6)


def test_a_training_without_progress_stops_early(rows: TokenizedRows, tmp_path: Path) -> None:
    _, outcome = tune("chatglm2-6b", "full", rows, tmp_path, **TOO_FAST, early_stopping_patience=1)
    measured = list(dev_curve(outcome).items())
    best = min(measured, key=lambda pair: pair[1])[0]
    assert outcome.steps == measured[-1][0] == best + 2 < 10
    assert outcome.best_step is None
