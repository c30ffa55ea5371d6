"""The three official tokenizers, as small classes around sentencepiece.

    load_tokenizer(folder)    -> the tokenizer of the folder's generation
    detect_generation(folder) -> a key of TOKENIZERS

All have `encode`, `decode`, `chat_prompt_ids`, `process_response`, `special_ids`, `pad_token_id`,
`eos_token_id`, `stop_token_ids` and `vocab_size`. They know nothing about models, lengths, labels
or padding, and import neither torch nor transformers. Every id comes from the vocabulary file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from glmtune.errors import DataError, ParamsError, WeightsError
from glmtune.vocabulary import has_piece, read_config, read_vocabulary

# The official chat() replaces this placeholder of the training data in every answer.
TRAINING_TIME = ("[[训练时间]]", "2023年")
# A folder with this model size is the first release of ChatGLM-6B: 20000 image tokens come first.
IMAGE_TOKEN_VOCABULARY = 150528

Turn = Sequence[str]  # (query, answer)
Message = Mapping[str, Any]  # {"role": …, "content": …}, also "metadata" and "tools"


class ChatGLMTokenizer:
    """ChatGLM-6B: NFKC normalisation, own pieces for line breaks, tabs and runs of blanks.

    Prompts end with `[gMASK] <sop>`. As in the official tokenizer, the five TEXT_SPECIALS are
    recognised inside a text (a `[MASK]` to fill in is typed by the user) and swallow the white
    space around them; every other special token in a text stays plain text.
    """

    file_name = "ice_text.model"
    TEXT_SPECIALS = ("[MASK]", "<sop>", "<eop>", "<unk>", "<pad>")
    SPECIALS = (*TEXT_SPECIALS, "[gMASK]")
    LINE_BREAK, TAB, LONGEST_BLANK = "<n>", "<|tab|>", 80

    def __init__(self, processor: SentencePieceProcessor) -> None:
        missing = [name for name in self.SPECIALS if not has_piece(processor, name)]
        if missing:
            raise WeightsError(
                f"no token {', '.join(missing)}; expected the vocabulary of the current ChatGLM-6B "
                "revision; the file is incomplete or another model's: download it again"
            )
        self._processor = processor
        self.special_ids = {name: processor.piece_to_id(name) for name in self.SPECIALS}
        self.mask_token_id = self.special_ids["[MASK]"]
        self.gmask_token_id = self.special_ids["[gMASK]"]
        self.bos_token_id = self.special_ids["<sop>"]
        self.eos_token_id = self.special_ids["<eop>"]
        self.pad_token_id = self.special_ids["<pad>"]
        self.stop_token_ids = (self.eos_token_id,)
        self.vocab_size = processor.get_piece_size()
        self._specials_in_text = re.compile(f"({'|'.join(map(re.escape, self.TEXT_SPECIALS))})")
        # Dropped by decode(skip_special_tokens=True).
        self._skipped = {i for i in range(self.vocab_size) if processor.is_control(i)}
        self._skipped.add(processor.unk_id())

    def encode(
        self, text: str, add_special_tokens: bool = True, *, add_dummy_prefix: bool = True
    ) -> list[int]:
        """The ids of `text`, then `[gMASK] <sop>`; without the dummy prefix: no leading blank."""
        ids: list[int] = []
        parts = self._specials_in_text.split(text)
        for position, part in enumerate(parts):
            if position % 2:  # re.split puts what it split at in the odd places
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

    def chat_prompt(self, query: str, history: Sequence[Turn] = ()) -> str:
        """The official chat prompt: the bare query, or numbered rounds from 0 after others."""
        if not history:
            return query
        rounds = "".join(
            f"[Round {number}]\n问：{old_query}\n答：{answer}\n"
            for number, (old_query, answer) in enumerate(history)
        )
        return f"{rounds}[Round {len(history)}]\n问：{query}\n答："

    def chat_prompt_ids(self, query: str, history: Sequence[Turn] = ()) -> list[int]:
        """The ids that the official chat() generates from."""
        return self.encode(self.chat_prompt(query, history))

    def process_response(self, text: str) -> str:
        """The answer as the official chat() shows it: full-width marks beside Chinese again.

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
        # Sentencepiece's dummy blank attaches to a line break, and both are cut off again.
        return self._processor.encode(self.LINE_BREAK + text)[2:]


