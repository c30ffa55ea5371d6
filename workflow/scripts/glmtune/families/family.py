"""The definition of a model family: its texts, architecture and names.

Everything that differs between families is a field here, so no other code depends on a particular
family. Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.errors import ParamsError
from glmtune.families.tokenizers import Tokenizer
from glmtune.files import atomic_path, write_json

# [gMASK], <sop>, an end token, and at least one token of text.
SHORTEST_LIMIT = 4


@dataclass(frozen=True)
class Example:
    """One training row, unpadded: labels[i] is input_ids[i] or IGNORED_LABEL; the model shifts."""

    input_ids: list[int]
    labels: list[int]
    # Lengths before truncation, counted like the limits: the prompt of the last answer, and all
    # targets; with the whole history even if it is shortened.
    prompt_tokens: int = 0
    answer_tokens: int = 0
    # Whether generation would get only part of that prompt, and whether targets are missing.
    prompt_is_cut: bool = False
    answer_is_cut: bool = False
    # Whether the oldest turns were dropped so that the question fits (`long_history`).
    history_is_shortened: bool = False


@dataclass(frozen=True)
class Template:
    """How one official training script lays out prompts and answers as tokens."""

    # The name in params.yaml, e.g. "thudm-ptuning".
    name: str
    # "every answer" or "last answer" of a multi-turn conversation.
    trains_on: str
    # (tokenizer, query, history=(), *, max_source_tokens) -> the ids for generate(), including
    # special tokens. `history` is a sequence of messages or (query, answer) turns.
    encode_prompt: Callable[..., list[int]]
    # (tokenizer, query, answer, history=(), *, max_source_tokens, max_target_tokens)
    encode_example: Callable[..., Example]
    # (tokenizer, answer, *, max_target_tokens) -> the reference ids of the official evaluation.
    encode_reference: Callable[..., list[int]]
    # Whether prompts support calls and observations; then encode_prompt and encode_example also
    # accept `role`, the role of the query, and encode_example `metadata`, the called tool.
    takes_tools: bool = False
    # (content of a call as data sets have it, ChatGLM3's form) -> as this family writes it.
    written_call: Callable[[str], str] = str


@dataclass(frozen=True)
class Family:
    """One model family, such as ChatGLM2-6B."""

    # The key in FAMILIES and params.yaml, e.g. "chatglm2-6b".
    name: str
    # The name shown in reports, e.g. "ChatGLM2-6B".
    title: str
    # Its `file_name` is the name of the vocabulary file in a model folder.
    tokenizer_class: type[Tokenizer]
    # By name; the first is the default.
    templates: dict[str, Template]
    # (texts, folder, *, vocab_size) -> None: writes a small vocabulary in the family's format,
    # which load_tokenizer recognizes.
    train_tokenizer: Callable[..., None]
    # The published config.json of the 6B model, without the keys for remote code.
    real_config: dict[str, Any]
    # (tokenizer, *, hidden_size, num_layers, num_heads) -> a tiny config with the same keys.
    miniature_config: Callable[..., dict[str, Any]]
    # The meaning of `rope_ratio` in config.json: it divides positions (True; ChatGLM2-6B-32K) or
    # multiplies the rotary base (False; ChatGLM3-6B-32K and -128K, GLM-4-9B-Chat).
    interpolates_positions: bool = False
    # The vocabulary's name in folders of transformers' own layout, which lack the official one.
    other_vocabulary: str | None = None
    # What a server says before a list of tools that comes without a system message.
    tools_introduction: str = ""

    def template(self, name: str | None = None) -> Template:
        """The template of that name, by default the first; ParamsError lists the choices."""
        if name is None:
            return next(iter(self.templates.values()))
        if name not in self.templates:
            raise ParamsError(
                f"unknown template {name!r} of {self.name}; choose from {', '.join(self.templates)}"
            )
        return self.templates[name]


def by_name(*templates: Template) -> dict[str, Template]:
    """Index templates by name, for `Family.templates`."""
    return {template.name: template for template in templates}


def check_limits(
    max_source_tokens: int = SHORTEST_LIMIT, max_target_tokens: int = SHORTEST_LIMIT
) -> None:
    """Refuse limits that leave no room for a text token besides the special tokens."""
    limits = {"max_source_tokens": max_source_tokens, "max_target_tokens": max_target_tokens}
    for name, limit in limits.items():
        if limit < SHORTEST_LIMIT:
            raise ParamsError(
                f"{name}: {limit}; expected at least {SHORTEST_LIMIT}, room for the special tokens"
            )


def head_size(hidden_size: int, num_heads: int) -> int:
    """The width of one attention head; rotary embeddings need a multiple of 4."""
    size, rest = divmod(hidden_size, num_heads)
    if rest or size % 4:
        raise ParamsError(
            f"hidden_size: {hidden_size} with {num_heads} heads; "
            f"expected a multiple of 4 * num_heads = {4 * num_heads}"
        )
    return size


def round_up(size: int) -> int:
    """The next multiple of 8, e.g. 1505 -> 1512."""
    return -(-size // 8) * 8


def write_trained_vocabulary(
    folder: Path | str, file_name: str, content: bytes, settings: dict[str, Any]
) -> None:
    """Write a trained vocabulary and its tokenizer_config.json into a model folder."""
    folder = Path(folder)
    with atomic_path(folder / file_name) as temporary:
        temporary.write_bytes(content)
    write_json(folder / "tokenizer_config.json", settings)
