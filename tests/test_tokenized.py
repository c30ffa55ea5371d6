"""Tokenized data on disk: complete, independent of the number of workers, read on demand."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from steps import run_step

from glmtune.checkpoints.sources import hash_model
from glmtune.distribution import distribution
from glmtune.errors import DataError, ParamsError
from glmtune.families.family import Example
from glmtune.families.registry import FAMILIES
from glmtune.families.tokenized import from_examples, read_tokenized, tokenized_file
from glmtune.files import read_json, write_json, write_jsonl
from glmtune.labels import IGNORED_LABEL
from glmtune.steps.tokenizing import ROWS_A_CHUNK, Encoder, describe, encode_file

EXAMPLES = [
    Example([5, 6, 7], [IGNORED_LABEL, 6, 7]),
    Example([8], [8]),
    Example([9, 10], [IGNORED_LABEL, 10]),
]
ROWS = [
    {"content": f"类型#裙*颜色#{c}色", "summary": f"{c}色的裙子。" * n}
    for c in "红黑"
    for n in (1, 5)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small vocabulary of ChatGLM2."""
    folder = tmp_path_factory.mktemp("chatglm2-6b")
    texts = [text for row in ROWS for text in row.values()]
    FAMILIES["chatglm2-6b"].train_tokenizer(texts, folder, vocab_size=24)
    return folder


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    limits: dict[str, Any] = {"max_source_tokens": 64, "max_target_tokens": 16}
    return Encoder(model, "chatglm2-6b", None, **limits, long_history="shorten")


def encode(encoder: Encoder, folder: Path, rows: list[dict[str, Any]], **options: Any) -> Any:
    write_jsonl(folder / "rows.jsonl", rows)
    target = folder / "rows.safetensors"
    summary = encode_file(encoder, folder / "rows.jsonl", target, rows=len(rows), **options)
    return summary, read_tokenized(target)


# --- The file ------------------------------------------------------------------------------------


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    with tokenized_file(tmp_path / "x.safetensors") as append:
        append(from_examples(EXAMPLES[:2]))
        append(from_examples([]))
        append(from_examples(EXAMPLES[2:]))
    rows = read_tokenized(tmp_path / "x.safetensors")
    assert len(rows) == 3
    for i, example in enumerate(EXAMPLES):
        ids, labels = rows[i]
        assert ids.tolist() == example.input_ids
        assert labels.tolist() == example.labels
    with pytest.raises(IndexError):
        rows[3]


@pytest.mark.parametrize("examples", [EXAMPLES, []])
def test_other_programs_read_the_file_as_safetensors(
    tmp_path: Path, examples: list[Example]
) -> None:
    path = tmp_path / "x.safetensors"
    with tokenized_file(path) as append:
        append(from_examples(examples))
    read = read_tokenized(path)
    arrays = load_file(path)
    assert {name: array.dtype for name, array in arrays.items()} == {
        "offsets": np.int64,
        "input_ids": np.int32,
        "labels": np.int32,
    }
    for name, array in arrays.items():
        assert array.tolist() == getattr(read, name).tolist()


def test_rows_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    with tokenized_file(tmp_path / "x.safetensors") as append:
        append(from_examples(EXAMPLES))
    rows = read_tokenized(tmp_path / "x.safetensors")
    assert not rows.input_ids.flags.owndata
    assert not rows.input_ids.flags.writeable


def test_an_unfinished_file_does_not_appear(tmp_path: Path) -> None:
    def be_killed() -> None:
        with tokenized_file(tmp_path / "x.safetensors") as append:
            append(from_examples(EXAMPLES))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_killed()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 7, 30, 200, -4])
def test_a_damaged_file_is_explained(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "train.safetensors"
    with tokenized_file(path) as append:
        append(from_examples(EXAMPLES))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"train\.safetensors: not a complete file .* --forcerun"):
        read_tokenized(path)
    with pytest.raises(DataError, match="no such file although its manifest exists"):
        read_tokenized(tmp_path / "dev.safetensors")


# --- Encoding a split ----------------------------------------------------------------------------


def test_a_split_s_rows_are_the_template_s_examples(encoder: Encoder, tmp_path: Path) -> None:
    summary, rows = encode(encoder, tmp_path, ROWS)
    examples = [encoder.encode(row) for row in ROWS]
    assert [rows[i][0].tolist() for i in range(len(rows))] == [e.input_ids for e in examples]
    assert [rows[i][1].tolist() for i in range(len(rows))] == [e.labels for e in examples]
    assert summary["rows"] == len(ROWS)
    assert summary["tokens"] == sum(len(e.input_ids) for e in examples)
    assert summary["target_tokens"] == sum(x != IGNORED_LABEL for e in examples for x in e.labels)


def test_a_summary_has_text_lengths_and_counts_of_truncations(
    encoder: Encoder, tmp_path: Path
) -> None:
    long = {"content": ROWS[0]["content"] * 9, "summary": "红。"}
    summary, _ = encode(encoder, tmp_path, [*ROWS, long])
    assert (summary["cut_prompts"], summary["cut_answers"]) == (1, 2)
    lengths = [encoder.encode(row).prompt_tokens for row in [*ROWS, long]]
    assert summary["prompt_tokens"]["max"] == max(lengths) > encoder.max_source_tokens
    assert summary["prompt_tokens"]["median"] == sorted(lengths)[2]
    assert summary["answer_tokens"]["min"] == encoder.encode(long).answer_tokens


