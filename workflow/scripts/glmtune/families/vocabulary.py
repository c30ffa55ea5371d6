"""Vocabulary files: reads sentencepiece models and trains small ones.

Knows nothing about families, prompts or special tokens.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from glmtune.errors import DataError, WeightsError
from glmtune.files import is_lfs_pointer, sha256_of

# A separator in training texts: no piece spans it, and it is not a piece itself. "␟红色" makes a
# piece "红色" that is used within sentences; "红色" alone makes "▁红色", which is used only at the
# beginning of a text.
WORD_BREAK = "␟"
# SHA-256 of the published files; ChatGLM2 and ChatGLM3 share one, and so do all GLM-4-9B.
PUBLISHED = {
    "5e974d9a69c242ce014c88c2b26089270f6198f3c0b700a887666cd3e816f17e": "ChatGLM-6B",
    "e7dc4c393423b76e4373e5157ddc34803a0189ba96b21ddbb40269d31468a6f2": "ChatGLM2-6B, ChatGLM3-6B",
    "5a493598071550244b2ee7f26118f3edec2150b9dfa967929a99052ac83fe716": "GLM-4-9B",
}


def read_vocabulary_file(path: Path) -> bytes:
    """The content of a vocabulary; WeightsError if it is missing or a Git LFS pointer."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"{path}: no such file; expected the vocabulary; download the whole model folder"
        ) from None
    if is_lfs_pointer(content):
        raise WeightsError(
            f"{path}: a Git LFS pointer; expected the vocabulary itself; "
            "run `git lfs pull` in that folder or download the file"
        )
    return content


def read_vocabulary(path: Path) -> SentencePieceProcessor:
    """Read a sentencepiece file; WeightsError if it is missing, a Git LFS pointer or cut off."""
    content = read_vocabulary_file(path)
    try:
        if content:  # sentencepiece accepts an empty file and fails later
            processor = SentencePieceProcessor(model_proto=content)
            _check_pieces(processor)
            return processor
    except (RuntimeError, ValueError):
        pass  # the message is an internal line number of sentencepiece, or a byte
    raise WeightsError(
        f"{path}: not a sentencepiece vocabulary ({len(content)} bytes); the download was cut off "
        "or the file is something else; download it again"
    )


def _check_pieces(processor: SentencePieceProcessor) -> None:
    """Raise ValueError for invalid pieces, or a vocabulary without unknown or end pieces."""
    for i in range(processor.get_piece_size()):
        piece = processor.id_to_piece(i)  # UnicodeDecodeError is a ValueError
        if processor.is_byte(i) and not re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
            raise ValueError(f"{piece!r} is not a byte")
    if min(processor.unk_id(), processor.eos_id()) < 0:
        raise ValueError("no unknown piece or no end piece")


def spelled_ids(processor: SentencePieceProcessor) -> frozenset[int]:
    """The ids that spell characters without their own piece: bytes, or unknown.

    ASCII bytes are excluded: ChatGLM3 writes the line break before every answer as a byte.
    """
    ids = range(processor.get_piece_size())
    bytes_ = [i for i in ids if processor.is_byte(i)]
    parts = [i for i in bytes_ if int(processor.id_to_piece(i)[3:5], 16) >= 0x80]  # "<0xE4>"
    return frozenset([*parts, processor.unk_id()])


def published_vocabulary(path: Path) -> str | None:
    """The models whose published vocabulary equals this file, byte for byte, or None."""
    return PUBLISHED.get(sha256_of(path))


def read_optional_config(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder; {} if it is missing, WeightsError if broken."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not a JSON document ({error}); download it again") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: not a JSON object; download it again")
    return config


def has_piece(processor: SentencePieceProcessor, piece: str) -> bool:
    """Whether the vocabulary has exactly this piece."""
    return processor.id_to_piece(processor.piece_to_id(piece)) == piece


def train_pieces(sentences: Iterable[str], **options: Any) -> bytes:
    """Train a sentencepiece model with byte fallback; equal input gives identical bytes.

    `options` are sentencepiece's; `vocab_size` counts ordinary pieces, excluding bytes and special
    pieces. DataError if it is below the number of distinct characters.
    """
    pieces = options.pop("vocab_size")
    special = 3 + (options.get("pad_id", -1) >= 0)  # <unk> <s> </s> and <pad>
    special += len(options.get("control_symbols", ())) + len(
        options.get("user_defined_symbols", ())
    )
    content = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=content,
            vocab_size=special + 256 + pieces,
            hard_vocab_limit=False,  # a short text may have fewer pieces
            byte_fallback=True,
            character_coverage=1.0,
            num_threads=1,  # the result depends on it
            shuffle_input_sentence=False,
            max_sentence_length=1 << 20,
            pretokenization_delimiter=WORD_BREAK,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:
        sizes = re.search(r"smaller than required_chars\. (\d+) vs (\d+)", str(error))
        if sizes is None:
            raise
        characters = int(sizes[2]) - special - 256
        raise DataError(
            f"vocab_size: {pieces} pieces for a text with {characters} distinct characters; "
            f"expected at least {characters}; raise vocab_size or train on less varied text"
        ) from None
    return content.getvalue()
