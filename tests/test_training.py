"""Training: what changes, that it repeats itself, that it goes on where it was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import prompt, tiny_model
from transformers import TrainerCallback

from glmtune import training
from glmtune.errors import ResourceError
from glmtune.families.family import IGNORED, Example
from glmtune.seeding import seed_everything
from glmtune.tokenized import TokenizedRows, from_examples
from glmtune.training import mean_loss, train
from glmtune.tuning import METHODS

GENERATIONS = ("chatglm-6b", "chatglm2-6b")  # the third has the second's architecture
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
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_steps": 2,
    "pre_seq_len": 3,
    "prefix_projection": False,
    "prefix_dropout": 0.1,
    "rank": 2,
    "alpha": 4,
    "dropout": 0.1,
    "target_modules": ["query_key_value"],
}


@pytest.fixture
def rows() -> TokenizedRows:
    """Rows of different lengths."""
    random = np.random.default_rng(0)
    examples = []
    for _ in range(24):
        question = prompt([int(i) for i in random.integers(5, 60, random.integers(2, 9))])
        answer = [int(i) for i in random.integers(5, 60, random.integers(1, 7))]
        examples.append(Example(question + answer, [IGNORED] * len(question) + answer))
    return from_examples(examples)


def tune(
    generation: str, method: str, rows: TokenizedRows, work: Path, **changes: Any
) -> tuple[Any, training.TrainingOutcome]:
    settings = SETTINGS | changes
    seed_everything(settings["seed"], threads=1)
    model = METHODS[method].prepare(tiny_model(generation), settings)
    outcome = train(model.train(), rows, rows, settings, pad_token_id=3, work=work)
    return model, outcome


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_bits(first: Any, second: Any) -> None:
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("method", TUNINGS)
def test_the_same_settings_give_the_same_bits(
    generation: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    first, curve = tune(generation, method, rows, tmp_path / "1")
    second, same = tune(generation, method, rows, tmp_path / "2")
    assert_equal_bits(first, second)
    assert curve == same
    assert [point["step"] for point in curve.curve] == [1, 2, 3, 4]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("method", ["ptuning", "lora"])
def test_the_base_stays_as_it_was(
    generation: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    before = weights(tiny_model(generation))
    model, outcome = tune(generation, method, rows, tmp_path)
    after = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): tensor
        for name, tensor in weights(model).items()
    }
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert 0 < outcome.trainable_parameters < outcome.total_parameters


def test_full_fine_tuning_changes_every_layer(rows: TokenizedRows, tmp_path: Path) -> None:
    before = weights(tiny_model("chatglm2-6b"))
    model, outcome = tune("chatglm2-6b", "full", rows, tmp_path)
    assert outcome.trainable_parameters == outcome.total_parameters
    assert all(not torch.equal(before[name], tensor) for name, tensor in weights(model).items())


class _Kill(TrainerCallback):
    """Kills a training after its third step, one past a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("method", TUNINGS)
def test_a_killed_training_ends_with_the_same_bits_as_an_uninterrupted_one(
    generation: str,
    method: str,
    rows: TokenizedRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, curve = tune(generation, method, rows, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(training, "_StopOnBadLoss", _Kill)
        with pytest.raises(KeyboardInterrupt):
            tune(generation, method, rows, tmp_path / "killed")
    resumed, same = tune(generation, method, rows, tmp_path / "killed")
    assert_equal_bits(whole, resumed)
    assert curve == same


def test_a_half_written_checkpoint_is_not_resumed_from(
    rows: TokenizedRows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = tune("chatglm2-6b", "full", rows, tmp_path / "whole")
    half = tmp_path / "killed" / "checkpoint-3"
    half.mkdir(parents=True)
    (half / "trainable.safetensors").write_bytes(b"cut off")
    resumed, _ = tune("chatglm2-6b", "full", rows, tmp_path / "killed")
    assert "checkpoint-3 is incomplete" in capsys.readouterr().err
    assert_equal_bits(whole, resumed)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_accumulated_small_batches_are_one_big_batch(
    generation: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    """Token by token, although rows differ in length: the loss is a mean over targets."""
    _, big = tune(generation, "full", rows, tmp_path / "1", batch_size=4)
    _, small = tune(
        generation, "full", rows, tmp_path / "2", batch_size=1, gradient_accumulation_steps=4
    )
    losses = [[point["loss"] for point in outcome.curve] for outcome in (big, small)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("method", ["ptuning", "full"])
def test_gradient_checkpointing_changes_no_loss(
    generation: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    changes = {"prefix_dropout": 0.0}
    _, plain = tune(generation, method, rows, tmp_path / "1", **changes)
    _, saving = tune(
        generation, method, rows, tmp_path / "2", gradient_checkpointing=True, **changes
    )
    for one, other in zip(plain.curve, saving.curve, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_loss_that_is_no_number_stops_with_step_and_cause(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    with pytest.raises(ResourceError, match=r"the loss is nan at step \d: .* lower lr"):
        tune("chatglm2-6b", "full", rows, tmp_path, lr=1e30, max_steps=5, max_grad_norm=1e30)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_dev_loss_does_not_depend_on_the_batch(generation: str, rows: TokenizedRows) -> None:
    model = tiny_model(generation)
    losses = [mean_loss(model, rows, size, pad_token_id=3) for size in (1, 5, 24)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
