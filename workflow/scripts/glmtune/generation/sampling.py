"""Which token comes next: the likeliest, or one drawn by chance.

A drawn answer depends on the seed and on the row's number only, not on the batch it is in: every
row brings random numbers of its own, one for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from glmtune.generation.settings import Decoding

# (logits (n, vocabulary) in fp32, the n rows of the batch they belong to, how many tokens each has
# so far) -> ids (n,)
Choose = Callable[[torch.Tensor, Sequence[int], int], torch.Tensor]

# transformers draws from the 50 likeliest tokens unless told otherwise, and the official scripts
# do not tell it otherwise.
TOP_K = 50


def likeliest(logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
    """Greedy decoding."""
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class Draw:
    """Sampling as transformers does it: temperature, then top-k, then top-p."""

    # In [0, 1): (rows of the batch, most new tokens).
    chances: torch.Tensor
    temperature: float
    top_p: float

    @classmethod
    def for_rows(cls, numbers: Sequence[int], length: int, settings: Decoding) -> Draw:
        """For rows of these numbers and answers up to `length`."""
        chances = [np.random.default_rng((settings.seed, n)).random(length) for n in numbers]
        return cls(
            torch.from_numpy(np.stack(chances)).float(), settings.temperature, settings.top_p
        )

    def __call__(self, logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
        """The token whose part of the line from 0 to 1 the row's chance falls into."""
        scores, ids = logits.topk(min(TOP_K, logits.shape[-1]))  # the likeliest first
        shares = (scores / self.temperature).softmax(dim=-1)
        # A token stays if those before it do not fill top_p: the first always does.
        shares = shares.where(shares.cumsum(dim=-1) - shares < self.top_p, 0)
        ends = shares.cumsum(dim=-1)
        chances = self.chances[list(rows), step, None].to(ends.device) * ends[:, -1:]
        place = (ends <= chances).sum(dim=-1, keepdim=True)
        # Rounded up to 1, a chance would fall behind the last token.
        last = (shares > 0).sum(dim=-1, keepdim=True) - 1
        return ids.gather(1, place.minimum(last))[:, 0]
