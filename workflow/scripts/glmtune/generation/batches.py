"""Answers to many prompts: in groups of a fixed membership, in the order of the prompts in the end.

A group's rows go through the engine together, from its first to its last: which rows share a batch
follows from prompts, limits and settings alone. So a group that was answered again has the same
answers to the last bit of their logits.

Knows nothing about data sets or tuning methods.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm
from transformers import PreTrainedModel

from glmtune.families.tokenizers import Tokenizer
from glmtune.generation.answer_log import Answer
from glmtune.generation.engine import Engine, Event, Request
from glmtune.generation.sampling import Sampler
from glmtune.generation.settings import Decoding, GenerationSettings

# Batches of a group: with more, fewer slots stay empty at its end, but a kill costs more work.
BATCHES_OF_GROUP = 4
# Rows whose two best logits came closer than this at some step may differ from the same row in
# another batch, or alone: fp32 kernels add in an order that depends on the width of the batch.
NEAR_TIE = 1e-4


def generate_texts(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    limits: Sequence[int] | None = None,
) -> list[Answer]:
    """Generate one text for each prompt, given as token ids with the special tokens in place.

    Neither the batch size nor the other prompts change a text, near ties and rounding to half
    precision aside. `limits` are max_new_tokens of each prompt, if they differ.
    """
    answers: dict[int, Answer] = {}
    for group in generate_groups(model, tokenizer, prompts, settings, limits=limits):
        answers |= group
    return [answers[number] for number in range(len(prompts))]


def generate_groups(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    answered: Collection[int] = (),
    limits: Sequence[int] | None = None,
) -> Iterator[dict[int, Answer]]:
    """As `generate_texts`, group by group: {number of the prompt: answer}.

    Groups whose prompts are all among `answered` are left out; the others are the same groups as
    without it.
    """
    slots = settings.batch_size
    assert slots != "auto", "chosen by auto_batch_size before"
    limits = limits or [settings.max_new_tokens] * len(prompts)
    requests = [
        Request(ids, limit, tokenizer.stop_token_ids, sampler_of(settings, number))
        for number, (ids, limit) in enumerate(zip(prompts, limits, strict=True))
    ]
    groups = [group for group in _groups(prompts, slots) if not set(group) <= set(answered)]
    with tqdm(total=sum(map(len, groups)), unit="rows", desc="generating") as progress:
        for group in groups:
            drafts = {number: _Draft() for number in group}
            for number, event in _events(model, group, requests, slots):
                drafts[number].add(event)
                progress.update(event.end is not None)
            yield {number: draft.answer(tokenizer) for number, draft in drafts.items()}


def sampler_of(settings: Decoding, number: int) -> Sampler | None:
    """The sampler of the prompt of this number, which has random numbers of its own."""
    if not settings.do_sample:
        return None
    return Sampler(settings.temperature, settings.top_p, (settings.seed, number))


def _events(
    model: PreTrainedModel, group: Sequence[int], requests: Sequence[Request], slots: int
) -> Iterator[tuple[int, Event]]:
    """(number of the prompt, event) as a group is answered by a fresh engine."""
    engine = Engine(model, slots=slots)
    numbers = {engine.add(requests[number]): number for number in group}
    while engine.is_busy:
        for event in engine.step():
            yield numbers[event.row], event


@dataclass
class _Draft:
    """The part of an answer generated so far."""

    ids: list[int] = field(default_factory=list)
    is_finished: bool = False
    is_near_tie: bool = False

    def add(self, event: Event) -> None:
        self.is_finished = event.end == "stop"
        self.is_near_tie |= event.margin < NEAR_TIE
        if not self.is_finished:
            self.ids.append(event.token)

    def answer(self, tokenizer: Tokenizer) -> Answer:
        decoded = tokenizer.decode(self.ids)
        text = tokenizer.process_response(decoded)
        return Answer(text, decoded.strip(), self.is_finished, self.is_near_tie)


def _groups(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """The numbers of the prompts in groups of about equal size, longest first.

    Prompts of similar length join together; the first group needs the most memory.
    """
    order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number]), number))
    count = max(1, -(-len(prompts) // (batch_size * BATCHES_OF_GROUP)))
    size = max(1, -(-len(prompts) // count))
    return [order[start : start + size] for start in range(0, len(order), size)]
