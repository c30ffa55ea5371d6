"""The page in a real browser: by keyboard, narrow and wide, in both languages, texts as texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from tiny_results import write_results

for needed in ("fastapi", "httpx", "openai"):
    pytest.importorskip(needed, reason="the server needs the extra `serve`, its tests `dev`")
if chromium.PROGRAM is None:
    pytest.skip("no chromium: apt-get install chromium", allow_module_level=True)

from running_server import Server  # noqa: E402

pytestmark = pytest.mark.numeric

FAMILY = "chatglm2-6b"
HOSTILE = '<img src=x onerror="document.title=1">*类型#裙'
ROWS = [
    {"content": "类型#裙*颜色#白色", "summary": "白色的上衣。"},
    {"content": HOSTILE, "summary": "<script>document.title = 2</script>"},
]
IDLE = "running.size === 0 && document.querySelectorAll('#columns article').length === 5"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    dev = folder / "dev.jsonl"
    dev.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    running = Server(write_results(folder / "results", FAMILY), "--dev", str(dev))
    yield running
    running.stop()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium.Chromium(tmp_path / "profile") as opened:
        yield opened
        assert opened.console == []


def open_page(browser: Any, server: Server, language: str = "en", **how: Any) -> None:
    browser.open(f"{server.url}/?lang={language}", **how)
    browser.until("document.querySelectorAll('#methods input').length === 4")
    browser.run("$('max-tokens').value = 8")


def take_row(browser: Any, number: int) -> None:
    browser.run(f"$('row').value = {number}; takeRow()")
    browser.until(f"$('prompt').value === {json.dumps(ROWS[number]['content'])}")


@pytest.mark.parametrize(
    ("width", "dark", "language"), [(390, False, "zh"), (390, True, "en"), (1440, True, "zh")]
)
def test_every_method_answers_beside_the_reference(
    browser: Any, server: Server, width: int, dark: bool, language: str
) -> None:
    open_page(browser, server, language, width=width, dark=dark)
    take_row(browser, 0)
    browser.run("$('prompt').focus()")
    browser.press("Enter", ctrl=True)
    browser.until(IDLE)
    notes = browser.run("[...document.querySelectorAll('#columns .note')].map(n => n.textContent)")
    assert all("token" in note for note in notes[1:])
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.documentElement.lang")[:2] == language


def test_requested_attributes_are_marked_as_present_or_missing(
    browser: Any, server: Server
) -> None:
    open_page(browser, server)
    take_row(browser, 0)
    browser.run("askAll()")
    reference = "document.querySelector('#columns article')"
    assert browser.run(f"{reference}.querySelector('.kept').textContent") == "✓ 白色"
    assert browser.run(f"{reference}.querySelector('.lost').textContent") == "✗ 裙"
    assert browser.run(f"{reference}.querySelector('mark').textContent") == "白色"
    browser.until(IDLE)


def test_html_in_texts_is_shown_as_text(browser: Any, server: Server) -> None:
    open_page(browser, server)
    take_row(browser, 1)
    browser.run("askAll()")
    browser.until(IDLE)
    said = browser.run("document.querySelector('#columns .said').textContent")
    assert said == ROWS[1]["summary"]
    assert browser.run("document.querySelectorAll('main img, main script').length") == 0
    assert browser.run("document.title") == "glmtune"


def test_a_question_is_asked_again_of_another_method(browser: Any, server: Server) -> None:
    open_page(browser, server)
    browser.run("$('tab-compare').focus()")
    browser.press("ArrowRight")
    assert browser.run("document.activeElement.id") == "tab-chat"
    browser.run("$('question').focus()")
    browser.type("你好<b>")
    browser.press("Enter", ctrl=True)
    browser.until("running.size === 0 && history.length === 2")
    browser.run(f"$('chat-model').value = '{FAMILY}/lora'; $('again').click()")
    browser.until("document.querySelectorAll('#turns article').length === 4")
    browser.until("running.size === 0 && history.length === 2")
    titles = browser.run("[...document.querySelectorAll('#turns h3')].map(h => h.textContent)")
    assert titles == ["You", FAMILY, "You", f"{FAMILY}/lora"]
    assert browser.run("document.querySelectorAll('#turns b').length") == 0


def test_every_control_is_reached_by_tab(browser: Any, server: Server) -> None:
    open_page(browser, server)
    reached = set()
    for _ in range(24):
        browser.press("Tab")
        reached.add(browser.run("document.activeElement.id || document.activeElement.value"))
    wanted = {"tab-compare", "language", "base", "row", "take-row", "prompt", "ask-all", FAMILY}
    assert wanted <= reached


def test_answers_are_stopped(browser: Any, server: Server) -> None:
    open_page(browser, server)
    browser.run("$('max-tokens').value = 400; $('temperature').value = 9; $('prompt').value = '你'")
    browser.run("askAll(); stopAll()")
    browser.until("running.size === 0")
    server.until_idle()
