"""Decoding with continuous batching: rows join a running batch as others leave it.

An `Engine` answers requests token by token. A request may be added and cancelled at any moment,
and brings its own limit, stop tokens and sampler; its tokens do not depend on the rows beside it
but for rounding. The order of calls alone decides which rows share a batch, never time or free
memory. Knows token ids only. After Yu et al., Orca (OSDI 2022), with whole prompts as one step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from glmtune.errors import WeightsError
from glmtune.generation.sampling import TOP_K, Candidates, Sampler, sample, top_candidates
from glmtune.modeling.kv_cache import SlotCache
from glmtune.modeling.precision import working_dtype
from glmtune.modeling.prefix import prefix_holder

# Waiting rows join together, once this share of the slots is free: wide products for their prompts.
JOINING_SHARE = 1 / 8
# Limits of prompts that are computed together: tokens, and the share of them that is padding.
PROMPT_TOKENS, PADDING_SHARE = 4096, 1 / 8


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, and how it is answered."""

    ids: Sequence[int]
    limit: int
    """Most tokens of the answer, at least 1."""
    stop_ids: Collection[int] = ()
    """Tokens that end the answer."""
    sampler: Sampler | None = None
    """None: greedy."""


@dataclass(frozen=True)
class Event:
    """A new token of a row."""

    row: int
    token: int
    end: str | None
    """`stop`: this is a stop token; `length`: the last one within the limit; None: more follow."""
    margin: float
    """How far the best logit is above the second."""


@dataclass
class _Row:
    number: int
    request: Request
    count: int = 0  # of its tokens so far
    uniforms: Iterator[float] = field(init=False)

    def __post_init__(self) -> None:
        self.uniforms = (
            iter(()) if self.request.sampler is None else self.request.sampler.uniforms()
        )

    def accept(self, token: int, margin: float) -> Event:
        self.count += 1
        is_last = self.count >= self.request.limit
        end = "stop" if token in self.request.stop_ids else "length" if is_last else None
        return Event(self.number, token, end, margin)


