"""The official tokenizers, as small classes; here the three around sentencepiece.

All, GLM-4's in `glm4_tokenizer.py` too, have `from_file`, `encode`, `decode`, `chat_prompt_ids`,
`process_response`, `special_ids`, `pad_token_id`, `eos_token_id`, `stop_token_ids`, `spelled_ids`
and `vocab_size`. They know nothing about models, lengths, labels or padding, and import neither
torch nor transformers. Every id comes from the vocabulary file. `glmtune.families.loading` loads
the tokenizer of a model folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from glmtune.errors import DataError, WeightsError
from glmtune.families.base_tokenizer import CommandTokenizer, MessageTokenizer
from glmtune.families.conversation import (
    ROLES,
    TRAINING_TIME,
    Message,
    Turn,
    as_rounds,
    shown_content,
)
from glmtune.families.glm4_tokenizer import GLM4Tokenizer
from glmtune.families.vocabulary import has_piece, read_vocabulary, spelled_ids


class ChatGLMTokenizer:
    """ChatGLM-6B: NFKC normalization, special pieces for line breaks, tabs and runs of spaces.

    Prompts end with `[gMASK] <sop>`. As in the official tokenizer, the five TEXT_SPECIALS are
    recognized inside a text (users type a `[MASK]` to fill in) and absorb the whitespace around
    them; other special tokens in a text stay plain text.
    """

    file_name = "ice_text.model"
    TEXT_SPECIALS = ("[MASK]", "<sop>", "<eop>", "<unk>", "<pad>")
    SPECIALS = (*TEXT_SPECIALS, "[gMASK]")
    LINE_BREAK, TAB, LONGEST_BLANK = "<n>", "<|tab|>", 80

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self._processor = processor
        self.special_ids = {name: processor.piece_to_id(name) for name in self.SPECIALS}
        self.mask_token_id = self.special_ids["[MASK]"]
        self.gmask_token_id = self.special_ids["[gMASK]"]
        self.bos_token_id = self.special_ids["<sop>"]
        self.eos_token_id = self.special_ids["<eop>"]
        self.pad_token_id = self.special_ids["<pad>"]
        self.stop_token_ids = (self.eos_token_id,)
        self.vocab_size = processor.get_piece_size()
        self.spelled_ids = spelled_ids(processor)
        self._specials_in_text = re.compile(f"({'|'.join(map(re.escape, self.TEXT_SPECIALS))})")
        # Dropped by decode(skip_special_tokens=True).
        self._skipped = {i for i in range(self.vocab_size) if processor.is_control(i)}
        self._skipped.add(processor.unk_id())

    @classmethod
    def from_file(cls, file: Path) -> ChatGLMTokenizer:
        """The tokenizer with the vocabulary in `file`; WeightsError if it is none of this model."""
        processor = read_vocabulary(file)
        if missing := [name for name in cls.SPECIALS if not has_piece(processor, name)]:
            raise WeightsError(
                f"{file}: no token {', '.join(missing)}; expected the vocabulary of the current "
                "ChatGLM-6B revision; the file is incomplete or belongs to another model: download "
                "it again"
            )
        return cls(processor)

    def encode(
        self, text: str, add_special_tokens: bool = True, *, add_dummy_prefix: bool = True
    ) -> list[int]:
        """The ids of `text`, then `[gMASK] <sop>`; without the dummy prefix, no leading space."""
        ids: list[int] = []
        parts = self._specials_in_text.split(text)
        for position, part in enumerate(parts):
            if position % 2:  # re.split puts the separators at odd positions
                ids.append(self.special_ids[part])
                continue
            part = part.lstrip() if position > 0 else part
            part = part.rstrip() if position < len(parts) - 1 else part
            if part:
                ids += self._plain_ids(part, add_dummy_prefix)
        return ids + [self.gmask_token_id, self.bos_token_id] if add_special_tokens else ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids beyond the vocabulary (padded model rows) have no text."""
        known = [i for i in map(int, ids) if 0 <= i < self.vocab_size]
        if skip_special_tokens:
            known = [i for i in known if i not in self._skipped]
        return _restore_white_space(self._processor.decode(known))

    def chat_prompt(self, query: str, history: Sequence[Turn | Message] = ()) -> str:
        """The official chat prompt: the bare query or, with history, rounds numbered from 0."""
        query, turns = as_rounds(query, history)
        if not turns:
            return query
        rounds = "".join(
            f"[Round {number}]\n问：{old_query}\n答：{answer}\n"
            for number, (old_query, answer) in enumerate(turns)
        )
        return f"{rounds}[Round {len(turns)}]\n问：{query}\n答："

    def chat_prompt_ids(self, query: str, history: Sequence[Turn | Message] = ()) -> list[int]:
        """The ids that the official chat() generates from."""
        return self.encode(self.chat_prompt(query, history))

    def process_response(self, text: str) -> str:
        """The answer as displayed by the official chat(), with full-width marks next to Chinese.

        Example: "好,好" -> "好，好" and "a,b" -> "a,b"
        """
        text = text.strip().replace(*TRAINING_TIME)
        for narrow, wide in zip(",!:;?", "，！：；？", strict=True):
            narrow = re.escape(narrow)
            text = re.sub(rf"([\u4e00-\u9fff]){narrow}", rf"\1{wide}", text)
            text = re.sub(rf"{narrow}([\u4e00-\u9fff])", rf"{wide}\1", text)
        return text

    def _plain_ids(self, text: str, add_dummy_prefix: bool) -> list[int]:
        text = mark_white_space(text)
        if add_dummy_prefix:
            return self._processor.encode(text)
        # Sentencepiece's dummy space attaches to a line break; both are removed again.
        return self._processor.encode(self.LINE_BREAK + text)[2:]


