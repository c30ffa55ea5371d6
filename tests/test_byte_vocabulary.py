"""Byte-pair vocabularies: the ids are tiktoken's, and what is no vocabulary is explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from glmtune.errors import WeightsError
from glmtune.families.byte_vocabulary import (
    CHARACTER_OF,
    PATTERN,
    ByteVocabulary,
    is_ranks_file,
    ranks_as_lines,
    read_ranks,
    train_ranks,
)
from glmtune.families.vocabulary import WORD_BREAK

GLM4 = ROOT / "tests" / "fixtures" / "glm4"  # written by tools/tiktoken_ids.py
RANKS = read_ranks(GLM4 / "tokenizer.model")
VOCABULARY = ByteVocabulary(RANKS, ["<end>"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tiktoken_encoding() -> Any:
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    return tiktoken.Encoding(
        "glm4", pat_str=PATTERN, mergeable_ranks=dict(RANKS), special_tokens={}
    )


def test_the_ids_are_those_that_tiktoken_gave() -> None:
    golden = json.loads((GLM4 / "tiktoken_ids.json").read_text(encoding="utf-8"))
    assert len(golden) > 200
    for row in golden:
        assert VOCABULARY.encode(row["text"]) == row["ids"], row["text"]


@given(TEXTS)
def test_the_ids_are_those_of_tiktoken(tiktoken_encoding: Any, text: str) -> None:
    assert VOCABULARY.encode(text) == tiktoken_encoding.encode_ordinary(text)


@pytest.mark.slow
def test_the_ids_of_every_character_and_of_long_runs_are_those_of_tiktoken(
    tiktoken_encoding: Any,
) -> None:
    surrogates = range(0xD800, 0xE000)
    every = [chr(code) for code in range(0x110000) if code not in surrogates]
    around = (f"a{c}b 1{c}'{c}\n {c} {c}{c}." for c in every)
    runs = (c * length for c in "a哈 -=.,*#!我e的\n" for length in range(1, 200))
    for text in (*around, *runs):
        assert VOCABULARY.encode(text) == tiktoken_encoding.encode_ordinary(text), text


@given(TEXTS)
def test_every_text_survives_a_round_trip(text: str) -> None:
    assert VOCABULARY.decode(VOCABULARY.encode(text), skip_commands=True) == text


def test_half_a_character_and_unknown_ids_are_no_mistake() -> None:
    ids = [*VOCABULARY.encode("鑫")[:1], VOCABULARY.command_ids["<end>"], 10**6, -1]
    assert VOCABULARY.decode(ids, skip_commands=True) == "\N{REPLACEMENT CHARACTER}"
    assert VOCABULARY.decode(ids, skip_commands=False) == "\N{REPLACEMENT CHARACTER}<end>"


def test_the_name_of_a_command_is_text_like_any_other() -> None:
    assert VOCABULARY.command_ids["<end>"] == len(RANKS)
    assert VOCABULARY.command_ids["<end>"] not in VOCABULARY.encode("<end>")


def test_pieces_that_are_part_of_a_character_spell_it() -> None:
    spelled = VOCABULARY.spelled_ids()
    assert set(VOCABULARY.encode("鑫")) <= spelled
    assert not spelled & set(VOCABULARY.encode("这款 dress\n"))


def test_a_word_that_is_a_piece_is_never_joined_from_others() -> None:
    """Published vocabularies have pieces that no sequence of joins reaches."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abcd": 256}
    vocabulary = ByteVocabulary(ranks, [])
    assert vocabulary.encode("abcd") == [256]
    assert vocabulary.encode("abcde") == [*b"abcde"]


# --- Files ---------------------------------------------------------------------------------------


def as_json(ranks: dict[bytes, int], **model: Any) -> str:
    names = {"".join(CHARACTER_OF[byte] for byte in piece): rank for piece, rank in ranks.items()}
    added = [{"id": len(ranks), "content": "<|endoftext|>"}]
    return json.dumps({"added_tokens": added, "model": {"vocab": names, **model}})


def test_both_files_hold_the_same_ranks(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(as_json(RANKS), encoding="utf-8")
    (tmp_path / "tokenizer.model").write_bytes(ranks_as_lines(RANKS))
    assert read_ranks(tmp_path / "tokenizer.json") == RANKS
    assert read_ranks(tmp_path / "tokenizer.model") == RANKS
    assert is_ranks_file(tmp_path / "tokenizer.model")
    assert not is_ranks_file(ROOT / "tests/fixtures/v2/checkpoint/tokenizer.model")


LINES = ranks_as_lines(RANKS)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("tokenizer.model", b"", "256 of 256 bytes are missing"),
        ("tokenizer.model", LINES[: LINES.index(b"\n", 900)], "bytes are missing"),
        ("tokenizer.model", LINES[:-2], "ranks are missing or twice"),
        ("tokenizer.model", LINES + b"QUFBQUE= 1\n", "ranks are missing or twice"),
        ("tokenizer.model", LINES[:-6], "line 956 is not `base64 rank`"),
        ("tokenizer.model", b"IQ== 0\nI!== 1\n", "line 2 is not `base64 rank`"),
        ("tokenizer.model", b"QUFB" * 2000 + b" 0\n", "a piece of 6000 bytes"),
        ("tokenizer.model", b"\xff\xfe\x00", "line 1 is not `base64 rank`"),
        ("tokenizer.json", b"{", "found no byte-level BPE in it"),
        ("tokenizer.json", b"[" * 100_000, "found no byte-level BPE in it"),
        ("tokenizer.json", b'{"model": {"vocab": {"\xe2\x96\x81a": 0}}}', "no byte-level BPE"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}}}', "255 of 256 bytes are missing"),
    ],
)
def test_what_is_no_vocabulary_is_explained(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_ranks(tmp_path / name)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / name}: not a vocabulary of GLM-4")


# --- Training ------------------------------------------------------------------------------------


def test_equal_texts_give_equal_ranks_and_no_piece_crosses_a_break() -> None:
    texts = [f"裙子{WORD_BREAK}红色{WORD_BREAK}风格" for _ in range(9)] + ["a dress, a dress"]
    ranks = train_ranks(texts, pieces=60)
    assert ranks == train_ranks(texts, pieces=60)
    assert sorted(ranks.values()) == list(range(len(ranks)))
    assert {bytes([byte]) for byte in range(256)} <= ranks.keys()
    assert "红色".encode() in ranks
    assert not any("子红".encode() in piece for piece in ranks)
    assert WORD_BREAK.encode() not in ranks
