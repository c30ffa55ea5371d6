"""The report in a real browser, from a file: languages, sorting, hiding, filters, links, curves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from report_tree import METHODS, MODELS, PARAMS, RUNS, read, write_tree

from glmtune.errors import printable
from glmtune.files import write_jsonl
from glmtune.report.writing import write_report

if chromium.PROGRAM is None:
    pytest.skip("no chromium: apt-get install chromium", allow_module_level=True)

HOSTILE = (
    "</script><script>document.title = 1</script><img src=x onerror='document.title = 2'>"
    "{title}{{x}}${y}</title></style>*a*[b](javascript:alert`1`)\u202e\u2066\x1b[31m--><!--&lt;"
)
READY = "document.querySelectorAll('#rows > li').length > 0"


def with_hostile_texts(root: Path) -> Path:
    """Texts of models and data that try to be markup, script or commands."""
    for path in (root / "results/predictions").rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows[6] |= {"prompt": HOSTILE, "labels": HOSTILE, "predict": HOSTILE}
        rows[7]["predict"] = "这件短裙子很美" if path.stem == "lora" else "裙子"
        write_jsonl(path, rows)
    scores = root / "results/scores/chatglm2-6b/ptuning.rows.jsonl"
    rows = [json.loads(line) for line in scores.read_text(encoding="utf-8").splitlines()]
    rows[12]["bleu-4"] += 5
    rows[16]["bleu-4"] -= 5
    write_jsonl(scores, rows)
    for folder in ("examples", "probe"):
        for path in (root / f"results/{folder}").rglob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            write_jsonl(path, [rows[0] | {"predict": HOSTILE}, *rows[1:]])
    return root


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = with_hostile_texts(write_tree(tmp_path_factory.mktemp("tree")))
    write_report(read(root, RUNS, PARAMS | {HOSTILE: HOSTILE}), root / "out")
    return (root / "out/report.html").as_uri()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def browser(opened: Any, page: str) -> Iterator[Any]:
    """The page in English; nothing may be said on its console, and nothing may be fetched."""
    opened.console.clear()
    opened.open(page)
    opened.until(READY)
    opened.run("localStorage.clear()")
    if opened.run("document.documentElement.lang") == "zh":
        opened.run("document.getElementById('language').click()")
    yield opened
    opened.run("localStorage.clear()")
    assert opened.console == []


def choose(browser: Any, field: str, value: str) -> None:
    """Change a field of the browser of answers as a reader does."""
    browser.run(
        f"document.getElementById('{field}').value = {json.dumps(value)}; "
        f"document.getElementById('{field}').dispatchEvent(new Event('input', {{bubbles: true}}))"
    )


def test_the_language_is_switched_and_remembered(browser: Any, page: str) -> None:
    assert browser.texts("h1") == ["Fine-tuning report"]
    assert browser.texts("#order option")[1] == "worst first"
    browser.run("document.getElementById('language').click()")
    assert browser.texts("h1") == ["微调报告"]
    assert browser.texts("#order option")[1] == "得分最低在前"
    assert browser.texts("nav a")[0] == "得分"
    browser.open(page)
    browser.until(READY)
    assert browser.run("document.documentElement.lang") == "zh"
    assert "第 1 行" in browser.texts("#rows h3")


def test_a_page_that_may_not_remember_works(browser: Any, page: str) -> None:
    forbidden = browser.send(
        "Page.addScriptToEvaluateOnNewDocument",
        source="Object.defineProperty(window, 'localStorage', {get() { throw new Error() }})",
    )
    browser.open(page)
    browser.until(READY)
    browser.run("document.getElementById('language').click()")
    browser.run("document.getElementById('theme').click()")
    assert browser.run("document.documentElement.dataset.theme") == "dark"
    browser.send("Page.removeScriptToEvaluateOnNewDocument", **forbidden)
    browser.open(page)


def test_dark_and_light_are_switched(browser: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert browser.run(ground) == "rgb(255, 255, 255)"
    browser.run("document.getElementById('theme').click()")
    assert browser.run(ground) == "rgb(20, 23, 26)"


def test_a_table_is_sorted_by_a_column_and_back(browser: Any) -> None:
    table = "document.querySelector('#scores ~ .wide table')"
    column = f"[...{table}.tBodies[0].rows].map(r => r.cells[2].innerText.split('\\n')[0])"
    before = browser.run(column)
    assert browser.run(f"{table}.tHead.rows[0].cells[2].innerText") == "BLEU-4"
    head = f"{table}.tHead.rows[0].cells[2]"
    for direction in ("descending", "ascending"):
        browser.run(f"{head}.querySelector('button').focus()")
        browser.press("Enter", text="\r")
        assert browser.run(f"{head}.getAttribute('aria-sort')") == direction
        numbers = [float(cell.split()[0]) for cell in browser.run(column)]
        assert numbers == sorted(numbers, reverse=direction == "descending")
    browser.press("Enter", text="\r")
    assert browser.run(column) == before


def test_a_method_is_hidden_everywhere(browser: Any) -> None:
    elements = "[...document.querySelectorAll('[data-method=ptuning]')]"
    visible = f"{elements}.filter(e => e.getBoundingClientRect().width > 0).length"
    assert browser.run(visible) > 20
    browser.run("document.querySelector('[data-hides=method][value=ptuning]').click()")
    assert browser.run(visible) == 0
    names = browser.texts("#rows > li:first-child dt")
    assert len(names) == 1 + len(MODELS) * (len(METHODS) - 1)


def test_answers_are_found_by_text_and_score(browser: Any) -> None:
    assert browser.texts("#found") == ["42 rows, 10 shown"]
    choose(browser, "search", "短裙")
    assert browser.texts("#rows h3") == ["Row 8"]
    choose(browser, "search", "")
    choose(browser, "least", "67")
    assert browser.texts("#found")[0].startswith("0 rows")
    choose(browser, "run", "2")  # lora, which scores 20 more
    assert browser.texts("#rows h3")[0] == "Row 6"
    browser.run("document.querySelector('#browser form').reset()")


def test_the_worst_best_and_most_improved_come_first(browser: Any) -> None:
    # Row r of the data scores r % 3 + 10 * (r % 7) more than its method's base.
    choose(browser, "order", "best")
    assert browser.texts("#rows h3")[0] == "Row 21"
    choose(browser, "order", "worst")
    assert browser.texts("#rows h3")[0] == "Row 1"
    choose(browser, "run", "4")  # ptuning of chatglm2-6b, improved in one row
    choose(browser, "order", "gain")
    assert browser.texts("#rows h3")[0] == "Row 13"
    choose(browser, "order", "drop")
    assert browser.texts("#rows h3")[0] == "Row 17"


def test_differences_are_marked_by_character(browser: Any) -> None:
    choose(browser, "search", "短裙")
    lora = "[...document.querySelectorAll('#rows dd.text')][3]"
    assert browser.run(f"{lora}.textContent") == "这件短裙子很美"
    marks = f"[...{lora}.querySelectorAll('mark')].map(m => m.textContent)"
    assert browser.run(marks) == ["这件短", "很美"]  # the reference: 裙子7
    choose(browser, "marks", "untuned")
    assert browser.run(marks) == ["这件短", "很美"]  # the untuned answer: 裙子
    choose(browser, "marks", "")
    assert browser.run(marks) == []


def test_a_link_to_a_row_shows_it(browser: Any, page: str) -> None:
    choose(browser, "search", "no such text")
    assert browser.texts("#rows h3") == []
    browser.run("location.hash = '#row-40'")
    browser.until("document.querySelector('#rows > li.here')")
    assert browser.texts("#rows > li.here h3") == ["Row 40"]
    top = browser.run("document.getElementById('row-40').getBoundingClientRect().top")
    assert -5 < top < 900
    browser.open("about:blank")
    browser.open(f"{page}#row-33")
    browser.until("document.querySelector('#rows > li.here')")
    assert browser.texts("#rows > li.here h3") == ["Row 33"]


def test_curves_are_enlarged_and_shown_whole_again(browser: Any) -> None:
    labels = "[...document.querySelectorAll('.curves .x.axis text')].map(t => t.textContent).join()"
    points = "document.querySelector('.curves polyline').getAttribute('points')"
    whole, drawn = browser.run(labels), browser.run(points)
    browser.run("document.querySelector('.curves').scrollIntoView({block: 'center'})")
    left, width, middle = browser.run(
        "(r => [r.left, r.width, r.top + r.height / 2])"
        "(document.querySelector('.curves .hit').getBoundingClientRect())"
    )
    for kind, share in (("Pressed", 0.2), ("Moved", 0.5), ("Released", 0.5)):
        place = {"x": left + share * width, "y": middle}
        kind = f"mouse{kind}"
        browser.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
    assert browser.run(labels) != whole
    steps = "curvePanels[0].domain.slice(0, 2).map(Math.round)"
    assert browser.run(steps) == [28, 55]  # of 10 to 100
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", **place)
    browser.until("document.getElementById('tip').textContent.startsWith('ptuning: ')")
    browser.run("document.querySelectorAll('.zoom button')[1].click()")
    assert browser.run(steps) == [10, 100]
    browser.run("document.querySelector('.zoom button').click()")
    assert browser.run(steps) == [55, 100]
    browser.run("document.querySelector('.zoom input').click()")
    assert browser.run(points) != drawn


def test_commands_are_copied(browser: Any) -> None:
    button = "document.querySelector('#reproduce ~ .code button')"
    assert browser.run(f"{button}.textContent") == "Copy"
    browser.run(f"{button}.click()")
    browser.until(f"{button}.textContent === 'Copied'")


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1440, True)])
def test_the_page_is_as_wide_as_the_window(browser: Any, page: str, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    browser.until(READY)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.cut_labels() == []
    first = "document.querySelector('.runs tbody th')"
    browser.run(f"{first}.closest('.wide').scrollLeft = 400")
    assert browser.run(f"{first}.getBoundingClientRect().left") >= 0


def test_nothing_is_cut_on_paper(browser: Any, page: str) -> None:
    browser.open(page, width=1030, media="print")
    browser.until(READY)
    wide = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert browser.run(f"{wide}.map(e => e.ariaLabel)") == []
    # Chromium repeats no head of a table that holds a button's box.
    boxes = "[...document.querySelectorAll('thead button')].map(e => getComputedStyle(e).display)"
    assert set(browser.run(boxes)) == {"contents"}
    assert browser.run("document.querySelector('aside').checkVisibility()") is False


def test_texts_of_models_and_data_are_only_text(browser: Any) -> None:
    assert browser.run("document.title") == "Fine-tuning report"
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelectorAll('img, iframe, object').length") == 0
    assert browser.run("document.querySelectorAll('a:not([href^=\"#\"])').length") == 0
    shown = printable(HOSTILE)
    row = "[...document.querySelectorAll('#row-7 .text')].map(e => e.textContent)"
    assert set(browser.run(row)) == {shown}
    assert browser.run(f"document.body.textContent.includes({json.dumps(shown)})")
    assert "\u202e" not in browser.run("document.documentElement.outerHTML")


def test_without_a_script_every_table_is_there(browser: Any, page: str) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        visible = (
            "[...document.querySelectorAll('table, figure svg, noscript')]"
            ".filter(e => e.checkVisibility()).length"
        )
        assert browser.run(visible) > 15
        assert browser.texts("noscript")[0].startswith("Searching and comparing needs JavaScript.")
        assert browser.run("document.getElementById('browser').checkVisibility()") is False
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
