"""`make sweep`: several experiments on one page."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from report_tree import write_scores
from test_compare import MODEL, read, write_state

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from states import State  # noqa: E402
from sweep import Sweep, beaten_in_words, sections  # noqa: E402

from glmtune.report.markdown import to_markdown  # noqa: E402
from glmtune.report.page import render_page  # noqa: E402

RUN = (MODEL, "ptuning")


def state(folder: Path, name: str, score: float, **params: object) -> State:
    """Results of P-Tuning with another score than elsewhere."""
    write_state(folder / name, **params)
    write_scores(folder / name / "results", *RUN, score)
    return read(folder / name, name)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    return Sweep(
        [
            state(folder, "low", 4.0, lr=0.001, pre_seq_len=8),
            state(folder, "high", 9.0, lr=0.1, pre_seq_len=8),
            state(folder, "long", 6.0, lr=0.1, pre_seq_len=16),
        ]
    )


def test_only_what_differs_is_shown(sweep: Sweep) -> None:
    assert set(sweep.varied) == {"lr", "pre_seq_len"}
    assert sweep.keys == [RUN]


def test_the_best_run_is_tested_on_the_same_rows(sweep: Sweep) -> None:
    assert sweep.best(RUN).name == "high"
    assert sweep.beaten(RUN) == 2


@pytest.mark.parametrize(
    ("beaten", "others", "words"),
    [
        (1, 1, "significantly above the other experiment"),
        (0, 1, "not significantly above the other experiment"),
        (0, 3, "not significantly above any of the 3 other experiments"),
        (2, 3, "significantly above 2 of the 3 other experiments"),
    ],
)
def test_the_verdict_is_a_sentence_for_one_other_run_and_for_several(
    beaten: int, others: int, words: str
) -> None:
    assert beaten_in_words(beaten, others).en == words


def test_the_page_has_a_figure_per_parameter_a_heat_map_and_the_cost(sweep: Sweep) -> None:
    page = render_page(sections(sweep))
    for name in ("sweep-lr", "sweep-pre_seq_len", "heat"):
        assert f'id="figure-{name}"' in page
    markdown = to_markdown([block for part in sections(sweep) for block in part])
    first = next(line for line in markdown.splitlines() if line.startswith("| high"))
    assert "1 min 15 s" in first
    assert markdown.index("| high") < markdown.index("| long") < markdown.index("| low")


def test_the_page_says_that_the_best_was_chosen_on_the_scored_rows(sweep: Sweep) -> None:
    page = render_page(sections(sweep))
    assert "The best run was chosen on the scored rows" in page
    assert "挑选时用的就是评分数据" in page


def test_a_sweep_without_any_difference_says_so(sweep: Sweep) -> None:
    same = sweep.states[:1] * 2
    changed = replace(same[0], params={**same[0].params, "lr": 0.5})
    assert "No score differs." in render_page(sections(Sweep([*same, changed])))


def test_runs_on_other_rows_are_not_tested(sweep: Sweep, tmp_path: Path) -> None:
    other = state(tmp_path, "other", 30.0, lr=0.2)
    path = tmp_path / f"other/results/predictions/{MODEL}/ptuning.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("裙子", "鞋"), encoding="utf-8")
    found = Sweep([*sweep.states, read(tmp_path / other.name, "other")])
    assert found.beaten(RUN) is None
