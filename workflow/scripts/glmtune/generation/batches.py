"""Texts for many prompts: in batches sorted by length, in the order of the prompts in the end.

Knows nothing about data sets or tuning methods.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from glmtune.families.tokenizers import Tokenizer
from glmtune.generation.decoding import Answer, decode_batch
from glmtune.generation.sampling import Draw, likeliest
from glmtune.generation.settings import Decoding, GenerationSettings


@dataclass(frozen=True)
class Prediction:
    """A generated text."""

    text: str  # as chat() shows it to a person
    decoded: str  # as the vocabulary decodes its ids, white space at both ends removed
    finished: bool  # False: cut at max_new_tokens


def generate_texts(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    limits: Sequence[int] | None = None,
) -> list[Prediction]:
    """Generate one text for each prompt, given as token ids with the special tokens in place.

    Neither the batch size nor the other prompts change a text. `limits` are max_new_tokens of each
    prompt, if they differ.
    """
    predictions: dict[int, Prediction] = {}
    for batch in generate_batches(model, tokenizer, prompts, settings, limits=limits):
        predictions |= batch
    return [predictions[number] for number in range(len(prompts))]


def generate_batches(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    answered: Collection[int] = (),
    limits: Sequence[int] | None = None,
) -> Iterator[dict[int, Prediction]]:
    """As `generate_texts`, batch by batch: {number of the prompt: text}.

    Batches whose prompts are all among `answered` are left out; the others are the same batches as
    without it, so that a text is the same to the last bit of its logits.
    """
    limits = limits or [settings.max_new_tokens] * len(prompts)
    batches = [
        batch for batch in _batches(prompts, settings.batch_size) if not set(batch) <= set(answered)
    ]
    total = sum(map(len, batches))
    with tqdm(total=total, unit="rows", desc="generating") as progress:
        for batch in batches:
            answers = answer_batch(
                model,
                tokenizer,
                [prompts[number] for number in batch],
                settings,
                numbers=batch,
                limits=[limits[number] for number in batch],
            )
            yield {
                number: _prediction(tokenizer, answer)
                for number, answer in zip(batch, answers, strict=True)
            }
            progress.update(len(batch))


def answer_batch(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: Decoding,
    *,
    numbers: Sequence[int],
    limits: Sequence[int],
) -> list[Answer]:
    """The ids that answer each prompt; a prompt's number decides what is drawn for it."""
    input_ids, attention_mask = pad_left(prompts, tokenizer.pad_token_id)
    choose = Draw.for_rows(numbers, max(limits), settings) if settings.do_sample else likeliest
    return decode_batch(
        model,
        input_ids.to(model.device),
        attention_mask.to(model.device),
        limits=limits,
        stop_ids=tokenizer.stop_token_ids,
        choose=choose,
    )


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


def _prediction(tokenizer: Tokenizer, answer: Answer) -> Prediction:
    decoded = tokenizer.decode(answer.ids)
    return Prediction(tokenizer.process_response(decoded), decoded.strip(), answer.finished)


def _batches(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """The numbers of the prompts in batches, longest first: the first batch needs most memory."""
    order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number]), number))
    return [order[start : start + size] for start in range(0, len(order), size)]