class Engine:
    """At most `slots` rows at once; further ones wait in the order in which they were added."""

    def __init__(self, model: Any, *, slots: int) -> None:
        self._model = getattr(model, "get_base_model", lambda: model)()  # of a PEFT model
        self._slots = slots
        self._added = 0
        self._waiting: list[_Row] = []
        self._running: list[_Row] = []  # row i of the batch is slot i of the cache
        self._tokens = torch.empty(0, dtype=torch.long)  # (n,), each row's last
        self._positions = torch.empty(0)  # (n, …, 1), those of the last tokens
        self._cache = self._new_cache()

    def add(self, request: Request) -> int:
        """Queue a request; returns the number of its row."""
        self._waiting.append(_Row(self._added, request))
        self._added += 1
        return self._waiting[-1].number

    def cancel(self, row: int) -> None:
        """Forget a row; nothing happens if it has ended."""
        self._waiting = [waiting for waiting in self._waiting if waiting.number != row]
        self._remove([i for i, running in enumerate(self._running) if running.number == row])

    @property
    def is_busy(self) -> bool:
        """Whether a row is running or waiting."""
        return bool(self._waiting or self._running)

    @torch.no_grad()
    def step(self) -> list[Event]:
        """One token for every running row, those included that join now; [] if there is none.

        Raises WeightsError when a row's logits are not finite: every answer would be nonsense.
        """
        hidden = [self._decode()] if self._running else []
        hidden += [self._prefill(group) for group in prompt_groups(self._joining())]
        if not hidden:
            return []
        self._tokens, margins = self._choose(torch.cat(hidden))
        events = [
            row.accept(token, margin)
            for row, token, margin in zip(
                self._running, self._tokens.tolist(), margins.tolist(), strict=True
            )
        ]
        self._remove([place for place, event in enumerate(events) if event.end is not None])
        return events

    def _joining(self) -> list[_Row]:
        """The rows that leave the queue now."""
        free = self._slots - len(self._running)
        if free < min(len(self._waiting), max(1, self._slots * JOINING_SHARE)):
            return []
        joining, self._waiting = self._waiting[:free], self._waiting[free:]
        return joining

    def _decode(self) -> torch.Tensor:
        """The last hidden states (n, hidden) of the running rows."""
        self._positions = self._model.next_position_ids(self._positions)
        self._cache.begin_step(self._model.device)
        return self._forward(self._tokens[:, None], self._positions, self._cache)[:, -1]

    def _prefill(self, rows: list[_Row]) -> torch.Tensor:
        """The last hidden states (new rows, hidden) of prompts, which join the batch."""
        prompts = [torch.tensor(row.request.ids) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(self._model.device)
        lengths = [len(prompt) for prompt in prompts]
        last = torch.tensor(lengths, device=ids.device) - 1
        places = torch.arange(len(rows), device=ids.device)
        positions = self._model.prompt_position_ids(ids)
        hidden = self._forward(ids, positions, self._cache.add_rows(lengths))[places, last]
        new = positions.movedim(-1, 1)[places, last][..., None]
        self._positions = torch.cat((self._positions, new)) if self._running else new
        self._running += rows
        return hidden

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        return self._model.transformer(ids, None, positions, cache, None)

    def _choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next tokens of all rows (n,), and the margins of their best logits (n,)."""
        head = self._model.get_output_embeddings()
        sampled = [i for i, row in enumerate(self._running) if row.request.sampler is not None]
        if not sampled:
            best = top_candidates(hidden, head, 2)
            return best.ids[:, 0], _margins(best)
        greedy = [i for i, row in enumerate(self._running) if row.request.sampler is None]
        tokens = hidden.new_empty(len(hidden), dtype=torch.long)
        margins = hidden.new_empty(len(hidden), dtype=torch.float32)
        if greedy:
            best = top_candidates(hidden[greedy], head, 2)
            tokens[greedy], margins[greedy] = best.ids[:, 0], _margins(best)
        best = top_candidates(hidden[sampled], head, TOP_K)
        tokens[sampled], margins[sampled] = self._sample(sampled, best), _margins(best)
        return tokens, margins

    def _sample(self, places: list[int], best: Candidates) -> torch.Tensor:
        rows = [self._running[place] for place in places]
        samplers = [row.request.sampler for row in rows if row.request.sampler is not None]
        uniforms = torch.tensor([next(row.uniforms) for row in rows], device=best.ids.device)
        return sample(best, samplers, uniforms)

    def _remove(self, places: list[int]) -> None:
        """Remove the rows at these places of the batch."""
        if not places:
            return
        order = self._cache.remove_rows(places)
        self._running = [self._running[place] for place in order]
        self._tokens, self._positions = self._tokens[order], self._positions[order]

    def _new_cache(self) -> SlotCache:
        encoder = prefix_holder(self._model).prefix_encoder
        if encoder is None:
            return SlotCache()
        with torch.no_grad():
            embeddings = self._model.get_input_embeddings().weight
            return SlotCache(encoder(1, working_dtype(embeddings)))


def answer(model: Any, request: Request) -> list[int]:
    """The token ids that answer one request, without the stop token."""
    engine = Engine(model, slots=1)
    engine.add(request)
    ids = []
    while engine.is_busy:
        (event,) = engine.step()
        ids += [event.token] if event.end != "stop" else []
    return ids


def prompt_groups(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows in groups of similar length, longest first, whose prompts are computed together."""
    group: list[_Row] = []
    for row in sorted(rows, key=lambda row: -len(row.request.ids)):
        if group:
            longest = len(group[0].request.ids)
            tokens = longest * (len(group) + 1)
            if tokens > PROMPT_TOKENS or len(row.request.ids) < longest * (1 - PADDING_SHARE):
                yield group
                group = []
        group.append(row)
    if group:
        yield group


def _margins(best: Candidates) -> torch.Tensor:
    """How far each best logit is above the second, (n,); WeightsError if one is not finite."""
    if not bool(best.logits[:, 0].isfinite().all()):
        raise WeightsError(
            "the model produced NaN or inf logits; expected finite ones: the usual causes are "
            "damaged weights or a training that diverged; look at its loss curve, or fetch the "
            "weights again"
        )
    return best.logits[:, 0] - best.logits[:, 1]