def test_shortened_histories_are_counted_and_reported(encoder: Encoder, tmp_path: Path) -> None:
    turn = [{"role": "user", "content": "红"}, {"role": "assistant", "content": "黑" * 9}]
    long = {**ROWS[0], "history": turn * 5}
    summary, _ = encode(encoder, tmp_path, [*ROWS, long])
    assert (summary["shortened_prompts"], summary["cut_prompts"]) == (1, 0)
    longest = summary["prompt_tokens"]["max"]
    assert longest > encoder.max_source_tokens
    told = f"prompts of up to {longest} tokens, 1 shortened by whole turns, 0 truncated (raise "
    assert told in describe(summary, encoder)
    official = replace(encoder, long_history="official")
    summary, _ = encode(official, tmp_path, [*ROWS, long])
    assert (summary["shortened_prompts"], summary["cut_prompts"]) == (0, 1)


def test_workers_and_chunks_do_not_change_the_file(encoder: Encoder, tmp_path: Path) -> None:
    rows = [{**ROWS[i % 4], "content": f"红{i}"} for i in range(3 * ROWS_A_CHUNK + 1)]
    alone, _ = encode(encoder, tmp_path, rows)
    assert alone["rows"] == len(rows)
    together, _ = encode(encoder, tmp_path, rows, workers=2)
    assert together == alone


def test_a_row_that_cannot_be_encoded_is_named(encoder: Encoder, tmp_path: Path) -> None:
    observed = {**ROWS[0], "history": [{"role": "observation", "content": "22"}]}
    path = tmp_path / "rows.jsonl"
    with pytest.raises(DataError, match=r"rows\.jsonl: line 3: tools, a call or an observation"):
        encode(encoder, tmp_path, [*ROWS[:2], observed])
    path.write_text('{"content": "红", "summary": "红"}\n{"conte', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl: line 2: not JSON"):
        encode_file(encoder, path, tmp_path / "x", rows=2)
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file; run the step that writes it"):
        encode_file(encoder, tmp_path / "gone.jsonl", tmp_path / "x", rows=2)
    with pytest.raises(ParamsError, match="--workers: found 0; expected 1 or more"):
        encode_file(encoder, path, tmp_path / "x", rows=2, workers=0)


@pytest.mark.parametrize(
    ("values", "figures"),
    [
        ([1, 2, 3, 10], {"min": 1, "mean": 4.0, "median": 2, "p95": 10, "max": 10}),
        (range(1, 101), {"min": 1, "mean": 50.5, "median": 50, "p95": 95, "max": 100}),
        ([], {"min": None, "mean": None, "median": None, "p95": None, "max": None}),
    ],
)
def test_a_distribution_has_five_figures(values: Any, figures: dict[str, Any]) -> None:
    assert distribution(values) == figures
    json.dumps(distribution(values))


# --- The step ------------------------------------------------------------------------------------


def tokenize(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    usual = ["--family", "chatglm3-6b-base", "--data", "data", "--model", "model"]
    usual += ["--model-manifest", "model.json", "--out-dir", "tokens"]
    usual += ["--max-source-tokens", "24", "--max-target-tokens", "16"]
    usual += ["--long-history", "shorten"]
    return run_step("tokenize_dataset", *flags, *usual, folder=folder)


def test_the_step_writes_its_manifest(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(model)
    write_json(tmp_path / "model.json", {"files": hash_model(model)})
    history = [{"role": "user", "content": "红"}, {"role": "assistant", "content": "黑"}]
    train: list[dict[str, Any]] = [*ROWS, {**ROWS[0], "history": history}]
    rows = {"train": train, "dev": ROWS}
    for split, content in rows.items():
        write_jsonl(tmp_path / f"data/{split}.jsonl", content)
    sizes = {split: {"rows": len(content)} for split, content in rows.items()}
    write_json(tmp_path / "data/manifest.json", sizes)

    done = tokenize(tmp_path, "--template", "chatglm3-base-tuning")
    assert done.returncode == 0, done.stderr
    manifest = read_json(tmp_path / "tokens/manifest.json")
    assert manifest["template"] == "chatglm3-base-tuning"
    assert manifest["trains_on"] == "every answer"
    assert [manifest["splits"][split]["rows"] for split in rows] == [5, 4]
    assert "train: 5 rows, " in done.stdout
    assert "2 truncated (raise max_target_tokens, now 16)" in done.stdout

    (model / "tokenizer_config.json").write_text("{}")
    replaced = tokenize(tmp_path)
    assert replaced.returncode == 2
    assert "tokenizer_config.json: found SHA-256 44136fa355b3…; its manifest has" in replaced.stderr

    write_json(tmp_path / "model.json", {"files": hash_model(model)})
    wrong = tokenize(tmp_path, "--template", "thudm-ptuning")
    assert wrong.returncode == 2
    assert "choose from finetune-demo, chatglm3-base-tuning" in wrong.stderr
