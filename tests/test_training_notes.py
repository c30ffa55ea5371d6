"""Which trainings deserve a note, and which do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.training.notes import coverage_notes, divergence_notes


@pytest.mark.parametrize(
    "losses",
    [
        [6.8, 350.0, 300.0, 403.0, 260.0, 116.0],  # a rate of 5
        [2.0, 3.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0],  # what the model knew is lost
        [0.8, 2.1],
    ],
)
def test_a_loss_far_above_its_start_is_noted(losses: list[float]) -> None:
    (note,) = divergence_notes(losses, lr=0.05)
    assert f"began at {losses[0]:.2f}" in note
    assert "lower lr (now 0.05)" in note


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [3.0],
        [3.9, 5.5, 4.2, 3.8, 3.7, 3.7],  # a hump while the rate is highest
        [2.6, 3.1, 3.3, 2.9, 3.5, 3.2],  # batches of one row
        [0.05, 0.9, 0.1, 0.2],  # memorized rows
    ],
)
def test_ordinary_losses_are_not(losses: list[float]) -> None:
    assert divergence_notes(losses, lr=0.05) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_characters_that_a_vocabulary_spells_are_counted(tmp_path: Path, family: str) -> None:
    known = [f"{c}色的裙子，风格简约。" for c in "红黑白蓝"]
    FAMILIES[family].train_tokenizer(known, tmp_path, vocab_size=300)
    tokenizer = load_tokenizer(tmp_path, family)

    def spelled(text: str) -> float:
        ids = tokenizer.encode(text, add_special_tokens=False)
        return sum(i in tokenizer.spelled_ids for i in ids) / len(ids)

    assert spelled("红色的裙子，\n风格简约。") == 0
    assert spelled("龘靐齉") > 0.7


def test_few_spelled_characters_are_not_worth_a_note() -> None:
    split = {"rows": 100, "target_tokens": 5000, "spelled_tokens": 100, "cut_answers": 54}
    assert coverage_notes(split) == []
    assert coverage_notes(split | {"target_tokens": 0, "spelled_tokens": 0}) == []
