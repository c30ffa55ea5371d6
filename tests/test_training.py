"""Training: what changes, that it repeats itself, that it goes on where it was killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import prompt, tiny_model
from transformers import TrainerCallback

from glmtune.errors import ResourceError
from glmtune.families.family import IGNORED, Example
from glmtune.seeding import seed_everything
from glmtune.tokenized import TokenizedRows, from_examples
from glmtune.training import StopOnBadLoss, TrainingOutcome, mean_loss, train
from glmtune.tuning import METHODS

GENERATIONS = ("chatglm-6b", "chatglm2-6b")  # the third has the second's architecture
TRAINED = {"ptuning": "prefix_encoder.", "lora": "lora_", "full": ""}
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
    generation: str,
    method: str,
    rows: TokenizedRows,
    work: Path,
    *callbacks: TrainerCallback,
    **changes: Any,
) -> tuple[Any, TrainingOutcome]:
    settings = SETTINGS | changes
    seed_everything(settings["seed"], threads=1)
    model = METHODS[method].prepare(tiny_model(generation), settings)
    outcome = train(
        model.train(), rows, rows, settings, pad_token_id=3, work=work, callbacks=callbacks
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
    assert outcome.dev_loss != mean_loss(tiny_model(generation), rows, 4, pad_token_id=3)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("method", TUNINGS)
def test_only_the_method_s_own_weights_are_trained_and_all_of_them(
    generation: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    model, _ = tune(generation, method, rows, tmp_path, max_steps=2)
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


class Kill(TrainerCallback):
    """Kills a training after a step; after the last one: when everything has been saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step < args.max_steps:
            raise KeyboardInterrupt

    def on_train_end(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


def assert_a_killed_one_ends_the_same(
    generation: str, method: str, rows: TokenizedRows, folder: Path, kill: int, **changes: Any
) -> None:
    whole, curve = tune(generation, method, rows, folder / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        tune(generation, method, rows, folder / "killed", Kill(kill), **changes)
    assert list((folder / "killed").glob("checkpoint-*"))
    resumed, same = tune(generation, method, rows, folder / "killed", **changes)
    assert_equal_bits(whole, resumed)
    assert curve == same


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("method", TUNINGS)
def test_a_killed_training_ends_with_the_same_bits_as_an_uninterrupted_one(
    generation: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    assert_a_killed_one_ends_the_same(generation, method, rows, tmp_path, kill=3)


@pytest.mark.parametrize(
    ("kill", "changes"),
    [
        (4, {}),
        (4, {"lr_scheduler": "constant"}),
        (5, {"max_steps": 6, "batch_size": 8}),
        (5, {"max_steps": 6, "batch_size": 2, "gradient_accumulation_steps": 3}),
        (5, {"max_steps": 6, "logging_steps": 2, "save_steps": 3}),
    ],
    ids=[
        "killed after the last step",
        "killed after the last step of a constant rate",
        "resumed in another epoch",
        "resumed with accumulation",
        "saved and logged out of step",
    ],
)
def test_it_does_not_matter_where_a_training_was_killed(
    kill: int, changes: dict[str, Any], rows: TokenizedRows, tmp_path: Path
) -> None:
    assert_a_killed_one_ends_the_same("chatglm2-6b", "ptuning", rows, tmp_path, kill, **changes)


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
@pytest.mark.parametrize("method", TUNINGS)
def test_accumulated_small_batches_are_one_big_batch(
    generation: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    """Token by token, although rows differ in length: the loss is a mean over targets."""
    changes = {"prefix_dropout": 0.0, "dropout": 0.0}
    _, big = tune(generation, method, rows, tmp_path / "1", batch_size=4, **changes)
    small = {"batch_size": 1, "gradient_accumulation_steps": 4}
    _, small = tune(generation, method, rows, tmp_path / "2", **small, **changes)
    np.testing.assert_allclose(losses(big), losses(small), rtol=1e-4)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("method", TUNINGS)
def test_gradient_checkpointing_changes_no_loss(
    generation: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    changes = {"prefix_dropout": 0.0, "dropout": 0.0}
    _, plain = tune(generation, method, rows, tmp_path / "1", **changes)
    _, saving = tune(
        generation, method, rows, tmp_path / "2", gradient_checkpointing=True, **changes
    )
    np.testing.assert_allclose(losses(plain), losses(saving), rtol=1e-5)


def test_a_loss_that_is_no_number_stops_with_step_and_cause(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    with pytest.raises(ResourceError, match=r"the loss is nan at step \d: .* lower lr"):
        tune("chatglm2-6b", "full", rows, tmp_path, lr=1e30, max_steps=5, max_grad_norm=1e30)


def test_a_loss_of_exactly_nothing_stops_with_its_causes() -> None:
    args, state = SimpleNamespace(learning_rate=1e-2), SimpleNamespace(global_step=7)
    with pytest.raises(ResourceError, match=r"the loss is 0.0 at step 7: .* rows without a target"):
        StopOnBadLoss().on_log(args, state, None, logs={"loss": 0.0})


def test_a_training_that_changes_nothing_says_so(rows: TokenizedRows, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"4 steps changed no trained weight: lr is 1e-60"):
        tune("chatglm2-6b", "full", rows, tmp_path, lr=1e-60, weight_decay=0.0)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_dev_loss_does_not_depend_on_the_batch(generation: str, rows: TokenizedRows) -> None:
    model = tiny_model(generation)
    means = [mean_loss(model, rows, size, pad_token_id=3) for size in (1, 5, 24)]
    np.testing.assert_allclose(means, means[0], rtol=1e-5)


def test_the_dev_loss_is_the_mean_over_targets_and_not_over_rows(rows: TokenizedRows) -> None:
    model, total, targets = tiny_model("chatglm2-6b"), 0.0, 0
    for ids, labels in (rows[i] for i in range(len(rows))):
        with torch.no_grad():
            logits = model(torch.tensor(ids)[None]).logits[0, :-1].log_softmax(-1)
        for position, label in enumerate(labels[1:]):
            if label != IGNORED:
                total, targets = total - float(logits[position, label]), targets + 1
    assert mean_loss(model, rows, 4, pad_token_id=3) == pytest.approx(total / targets, rel=1e-5)


def test_the_curve_has_the_logged_steps_and_their_learning_rates(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    changes = {"max_steps": 8, "logging_steps": 2, "lr": 0.01, "warmup_ratio": 0.25}
    _, outcome = tune("chatglm2-6b", "ptuning", rows, tmp_path, **changes)
    assert [point["step"] for point in outcome.curve] == [2, 4, 6, 8]
    rates = [point["learning_rate"] for point in outcome.curve]
    np.testing.assert_allclose(rates, [0.005, 0.05 / 6, 0.03 / 6, 0.01 / 6])
    assert outcome.train_loss == outcome.curve[-1]["loss"]


def test_a_training_shorter_than_the_logging_interval_has_one_point(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    _, outcome = tune("chatglm2-6b", "lora", rows, tmp_path, max_steps=3, logging_steps=50)
    assert [point["step"] for point in outcome.curve] == [3]


def test_a_checkpoint_holds_the_trained_weights_and_not_the_base(
    rows: TokenizedRows, tmp_path: Path
) -> None:
    model, _ = tune("chatglm2-6b", "lora", rows, tmp_path)
    saved = load_file(tmp_path / "checkpoint-4" / "trainable.safetensors")
    assert set(saved) == {name for name, p in model.named_parameters() if p.requires_grad}
