"""Training: which weights change, the effect of each setting, determinism and throughput."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_model
from tiny_training import (
    FAMILY_NAMES,
    TUNINGS,
    assert_equal_bits,
    losses,
    settings_of,
    tune,
    weights,
)
from tiny_training import rows as rows  # a fixture
from transformers import TrainerCallback

from glmtune.errors import ResourceError
from glmtune.families.tokenized import TokenizedRows
from glmtune.labels import IGNORED_LABEL
from glmtune.training.train import require_optimizer
from glmtune.training.trainer import mean_loss

pytestmark = pytest.mark.numeric

TRAINED = {"ptuning": "prefix_encoder.", "lora": "lora_", "full": ""}


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
@pytest.mark.parametrize("method", TUNINGS)
def test_the_same_settings_give_the_same_bits(
    family_name: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    first, curve = tune(family_name, method, rows, tmp_path / "1")
    second, same = tune(family_name, method, rows, tmp_path / "2")
    assert_equal_bits(first, second)
    assert curve == same
    assert [point["step"] for point in curve.curve] == [1, 2, 3, 4]


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
@pytest.mark.parametrize("method", ["ptuning", "lora"])
def test_the_base_stays_unchanged(
    family_name: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    before = weights(tiny_model(family_name))
    model, outcome = tune(family_name, method, rows, tmp_path)
    after = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): tensor
        for name, tensor in weights(model).items()
    }
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert 0 < outcome.trainable_parameters < outcome.total_parameters
    assert outcome.dev_loss != mean_loss(tiny_model(family_name), rows, 4, pad_token_id=3)


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
@pytest.mark.parametrize("method", TUNINGS)
def test_exactly_the_method_s_own_weights_are_trained(
    family_name: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    model, _ = tune(family_name, method, rows, tmp_path, max_steps=2)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if TRAINED[method] in name}
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {
        torch.float32
    }


def test_full_fine_tuning_changes_every_layer(rows: TokenizedRows, tmp_path: Path) -> None:
    before = weights(tiny_model("chatglm2-6b"))
    model, outcome = tune("chatglm2-6b", "full", rows, tmp_path)
    assert outcome.trainable_parameters == outcome.total_parameters
    assert all(not torch.equal(before[name], tensor) for name, tensor in weights(model).items())


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
@pytest.mark.parametrize("method", TUNINGS)
def test_accumulated_small_batches_equal_one_big_batch(
    family_name: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    """Token by token, although rows differ in length: the loss is a mean over targets."""
    changes: dict[str, Any] = {"prefix_dropout": 0.0, "dropout": 0.0}
    _, big = tune(family_name, method, rows, tmp_path / "1", batch_size=4, **changes)
    changes |= {"batch_size": 1, "gradient_accumulation_steps": 4}
    _, small = tune(family_name, method, rows, tmp_path / "2", **changes)
    np.testing.assert_allclose(losses(big), losses(small), rtol=1e-4)


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
@pytest.mark.parametrize("method", TUNINGS)
def test_gradient_checkpointing_changes_no_loss(
    family_name: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    changes = {"prefix_dropout": 0.0, "dropout": 0.0}
    _, plain = tune(family_name, method, rows, tmp_path / "1", **changes)
    _, saving = tune(
        family_name, method, rows, tmp_path / "2", gradient_checkpointing=True, **changes
    )
    np.testing.assert_allclose(losses(plain), losses(saving), rtol=1e-5)


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_the_dev_loss_does_not_depend_on_the_batch(family_name: str, rows: TokenizedRows) -> None:
    model = tiny_model(family_name)
    means = [mean_loss(model, rows, size, pad_token_id=3) for size in (1, 5, 24)]
    np.testing.assert_allclose(means, means[0], rtol=1e-5)


def test_the_dev_loss_is_the_mean_over_targets_not_rows(rows: TokenizedRows) -> None:
    model, total, targets = tiny_model("chatglm2-6b"), 0.0, 0
    for ids, labels in (rows[i] for i in range(len(rows))):
        with torch.no_grad():
            logits = model(torch.tensor(ids)[None]).logits[0, :-1].log_softmax(-1)
        for position, label in enumerate(labels[1:]):
            if label != IGNORED_LABEL:
                total, targets = total - float(logits[position, label]), targets + 1
    assert mean_loss(model, rows, 4, pad_token_id=3) == pytest.approx(total / targets, rel=1e-5)


@pytest.fixture(scope="module")
def usual_dev_loss(rows: TokenizedRows, tmp_path_factory: pytest.TempPathFactory) -> float:
    _, outcome = tune("chatglm2-6b", "lora", rows, tmp_path_factory.mktemp("usual"))
    assert outcome.dev_loss is not None
    return outcome.dev_loss


@pytest.mark.parametrize(
    "change",
    [
        *({"lr": 2e-2}, {"seed": 6}, {"max_steps": 5}, {"batch_size": 3}),
        *({"gradient_accumulation_steps": 2}, {"lr_scheduler": "cosine"}, {"warmup_ratio": 0.5}),
        *({"weight_decay": 0.5}, {"max_grad_norm": 0.1}, {"optimizer": "adafactor"}),
        *({"adam_beta2": 0.9}, {"rank": 3}, {"alpha": 8}, {"dropout": 0.5}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_has_an_effect(
    change: dict[str, Any], usual_dev_loss: float, rows: TokenizedRows, tmp_path: Path
) -> None:
    _, after = tune("chatglm2-6b", "lora", rows, tmp_path, **change)
    assert after.dev_loss != usual_dev_loss


def test_the_rows_of_a_step_are_grouped_by_length(rows: TokenizedRows, tmp_path: Path) -> None:
    """An epoch of three steps: each splits its eight rows, the longer four first."""
    shapes: list[tuple[int, ...]] = []
    changes = {"gradient_accumulation_steps": 2, "max_steps": 3}
    seen = Watch(lambda batch: shapes.append(tuple(batch["input_ids"].shape)))
    tune("chatglm2-6b", "ptuning", rows, tmp_path, seen, **changes)
    lengths = [length for _, length in shapes[:6]]
    assert [size for size, _ in shapes[:6]] == [4] * 6
    pairs = zip(lengths[::2], lengths[1::2], strict=True)
    assert [longer > shorter for longer, shorter in pairs] == [True] * 3
    assert max(lengths) == max(np.diff(rows.offsets))


class Watch(TrainerCallback):
    """Calls `look` with the model's inputs."""

    def __init__(self, look: Callable[[dict[str, Any]], None]) -> None:
        self.look = look

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        given["model"].register_forward_pre_hook(lambda _, a, kw: self.look(kw), with_kwargs=True)


