"""Encodes a split's JSON Lines into a file of tokens, with the prompts of a template.

Rows are read, encoded and written a few at a time, so memory does not grow with the data set.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from glmtune.checkpoints.sources import model_folder, open_tokenizer
from glmtune.distribution import distribution
from glmtune.errors import DataError, ParamsError
from glmtune.families.conversation import Row
from glmtune.families.encoding import encode_example
from glmtune.families.family import Example, Template
from glmtune.families.loading import vocabulary_file
from glmtune.families.registry import get_family
from glmtune.families.tokenized import TokenizedRows, from_examples, tokenized_file
from glmtune.families.tokenizers import Tokenizer
from glmtune.families.vocabulary import published_vocabulary
from glmtune.files import sha256_of
from glmtune.labels import IGNORED_LABEL

# Rows that a worker encodes at a time: enough to make the transfer cheap.
ROWS_A_CHUNK = 500


@dataclass(frozen=True)
class Encoder:
    """What decides how rows become tokens; small, because every worker gets a copy."""

    model: Path
    family: str
    # None: the first template of the family.
    template: str | None
    max_source_tokens: int
    max_target_tokens: int
    # One of LONG_HISTORY.
    long_history: str

    def open(self) -> tuple[Template, Tokenizer]:
        """The template and the tokenizer, opened once per process."""
        return _open(self.model, self.family, self.template)

    def describe(self) -> str:
        """One line for the log: vocabulary and prompt template."""
        template, _ = self.open()
        published = published_vocabulary(vocabulary_file(model_folder(self.model), self.family))
        origin = f"as published for {published}" if published else "not a published one"
        return f"vocabulary: {origin}; template {template.name}: trains on {template.trains_on}"

    def encode(self, row: Row) -> Example:
        """One training row."""
        template, tokenizer = self.open()
        return encode_example(
            template,
            tokenizer,
            row,
            max_source_tokens=self.max_source_tokens,
            max_target_tokens=self.max_target_tokens,
            long_history=self.long_history,
        )


@dataclass(frozen=True)
class Lines:
    """Some lines of a JSON Lines file."""

    file: Path
    first: int
    texts: list[str]


@dataclass(frozen=True)
class Encoded:
    """The rows of some lines, and for each row what `Example` says of it."""

    rows: TokenizedRows
    prompt_tokens: np.ndarray
    answer_tokens: np.ndarray
    cut_prompts: int
    cut_answers: int
    shortened_prompts: int
    spelled_tokens: int


def encode_file(
    encoder: Encoder, source: Path, target: Path, *, rows: int, workers: int = 1
) -> dict[str, Any]:
    """Encode a normalised split into `target`; return the summary that identifies the result.

    `rows` is for the progress bar. The result is the same for any number of workers.
    """
    if workers < 1:
        raise ParamsError(f"--workers: found {workers}; expected 1 or more processes")
    totals = _Totals()
    with tokenized_file(target) as append, tqdm(total=rows, unit="rows", desc=source.stem) as bar:
        for part in _in_order(partial(encode_lines, encoder), _chunks(source), workers):
            append(part.rows)
            totals.add(part)
            bar.update(len(part.rows))
    return {**totals.summary(), "sha256": sha256_of(target)}


def describe(summary: Mapping[str, Any], encoder: Encoder) -> str:
    """One line for the log: sizes, and how many texts the limits truncated."""
    text = f"{summary['rows']} rows, {summary['tokens']} tokens"
    parts = (("prompt", encoder.max_source_tokens), ("answer", encoder.max_target_tokens))
    for (part, limit), key in zip(parts, ("source", "target"), strict=True):
        longest, cut = summary[f"{part}_tokens"]["max"], summary[f"cut_{part}s"]
        shortened = summary["shortened_prompts"] if part == "prompt" else 0
        text += f"; {part}s of up to {longest} tokens, "
        text += f"{shortened} shortened by whole turns, " if shortened else ""
        text += f"{cut} truncated"
        text += f" (raise max_{key}_tokens, now {limit})" if cut or shortened else ""
    return text


def encode_lines(encoder: Encoder, lines: Lines) -> Encoded:
    """Encode some lines; DataError names the line that cannot be encoded."""
    examples = []
    for number, text in enumerate(lines.texts, start=lines.first):
        try:
            examples.append(encoder.encode(json.loads(text)))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{lines.file}: line {number}: not JSON ({error}); delete the file and run again"
            ) from None
        except DataError as error:
            raise DataError(f"{lines.file}: line {number}: {error}") from None
    rows, (_, tokenizer) = from_examples(examples), encoder.open()
    return Encoded(
        rows,
        np.array([e.prompt_tokens for e in examples], np.int32),
        np.array([e.answer_tokens for e in examples], np.int32),
        sum(e.prompt_is_cut for e in examples),
        sum(e.answer_is_cut for e in examples),
        sum(e.history_is_shortened for e in examples),
        int(np.isin(rows.labels, sorted(tokenizer.spelled_ids)).sum()),
    )


@dataclass
class _Totals:
    """What a manifest says about a split, added up row by row."""

    tokens: int = 0
    target_tokens: int = 0
    cut_prompts: int = 0
    cut_answers: int = 0
    shortened_prompts: int = 0
    spelled_tokens: int = 0
    prompt_tokens: list[np.ndarray] = field(default_factory=list)
    answer_tokens: list[np.ndarray] = field(default_factory=list)

    def add(self, part: Encoded) -> None:
        self.tokens += len(part.rows.input_ids)
        self.target_tokens += int((part.rows.labels != IGNORED_LABEL).sum())
        self.cut_prompts += part.cut_prompts
        self.cut_answers += part.cut_answers
        self.shortened_prompts += part.shortened_prompts
        self.spelled_tokens += part.spelled_tokens
        self.prompt_tokens.append(part.prompt_tokens)
        self.answer_tokens.append(part.answer_tokens)

    def summary(self) -> dict[str, Any]:
        nothing = np.zeros(0, np.int32)
        prompts = np.concatenate([nothing, *self.prompt_tokens])
        answers = np.concatenate([nothing, *self.answer_tokens])
        return {
            "rows": len(prompts),
            "tokens": self.tokens,
            "target_tokens": self.target_tokens,
            "prompt_tokens": distribution(prompts),
            "answer_tokens": distribution(answers),
            "cut_prompts": self.cut_prompts,
            "cut_answers": self.cut_answers,
            "shortened_prompts": self.shortened_prompts,
            "spelled_tokens": self.spelled_tokens,
        }


@lru_cache(maxsize=1)
def _open(model: Path, family: str, template: str | None) -> tuple[Template, Tokenizer]:
    return get_family(family).template(template), open_tokenizer(model, family)


def _chunks(source: Path) -> Iterator[Lines]:
    """The lines of a file, a chunk at a time."""
    try:
        with source.open(encoding="utf-8") as lines:
            first = 1
            while texts := list(islice(lines, ROWS_A_CHUNK)):
                yield Lines(source, first, texts)
                first += len(texts)
    except FileNotFoundError:
        raise DataError(f"{source}: no such file; run the step that writes it first") from None


def _in_order(
    encode: Callable[[Lines], Encoded], chunks: Iterable[Lines], workers: int
) -> Iterator[Encoded]:
    """The encoded chunks in the order of the file, encoded ahead by other processes."""
    if workers == 1:
        yield from map(encode, chunks)
        return
    # Executor.map would read the whole file ahead. Spawned, not forked: no copy of open threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ahead: deque[Future[Encoded]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(encode, chunk))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
