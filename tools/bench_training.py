"""Training: ours against two padded ways to the same losses, and against the machine's limit.

    ours         batches of 4 x 4 by length, padding only in attention, logits only where there is
                 a target
    official     ptuning/train.sh: every row padded to full length, batches of 1 x 16 accumulated,
                 activations recomputed, logits everywhere
    padded       a usual script of PEFT and transformers' Trainer: as the official one, but 4 x 4
                 rows at a time and nothing recomputed

The last two compute padding like any token, with torch's own linear layers. `share` is the rate of
the operations that a training needs, on tokens that are not padding, against the fastest product of
this machine (on a GPU called MFU); `products` is the part of a step that its products take when
computed alone. Times are CPU times. Ways take turns, and a ratio is one of neighbours: a slow
minute of the machine meets all.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from bench_cases import FAMILY, PAD, SEED, Sizes, adgen_like, random_model, shorter, tuning_settings
from bench_products import RecordedProducts
from torch.nn.functional import cross_entropy, linear
from transformers import TrainerCallback
from transformers.modeling_outputs import CausalLMOutputWithPast

from glmtune.families.family import Example
from glmtune.families.tokenized import TokenizedRows, from_examples
from glmtune.labels import IGNORED_LABEL
from glmtune.modeling.linear import Linear, product
from glmtune.seeding import seed_everything
from glmtune.training.throughput import operations_per_token
from glmtune.training.train import train
from glmtune.tuning.registry import get_method

TRAINING_CASES = [
    (family, method) for family in (FAMILY, "chatglm-6b") for method in ("ptuning", "lora", "full")
]
ROWS = 16  # of an optimizer step
# THUDM's train.sh for ChatGLM2-6B: source and target limits, and the end token.
FULL_LENGTH = 64 + 128 + 1
WAYS: dict[str, dict[str, Any]] = {
    "ours": {"batch_size": 4, "gradient_accumulation_steps": 4},
    "official": {
        "batch_size": 1,
        "gradient_accumulation_steps": 16,
        "gradient_checkpointing": True,
    },
    "padded": {"batch_size": 4, "gradient_accumulation_steps": 4},
}


@dataclass(frozen=True)
class Training:
    """The losses of one way, and the median seconds of a step."""

    losses: list[float]
    seconds: float
    operations: float
    """Floating-point operations that a step needs, padding and recomputing not counted."""


class Recorder(TrainerCallback):
    """The products of each step but the first."""

    def __init__(self) -> None:
        self.steps: list[RecordedProducts] = []

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Begin to record."""
        self.products = RecordedProducts(model)
        self.products.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop recording."""
        self.products.__exit__(None, None, None)
        if state.global_step > 1:
            self.steps.append(self.products)


class Stopwatch(TrainerCallback):
    """CPU seconds of each step but the first, which warms up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start."""
        self.start = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop."""
        if state.global_step > 1:
            self.seconds.append(time.process_time() - self.start)