def test_the_curve_has_the_logged_steps_and_their_learning_rates(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    changes = {"max_steps": 8, "logging_steps": 2, "lr": 0.01, "warmup_ratio": 0.25}
    _, outcome = tune("chatglm2-6b", "ptuning", rows, tmp_path, **changes)
    assert [point["step"] for point in outcome.curve] == [1, 2, 4, 6, 8]
    rates = [point["learning_rate"] for point in outcome.curve]
    np.testing.assert_allclose(rates, [0, 0.005, 0.05 / 6, 0.03 / 6, 0.01 / 6])
    assert outcome.train_loss == outcome.curve[-1]["loss"]


def test_a_short_training_logs_its_first_and_last_step(rows: TokenizedRows, tmp_path: Path) -> None:
    changes = {"max_steps": 3, "logging_steps": 50, "save_steps": 50}
    _, outcome = tune("chatglm2-6b", "lora", rows, tmp_path, **changes)
    assert [point["step"] for point in outcome.curve] == [1, 3]


# --- optimizers and figures -----------------------------------------------------------------------


def test_an_optimizer_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"optimizer: found adamw_8bit, which needs .*\[8bit\]"):
        require_optimizer(settings_of("full", optimizer="adamw_8bit"))
    require_optimizer(settings_of("full", optimizer="adamw"))


def test_throughput_counts_tokens_without_padding(rows: TokenizedRows, tmp_path: Path) -> None:
    """24 rows in 3 steps of 4 x 2 are an epoch, whatever their padding."""
    changes = {"max_steps": 3, "gradient_accumulation_steps": 2}
    _, outcome = tune("chatglm2-6b", "lora", rows, tmp_path, **changes)
    assert outcome.throughput.tokens == len(rows.input_ids)
    assert outcome.throughput.seconds > 0


def test_a_checkpoint_holds_only_the_trained_weights(rows: TokenizedRows, tmp_path: Path) -> None:
    model, _ = tune("chatglm2-6b", "lora", rows, tmp_path)
    saved = load_file(tmp_path / "checkpoint-4" / "trainable.safetensors")
    assert set(saved) == {name for name, p in model.named_parameters() if p.requires_grad}
