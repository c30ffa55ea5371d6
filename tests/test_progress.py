"""The lines a person sees while Snakemake runs: what runs, what is done, what went wrong."""

from __future__ import annotations

import io
from logging import INFO, LogRecord
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from glmtune.workspace.progress import ProgressHandler


@pytest.fixture
def handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProgressHandler:
    monkeypatch.chdir(tmp_path)
    settings = SimpleNamespace(stdout=False, dryrun=False, printshellcmds=False)
    handler = ProgressHandler(settings)
    handler.stream = io.StringIO()
    return handler


def send(handler: ProgressHandler, event: LogEvent | None, text: str = "", **values: Any) -> None:
    record = LogRecord("snakemake", INFO, "", 0, text, None, None)
    record.__dict__.update(values, event=event)
    handler.emit(record)


def shown(handler: ProgressHandler) -> list[str]:
    stream: Any = handler.stream
    return stream.getvalue().splitlines()


def plan(handler: ProgressHandler, **counts: int) -> None:
    send(handler, LogEvent.RUN_INFO, stats={**counts, "all": 1, "total": sum(counts.values()) + 1})


def start(handler: ProgressHandler, job: int, title: str, rule: str = "finetune_model") -> None:
    send(handler, LogEvent.JOB_INFO, jobid=job, rule_name=rule, rule_msg=title, reason="")


def test_the_plan_counts_steps_and_not_the_target(handler: ProgressHandler) -> None:
    plan(handler, finetune_model=2, render_report=1)
    assert shown(handler) == ["3 steps: 2 finetune_model, 1 render_report"]


def test_one_step_is_not_called_steps(handler: ProgressHandler) -> None:
    plan(handler, render_report=1)
    assert shown(handler) == ["1 step: 1 render_report"]


def test_a_step_is_announced_and_ends_with_its_time(handler: ProgressHandler) -> None:
    plan(handler, finetune_model=2)
    start(handler, 5, "Tune a.")
    send(handler, LogEvent.JOB_FINISHED, job_id=5)
    start(handler, 6, "Tune b.")
    assert shown(handler)[1:] == [
        "▶ Tune a. (0 of 2 done)",
        "✓ Tune a. 0.0 s",
        "▶ Tune b. (1 of 2 done, about 0.0 s left)",
    ]


def test_on_a_terminal_a_line_takes_the_place_of_another_steps_bar(
    handler: ProgressHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler.stream, "isatty", lambda: True)
    stream: Any = handler.stream
    stream.write(" 50%|#####     | 8/16")
    send(handler, None, "Nothing to be done")
    assert stream.getvalue().endswith("8/16\r\x1b[KNothing to be done\n")


def test_the_time_left_is_known_from_earlier_runs(handler: ProgressHandler, tmp_path: Path) -> None:
    for model, seconds in (("a", 100), ("b", 200)):
        file = tmp_path / "benchmarks" / "finetune_model" / model / "lora.tsv"
        file.parent.mkdir(parents=True)
        file.write_text(f"s\th:m:s\n{seconds}\t0:01:00\n")
    (tmp_path / "benchmarks" / "render_report.tsv").write_text("")
    later = ProgressHandler(handler.settings)
    later.stream = io.StringIO()
    plan(later, finetune_model=2)
    start(later, 1, "Tune a.")
    assert shown(later)[-1] == "▶ Tune a. (0 of 2 done, about 5 min 0 s left)"


def log_of_a_failure(folder: Path) -> Path:
    log = folder / "lora.log"
    log.write_text("\n".join(f"line {i}" for i in range(50)) + "\n 1%\r50%\rerror: no such layer\n")
    return log


def test_a_failure_beside_other_steps_shows_the_end_of_its_log_and_is_repeated_last(
    handler: ProgressHandler, tmp_path: Path
) -> None:
    log = log_of_a_failure(tmp_path)
    plan(handler, finetune_model=2)
    start(handler, 1, "Tune a.")
    start(handler, 2, "Tune b.")
    send(handler, LogEvent.JOB_ERROR, jobid=1, rule_name="finetune_model", log=[log])
    send(handler, None, "WorkflowError:\nAt least one job did not complete successfully.")
    handler.close()
    lines = shown(handler)[3:]
    assert lines[0] == "✗ Tune a. failed:"
    assert (lines[1], lines[-3]) == ("    line 31", "    error: no such layer")
    assert lines[-2:] == ["✗ Tune a. error: no such layer", f"    Full log: {log}"]


def test_a_failure_that_nothing_follows_is_shown_once(
    handler: ProgressHandler, tmp_path: Path
) -> None:
    """The step has just printed its message itself."""
    log = log_of_a_failure(tmp_path)
    plan(handler, finetune_model=2)
    lines = ["✗ Tune a. error: no such layer", f"    Full log: {log}"]
    start(handler, 1, "Tune a.")
    send(handler, LogEvent.JOB_ERROR, jobid=1, rule_name="finetune_model", log=[log])
    assert shown(handler)[2:] == lines
    handler.close()
    assert shown(handler)[2:] == lines


