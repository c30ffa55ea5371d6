"""One question, answered as the official chat() does."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from glmtune.families.conversation import Message, Turn
from glmtune.families.tokenizers import Tokenizer
from glmtune.generation.engine import Request, answer
from glmtune.generation.sampling import Sampler


def chat(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    query: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_new_tokens: int = 512,
    do_sample: bool = False,
    top_p: float = 0.8,
    temperature: float = 0.8,
    seed: int = 0,
) -> str:
    """The answer to `query` after `history`, messages or (question, answer) turns.

    Greedy unless `do_sample`; the official chat() samples with top_p and temperature 0.8
    (ChatGLM-6B: 0.7 and 0.95). The prompt, where the answer stops and how it is shown are its own.
    Runs on the model's device in its dtype: `load_model` chooses them.
    """
    sampler = Sampler(temperature, top_p, (seed, 0)) if do_sample else None
    prompt = tokenizer.chat_prompt_ids(query, history)
    ids = answer(model, Request(prompt, max_new_tokens, tokenizer.stop_token_ids, sampler))
    return tokenizer.process_response(tokenizer.decode(ids))
