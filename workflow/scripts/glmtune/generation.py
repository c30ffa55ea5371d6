"""Predictions in batches: sorted by length, padded on the left, returned in the prompts' order.

Knows nothing about data sets or tuning methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from glmtune.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prediction:
    """A generated text; `finished` is False when it was cut at max_new_tokens."""

    text: str
    finished: bool


def generate_texts(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: Mapping[str, Any],
) -> list[Prediction]:
    """Generate one text for each prompt, given as token ids with the special tokens in place.

    `settings` has the keys of params.yaml's `generation`, and seed. Greedy texts do not depend on
    the batch size.
    """
    torch.manual_seed(settings["seed"])
    longest_first = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    predictions: dict[int, Prediction] = {}
    size = settings["batch_size"]
    with tqdm(total=len(prompts), unit="rows", desc="generating") as progress:
        for start in range(0, len(prompts), size):
            batch = longest_first[start : start + size]
            texts = _generate_batch(model, tokenizer, [prompts[i] for i in batch], settings)
            predictions.update(zip(batch, texts, strict=True))
            progress.update(len(batch))
    return [predictions[i] for i in range(len(prompts))]


def pad_left(
    prompts: Sequence[Sequence[int]], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask`, (batch, longest prompt) int64, padded on the left."""
    length = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), length), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, length - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, length - len(prompt) :] = 1
    return input_ids, attention_mask


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: Mapping[str, Any],
) -> list[Prediction]:
    input_ids, attention_mask = pad_left(prompts, tokenizer.pad_token_id)
    sampling = {key: settings[key] for key in ("top_p", "temperature")}
    with torch.no_grad():
        generate: Any = model.generate
        output = generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            max_new_tokens=settings["max_new_tokens"],
            do_sample=settings["do_sample"],
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **(sampling if settings["do_sample"] else {}),
        )
    return [_read_answer(tokenizer, row) for row in output[:, input_ids.shape[1] :].tolist()]


def _read_answer(tokenizer: Tokenizer, ids: list[int]) -> Prediction:
    finished = tokenizer.eos_token_id in ids
    if finished:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return Prediction(tokenizer.decode(ids).strip(), finished)
