"""Answers to one batch of prompts, token by token; rows that have ended leave the batch.

Gives the greedy ids of transformers' `generate()`, which keeps every row to the end of the longest.
Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from glmtune.errors import WeightsError
from glmtune.generation.sampling import Choose
from glmtune.modeling.kv_cache import DecodingCache

# Ended rows leave when they are this share of the batch: leaving copies the others' cache.
LEAVING_SHARE = 1 / 8


@dataclass
class Answer:
    """The ids of an answer without the stop token; `finished` if there was one."""

    ids: list[int] = field(default_factory=list)
    finished: bool = False

    def add(self, token: int, limit: int, stop_ids: Collection[int]) -> bool:
        """Append a token; returns whether the answer goes on."""
        self.finished = token in stop_ids
        if not self.finished:
            self.ids.append(token)
        return not self.finished and len(self.ids) < limit


@torch.no_grad()
def decode_batch(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    limits: Sequence[int],
    stop_ids: Collection[int],
    choose: Choose,
) -> list[Answer]:
    """Answer prompts (b, s), padded on the left, row i with at most `limits[i]` tokens.

    Raises WeightsError when the model's scores are no numbers: every answer would be nonsense.
    """
    answers = [Answer() for _ in limits]
    batch = _Batch(model, input_ids, attention_mask)
    for step in range(max(limits)):
        logits = batch.next_logits()
        if step == 0 and not bool(logits.isfinite().all()):
            raise WeightsError(
                "the model's scores for the next token are not numbers; expected finite ones: the "
                "usual causes are damaged weights, or a training that went wrong; look at its loss "
                "curve, or fetch the weights again"
            )
        ids = choose(logits, batch.rows, step)
        goes_on = [
            row not in batch.ended and answers[row].add(token, limits[row], stop_ids)
            for row, token in zip(batch.rows, ids.tolist(), strict=True)
        ]
        if not any(goes_on):
            break
        batch.advance(ids, goes_on)
    return answers


class _Batch:
    """The rows that are still answered, and what the model needs for their next token."""

    def __init__(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        self.model = model
        self.rows = list(range(len(input_ids)))
        self.ended: set[int] = set()
        self.cache = DecodingCache()
        self.tokens = input_ids
        # As `generate()` keeps them: the generations count positions differently.
        self.state = {"attention_mask": attention_mask}
        self.state["position_ids"] = model._prepare_position_ids_for_generation(
            input_ids, self.state
        )

    def next_logits(self) -> torch.Tensor:
        """Logits (rows, vocabulary) in fp32 of the next token."""
        output = self.model(
            self.tokens,
            attention_mask=self.state["attention_mask"],
            position_ids=self.state["position_ids"][..., -self.tokens.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def advance(self, ids: torch.Tensor, goes_on: Sequence[bool]) -> None:
        """Append the chosen ids (rows,); leave out ended rows once they are many enough."""
        self.tokens = ids[:, None]
        self.state = self.model._update_model_kwargs_for_generation({}, self.state)
        places = [place for place, value in enumerate(goes_on) if value]
        if len(self.rows) - len(places) < LEAVING_SHARE * len(self.rows):
            self.ended = {row for row, value in zip(self.rows, goes_on, strict=True) if not value}
            return
        kept = torch.tensor(places, device=ids.device)
        self.cache.keep_rows(kept)
        self.tokens = self.tokens[kept]
        self.state = {name: tensor[kept] for name, tensor in self.state.items()}
        self.rows, self.ended = [self.rows[place] for place in places], set()
