"""GLM-4-9B: messages with roles as its finetune_demo lays them out, ChatGLM2's architecture.

Of a conversation all answers are targets, and so is the token that begins the next message; the
last answer ends with `<|user|>`, as a chat would go on. GLM-4-9B-Chat and -Chat-1M are the same
family: their config.json differs in `seq_length`, `rope_ratio` and the number of groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glmtune.families import chatglm2
from glmtune.families.byte_vocabulary import ranks_as_lines, train_ranks
from glmtune.families.chatglm3 import finetune_demo, make_template
from glmtune.families.family import by_name, write_trained_vocabulary
from glmtune.families.glm4_tokenizer import GLM4Tokenizer
from glmtune.families.tool_calls import call_as_json

# config.json of THUDM/glm-4-9b-chat, without its remote code.
REAL_CONFIG: dict[str, Any] = chatglm2.REAL_CONFIG | {
    "_name_or_path": "THUDM/glm-4-9b-chat",
    "eos_token_id": [151329, 151336, 151338],
    "layernorm_epsilon": 1.5625e-07,
    "num_layers": 40,
    "pad_token_id": 151329,
    "padded_vocab_size": 151552,
    "rope_ratio": 500,
    "seq_length": 131072,
    "torch_dtype": "bfloat16",
}

TEMPLATES = by_name(make_template("finetune-demo", finetune_demo, call_as_json))


def train_tokenizer(texts: Iterable[str], folder: Path | str, *, vocab_size: int) -> None:
    """Write a byte-level BPE vocabulary of `vocab_size` pieces, besides bytes and special ones."""
    content = ranks_as_lines(train_ranks(texts, pieces=vocab_size))
    settings = {
        "name_or_path": "glmtune/glm-4-9b-miniature",
        "tokenizer_class": "ChatGLM4Tokenizer",
        "padding_side": "left",
    }
    write_trained_vocabulary(folder, GLM4Tokenizer.file_name, content, settings)


def miniature_config(
    tokenizer: GLM4Tokenizer, *, hidden_size: int, num_layers: int, num_heads: int
) -> dict[str, Any]:
    """The config of a tiny model around a trained vocabulary."""
    shape = chatglm2.shrink(tokenizer, hidden_size, num_layers, num_heads)
    own = {
        "_name_or_path": "glmtune/glm-4-9b-miniature",
        "eos_token_id": list(tokenizer.stop_token_ids),
    }
    return REAL_CONFIG | shape | own
