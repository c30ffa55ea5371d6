"""The rows that the report shows as examples where nobody named prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_tree import MODELS, PARAMS, read, section, write_tree

from glmtune.files import read_jsonl, write_jsonl
from glmtune.report.examples import spread_rows
from glmtune.report.writing import render_markdown

AUTO: dict[str, Any] = PARAMS | {"examples": "auto"}
TITLE = "Before and after"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Results on a user's own data: no prompts were asked, references differ in length."""
    root = write_tree(tmp_path)
    for path in (root / "results/examples").rglob("*.jsonl"):
        write_jsonl(path, [])
    for path in (root / "results/predictions").rglob("*.jsonl"):
        rows = read_jsonl(path)
        for number, row in enumerate(rows):
            row |= {"prompt": f"问{number}", "labels": "答" * (number + 1)}
        write_jsonl(path, rows)
    return root


def test_dev_rows_are_spread_over_lengths_and_scores(own: Path) -> None:
    report = read(own, params=AUTO)
    chosen = spread_rows(report)
    assert len(chosen) == 5
    assert chosen == sorted(chosen)  # by length, which is the row's number here
    assert all(chosen[i] * 5 // 42 == i for i in range(5))
    run = next(run for run in report.runs if run.is_trained)
    scores = [run.row_scores[index]["bleu-4"] for index in chosen]
    assert scores[1] < scores[0] < scores[2]


def test_a_prompt_is_shown_once(own: Path) -> None:
    for path in (own / "results/predictions").rglob("*.jsonl"):
        write_jsonl(
            path, [{**row, "prompt": f"问{i % 3}"} for i, row in enumerate(read_jsonl(path))]
        )
    report = read(own, params=AUTO)
    assert len({report.runs[0].predictions[i]["prompt"] for i in spread_rows(report)}) == 3


def test_the_report_shows_them_with_their_references(own: Path) -> None:
    text = section(render_markdown(read(own, params=AUTO)), TITLE)
    assert "5 dev rows, spread over the length of references and over scores" in text
    assert text.count("### `问") == 5
    assert text.count("| reference |  | 答") == 5
    assert text.count("| ptuning |") == 5 * len(MODELS)


def test_prompts_that_suit_the_data_set_are_shown_as_they_were_asked(tree: Path) -> None:
    assert (
        render_markdown(read(tree, params=AUTO)).split("## What was run")[0]
        == (render_markdown(read(tree)).split("## What was run")[0])
    )


def test_no_examples_can_be_asked_for(own: Path) -> None:
    text = section(render_markdown(read(own, params=PARAMS | {"examples": []})), TITLE)
    assert "No example prompts are configured." in text
