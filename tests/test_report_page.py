"""The page's parts: figures, tables, all answers packed, published figures."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_tree import RUNS, change, read, table_rows

from glmtune.files import write_jsonl
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.report.answers import all_answers
from glmtune.report.blocks import Cell, Head, Heading, PageOnly, Prose, Row, Table
from glmtune.report.contents import Report
from glmtune.report.figures import loss_figure
from glmtune.report.page import render_page
from glmtune.report.published import FIGURES
from glmtune.report.svg import log_ticks, short, ticks
from glmtune.report.words import Words, chinese, english
from glmtune.report.writing import render_markdown, render_sections, write_report


def unpacked(report: Report, **limit: int) -> dict[str, Any]:
    """The texts on the page, as its script reads them."""
    (part,) = (b for b in all_answers(report, **limit) if isinstance(b, PageOnly))
    packed = re.search(r'id="packed">([^<]*)<', part.html)
    assert packed
    return json.loads(zlib.decompress(base64.b64decode(packed[1])))


# --- figures --------------------------------------------------------------------------------------


def test_every_figure_is_well_formed_and_has_a_description(tree: Path, tmp_path: Path) -> None:
    write_report(read(tree), tmp_path)
    files = list((tmp_path / "figures").iterdir())
    assert len(files) == 5
    for path in files:
        root = ElementTree.parse(path).getroot()
        assert root.findtext("{http://www.w3.org/2000/svg}title")
        assert float(root.get("width", "0")) > 0


def test_dots_show_each_score_with_its_interval(tree: Path, tmp_path: Path) -> None:
    write_report(read(tree), tmp_path)
    picture = (tmp_path / "figures/scores.svg").read_text(encoding="utf-8")
    assert 'data-tip="lora: 55.00 (47 … 62.93)"' in picture
    assert picture.count("data-tip") == len(RUNS)


def test_a_figure_without_content_is_left_out_but_its_file_is_written(
    tree: Path, tmp_path: Path
) -> None:
    write_report(read(tree, RUNS[:1]), tmp_path)
    assert (tmp_path / "figures/loss.svg").is_file()
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "figures/scores.svg" in text
    assert "figures/loss.svg" not in text
    assert "figures/cost.svg" not in text


def test_losses_that_are_not_finite_are_left_out_of_the_curves(copy: Path) -> None:
    curve = "step,loss,learning_rate,dev_loss\n10,2.8,0.01,\n20,nan,0.01,inf\n30,2.4,0.01,2.7\n"
    for path in (copy / "results/curves").rglob("*.csv"):
        path.write_text(curve, encoding="utf-8")
    body = loss_figure(read(copy)).panels[0].body
    assert 'data-xy="10,2.8 30,2.4"' in body
    assert 'data-xy="30,2.7"' in body


def test_a_dev_loss_of_the_end_alone_is_a_dot_at_the_last_step(copy: Path) -> None:
    change(copy / "results/training/chatglm-6b/lora.json", dev_loss=None)
    bodies = [panel.body for panel in loss_figure(read(copy)).panels]
    assert [body.count('class="line dot ') for body in bodies] == [1, 2]
    assert 'data-xy="100,2.5" data-name="ptuning (dev)"' in bodies[0]
    for path in (copy / "results/curves").rglob("*.csv"):
        path.write_text(
            "step,loss,learning_rate,dev_loss\n1,3,0,2.8\n2,2,0,2.7\n", encoding="utf-8"
        )
    bodies = [panel.body for panel in loss_figure(read(copy)).panels]
    assert [body.count('class="line dev ') for body in bodies] == [2, 2]
    assert [body.count('class="line dot ') for body in bodies] == [0, 0]


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0.2, 9.7, [2, 4, 6, 8]), (-63, 2, [-60, -50, -40]), (0.36, 0.48, [0.36, 0.38, 0.4, 0.42])],
)
def test_ticks_are_round_numbers(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high)[: len(found)] == pytest.approx(found)


def test_a_log_scale_has_powers_of_ten() -> None:
    assert log_ticks(4_000, 500_000) == pytest.approx([10_000, 100_000])
    assert log_ticks(300, 2_500) == pytest.approx([500, 1000, 2000])
    assert [short(value) for value in (1e5, 2e6, 0.25, 0)] == ["100k", "2M", "0.25", "0"]


# --- tables ---------------------------------------------------------------------------------------


def page_of(table: Table) -> str:
    return render_page([[Heading(1, "Title", "title"), table]])


def test_a_column_is_shaded_from_its_worst_to_its_best_value() -> None:
    rows = [Row(["a", Cell("1", 1.0)]), Row(["b", Cell("3", 3.0)]), Row(["c", Cell("–")])]
    page = page_of(Table("", ["Name", Head("Loss", better=-1)], rows, text_columns=1))
    heats = re.findall(r'style="--heat:([\d.]+)">(\w)', page)
    assert heats == [("1.00", "1"), ("0.00", "3")]


def test_cells_say_what_they_are_to_a_screen_reader() -> None:
    rows = [Row(["lora", "白色的裙子", "text"], "chatglm-6b", "lora")]
    page = page_of(Table(Words("Answers", "回答"), ["Method", "A", "B"], rows, text_columns=3))
    assert '<caption><span class="t" lang="en">Answers</span>' in page
    assert 'data-name-en="Answers" data-name-zh="回答"' in page
    assert '<th scope="row">lora</th><td lang="zh">白色的裙子</td><td>text</td>' in page
    assert page.count('<th scope="col"') == 3
    assert '<tr data-model="chatglm-6b" data-method="lora">' in page


def test_the_page_shows_no_marks_of_markdown(tree: Path) -> None:
    page = render_page(render_sections(read(tree)))
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", "", page, flags=re.S)
    assert "**" not in text


def test_no_two_elements_of_the_page_have_the_same_id(tree: Path) -> None:
    page = render_page(render_sections(read(tree)))
    ids = Counter(re.findall(r'\bid="([^"]+)"', page))
    assert [name for name, count in ids.items() if count > 1] == []
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links <= set(ids)


# --- all answers ----------------------------------------------------------------------------------


def test_all_answers_are_on_the_page_with_their_scores(tree: Path) -> None:
    texts = unpacked(read(tree))
    assert [row["number"] for row in texts["rows"]] == list(range(1, 43))
    assert texts["rows"][3]["reference"] == "裙子3"
    lora = texts["runs"][2]
    assert (lora["model"], lora["method"]) == ("chatglm-6b", "lora")
    assert lora["answers"][3] == "这件裙子"
    assert lora["scores"]["bleu-4"][:3] == [24.0, 35.0, 46.0]


def test_too_many_answers_become_an_evenly_spaced_part_and_the_page_says_so(tree: Path) -> None:
    report = read(tree)
    texts = unpacked(report, largest=600)
    numbers = [row["number"] for row in texts["rows"]]
    assert 1 <= len(numbers) < 42
    (prose,) = (b for b in all_answers(report, largest=600) if isinstance(b, Prose))
    assert f"{len(numbers)} of the 42 dev rows, evenly spaced" in english(prose.text)
    assert f"42 行验证数据中等间隔的 {len(numbers)} 行" in chinese(prose.text)


def test_turns_before_a_prompt_are_shown_above_it(copy: Path) -> None:
    history = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "请讲"}]
    for path in (copy / "results/predictions").rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows[0]["history"] = history
        write_jsonl(path, rows)
    prompt = unpacked(read(copy))["rows"][0]["prompt"]
    assert prompt == "user: 你好\nassistant: 请讲\n类型#裙*颜色#0"


# --- published figures ----------------------------------------------------------------------------


def test_published_figures_stand_beside_ours_for_the_same_model_and_method_only(copy: Path) -> None:
    assert "Figures are published only for the 6B models" in render_markdown(read(copy))
    change(copy / "data/dataset/manifest.json", source={"kind": "adgen"})
    manifest = copy / "results/models/chatglm-6b.json"
    change(manifest, source="hub", parameters=6_200_000_000)
    rows = table_rows(render_markdown(read(copy)), "Measured by")
    assert {row[0] for row in rows} == {"chatglm-6b", "ChatGLM-6B"}
    methods = {row[1] for row in rows if row[2] == "**published, not ours**"}
    assert methods == {"none", "ptuning", "lora"}
    ours, theirs = (
        next(row for row in rows if row[1] == "ptuning" and row[2] == origin)
        for origin in ("this report", "**published, not ours**")
    )
    assert ours[3:5] == ["THUDM ptuning", "lr 0.02"]
    assert theirs[3::2][:2] == ["THUDM ptuning", "ChatGLM-6B, ptuning/README.md"]
    assert ours[6:] == ["35.00", "35.00", "35.00", "35.00", "1.23"]
    assert theirs[6:] == ["8.10", "31.12", "7.11", "24.97", "3.74"]
    change(manifest, source="random")
    assert "Measured by" not in render_markdown(read(copy))


def test_every_published_figure_has_a_source_and_a_known_definition() -> None:

    for figure in FIGURES:
        assert figure["source"]
        assert figure["protocol"] in PROTOCOLS
