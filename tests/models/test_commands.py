"""The subcommands of `glmtune` that open a model: answer, export, chat."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_results import write_results

import glmtune
from glmtune.checkpoints.loading import load_model
from glmtune.commands import answer, export, score
from glmtune.commands.chat import Chat
from glmtune.commands.texts import ENGLISH
from glmtune.devices import choose_device
from glmtune.errors import DataError
from glmtune.export import exporting
from glmtune.families.loading import load_tokenizer
from glmtune.generation import batches
from glmtune.serving.catalog import read_results
from glmtune.serving.library import Library, Limits
from glmtune.serving.session import Session
from glmtune.workspace.code_inputs import SCRIPTS

pytestmark = pytest.mark.numeric

FAMILY = "chatglm2-6b"
PROMPTS = [f"类型#裙*颜色#{number}" for number in range(6)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("commands") / "results", FAMILY)


def expected(results: Path, prompt: str, method: str = "ptuning", limit: int = 8) -> str:
    base = results / "models" / FAMILY
    kind = {"ptuning": "prefix", "lora": "adapter"}.get(method)
    parts: dict[str, Any] = {kind: results / "checkpoints" / FAMILY / method} if kind else {}
    model = load_model(base, family=FAMILY, **parts)
    return glmtune.chat(model, load_tokenizer(base, FAMILY), prompt, max_new_tokens=limit)


def run_answer(results: Path, folder: Path, *flags: str) -> list[dict[str, Any]]:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    out = folder / "out.jsonl"
    arguments = [f"{FAMILY}/ptuning", str(folder / "prompts.txt"), "--out", str(out)]
    answer.main([*arguments, "--results", str(results), "--max-new-tokens", "8", *flags])
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def test_a_file_of_prompts_is_answered_in_its_order(results: Path, tmp_path: Path) -> None:
    rows = run_answer(results, tmp_path)
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["predict"] for row in rows] == [expected(results, p) for p in PROMPTS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "prompts.txt"]


def test_a_killed_run_goes_on(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCHES_OF_GROUP", 1)
    asked: list[int] = []
    generate = batches.generate_groups

    def killed(*arguments: Any, **more: Any) -> Any:
        groups = generate(*arguments, **more)
        yield next(groups)
        raise KeyboardInterrupt

    def counted(*arguments: Any, **more: Any) -> Any:
        for group in generate(*arguments, **more):
            asked.extend(group)
            yield group

    monkeypatch.setattr(batches, "generate_groups", killed)
    with pytest.raises(KeyboardInterrupt):
        run_answer(results, tmp_path, "--batch-size", "2")
    monkeypatch.setattr(batches, "generate_groups", counted)
    rows = run_answer(results, tmp_path, "--batch-size", "2")
    assert len(asked) == 4
    assert [row["predict"] for row in rows] == [expected(results, p) for p in PROMPTS]


def test_json_lines_may_hold_a_history(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"content": "你好", "history": [["a", "b"]]}\n', encoding="utf-8")
    assert answer.read_prompts(file) == [{"prompt": "你好", "history": [["a", "b"]]}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"prompt": 1}', "line 1: found no text in 'prompt'"),
        (b'{"prompt": "a"}\n{', "line 2: not JSON"),
        (b"\xff", "not UTF-8"),
        (b"\n \n", "no prompts"),
    ],
)
def test_a_wrong_file_of_prompts_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "prompts").write_bytes(content)
    with pytest.raises(DataError, match=told):
        answer.read_prompts(tmp_path / "prompts")


def test_a_name_is_enough_to_export(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    flags = ["--format", "official", "--out", str(out), "--results", str(results)]
    export.main([f"{FAMILY}/lora", *flags])
    model = load_model(out, family=FAMILY)
    merged = glmtune.chat(model, load_tokenizer(out, FAMILY), PROMPTS[0], max_new_tokens=8)
    assert merged == expected(results, PROMPTS[0], "lora")


def test_every_format_can_be_named() -> None:
    assert tuple(exporting.FORMATS) == export.FORMATS
    assert exporting.QUANTIZED == export.QUANTIZED


def test_our_own_adapters_open_without_a_note(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected(results, PROMPTS[0], "lora")
    assert "ignored keys" not in capsys.readouterr().err


def test_scores_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"labels": "白色的裙", "predict": "白色的裙"}\n', encoding="utf-8")
    score.main(["--predictions", str(file)])
    assert "bleu-4" in capsys.readouterr().out


@pytest.fixture
def chat(results: Path) -> Chat:
    catalog = read_results(results)
    library = Library(choose_device(), Limits(max_rows=1))
    session = Session(catalog, library, catalog[f"{FAMILY}/ptuning"], max_new_tokens=8)
    return Chat(session, ENGLISH)


def said(chat: Chat, capsys: pytest.CaptureFixture[str], *lines: str) -> list[str]:
    capsys.readouterr()
    for line in lines:
        chat.take(line)
    return capsys.readouterr().out.splitlines()


def test_the_method_is_switched_and_the_question_asked_again(
    chat: Chat, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = said(chat, capsys, PROMPTS[0])[0]
    assert first == expected(results, PROMPTS[0]).split("\n")[0]
    again = said(chat, capsys, "/model lora", "/again")
    assert again[1] == expected(results, PROMPTS[0], "lora").split("\n")[0]
    assert len(chat.session.history) == 2
    compared = said(chat, capsys, "/compare")
    assert [line for line in compared if line.startswith("[chatglm")] == [
        f"[{FAMILY}{method}]" for method in ("", "/full", "/lora", "/ptuning")
    ]
    assert len(chat.session.history) == 2


def test_a_conversation_has_turns_that_can_be_forgotten(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    said(chat, capsys, "你好", "你好")
    assert [message["role"] for message in chat.session.history] == ["user", "assistant"] * 2
    assert said(chat, capsys, "/clear", "/history", "/again") == [
        *("Conversation cleared.", "The conversation is empty."),
        "You have not asked a question yet.",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/hist", "expected /history"),
        ("/model ptunig", "unknown model 'ptunig'"),
        ("/set tempratur 1", "expected temperature"),
        ("/set temperature hot", "expected 0 <= temperature <= 10"),
        ("/set max_new_tokens 0", "expected 1, 2, 3, …"),
        ("/as cat 你好", "expected one of system"),
        ("/as user", "/as ROLE TEXT"),
        ("/as assistant 你好", "expected a question"),
        ("/as observation 42", "has no place for tools"),
        ("白" * 3000, "the prompt has"),
    ],
)
def test_a_mistake_is_told_and_the_conversation_goes_on(
    chat: Chat, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    assert told in "".join(said(chat, capsys, line))
    assert said(chat, capsys, "你好")


def test_what_was_said_includes_the_system_message(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(chat, capsys, "/system 你是客服", "/history")[1] == "system: 你是客服"


def chat_command(results: Path, *flags: str) -> list[str]:
    command = [sys.executable, "-m", "glmtune.commands", "chat", f"{FAMILY}/ptuning"]
    return [*command, "--results", str(results), "--lang", "en", *flags]


def test_each_line_of_a_pipe_gets_one_line(results: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "PYTHONUTF8": "1"}
    done = subprocess.run(
        chat_command(results, "--max-new-tokens", "8"),
        input=f"{PROMPTS[0]}\n\n{'白' * 3000}\n",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    answer = expected(results, PROMPTS[0]).replace("\n", "\\n")
    assert done.stdout == f"{answer}\n\n\n"
    assert "the prompt has" in done.stderr
    assert "1 of the lines have no answer" in done.stderr
    assert done.returncode == 2


def test_ctrl_c_stops_the_answer_and_not_the_program(results: Path) -> None:
    """In a real terminal, a dumb one."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "TERM": "dumb", "PYTHONUTF8": "1"}
    command = chat_command(results, "--max-new-tokens", "400")
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        command, env=environment, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    )
    os.close(inside)
    shown = b""

    def until(text: str) -> None:
        nonlocal shown
        deadline = time.monotonic() + 120
        while text.encode() not in shown:
            assert time.monotonic() < deadline, shown
            shown += os.read(terminal, 4096)
        shown = shown.partition(text.encode())[2]

    until("you> ")
    os.write(terminal, "/set temperature 9\n你好\n".encode())
    until("你好")
    os.read(terminal, 10)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    until("you> ")
    os.write(terminal, b"/quit\n")
    until("Goodbye.")
    assert process.wait(60) == 0
    os.close(terminal)
