"""The step that answers: what stands in its files, and that a killed one goes on where it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from steps import SCRIPTS, run_step
from tiny_models import tiny_config
from workspaces import wait_for

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.saving import save_model
from glmtune.checkpoints.sources import hash_model
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.files import write_json, write_jsonl
from glmtune.generation.memory import auto_batch_size
from glmtune.synthetic.general_qa import probe_rows
from glmtune.workspace.step_settings import FOLDER, write_settings

pytestmark = pytest.mark.numeric

TEXTS = [f"这条{c}色的裙子，{s}大方。" for c in "红黑白蓝" for s in ("简约", "复古", "清新")]
ROWS = [{"content": text[:4], "summary": text} for text in TEXTS]
ROWS[1]["history"] = [  # type: ignore[assignment]
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！"},
]
SETTINGS: dict[str, Any] = {
    "seed": 1,
    "torch_threads": 1,
    "max_source_tokens": 64,
    "long_history": "shorten",
    "quantization_bit": None,
    "max_new_tokens": 12,
    "batch_size": 4,
    "do_sample": True,
    "top_p": 0.9,
    "temperature": 1.0,
    "reference_tokens": None,
    "template": None,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare("chatglm2-6b", tmp_path_factory.mktemp("prepared"))


def prepare(family_name: str, folder: Path) -> Path:
    """A folder with model/, model.json and dev.jsonl."""
    family = FAMILIES[family_name]
    family.train_tokenizer(TEXTS, folder / "model", vocab_size=80)
    tokenizer = load_tokenizer(folder / "model")
    config = family.miniature_config(tokenizer, hidden_size=32, num_layers=2, num_heads=2)
    save_model(build_model(config, seed=1), folder / "model")
    files = hash_model(folder / "model")
    write_json(folder / "model.json", {"family": family.name, "files": files})
    write_jsonl(folder / "dev.jsonl", ROWS)
    return folder


def flags_of(prepared: Path, out: Path, **changes: Any) -> list[str]:
    examples, settings = ["白色", TEXTS[0][:4]], SETTINGS | changes
    flags = {
        "model": prepared / "model",
        "model-manifest": prepared / "model.json",
        "method": "none",
        "dev": prepared / "dev.jsonl",
        "examples": out / FOLDER / f"{write_settings(out, examples)}.json",
        "settings": out / FOLDER / f"{write_settings(out, settings)}.json",
        "store": out / "store",
        "predictions": out / "predictions.jsonl",
        "example-answers": out / "examples.jsonl",
        "probe": out / "probe.jsonl",
        "runtime": out / "runtime.json",
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def run(prepared: Path, out: Path, **changes: Any) -> str:
    done = run_step("generate_predictions", *flags_of(prepared, out, **changes))
    assert done.returncode == 0, done.stderr
    return done.stderr


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_example_and_general_question_is_answered_in_order(
    prepared: Path, tmp_path: Path
) -> None:
    run(prepared, tmp_path)
    predictions = rows(tmp_path / "predictions.jsonl")
    assert [(row["prompt"], row["labels"]) for row in predictions] == [
        (row["content"], row["summary"]) for row in ROWS
    ]
    assert [row.get("history") for row in predictions] == [row.get("history") for row in ROWS]
    examples = rows(tmp_path / "examples.jsonl")
    assert [row["prompt"] for row in examples] == ["白色", TEXTS[0][:4]]
    assert [row["labels"] for row in examples] == [None, TEXTS[0]]
    probe = rows(tmp_path / "probe.jsonl")
    assert [row["prompt"] for row in probe] == [row["content"] for row in probe_rows()]
    everything = [*predictions, *examples, *probe]
    assert all(isinstance(row[key], str) for row in everything for key in ("predict", "decoded"))
    # A lossless vocabulary gives the references back as they are.
    assert not any("decoded_labels" in row for row in everything)


def test_prompts_with_shortened_histories_are_counted_in_the_log(
    prepared: Path, tmp_path: Path
) -> None:
    flags = flags_of(prepared, tmp_path, max_source_tokens=40)
    done = run_step("generate_predictions", *flags)
    assert "dropped the oldest turns of 1 of 60 prompts" in done.stdout
    assert "(raise max_source_tokens, now 40)" in done.stdout
    assert rows(tmp_path / "predictions.jsonl")[1]["history"] == ROWS[1]["history"]
    flags = flags_of(prepared, tmp_path, max_source_tokens=40, long_history="official")
    assert "oldest turns" not in run_step("generate_predictions", *flags).stdout


def test_references_are_cut_beside_the_whole_ones_where_the_protocol_cuts_them(
    prepared: Path, tmp_path: Path
) -> None:
    run(prepared, tmp_path, reference_tokens=4)
    tokenizer = load_tokenizer(prepared / "model")
    for row, line in zip(ROWS, rows(tmp_path / "predictions.jsonl"), strict=True):
        ids = tokenizer.encode(row["summary"])[:4]  # main.py: special tokens counted in
        assert line["decoded_labels"] == tokenizer.decode(ids).strip()
        assert len(line["decoded_labels"]) < len(line["labels"]) == len(row["summary"])


def test_chatglm_writes_what_a_person_reads_beside_what_its_vocabulary_decodes(
    tmp_path: Path,
) -> None:
    """Its vocabulary has no full-width comma; chat() shows one beside Chinese characters."""
    folder = prepare("chatglm-6b", tmp_path / "prepared")
    run(folder, tmp_path)
    tokenizer = load_tokenizer(folder / "model")
    lines = rows(tmp_path / "predictions.jsonl")
    assert [line["labels"] for line in lines] == TEXTS
    assert [line["decoded_labels"] for line in lines] == [t.replace("，", ",") for t in TEXTS]
    assert all(line["predict"] == tokenizer.process_response(line["decoded"]) for line in lines)


def test_an_automatic_batch_size_is_recorded_and_kept_for_a_resume(
    prepared: Path, tmp_path: Path
) -> None:
    script = SCRIPTS / "generate_predictions.py"
    # Long answers: it has to be killed before it ends.
    flags = flags_of(prepared, tmp_path, batch_size="auto", max_new_tokens=400)
    command = [sys.executable, str(script), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = tmp_path / "store" / "generate_predictions"
    wait_for(lambda: list(store.glob("*/*/batch_size.json")) != [])
    process.kill()
    process.wait()
    (file,) = store.glob("*/*/batch_size.json")
    assert 1 <= json.loads(file.read_text())["batch_size"] <= 256
    write_json(file, {"batch_size": 30})  # as a machine with less memory would have chosen
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "generating up to 30 rows at once" in done.stdout
    runtime = json.loads((tmp_path / "runtime.json").read_text())
    assert runtime["batch_size"] == 30
    assert 0 <= runtime["near_ties"] <= len(ROWS) + 2 + len(probe_rows())


def test_an_automatic_batch_size_follows_from_model_prompts_and_total_memory() -> None:
    model = build_model(tiny_config("chatglm2-6b"), "chatglm2-6b", seed=1)
    prompts = [[5] * 10, [5] * 40]
    sizes = [auto_batch_size(model, prompts, 88, memory) for memory in (0, 2e6, 4e6, 64e9)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1 < sizes[1] < sizes[2] < sizes[3] == 256
    assert auto_batch_size(model, prompts, 1000, 2e6) < sizes[1]


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    changes = {"batch_size": 2, "max_new_tokens": 40}  # it has to be killed before it ends
    run(prepared, tmp_path / "whole", **changes)
    out = tmp_path / "killed"
    script = SCRIPTS / "generate_predictions.py"
    command = [sys.executable, str(script), *flags_of(prepared, out, **changes)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = out / "store" / "generate_predictions"
    wait_for(
        lambda: any(log.read_bytes().count(b"\n") > 3 for log in store.glob("*/*/answers.jsonl"))
    )
    process.kill()
    process.wait()
    (log,) = store.glob("*/*/answers.jsonl")
    answered = log.read_bytes().count(b"\n")
    total = len(ROWS) + 2 + len(probe_rows())
    assert answered < total, "killed too late to show anything"
    with_bars = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    done = subprocess.run(command, env=with_bars, capture_output=True, text=True, check=True)
    progress = done.stderr
    assert re.search(rf"/{total - answered} ", progress), progress  # the bar counts what was left
    for name in ("predictions.jsonl", "examples.jsonl", "probe.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
