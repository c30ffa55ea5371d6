"""One question, answered as the official chat() does."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from glmtune.families.conversation import Message, Turn
from glmtune.families.tokenizers import Tokenizer
from glmtune.generation.batches import answer_batch
from glmtune.generation.settings import Decoding


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
    It is computed on the model's device in its dtype: `load_model` chooses them.
    """
    settings = Decoding(do_sample=do_sample, top_p=top_p, temperature=temperature, seed=seed)
    prompt = tokenizer.chat_prompt_ids(query, history)
    (answer,) = answer_batch(
        model, tokenizer, [prompt], settings, numbers=[0], limits=[max_new_tokens]
    )
    return tokenizer.process_response(tokenizer.decode(answer.ids))
