"""Training: ours against the way of ptuning/train.sh, with the same loss at every step.

    ours         batches of 4 x 4 by length, padded to their longest row, logits only where there is
                 a target
    official     every row padded to full length, batches of 1 x 16 accumulated, activations
                 recomputed, logits everywhere

Both: P-Tuning v2 with 128 positions.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from bench_cases import PAD, SEED, Sizes, adgen_like, random_model, tuning_settings
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from glmtune.families.family import Example
from glmtune.families.tokenized import TokenizedRows, from_examples
from glmtune.labels import IGNORED_LABEL
from glmtune.seeding import seed_everything
from glmtune.training.train import train
from glmtune.tuning.registry import get_method

# THUDM's train.sh for ChatGLM2-6B: source and target limits, and the end token.
FULL_LENGTH = 64 + 128 + 1


@dataclass(frozen=True)
class Way:
    """The losses of one of the two ways, and its tokens a second."""

    did: Any
    speed: float


class Stopwatch(TrainerCallback):
    """Seconds of each step but the first, which warms up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop."""
        if state.global_step > 1:
            self.seconds.append(time.perf_counter() - self.start)


def measure_training(sizes: Sizes, threads: int) -> dict[str, Any]:
    """Real tokens a second of both ways, and how far their losses are apart."""
    vocabulary = random_model(sizes).config.padded_vocab_size
    pairs = adgen_like(16 * (sizes.steps + 1), vocabulary)
    rows = from_examples(_example(*pair) for pair in pairs)
    padded = from_examples(_example(*pair, length=FULL_LENGTH) for pair in pairs)
    tokens = len(rows.input_ids) / len(rows) * 16  # of a mean step

    def way(data: TokenizedRows, **changes: Any) -> Callable[[], Way]:
        def run() -> Way:
            losses, seconds = _train(sizes, threads, data, changes)
            return Way(losses, tokens / statistics.median(seconds))

        return run

    ours = way(rows, batch_size=4, gradient_accumulation_steps=4)
    official = way(
        padded, batch_size=1, gradient_accumulation_steps=16, gradient_checkpointing=True
    )
    figures, our_losses, official_losses = _take_turns(ours, official, sizes.repeats)
    differences = [abs(a - b) for a, b in zip(our_losses, official_losses, strict=True)]
    return figures | {
        "unit": "tokens/s, padding not counted",
        "steps": sizes.steps,
        "largest_loss_difference": max(differences),
    }


def _example(prompt: list[int], answer: list[int], length: int = 0) -> Example:
    padding = max(0, length - len(prompt) - len(answer))
    labels = [IGNORED_LABEL] * len(prompt) + answer + [IGNORED_LABEL] * padding
    return Example(prompt + answer + [PAD] * padding, labels)


def _train(
    sizes: Sizes, threads: int, rows: TokenizedRows, changes: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """(loss, seconds) of each step; without dropout, so that both ways have the same losses."""
    settings = tuning_settings(sizes, changes)
    seed_everything(SEED, threads)
    model: Any = get_method("ptuning").prepare(random_model(sizes), settings)
    if settings.gradient_checkpointing:
        model._loss = MethodType(_loss_of_all_logits, model)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as work:
        outcome = train(
            model.train(),
            rows,
            None,
            settings,
            pad_token_id=PAD,
            work=Path(work),
            callbacks=[watch],
        )
    return [point["loss"] for point in outcome.curve], watch.seconds


def _loss_of_all_logits(
    model: Any, hidden: torch.Tensor, labels: torch.Tensor, num_items: Any, _: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the official forward does: logits of every position in fp32, then those with a target."""
    logits = model.get_output_embeddings()(hidden).float()
    targets = labels[:, 1:].flatten()
    total = cross_entropy(
        logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total / num_items, logits


def _take_turns(
    ours: Callable[[], Way], official: Callable[[], Way], repeats: int
) -> tuple[dict[str, float], Any, Any]:
    """The figures of both, and what each did.

    They take turns, and a ratio is one of neighbours: a slow minute of the machine meets both.
    """
    turns = [(ours(), official()) for _ in range(repeats)]
    ratios = [first.speed / second.speed for first, second in turns]
    figures = {
        "ours": statistics.median(first.speed for first, _ in turns),
        "official": statistics.median(second.speed for _, second in turns),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }
    return figures, turns[-1][0].did, turns[-1][1].did