class ChatGLM2Tokenizer:
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

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """`[gMASK] sop`, then the ids of `text`; command names in the text stay plain text."""
        ids = self._vocabulary.encode(text)
        return self.prefix_ids + ids if add_special_tokens else ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids beyond the vocabulary (padded model rows) have no text."""
        return self._vocabulary.decode(ids, skip_special_tokens)

    def chat_prompt(self, query: str, history: Sequence[Turn] = ()) -> str:
        """The official chat prompt: rounds numbered from 1, the first one too."""
        rounds = "".join(
            f"[Round {number}]\n\n问：{old_query}\n\n答：{answer}\n\n"
            for number, (old_query, answer) in enumerate(history, start=1)
        )
        return f"{rounds}[Round {len(history) + 1}]\n\n问：{query}\n\n答："

    def chat_prompt_ids(self, query: str, history: Sequence[Turn] = ()) -> list[int]:
        """The ids that the official chat() generates from."""
        return self.encode(self.chat_prompt(query, history))

    def process_response(self, text: str) -> str:
        """The answer as the official chat() shows it."""
        return text.strip().replace(*TRAINING_TIME)


class ChatGLM3Tokenizer:
    """ChatGLM3-6B: the vocabulary of ChatGLM2-6B and role tokens; prompts are messages."""

    file_name = "tokenizer.model"
    ROLES = ("system", "user", "assistant", "observation")
    COMMANDS = (*ChatGLM2Tokenizer.COMMANDS, *(f"<|{role}|>" for role in ROLES))

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self._vocabulary = CommandVocabulary(processor, self.COMMANDS)
        self.special_ids = self._vocabulary.command_ids
        self.prefix_ids = [self.special_ids["[gMASK]"], self.special_ids["sop"]]
        self.pad_token_id = processor.unk_id()  # 0, as in the official tokenizer
        self.eos_token_id = processor.eos_id()
        # The official chat() also stops where another role would begin to speak.
        others = (self.special_ids["<|user|>"], self.special_ids["<|observation|>"])
        self.stop_token_ids = (self.eos_token_id, *others)
        self.vocab_size = self._vocabulary.size

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """`[gMASK] sop`, then the ids of `text`; command names in the text stay plain text."""
        ids = self._vocabulary.encode(text)
        return self.prefix_ids + ids if add_special_tokens else ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids beyond the vocabulary (padded model rows) have no text."""
        return self._vocabulary.decode(ids, skip_special_tokens)

    def message_ids(self, message: Message) -> list[int]:
        """One message: role token, metadata line, content; a system message may list tools."""
        role, content = message["role"], message["content"]
        if role not in self.ROLES:
            raise DataError(f"unknown role {role!r}; choose from {', '.join(self.ROLES)}")
        if role == "system" and "tools" in message:
            content += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
        # Encoded apart, as in the official code: the content has a dummy blank of its own.
        header = self._vocabulary.encode(message.get("metadata", "") + "\n")
        return [self.special_ids[f"<|{role}|>"], *header, *self._vocabulary.encode(content)]

    def messages(self, history: Sequence[Turn | Message]) -> list[Message]:
        """A history as messages; a (query, answer) turn becomes a user and an assistant message."""
        messages: list[Message] = []
        for item in history:
            if isinstance(item, Mapping):
                messages.append(item)
            else:
                query, answer = item
                messages.append({"role": "user", "content": query})
                messages.append({"role": "assistant", "content": answer})
        return messages

    def chat_prompt_ids(
        self, query: str, history: Sequence[Turn | Message] = (), role: str = "user"
    ) -> list[int]:
        """The ids that the official chat() generates from; `role` is who says the query."""
        ids = list(self.prefix_ids)
        for message in [*self.messages(history), {"role": role, "content": query}]:
            ids += self.message_ids(message)
        return [*ids, self.special_ids["<|assistant|>"]]

    def process_response(self, text: str) -> str:
        """The answer as the official chat() shows it: without the empty metadata line."""
        metadata, _, content = text.partition("\n")
        return (text if metadata.strip() else content).strip().replace(*TRAINING_TIME)


class CommandVocabulary:
    """Sentencepiece ids `0 … n-1`, then command tokens `n, n+1, …` that no text can produce."""

    def __init__(self, processor: SentencePieceProcessor, commands: Sequence[str]) -> None:
        self._processor = processor
        self._text_size = processor.get_piece_size()
        self.command_ids = {name: self._text_size + i for i, name in enumerate(commands)}
        self._names = {i: name for name, i in self.command_ids.items()}
        self.size = self._text_size + len(commands)
        # <unk> doubles as padding, so it never has a text.
        self._silent = {processor.unk_id(), processor.bos_id(), processor.eos_id()}

    def encode(self, text: str) -> list[int]:
        """The sentencepiece ids of `text`."""
        return self._processor.encode(text)

    def decode(self, ids: Iterable[int], skip_commands: bool) -> str:
        """The text of `ids`, with the names of the commands in it unless they are skipped."""
        pieces = []
        for i in map(int, ids):
            if 0 <= i < self._text_size and i not in self._silent:
                pieces.append(self._processor.id_to_piece(i))
            elif i in self._names and not skip_commands:
                pieces.append(self._names[i])
        return self._processor.decode_pieces(pieces)


