"""Byte-pair vocabularies in tiktoken's form, as GLM-4 publishes its own: reading, training, ids.

A vocabulary is its ranks, {bytes: id}: every byte has one, and of two neighbouring pieces those are
joined first whose joint rank is lowest. Stored as tokenizer.model, a line `base64 rank` for each
piece, or within tokenizer.json, where a character represents a byte. The tokenizers library does
the work: the ids are tiktoken's (`tests/test_byte_vocabulary.py`).

Knows nothing about families, prompts or special tokens.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from glmtune.errors import WeightsError
from glmtune.families.vocabulary import WORD_BREAK, read_vocabulary_file

# What GLM-4's tokenizer never joins a piece across: words, up to three digits, marks, white space.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RANK_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,8})\r?\n?")
LONGEST_PIECE = 1024  # bytes: eight times the longest published one; every cut of a piece is tried
Ranks = Mapping[bytes, int]


def _byte_characters() -> dict[int, str]:
    """The character that represents each byte in tokenizer.json, as in GPT-2: printable ones."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    return characters | {byte: chr(256 + place) for place, byte in enumerate(others)}


CHARACTER_OF = _byte_characters()
BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}


class ByteVocabulary:
    """Pieces with ids 0 … n-1, then command tokens n, n+1, … that no text can produce."""

    def __init__(self, ranks: Ranks, commands: Iterable[str]) -> None:
        self.ranks = ranks
        self.pieces = {rank: piece for piece, rank in ranks.items()}
        self.command_ids = {name: len(ranks) + place for place, name in enumerate(commands)}
        self._names = {i: name for name, i in self.command_ids.items()}
        self.size = len(ranks) + len(self._names)
        self._fast = fast_tokenizer(ranks)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; names of commands in it are text like any other."""
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int], skip_commands: bool) -> str:
        """The text of `ids`, with the names of the commands in it unless they are skipped.

        Bytes that are no whole character become U+FFFD; ids that no piece has get no text.
        """
        parts = []
        for i in map(int, ids):
            if i in self.pieces:
                parts.append(self.pieces[i])
            elif i in self._names and not skip_commands:
                parts.append(self._names[i].encode())
        return b"".join(parts).decode("utf-8", errors="replace")

    def spelled_ids(self) -> frozenset[int]:
        """The ids of pieces that are a part of a character: without a piece of its own."""
        return frozenset(i for i, piece in self.pieces.items() if not _is_text(piece))


def fast_tokenizer(ranks: Ranks) -> FastTokenizer:
    """The tokenizers library's byte-level BPE with these ranks, without special tokens."""
    vocabulary = {name: rank for rank, name in enumerate(character_names(ranks))}
    merges = character_merges(ranks)
    # A word that is a piece is never joined from smaller ones, as in tiktoken.
    fast = FastTokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    fast.pre_tokenizer = _words()
    return fast


def character_names(ranks: Ranks) -> list[str]:
    """The pieces in the order of their ranks, a character for each byte."""
    return [_named(piece) for piece in sorted(ranks, key=ranks.__getitem__)]


def character_merges(ranks: Ranks) -> list[tuple[str, str]]:
    """All pairs of pieces that make up a piece, lowest rank first, a character for each byte."""
    in_order = sorted(ranks, key=ranks.__getitem__)
    return [(_named(a), _named(b)) for piece in in_order for a, b in _halves(piece, ranks)]


def _words() -> pre_tokenizers.PreTokenizer:
    """The words of a text that pieces are joined within, as characters for bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _halves(piece: bytes, ranks: Ranks) -> list[tuple[bytes, bytes]]:
    """The pairs of pieces that make up `piece`, lowest ranks first."""
    pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
    known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
    return sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _named(piece: bytes) -> str:
    return "".join(CHARACTER_OF[byte] for byte in piece)


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_ranks_file(path: Path) -> bool:
    """Whether a file begins as tokenizer.model of GLM-4 does; sentencepiece files do not."""
    with path.open("rb") as stream:
        return RANK_LINE.fullmatch(stream.readline(1 << 12)) is not None


def read_ranks(path: Path) -> dict[bytes, int]:
    """The ranks in tokenizer.model or tokenizer.json; WeightsError for anything else."""
    ranks = _ranks_in_json(path) if path.suffix == ".json" else _ranks_in_lines(path)
    missing = 256 - sum(len(piece) == 1 for piece in ranks)
    if longest := max((len(piece) for piece in ranks if len(piece) > LONGEST_PIECE), default=0):
        raise _no_vocabulary(path, f"a piece of {longest} bytes")
    if missing or sorted(ranks.values()) != list(range(len(ranks))):
        what = f"{missing} of 256 bytes are missing" if missing else "ranks are missing or twice"
        raise _no_vocabulary(path, what)
    return ranks


def _ranks_in_lines(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_vocabulary_file(path).splitlines(), start=1):
        match = RANK_LINE.fullmatch(line)
        try:
            piece = base64.b64decode(match[1], validate=True) if match else b""
        except binascii.Error:
            piece = b""
        if match is None or not piece:
            raise _no_vocabulary(path, f"line {number} is not `base64 rank`")
        ranks[piece] = int(match[2])
    return ranks


def _ranks_in_json(path: Path) -> dict[bytes, int]:
    try:
        content: Any = json.loads(read_vocabulary_file(path))
        vocabulary = content["model"]["vocab"]
        added = {token["content"] for token in content.get("added_tokens", ())}
        return {
            bytes(BYTE_OF[character] for character in piece): int(rank)
            for piece, rank in vocabulary.items()
            if piece not in added
        }
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise _no_vocabulary(path, "found no byte-level BPE in it") from None


def _no_vocabulary(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path}: not a vocabulary of GLM-4 ({what}); expected a line `base64 rank` for each piece "
        "(tokenizer.model), or a tokenizer.json with byte-level BPE; the download was cut off or "
        "the file is another model's: download it again"
    )


def ranks_as_lines(ranks: Ranks) -> bytes:
    """The content of tokenizer.model."""
    ordered = sorted(ranks, key=ranks.__getitem__)
    return b"".join(b"%s %d\n" % (base64.b64encode(piece), ranks[piece]) for piece in ordered)


def train_ranks(texts: Iterable[str], *, pieces: int) -> dict[bytes, int]:
    """The ranks of a new vocabulary: the 256 bytes, then at most `pieces` joined ones.

    WORD_BREAK in a text separates words and is no part of them. Equal texts give equal ranks.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=256 + pieces,
        initial_alphabet=list(CHARACTER_OF.values()),
        show_progress=False,
    )
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORD_BREAK, "removed"), _words()]
    )
    fast.train_from_iterator(texts, trainer)
    trained = fast.get_vocab()
    return {bytes(BYTE_OF[c] for c in piece): rank for piece, rank in trained.items()}
