"""A user's own data and choices through the whole workflow, on real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import MODEL, Workspace, new_workspace

pytestmark = pytest.mark.slow

COLOURS = "红黑白蓝绿黄灰紫"
# Braces are wildcards to Snakemake, and nothing but text to a user.
PROMPTS = ["把{城市}译成英语", "介绍{model}", "{0}"]


def write_rows(workspace: Workspace, rows: list[Any]) -> None:
    """The rows as train and, with other questions, dev; JSON Lines and an array."""
    folder = workspace.path / "mine"
    folder.mkdir()
    half = len(rows) // 2
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:half])
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    (folder / "dev.json").write_text(json.dumps(rows[half:], ensure_ascii=False), encoding="utf-8")
    workspace.edit("dataset", {"train": "mine/train.jsonl", "dev": "mine/dev.json"})


def run_with_lora(folder: Path, rows: list[Any], *models: str) -> Workspace:
    workspace = new_workspace(folder / "project", models or (MODEL,), in_git=False)
    for method in ("ptuning", "full"):
        workspace.edit(f"methods.{method}", ...)
    workspace.edit("examples", PROMPTS)
    write_rows(workspace, rows)
    workspace.run("snakemake", "--cores", "2")
    return workspace


def read(workspace: Workspace, name: str) -> Any:
    text = (workspace.path / name).read_text(encoding="utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text) if name.endswith(".json") else text


def test_a_run_on_alpaca_rows(tmp_path: Path) -> None:
    rows = [
        {"instruction": "描述这件衣服。", "input": f"{c}色{k}", "output": f"一件{c}色的{k}。"}
        for c in COLOURS
        for k in ("裙子", "上衣")
    ]
    workspace = run_with_lora(tmp_path, rows)
    assert read(workspace, "data/dataset/manifest.json")["source"]["format"] == "alpaca"
    (first, *_) = read(workspace, f"results/predictions/{MODEL}/lora.jsonl")
    assert first["labels"] == rows[8]["output"]
    examples = read(workspace, f"results/examples/{MODEL}/lora.jsonl")
    assert [example["prompt"] for example in examples] == PROMPTS
    assert set(read(workspace, "results/metrics.json")[MODEL]) == {"none", "lora"}
    assert "alpaca" in read(workspace, "results/report.md")

    (workspace.path / "mine").rename(workspace.path / "moved")
    workspace.edit("dataset", {"train": "moved/train.jsonl", "dev": "moved/dev.json"})
    assert workspace.would_run() == {"render_report"}  # it shows the parameters
    with (workspace.path / "moved" / "train.jsonl").open("a", encoding="utf-8") as train:
        train.write("not a row\n")
    assert "fetch_dataset" in workspace.would_run()
    output = workspace.run("snakemake", ok=False)
    assert f"{workspace.path}/moved/train.jsonl: line 9: not JSON" in output


def test_a_run_on_conversations_of_several_turns(tmp_path: Path) -> None:
    """ChatGLM3 learns every answer, the others the last one, with what was said before it."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": "简短。"},
                {"role": "user", "content": "你好"},
                {"role": "assistant", "content": "你好！想看什么？"},
                {"role": "user", "content": f"{c}色{k}"},
                {"role": "assistant", "content": f"一件{c}色的{k}。"},
            ]
        }
        for c in COLOURS
        for k in ("裙子", "上衣")
    ]
    models = ("chatglm-6b", "chatglm2-6b", "chatglm3-6b-base")
    workspace = run_with_lora(tmp_path, rows, *models)
    tokens = {m: read(workspace, f"data/tokenized/{m}/manifest.json") for m in models}
    assert [tokens[m]["trains_on"] for m in models] == [*["last answer"] * 2, "every answer"]
    targets = {m: tokens[m]["splits"]["train"]["target_tokens"] for m in models}
    assert targets["chatglm3-6b-base"] > 1.5 * targets["chatglm2-6b"]
    for model in models:
        (first, *_) = read(workspace, f"results/predictions/{model}/lora.jsonl")
        assert (first["prompt"], len(first["history"])) == ("绿色裙子", 3)
    report = read(workspace, "results/report.md")
    assert "every answer" in report
    assert "last answer" in report


def test_a_run_on_conversations_with_tools(tmp_path: Path) -> None:
    """What is scored last is the answer to what a tool found."""
    tool = {"name": "find_clothes", "description": "查衣服", "parameters": {"colour": "颜色"}}
    rows = [
        {
            "tools": [tool],
            "conversations": [
                {"role": "user", "content": f"有{c}色的{k}吗？"},
                {
                    "role": "tool",
                    "name": "find_clothes",
                    "parameters": {"colour": c},
                    "observation": f"{k}：{c}",
                },
                {"role": "assistant", "content": f"有，一件{c}色的{k}。"},
            ],
        }
        for c in COLOURS
        for k in ("裙子", "上衣")
    ]
    workspace = run_with_lora(tmp_path, rows, "chatglm3-6b-base")
    (first, *_) = read(workspace, "results/predictions/chatglm3-6b-base/lora.jsonl")
    assert first["prompt"] == "裙子：绿"
    assert first["labels"] == "有，一件绿色的裙子。"
    assert [said["role"] for said in first["history"]] == ["system", "user", "assistant"]
    workspace.edit("models", {"chatglm2-6b": {"source": "miniature"}})
    output = workspace.run("snakemake", ok=False)
    assert "mine/train.jsonl: line 1" in output
    assert "tools" in output


