"""The pages of `make compare` and `make sweep` in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import chromium
import pytest
from report_tree import write_jsonl, write_scores
from test_compare import MODEL, read, write_state
from test_sweep import state

from glmtune.report.page import render_page

if chromium.PROGRAM is None:
    pytest.skip("no chromium: apt-get install chromium", allow_module_level=True)

from compare import compare  # noqa: E402
from compare import sections as comparison  # noqa: E402
from sweep import Sweep  # noqa: E402
from sweep import sections as sweeping  # noqa: E402

HOSTILE = "<img src=x onerror='document.title = 1'></script>{title}\u202e"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two states whose answers and names try to be markup, and three experiments."""
    folder = tmp_path_factory.mktemp("pages")
    old = write_state(folder / "project")
    results = folder / "project/results"
    for method in ("ptuning", "lora"):
        write_scores(results, MODEL, method, 40.0)
    rows = [
        {"prompt": f"类型#裙*颜色#{row}", "labels": f"裙子{row}", "predict": 9 * HOSTILE}
        for row in range(42)
    ]
    write_jsonl(results / f"predictions/{MODEL}/lora.jsonl", rows)
    compared = compare(old, replace(read(folder / "project", "new"), name=HOSTILE))
    swept = Sweep(
        [
            state(folder, "low", 4.0, lr=0.005, pre_seq_len=8),
            state(folder, "high", 9.0, lr=0.1, pre_seq_len=8),
            state(folder, "long", 6.0, lr=0.02, pre_seq_len=16),
        ]
    )
    written = {"compare": comparison(compared), "sweep": sweeping(swept)}
    for name, sections in written.items():
        (folder / f"{name}.html").write_text(render_page(sections), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in written}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def browser(opened: Any) -> Iterator[Any]:
    """Nothing may be said on the console."""
    opened.console.clear()
    yield opened
    opened.run("localStorage.clear()")
    assert opened.console == []


@pytest.mark.parametrize("name", ["compare", "sweep"])
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1440, False)])
def test_a_page_fits_the_window_in_both_languages(
    browser: Any, pages: dict[str, str], name: str, width: int, dark: bool
) -> None:
    browser.open(pages[name], width=width, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    for language in ("zh", "en"):
        if browser.run("document.documentElement.lang") != language:
            browser.run("document.getElementById('language').click()")
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.cut_labels() == []
        hanzi = any("\u4e00" <= character <= "\u9fff" for character in browser.texts("h1")[0])
        assert hanzi == (language == "zh")


@pytest.mark.parametrize("name", ["compare", "sweep"])
def test_a_page_is_printed_whole(browser: Any, pages: dict[str, str], name: str) -> None:
    browser.open(pages[name], width=1030, media="print")
    wide = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert browser.run(f"{wide}.length") == 0


@pytest.mark.parametrize("name", ["compare", "sweep"])
def test_a_page_is_readable_without_its_script(
    browser: Any, pages: dict[str, str], name: str
) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages[name])
        shown = "[...document.querySelectorAll('section > * > :is(table, .panels)')]"
        visible = browser.run(f"{shown}.map(e => e.checkVisibility())")
        assert len(visible) > 1
        assert all(visible)
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_texts_and_names_of_states_are_only_text(browser: Any, pages: dict[str, str]) -> None:
    browser.open(pages["compare"])
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.texts("h1")[0].startswith("<img src=x onerror=")
    assert "\u202e" not in browser.run("document.documentElement.outerHTML")


def test_only_what_changed_is_drawn_in_the_colors_of_the_report(
    browser: Any, pages: dict[str, str]
) -> None:
    browser.open(pages["compare"])
    panels = "[...document.querySelectorAll('#figure-changes .panel')].map"
    titles = browser.run(f"{panels}(p => p.querySelector('.title').textContent)")
    assert titles == [f"{MODEL}, BLEU-4, new − old", f"{MODEL}, ROUGE-L, new − old"]
    drawn = browser.run(
        f"{panels}(p => [...p.querySelectorAll('path')].map(e => e.getAttribute('class')).join())"
    )
    assert drawn == ["s0,s1"] * 2  # ptuning and lora; the untuned model is gray
    assert browser.run(f"{panels}(p => p.querySelectorAll('.zero').length)") == [1, 1]
    browser.run("document.querySelector('[data-hides=method][value=lora]').click()")
    visible = "[...document.querySelectorAll('#figure-changes path')]"
    assert browser.run(f"{visible}.filter(e => e.getBoundingClientRect().width).length") == 2


def test_runs_are_sorted_by_the_value_of_a_parameter(browser: Any, pages: dict[str, str]) -> None:
    browser.open(pages["sweep"])
    table = "document.querySelector('#runs ~ .wide table')"
    names = f"[...{table}.tBodies[0].rows].map(row => row.cells[0].innerText)"
    assert browser.run(names) == ["high", "long", "low"]  # the best first
    place = browser.run(f"[...{table}.tHead.rows[0].cells].findIndex(e => e.innerText === 'lr')")
    for expected in (["high", "long", "low"], ["low", "long", "high"]):
        browser.run(f"{table}.tHead.rows[0].cells[{place}].querySelector('button').click()")
        assert browser.run(names) == expected