class ChatGLM2Tokenizer(CommandTokenizer):
    """ChatGLM2-6B: lossless BPE; prompts begin with `[gMASK] sop` and are numbered rounds."""

    file_name = "tokenizer.model"
    COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self._vocabulary = CommandVocabulary(processor, self.COMMANDS)
        self.special_ids = self._vocabulary.command_ids
        self.prefix_ids = [self.special_ids["[gMASK]"], self.special_ids["sop"]]
        self.pad_token_id = processor.unk_id()  # 0, as in the official tokenizer
        self.eos_token_id = processor.eos_id()
        self.stop_token_ids = (self.eos_token_id,)
        self.vocab_size = self._vocabulary.size
        self.spelled_ids = spelled_ids(processor)

    @classmethod
    def from_file(cls, file: Path) -> ChatGLM2Tokenizer:
        """The tokenizer with the vocabulary in `file`; WeightsError if it is none of this model."""
        return cls(read_vocabulary(file))

    def chat_prompt(self, query: str, history: Sequence[Turn | Message] = ()) -> str:
        """The official chat prompt: rounds numbered from 1, including the first."""
        query, turns = as_rounds(query, history)
        rounds = "".join(
            f"[Round {number}]\n\n问：{old_query}\n\n答：{answer}\n\n"
            for number, (old_query, answer) in enumerate(turns, start=1)
        )
        return f"{rounds}[Round {len(turns) + 1}]\n\n问：{query}\n\n答："

    def chat_prompt_ids(self, query: str, history: Sequence[Turn | Message] = ()) -> list[int]:
        """The ids that the official chat() generates from."""
        return self.encode(self.chat_prompt(query, history))

    def process_response(self, text: str) -> str:
        """The answer as displayed by the official chat()."""
        return text.strip().replace(*TRAINING_TIME)


