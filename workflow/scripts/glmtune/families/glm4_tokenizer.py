"""GLM-4's tokenizer: byte-pair pieces, fourteen special tokens behind them, prompts of messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmtune.errors import DataError, WeightsError
from glmtune.families.base_tokenizer import MessageTokenizer
from glmtune.families.byte_vocabulary import ByteVocabulary, Ranks, read_ranks
from glmtune.families.conversation import ROLES, Message, shown_content
from glmtune.families.tool_calls import call_as_json
from glmtune.families.vocabulary import read_optional_config

# How tools are described, before and behind a list of them (chat template of glm-4-9b-chat).
TOOLS_HEADING = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
TOOLS_USE = "在调用上述函数时，请使用 Json 格式表示调用的参数。"


class GLM4Tokenizer(MessageTokenizer):
    """GLM-4-9B, Base and Chat: lossless byte-level BPE; prompts are messages."""

    file_name = "tokenizer.model"
    COMMANDS = (
        *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
        *(f"<|{role}|>" for role in ROLES),
        *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    )

    def __init__(self, ranks: Ranks) -> None:
        self._vocabulary = ByteVocabulary(ranks, self.COMMANDS)
        self.ranks = ranks
        self.special_ids = self._vocabulary.command_ids
        self.prefix_ids = [self.special_ids["[gMASK]"], self.special_ids["<sop>"]]
        self.eos_token_id = self.special_ids["<|endoftext|>"]
        self.pad_token_id = self.eos_token_id
        # An answer of a conversation ends where the next question begins.
        self.answer_end_id = self.special_ids["<|user|>"]
        others = (self.answer_end_id, self.special_ids["<|observation|>"])
        self.stop_token_ids = (self.eos_token_id, *others)
        self.vocab_size = self._vocabulary.size
        self.spelled_ids = self._vocabulary.spelled_ids()

    @classmethod
    def from_file(cls, file: Path) -> GLM4Tokenizer:
        """The tokenizer with the vocabulary in `file`; WeightsError if it is none.

        Special tokens follow the last piece, so a file that was cut off moves them: compared with
        the list in tokenizer_config.json, if there is one beside it.
        """
        tokenizer = cls(read_ranks(file))
        for name, expected in _listed_ids(file.parent / "tokenizer_config.json").items():
            found = tokenizer.special_ids.get(name, expected)
            if found != expected:
                raise WeightsError(
                    f"{file}: {len(tokenizer.ranks)} pieces, so {name} is token {found}; expected "
                    f"token {expected}, as tokenizer_config.json lists it; the download was cut "
                    "off, or the files are of two models: download both again"
                )
        return tokenizer

    def message_ids(self, message: Message) -> list[int]:
        """One message: role token, metadata line, content; tools are a system message before it."""
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise DataError(f"unknown role {role!r}; choose from {', '.join(ROLES)}")
        if not message.get("tools"):
            metadata = message.get("metadata", "")
            return self._said(role, metadata, call_as_json(content) if metadata else content)
        described = self._said("system", "", describe_tools(message["tools"]))
        return described + self._said(role, "", content) if content else described

    def process_response(self, text: str) -> str:
        """The answer as the official chat() shows it: without the empty metadata line."""
        return shown_content(text)

    def _said(self, role: str, metadata: str, content: str) -> list[int]:
        # Encoded apart, as in the official code: a line break at the start of a content stays one.
        header = self._vocabulary.encode(metadata + "\n")
        return [self.special_ids[f"<|{role}|>"], *header, *self._vocabulary.encode(content)]


def _listed_ids(file: Path) -> dict[str, int]:
    """The ids of special tokens that a tokenizer_config.json lists; {} if it lists none."""
    listed = read_optional_config(file).get("added_tokens_decoder")
    tokens = listed.items() if isinstance(listed, dict) else ()
    return {
        str(token.get("content")): int(i)
        for i, token in tokens
        if isinstance(token, dict) and str(i).isdecimal()
    }


def describe_tools(tools: Sequence[Any]) -> str:
    """The text of the system message that offers tools; DataError for one without a name."""
    parts = [TOOLS_HEADING]
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise DataError(
                "tools: one without a name; expected {name, description, parameters}, or it as the "
                "value of `function`; add the name"
            )
        described = json.dumps(function, indent=4, ensure_ascii=False)
        parts.append(f"\n\n## {name}\n\n{described}\n{TOOLS_USE}")
    return "".join(parts)
