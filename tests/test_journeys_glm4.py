"""GLM-4 through the whole workflow: its miniature, every method, tools, an export as a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import Workspace, new_workspace

pytestmark = pytest.mark.slow

MODEL = "glm-4-9b"
TOOL = {"name": "price", "description": "价格", "parameters": {"type": "object"}}


def rows() -> list[dict[str, Any]]:
    """Conversations in which a tool is called, and its result is answered."""
    call = {"type": "function", "function": {"name": "price", "arguments": '{"id": 7}'}}
    return [
        {
            "tools": [TOOL],
            "messages": [
                {"role": "user", "content": f"{colour}裙子多少钱？"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": f"{price}"},
                {"role": "assistant", "content": f"{colour}裙子{price}元。"},
            ],
        }
        for price, colour in enumerate("红黑白蓝绿黄灰紫", start=10)
    ]


def read_lines(workspace: Workspace, name: str) -> list[Any]:
    text = (workspace.path / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_method_on_the_miniature_then_its_export_as_a_source(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "project", (MODEL,), in_git=False)
    folder = workspace.path / "mine"
    folder.mkdir()
    for name, part in (("train", rows()[:6]), ("dev", rows()[6:])):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    workspace.edit("dataset", {"train": "mine/train.jsonl", "dev": "mine/dev.jsonl"})
    workspace.edit("max_source_tokens", 400)
    workspace.edit("quantization_bit", 8)
    workspace.edit("methods.full", ...)
    workspace.run("snakemake", "--cores", "2")
    assert set(scores(workspace)[MODEL]) == {"none", "ptuning", "lora"}
    (first, _) = read_lines(workspace, f"results/predictions/{MODEL}/lora.jsonl")
    assert first["labels"] == "灰裙子16元。"

    workspace.edit("quantization_bit", None)
    workspace.edit("methods.full", {"lr": 1e-3})
    workspace.run("snakemake", "--cores", "2")
    assert set(scores(workspace)[MODEL]) == {"none", "ptuning", "lora", "full"}
    answers = predictions(workspace, f"{MODEL}/full")

    tuned = f"results/checkpoints/{MODEL}/full"
    flags = ("--model", tuned, "--format", "transformers", "--out", "glm-hf")
    workspace.run("python", "workflow/scripts/export_model.py", *flags)
    workspace.edit("models", {"own": {"source": "./glm-hf", "family": MODEL}})
    workspace.edit("methods", {"none": {}})
    workspace.run("snakemake", "--cores", "2")
    assert predictions(workspace, "own/none") == answers


def predictions(workspace: Workspace, name: str) -> list[str]:
    rows = read_lines(workspace, f"results/predictions/{name}.jsonl")
    return [row["decoded"] for row in rows]


def scores(workspace: Workspace) -> dict[str, Any]:
    found = (workspace.path / "results" / "metrics.json").read_text(encoding="utf-8")
    return json.loads(found)