def test_a_failure_is_repeated_after_the_steps_that_followed_it(
    handler: ProgressHandler, tmp_path: Path
) -> None:
    plan(handler, finetune_model=2)
    start(handler, 1, "Tune a.")
    log = log_of_a_failure(tmp_path)
    send(handler, LogEvent.JOB_ERROR, jobid=1, rule_name="finetune_model", log=[log])
    start(handler, 2, "Tune b.")
    handler.close()
    assert shown(handler)[-2:] == ["✗ Tune a. error: no such layer", f"    Full log: {log}"]


def test_a_failed_job_of_a_cluster_says_what_became_of_it(handler: ProgressHandler) -> None:
    start(handler, 1, "Tune a.")
    said = "job 7: CANCELLED. For further error details see the cluster/cloud log."
    send(handler, LogEvent.JOB_ERROR, jobid=1, rule_name="finetune_model", log=[], rule_msg=said)
    handler.close()
    lines = ["✗ Tune a. failed:", "    job 7: CANCELLED.", "✗ Tune a. job 7: CANCELLED."]
    assert shown(handler)[1:] == lines


def test_nothing_of_a_message_or_a_log_steers_the_terminal(
    handler: ProgressHandler, tmp_path: Path
) -> None:
    hostile, escaped = (
        "\x1b[2J\x07\u202e裙\u2028👩\u200d🔬\x00",
        "\\x1b[2J\\x07\\u202e裙\\u2028👩\u200d🔬\\x00",
    )
    log = tmp_path / "lora.log"
    text = f"a\r\x1b[Ab: 50%\r\tkey {hostile}\r\n\rold\rerror: {hostile}\n"
    log.write_text(text, encoding="utf-8", newline="")
    send(handler, None, f"Error in {hostile}")
    start(handler, 1, f"Tune {hostile}.")
    start(handler, 2, "Tune b.")
    send(handler, LogEvent.JOB_ERROR, jobid=1, rule_name="finetune_model", log=[log])
    handler.close()
    assert shown(handler) == [
        f"Error in {escaped}",
        f"▶ Tune {escaped}. (0 of 0 done)",
        "▶ Tune b. (0 of 0 done)",
        f"✗ Tune {escaped}. failed:",
        f"        key {escaped}",
        f"    error: {escaped}",
        f"✗ Tune {escaped}. error: {escaped}",
        f"    Full log: {log}",
    ]


@pytest.mark.parametrize("text", ["Select jobs to execute...", "Execute 1 jobs...", "", None])
def test_what_says_nothing_to_a_person_is_left_out(handler: ProgressHandler, text: Any) -> None:
    send(handler, None, text)
    assert shown(handler) == []


@pytest.mark.parametrize(
    "text", ["Nothing to be done (all requested files are present).", "LockException:\nError"]
)
def test_everything_else_is_shown(handler: ProgressHandler, text: str) -> None:
    send(handler, None, text)
    assert shown(handler) == text.splitlines()


@pytest.mark.parametrize(
    ("said", "shown_as"),
    [
        (
            'Traceback (most recent call last):\n\n  File "snakemake/jobs.py", line 806\n'
            "    os.remove(file)\n\nPermissionError: [Errno 13] Permission denied: 'results/a'",
            ["PermissionError: [Errno 13] Permission denied: 'results/a'", "    → make the file"],
        ),
        (
            "Traceback (most recent call last):\n  f()\nOSError: [Errno 28] No space left",
            ["OSError: [Errno 28] No space left", "    → free some space"],
        ),
        (
            "ProtectedOutputException in rule a:\naffected files:\n    results/a",
            [
                "ProtectedOutputException in rule a:",
                "affected",
                "    results/a",
                "    → make these",
            ],
        ),
        (
            "Traceback (most recent call last):\n  f()\nKeyError: 'bug'",
            ["Traceback (most", "  f()", "KeyError: 'bug'"],
        ),
    ],
)
def test_what_the_machine_refused_is_told_with_what_to_do_and_a_bug_whole(
    handler: ProgressHandler, said: str, shown_as: list[str]
) -> None:
    send(handler, LogEvent.ERROR, said)
    lines = shown(handler)
    assert len(lines) == len(shown_as)
    assert all(line.startswith(start) for line, start in zip(lines, shown_as, strict=True))


def test_a_reader_that_goes_away_stops_nothing(handler: ProgressHandler) -> None:
    def gone(text: str) -> int:
        raise BrokenPipeError

    stream: Any = handler.stream
    stream.write = gone
    start(handler, 1, "Tune a.")
    send(handler, LogEvent.JOB_FINISHED, job_id=1)
    assert handler.running == {}


def test_a_terminal_without_the_signs_gets_others(handler: ProgressHandler) -> None:
    raw = io.BytesIO()
    handler.stream = io.TextIOWrapper(raw, encoding="latin-1")
    start(handler, 1, "Tune ä.")
    assert raw.getvalue().decode("latin-1").startswith("? Tune ä.")
