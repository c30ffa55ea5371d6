"""The scores in the READMEs are those of a run, and stale ones are reported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from glmtune.files import write_json, write_jsonl

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import default_results  # noqa: E402
import readme_marks  # noqa: E402
from default_results import WORDS, decided_by, record, render  # noqa: E402


def results(folder: Path, capability: str, bleu: float) -> Path:
    """A results folder as a default run leaves it, as far as the table needs it."""
    scores = {"bleu-4": bleu, "rouge-l": 70.04, "general-questions": 41.3, "distinct": 1.0}
    models = ("chatglm-6b", "chatglm2-6b")
    write_json(
        folder / "metrics.json", {m: dict.fromkeys(WORDS["en"]["methods"], scores) for m in models}
    )
    facts = {"hardware": "A CPU, 2 cores", "cpu_capability": capability, "torch_threads": 1}
    runtime = folder / "runtime/finetune_model/chatglm2-6b/ptuning.json"
    write_json(runtime, facts | {"versions": {"torch": "2.13.0"}, "seconds": 3.0})
    for method in ("none", "ptuning"):
        row = {"prompt": "类型#裙", "labels": None, "predict": f"answer of {method}"}
        write_jsonl(folder / f"examples/chatglm2-6b/{method}.jsonl", [row])
    return folder


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Any]:
    folders = [results(tmp_path / "a", "AVX512", 57.5), results(tmp_path / "b", "AVX2", 56.75)]
    return record(folders)


def test_the_table_has_the_scores_the_machine_and_how_far_they_move(run: dict[str, Any]) -> None:
    text = render(run)
    assert "| ChatGLM2-6B, miniature | 57.5 / 70.0 | 57.5 / 70.0 |" in text
    assert "A CPU, 2 cores, AVX512 kernels, 1 thread, torch 2.13.0." in text
    assert "The same run with AVX2 kernels moves BLEU-4 by up to 0.8 (chatglm2-6b, ptuning)" in text
    assert "> P-Tuning v2: answer of ptuning" in text
    chinese = render(run, "zh")
    assert "| ChatGLM2-6B（微型） | 57.5 / 70.0 | 57.5 / 70.0 |" in chinese
    assert "> P-Tuning v2：answer of ptuning" in chinese


def test_both_languages_have_the_same_words_to_fill_in() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    assert WORDS["en"]["methods"].keys() == WORDS["zh"]["methods"].keys()


def test_a_table_of_another_run_and_an_old_one_are_reported(
    run: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    readmes = {language: tmp_path / f"{language}.md" for language in readme_marks.READMES}
    for readme in readmes.values():
        text = "\n\n".join(["before", *default_results.MARKS, "after"])
        readme.write_text(text, encoding="utf-8")
    file = tmp_path / "default_run.json"
    write_json(file, run)
    for module in (readme_marks, default_results):
        monkeypatch.setattr(module, "READMES", readmes)
    monkeypatch.setattr(default_results, "FILE", file)

    def tool(*flags: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["default_results.py", *flags])
        return default_results.main(), capsys.readouterr().out

    assert tool("--check")[0] == 1
    assert tool() == (0, "")
    assert tool("--check") == (0, "")
    assert run["decided_by"] == decided_by()
    write_json(file, run | {"decided_by": "of other code"})
    for count, age in (("", "some commits"), ("1", "1 commit"), ("12", "12 commits")):
        monkeypatch.setattr(default_results, "_git", lambda *_, count=count: count)
        code, out = tool("--check")
        assert code == 0
        assert f"are {age} old, and code or parameters that decide numbers changed since" in out