def measure_training(
    sizes: Sizes, threads: int, cases: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Figures of the first case, and those of all under `cases`; the others are shorter."""
    found = {}
    for number, (family, method) in enumerate(cases):
        case = shorter(sizes) if number else sizes
        found[f"{family} {method}"] = measure_case(case, threads, family, method)
        print(f"{family} {method}: {found[f'{family} {method}']}", flush=True)
    first = next(iter(found.values()))
    return first | {"unit": "tokens/s, padding not counted", "steps": sizes.steps, "cases": found}


def measure_case(sizes: Sizes, threads: int, family: str, method: str) -> dict[str, Any]:
    """Real tokens a second of every way, and how far their losses are apart."""
    pairs = _pairs(sizes, family)
    exact, padded = (
        from_examples(_example(*pair, length=length) for pair in pairs)
        for length in (0, FULL_LENGTH)
    )
    tokens = len(exact.input_ids) / len(exact) * ROWS  # of a mean step
    runs: dict[str, list[Training]] = {name: [] for name in WAYS}
    recorder = Recorder()
    _train(sizes, threads, family, method, "ours", exact, recorder)
    shares, products = [], []
    for _ in range(sizes.repeats):
        for name in WAYS:
            rows = exact if name == "ours" else padded
            runs[name].append(_train(sizes, threads, family, method, name, rows))
        ours = runs["ours"][-1]
        shares.append(ours.operations / ours.seconds / product_rate())
        alone = statistics.median(step.seconds_alone() for step in recorder.steps)
        products.append(alone / ours.seconds)
    speeds = {name: [tokens / run.seconds for run in found] for name, found in runs.items()}
    ratios = {
        name: [a / b for a, b in zip(speeds["ours"], speeds[name], strict=True)]
        for name in ("official", "padded")
    }
    losses = [found[0].losses for found in runs.values()]
    return {
        **{name: statistics.median(found) for name, found in speeds.items()},
        "ratio": statistics.median(ratios["official"]),
        "lowest": min(ratios["official"]),
        "highest": max(ratios["official"]),
        "ratio_to_padded": statistics.median(ratios["padded"]),
        "share": statistics.median(shares),
        "products": statistics.median(products),
        "largest_loss_difference": max(max(step) - min(step) for step in zip(*losses, strict=True)),
    }


@torch.no_grad()
def product_rate() -> float:
    """Floating-point operations a second of the machine's fastest float32 product, on one core."""
    rows, size = 1024, 1024
    states, weight = torch.ones(rows, size), torch.ones(size, size)
    seconds = []
    for _ in range(12):
        start = time.process_time()
        product(states, weight)
        seconds.append(time.process_time() - start)
    return 2 * rows * size * size / min(seconds)


def _pairs(sizes: Sizes, family: str) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) ids of all steps' rows."""
    config = random_model(sizes, family).config
    vocabulary = config.vocab_size
    pairs = adgen_like(ROWS * (sizes.steps + 1), 90 if vocabulary < 100 else 60000)
    if family == FAMILY:
        return pairs
    # The tokens between prompt and answer.
    end = [config.gmask_token_id, config.bos_token_id]
    return [([*prompt, *end], answer) for prompt, answer in pairs]


def _example(prompt: list[int], answer: list[int], length: int) -> Example:
    padding = max(0, length - len(prompt) - len(answer))
    labels = [IGNORED_LABEL] * len(prompt) + answer + [IGNORED_LABEL] * padding
    return Example(prompt + answer + [PAD] * padding, labels)


def _train(
    sizes: Sizes,
    threads: int,
    family: str,
    method: str,
    way: str,
    rows: TokenizedRows,
    *others: TrainerCallback,
) -> Training:
    """Train without dropout, so that all ways have the same losses."""
    settings = tuning_settings(sizes, {"method": method, **WAYS[way]})
    seed_everything(SEED, threads)
    base = random_model(sizes, family)
    model: Any = get_method(method).prepare(base, settings)
    watch = Stopwatch()
    with (
        tempfile.TemporaryDirectory() as work,
        nullcontext() if way == "ours" else as_others_do(base),
    ):
        outcome = train(
            model.train(),
            rows,
            None,
            settings,
            pad_token_id=PAD,
            work=Path(work),
            callbacks=[watch, *others],
        )
    length = len(rows.input_ids) / len(rows)
    target_share = float(rows.targets_of_rows().sum()) / len(rows.input_ids)
    operations = operations_per_token(model, length, target_share) * length * ROWS
    losses = [point["loss"] for point in outcome.curve]
    return Training(losses, statistics.median(watch.seconds), operations)


@contextmanager
def as_others_do(base: Any) -> Iterator[None]:
    """Compute every position and all its logits, padding too, by torch's own linear layers."""

    def multiply(self: Linear, states: torch.Tensor) -> torch.Tensor:
        return linear(states, self.weight, self.bias)

    def forward(
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: Any,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        hidden = base.transformer(input_ids, attention_mask, None, None, None)
        logits = base.get_output_embeddings()(hidden).float()
        predicted, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        total = cross_entropy(predicted, targets, ignore_index=IGNORED_LABEL, reduction="sum")
        return CausalLMOutputWithPast(loss=total / num_items_in_batch, logits=logits)

    with patch.object(Linear, "forward", multiply), patch.object(base, "forward", forward):
        yield