def test_an_experiment_with_another_share_mixes_the_data_again(workspace: Workspace) -> None:
    parts = [{"path": "sample"}, {"path": "general", "share": 0.2}]
    workspace.edit("dataset", {"train": parts, "dev": "sample"})
    unmixed = read(workspace, "data/dataset/train.jsonl")
    jobs = workspace.snakemake("results/report.md")
    assert {"fetch_dataset", f"finetune_model {MODEL} lora"} <= jobs
    assert f"prepare_model {MODEL}" not in jobs
    assert read(workspace, "data/dataset/train.jsonl")[: len(unmixed)] == unmixed
    workspace.commit("a mixture")
    assert workspace.snakemake_of("dvc", "exp", "run", "-S", "dataset.train.1.share=0.4") == jobs
    train = read(workspace, "data/dataset/manifest.json")["train"]
    own, general = (part["rows"] for part in train["parts"])
    assert (own, train["rows"]) == (len(unmixed), own + general)
    assert general / train["rows"] == pytest.approx(0.4, abs=0.01)
    steps = read(workspace, f"results/training/{MODEL}/lora.json")["steps"]
    assert steps == workspace.params()["training"]["max_steps"]
    assert "0.4" in workspace.run("dvc", "params", "diff")
    text = read(workspace, "results/report.md")
    assert f"training rows (40%) were mixed in: general ({general})" in text
    assert workspace.would_run() == set()


def test_one_file_is_enough(tmp_path: Path) -> None:
    """Dev and valid rows are held out of it, and the report shows some of the former."""
    workspace = new_workspace(tmp_path / "project", in_git=False)
    for method in ("ptuning", "full"):
        workspace.edit(f"methods.{method}", ...)
    workspace.edit("training.eval_steps", 2)
    workspace.edit("training.keep_best", True)
    lines = [
        {"content": f"{c}色的{k}{ask}", "summary": f"一件{c}色的{k}。"}
        for c in COLOURS
        for k in ("裙子", "上衣", "外套")
        for ask in ("？", "?")
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (workspace.path / "mine.jsonl").write_text(text, encoding="utf-8")
    workspace.edit("dataset", {"train": "mine.jsonl", "dev": 0.25, "valid": 0.125})
    workspace.run("snakemake", "--cores", "2")
    manifest = read(workspace, "data/dataset/manifest.json")
    assert [manifest[split]["rows"] for split in ("train", "dev", "valid")] == [30, 12, 6]
    prompts = {
        split: {
            row["content"].replace("？", "?")
            for row in read(workspace, f"data/dataset/{split}.jsonl")
        }
        for split in ("train", "dev", "valid")
    }
    assert sum(map(len, prompts.values())) == 24
    curve = read(workspace, f"results/curves/{MODEL}/lora.csv")
    assert curve.startswith("step,loss,learning_rate,valid_loss\n")
    report = read(workspace, "results/report.md")
    assert "5 dev rows, spread over the length of references and over scores" in report
    assert "类型#" not in report.split("## General")[0]
    assert "chosen on 6 valid rows, which are not scored" in report
    workspace.edit("dataset", {"train": "mine.jsonl", "dev": 0.25})
    workspace.run("snakemake", "--cores", "2")
    assert not list(workspace.path.glob("data/**/valid*"))
    assert "The choice of the step saw the scored rows" in read(workspace, "results/report.md")


def test_several_seeds_are_one_row_with_their_spread(workspace: Workspace) -> None:
    before = workspace.trainings()
    alone = read(workspace, "results/metrics.json")[MODEL]
    workspace.edit("seeds", [42, 43])
    workspace.run("snakemake", "results/report.md")
    assert len(workspace.trainings() - before) == 3  # the first seed's are used again
    metrics = read(workspace, "results/metrics.json")[MODEL]
    assert set(metrics) == set(alone)
    assert metrics["none"] == alone["none"]
    assert metrics["lora"]["dev-loss"] != alone["lora"]["dev-loss"]
    assert "±" in read(workspace, "results/report.md")
    workspace.edit("seeds", [])
    workspace.run("snakemake", "results/report.md")
    assert not [path for path in (workspace.path / "results").rglob("*seed-43*")]
    assert read(workspace, "results/metrics.json")[MODEL] == alone


def test_the_official_protocol_samples_and_compares_with_cut_references(
    workspace: Workspace,
) -> None:
    whole = read(workspace, f"results/predictions/{MODEL}/lora.jsonl")
    before = workspace.trainings()
    workspace.edit("protocol", "thudm")
    workspace.run("snakemake", "results/report.md")
    assert workspace.trainings() == before
    sampled = read(workspace, f"results/predictions/{MODEL}/lora.jsonl")
    assert [row["predict"] for row in sampled] != [row["predict"] for row in whole]
    assert all(
        long["labels"].startswith(cut["labels"]) for long, cut in zip(whole, sampled, strict=True)
    )
    report = read(workspace, "results/report.md")
    assert "with top-p 0.7 and temperature 0.95, references truncated to 64 tokens" in report
