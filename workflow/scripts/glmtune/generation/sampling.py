"""Which token comes next: the one with the highest logit, or a random one.

A sampled answer depends on its sampler's seed only, not on the batch it is in: every row has random
numbers of its own, one for each token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from glmtune.modeling.linear import is_plain, product
from glmtune.modeling.packing import PART, PackedLinear

# transformers samples from the 50 tokens with the highest logits unless told otherwise, and the
# official scripts do not tell it otherwise.
TOP_K = 50
BLOCK = 64  # words


@dataclass(frozen=True)
class Sampler:
    """Sampling as transformers does it: temperature, then top-k, then top-p."""

    temperature: float
    top_p: float
    seed: int | tuple[int, ...]

    def uniforms(self) -> Iterator[float]:
        """Random numbers in [0, 1), one for each token of an answer."""
        random = np.random.default_rng(self.seed)
        while True:
            yield float(random.random())


@dataclass(frozen=True)
class Candidates:
    """The highest logits of n rows in fp32 and their token ids, (n, k) each, in falling order.

    Of two candidates the second has no id of its own: it only shows how close it is.
    """

    logits: torch.Tensor
    ids: torch.Tensor


def top_candidates(hidden: torch.Tensor, head: nn.Module, count: int) -> Candidates:
    """The `count` best next tokens of hidden states (n, hidden); of equal ones the lowest id first.

    On a CPU the output layer is applied to a part of the vocabulary at a time: the logits are
    reduced while they are in the processor's cache and are never stored as a whole.
    """
    best: Candidates | None = None
    for start, logits in logits_in_parts(hidden, head):
        found = _top_two(logits) if count == 2 else _top(logits, count)
        found = Candidates(found.logits.float(), found.ids + start)
        best = found if best is None else _merge(best, found, count)
    assert best is not None, "a vocabulary has words"
    return best


def sample(
    candidates: Candidates, samplers: Sequence[Sampler], uniforms: torch.Tensor
) -> torch.Tensor:
    """A token id for each row (n,), chosen by its number in [0, 1) among its candidates."""
    temperature, top_p = (
        torch.tensor(values, device=uniforms.device)[:, None]
        for values in ([s.temperature for s in samplers], [s.top_p for s in samplers])
    )
    shares = (candidates.logits / temperature).softmax(dim=-1)
    # A token stays if those before it do not fill top_p: the first always does.
    shares = shares.where(shares.cumsum(dim=-1) - shares < top_p, 0)
    cumulative = shares.cumsum(dim=-1)
    place = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
    # Rounded up to 1, a number would fall behind the last token.
    last = (shares > 0).sum(dim=-1, keepdim=True) - 1
    return candidates.ids.gather(1, place.minimum(last))[:, 0]


def logits_in_parts(hidden: torch.Tensor, head: nn.Module) -> Iterator[tuple[int, torch.Tensor]]:
    """(first token id, logits) of each part of the vocabulary."""
    if isinstance(head, PackedLinear):
        yield from head.in_parts(hidden)
    elif hidden.device.type != "cpu" or not is_plain(head) or head.bias is not None:
        yield 0, head(hidden)  # an adapter on the head has to be called
    else:
        for start in range(0, len(head.weight), PART):
            yield start, product(hidden, head.weight[start : start + PART])


def _top_two(logits: torch.Tensor) -> Candidates:
    """As `_top`, the lowest id first among equal logits, which topk leaves open.

    Maxima of blocks first, then of one block in each row: on a CPU a search for values is several
    times as fast as one for places. NaN counts as the highest, so that it is seen.
    """
    words = logits.shape[-1]
    blocks = logits.unflatten(-1, (-1, BLOCK if words % BLOCK == 0 else words))  # (n, blocks, size)
    highest = blocks.amax(dim=-1)
    block = highest.argmax(dim=-1, keepdim=True)
    inside = blocks.take_along_dim(block[..., None], dim=1)[:, 0]  # (n, size)
    first, place = inside.max(dim=-1, keepdim=True)
    inside = inside.scatter(1, place, -torch.inf)
    others = highest.scatter(1, block, inside.amax(dim=-1, keepdim=True))
    second = others.amax(dim=-1, keepdim=True)
    ids = block * blocks.shape[-1] + place
    return Candidates(torch.cat((first, second), 1), torch.cat((ids, ids), 1))


def _top(logits: torch.Tensor, count: int) -> Candidates:
    return Candidates(*logits.topk(min(count, logits.shape[-1])))


def _merge(best: Candidates, found: Candidates, count: int) -> Candidates:
    logits, ids = torch.cat((best.logits, found.logits), 1), torch.cat((best.ids, found.ids), 1)
    order = logits.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return Candidates(logits.gather(1, order), ids.gather(1, order))
