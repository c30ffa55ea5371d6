"""Reading the report's inputs: a missing or invalid file or flag gives one error message."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_tree import METHODS, MODELS, PARAMS, RUNS, change, read
from steps import SCRIPTS, run_step

from glmtune.errors import DataError
from glmtune.files import write_json, write_jsonl
from glmtune.metrics.probe import TRAINING_ANSWERS
from glmtune.report.writing import render_markdown


def test_a_missing_answer_names_run_and_prompt(tree: Path) -> None:
    with pytest.raises(DataError, match="examples of chatglm-6b / none: no answer to '新的'"):
        render_markdown(read(tree, params=PARAMS | {"examples": ["新的"]}))


@pytest.mark.parametrize(
    "name",
    [
        "models/chatglm-6b.json",
        "scores/chatglm-6b/none.json",
        "scores/chatglm-6b/none.rows.jsonl",
        "predictions/chatglm-6b/none.jsonl",
        "probe/chatglm-6b/lora.jsonl",
        "examples/chatglm-6b/none.jsonl",
        "training/chatglm-6b/lora.json",
        "curves/chatglm-6b/lora.csv",
        "runtime/finetune_model/chatglm-6b/lora.json",
        "runtime/generate_predictions/chatglm-6b/none.json",
    ],
)
def test_a_missing_or_broken_result_is_named(copy: Path, name: str) -> None:
    path = copy / "results" / name
    path.write_text("broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(name)):
        read(copy)
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{name}: no such file; the step ")):
        read(copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results/scores/chatglm-6b/lora.json", {"bleu-4": 1}, "no key 'rows'; found 'bleu-4'"),
        ("results/models/chatglm-6b.json", {"files": {}}, "no key 'family'; found 'files'"),
        ("results/models/chatglm-6b.json", [], "found list where 'family' should be"),
        ("results/training/chatglm-6b/lora.json", {}, "no key 'settings'; found nothing"),
        ("results/runtime/finetune_model/chatglm-6b/lora.json", {}, "no key 'seconds'"),
        ("results/examples/chatglm-6b/lora.jsonl", {"prompt": "a"}, "line 1: no key 'predict'"),
        ("results/predictions/chatglm-6b/lora.jsonl", {"predict": "a"}, "line 1: no key 'labels'"),
        ("results/scores/chatglm-6b/lora.rows.jsonl", {"bleu-4": 1}, "line 1: no key 'rouge-l'"),
        ("results/probe/chatglm-6b/lora.jsonl", {"prompt": "a"}, "line 1: no key 'labels'"),
        ("data/dataset/card.json", {"licence": None}, "no key 'leakage.pairs'; found 'licence'"),
        ("data/tokenized/chatglm-6b/manifest.json", {}, "no key 'template'; found nothing"),
        ("data/dataset/train.jsonl", {"content": "a"}, "line 1: not a row with 'summary'"),
        ("data/dataset/manifest.json", {"source": {}}, "no key 'source.kind'"),
        ("data/dataset/manifest.json", {"source": {"kind": "a"}}, "no key 'train.rows'"),
    ],
)
def test_a_missing_key_is_named(copy: Path, name: str, content: Any, message: str) -> None:
    (copy / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"{name}: {message}")):
        read(copy)


@pytest.mark.parametrize("name", ["scores/chatglm-6b/lora.rows", "predictions/chatglm-6b/lora"])
def test_fewer_rows_than_were_scored_are_refused(copy: Path, name: str) -> None:
    path = copy / f"results/{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"{name}.jsonl: 41 rows; expected 42")):
        read(copy)


def test_runs_on_different_rows_are_refused(copy: Path) -> None:
    path = copy / "results/predictions/chatglm2-6b/lora.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    with pytest.raises(DataError, match="predictions of chatglm2-6b / lora: different dev rows"):
        render_markdown(read(copy))


def render(folder: Path, runs: str, params: str) -> subprocess.CompletedProcess[str]:
    """Run the step on the contents of its two settings files."""
    (folder / "runs.json").write_text(runs, encoding="utf-8")
    (folder / "params.json").write_text(params, encoding="utf-8")
    return run_step(
        "render_report", "--runs", "runs.json", "--params", "params.json", folder=folder
    )


def test_the_script_writes_beside_the_results(copy: Path) -> None:
    values = json.dumps(PARAMS, ensure_ascii=False, sort_keys=True)
    done = render(copy, json.dumps(RUNS), values)
    assert (done.returncode, done.stderr) == (0, "")
    assert (copy / "results/report.md").is_file()
    assert set(json.loads((copy / "results/metrics.json").read_text(encoding="utf-8"))) == set(
        MODELS
    )


GOOD_RUNS = json.dumps(RUNS)
SEED_AS_TEXT = json.dumps([RUNS[0] | {"seed": "42"}])


@pytest.mark.parametrize(
    ("runs", "params", "message"),
    [
        ("[]", "{}", "error: runs.json: found []; expected a list like [{"),
        ("[{]", "{}", "error: runs.json: not JSON ("),
        ('["chatglm-6b"]', "{}", 'error: runs.json: found ["chatglm-6b"]; expected a list'),
        ('[{"model": "a", "method": "b"}]', "{}", "error: runs.json: found [{"),
        (SEED_AS_TEXT, "{}", "error: runs.json: found [{"),
        (GOOD_RUNS, "类型", "error: params.json: not JSON ("),
        (GOOD_RUNS, "[]", "error: params.json: found []; expected an object"),
        (GOOD_RUNS, "{}", "error: params.json: found {}; expected an object"),
        (GOOD_RUNS, '{"examples": [1]}', 'error: params.json: found {"examples": [1]}; expected'),
    ],
)
def test_wrong_settings_are_explained(tmp_path: Path, runs: str, params: str, message: str) -> None:
    done = render(tmp_path, runs, params)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_importing_the_report_loads_no_heavy_package() -> None:
    heavy = {"markdown_it", "jieba", "nltk", "torch", "transformers"}
    code = f"import sys, glmtune.report; print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("data/dataset/card.json", "fetch_dataset"),
        ("data/dataset/train.jsonl", "fetch_dataset"),
        ("data/tokenized/chatglm2-6b/manifest.json", "tokenize_dataset"),
        ("results/probe/chatglm2-6b/none.jsonl", "generate_predictions"),
        ("results/curves/chatglm2-6b/lora.csv", "finetune_model"),
        ("results/scores/chatglm2-6b/lora.rows.jsonl", "score_predictions"),
        ("results/runtime/finetune_model/chatglm2-6b/lora.json", "finetune_model"),
    ],
)
def test_a_missing_file_names_the_step_that_writes_it(copy: Path, name: str, step: str) -> None:
    (copy / name).unlink()
    message = f"{name}: no such file; the step {step} writes it: run `snakemake --cores 1"
    with pytest.raises(DataError, match=re.escape(message)):
        read(copy)


def test_scores_of_an_older_version_must_be_scored_again(copy: Path) -> None:
    path = copy / "results/scores/chatglm-6b/lora.json"
    scores = json.loads(path.read_text(encoding="utf-8"))
    del scores["protocols"]
    write_json(path, scores)
    message = r"lora.json: no scores for glmtune, thudm, .* score again: `snakemake --cores 1"
    with pytest.raises(DataError, match=message):
        read(copy)


def test_a_definition_missing_from_older_scores_is_named(copy: Path) -> None:
    path = copy / "results/scores/chatglm-6b/lora.json"
    protocols = json.loads(path.read_text(encoding="utf-8"))["protocols"]
    del protocols["paddle"]
    change(path, protocols=protocols)
    with pytest.raises(DataError, match="no scores for paddle under 'protocols'"):
        read(copy)


def test_runs_with_different_general_questions_are_refused(copy: Path) -> None:
    path = copy / "results/probe/chatglm2-6b/lora.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(DataError, match="probe of chatglm2-6b / lora: different general questions"):
        read(copy)


def test_rows_are_the_same_even_if_tokenizers_decode_references_differently(copy: Path) -> None:
    for method in METHODS:
        path = copy / f"results/predictions/chatglm2-6b/{method}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        write_jsonl(path, [row | {"decoded_labels": row["labels"][:2]} for row in rows])
    assert "Models with the same method" in render_markdown(read(copy))


def test_runs_may_have_no_seed(copy: Path) -> None:
    runs = [{key: run[key] for key in ("model", "method", "is_trained")} for run in RUNS]
    assert render_markdown(read(copy, runs)) == render_markdown(read(copy))


def test_only_the_first_training_answers_are_read(copy: Path) -> None:
    """The training file can be large; whatever follows them is ignored."""
    path = copy / "data/dataset/train.jsonl"
    write_jsonl(path, [{"content": "问", "summary": "答"}] * TRAINING_ANSWERS)
    with path.open("a", encoding="utf-8") as stream:
        stream.write("broken\n")
    assert not read(copy).style.ngrams