class ChatGLM3Tokenizer(MessageTokenizer):
    """ChatGLM3-6B: the vocabulary of ChatGLM2-6B and role tokens; prompts are messages."""

    file_name = "tokenizer.model"
    COMMANDS = (*ChatGLM2Tokenizer.COMMANDS, *(f"<|{role}|>" for role in ROLES))

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self._vocabulary = CommandVocabulary(processor, self.COMMANDS)
        self.special_ids = self._vocabulary.command_ids
        self.prefix_ids = [self.special_ids["[gMASK]"], self.special_ids["sop"]]
        self.pad_token_id = processor.unk_id()  # 0, as in the official tokenizer
        self.eos_token_id = processor.eos_id()
        self.answer_end_id = self.eos_token_id
        # The official chat() also stops where another role begins.
        others = (self.special_ids["<|user|>"], self.special_ids["<|observation|>"])
        self.stop_token_ids = (self.eos_token_id, *others)
        self.vocab_size = self._vocabulary.size
        self.spelled_ids = spelled_ids(processor)

    @classmethod
    def from_file(cls, file: Path) -> ChatGLM3Tokenizer:
        """The tokenizer with the vocabulary in `file`; WeightsError if it is none of this model."""
        return cls(read_vocabulary(file))

    def message_ids(self, message: Message) -> list[int]:
        """One message: role token, metadata line, content; a system message may list tools."""
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise DataError(f"unknown role {role!r}; choose from {', '.join(ROLES)}")
        if role == "system" and "tools" in message:
            content += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
        # Encoded separately, as in the official code: the content has its own dummy space.
        header = self._vocabulary.encode(message.get("metadata", "") + "\n")
        return [self.special_ids[f"<|{role}|>"], *header, *self._vocabulary.encode(content)]

    def process_response(self, text: str) -> str:
        """The answer as the official chat() shows it: without the empty metadata line."""
        return shown_content(text)


class CommandVocabulary:
    """Sentencepiece ids `0 … n-1`, then command tokens `n, n+1, …` that no text can produce."""

    def __init__(self, processor: SentencePieceProcessor, commands: Sequence[str]) -> None:
        self._processor = processor
        self._text_size = processor.get_piece_size()
        self.command_ids = {name: self._text_size + i for i, name in enumerate(commands)}
        self._names = {i: name for name, i in self.command_ids.items()}
        self.size = self._text_size + len(commands)
        # <unk> doubles as padding, so it has no text.
        self._silent = {processor.unk_id(), processor.bos_id(), processor.eos_id()}

    def encode(self, text: str) -> list[int]:
        """The sentencepiece ids of `text`."""
        return self._processor.encode(text)

    def decode(self, ids: Iterable[int], skip_commands: bool) -> str:
        """The text of `ids`, including the names of commands unless they are skipped."""
        pieces = []
        for i in map(int, ids):
            if 0 <= i < self._text_size and i not in self._silent:
                pieces.append(self._processor.id_to_piece(i))
            elif i in self._names and not skip_commands:
                pieces.append(self._names[i])
        return self._processor.decode_pieces(pieces)


Tokenizer = ChatGLMTokenizer | ChatGLM2Tokenizer | ChatGLM3Tokenizer | GLM4Tokenizer


def mark_white_space(text: str) -> str:
    r"""Replace whitespace with ChatGLM-6B's special pieces, longest runs of spaces first.

    Example: "a\n  b" -> "a<n><|blank_2|>b"
    """
    text = text.replace("\n", ChatGLMTokenizer.LINE_BREAK).replace("\t", ChatGLMTokenizer.TAB)
    runs = f" {{2,{ChatGLMTokenizer.LONGEST_BLANK}}}"
    return re.sub(runs, lambda run: f"<|blank_{len(run[0])}|>", text)


def _restore_white_space(text: str) -> str:
    text = text.replace(ChatGLMTokenizer.LINE_BREAK, "\n").replace(ChatGLMTokenizer.TAB, "\t")
    blank = r"<\|blank_([2-9]|[1-7]\d|80)\|>"
    return re.sub(blank, lambda match: " " * int(match[1]), text)