Tokenizer = ChatGLMTokenizer | ChatGLM2Tokenizer | ChatGLM3Tokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "chatglm-6b": ChatGLMTokenizer,
    "chatglm2-6b": ChatGLM2Tokenizer,
    "chatglm3-6b-base": ChatGLM3Tokenizer,
}


def load_tokenizer(path: Path | str, generation: str | None = None) -> Tokenizer:
    """The tokenizer in a model folder of the official layout; WeightsError if it is unusable.

    `path` may also be the vocabulary file itself. `generation` is a key of TOKENIZERS; None detects
    it from the folder.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    if generation is None:
        generation = detect_generation(folder)
    if generation not in TOKENIZERS:
        raise ParamsError(
            f"unknown generation {generation!r}; choose from {', '.join(sorted(TOKENIZERS))}"
        )
    tokenizer_class = TOKENIZERS[generation]
    if tokenizer_class is ChatGLMTokenizer:
        _refuse_image_tokens(folder)
    file = path if path.is_file() else folder / tokenizer_class.file_name
    processor = read_vocabulary(file)
    try:
        return tokenizer_class(processor)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from None


def detect_generation(folder: Path | str) -> str:
    """The key of TOKENIZERS that a model folder belongs to; WeightsError if it does not say.

    Looks at the vocabulary's file name, then at tokenizer_config.json, config.json and the
    folder's own name. Chat and Base variants are one generation.
    """
    folder = Path(folder)
    if (folder / ChatGLMTokenizer.file_name).is_file():
        return "chatglm-6b"
    if not (folder / ChatGLM2Tokenizer.file_name).is_file():
        raise WeightsError(
            f"{folder}: no vocabulary; expected ice_text.model (ChatGLM-6B) or tokenizer.model "
            "(ChatGLM2-6B, ChatGLM3-6B); download the whole model folder"
        )
    tokenizer_config = read_config(folder / "tokenizer_config.json")
    names = (
        tokenizer_config.get("name_or_path"),
        # Saved again by transformers: the name may be gone, the role tokens are listed.
        "chatglm3" if "<|user|>" in json.dumps(tokenizer_config) else None,
        read_config(folder / "config.json").get("_name_or_path"),
        folder.resolve().name,
    )
    for name in names:
        if found := re.findall(r"chatglm([23])", str(name), re.IGNORECASE):
            return {"2": "chatglm2-6b", "3": "chatglm3-6b-base"}[found[-1]]
    raise WeightsError(
        f"{folder}: ChatGLM2-6B or ChatGLM3-6B? tokenizer.model is the same for both and no name "
        "in tokenizer_config.json or config.json tells; "
        'write "name_or_path": "chatglm2-6b" or "chatglm3-6b" into tokenizer_config.json'
    )


def mark_white_space(text: str) -> str:
    r"""White space as the pieces that ChatGLM-6B has for it, longest runs of blanks first.

    Example: "a\n  b" -> "a<n><|blank_2|>b"
    """
    text = text.replace("\n", ChatGLMTokenizer.LINE_BREAK).replace("\t", ChatGLMTokenizer.TAB)
    runs = f" {{2,{ChatGLMTokenizer.LONGEST_BLANK}}}"
    return re.sub(runs, lambda run: f"<|blank_{len(run[0])}|>", text)


def _restore_white_space(text: str) -> str:
    text = text.replace(ChatGLMTokenizer.LINE_BREAK, "\n").replace(ChatGLMTokenizer.TAB, "\t")
    blank = r"<\|blank_([2-9]|[1-7]\d|80)\|>"
    return re.sub(blank, lambda match: " " * int(match[1]), text)


def _refuse_image_tokens(folder: Path) -> None:
    """WeightsError for the first release of ChatGLM-6B, whose ids are shifted by 20000."""
    image_tokens = read_config(folder / "tokenizer_config.json").get("num_image_tokens", 0)
    vocab_size = read_config(folder / "config.json").get("vocab_size")
    if image_tokens or vocab_size == IMAGE_TOKEN_VOCABULARY:
        raise WeightsError(
            f"{folder}: the first release of ChatGLM-6B (vocabulary {vocab_size}, {image_tokens} "
            "image tokens); expected the current one (vocabulary 130528, no image tokens); "
            "download the current revision of THUDM/chatglm-6b"
        )
