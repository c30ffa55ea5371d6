"""The scoring script: what it writes, and what it says about a bad file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from steps import run_step

from glmtune.errors import DataError
from glmtune.metrics.predictions import read_predictions
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.scorings import METRICS
from glmtune.metrics.statistics import STATISTICS

GOOD = '{"prompt": "类型#裙*颜色#白色", "labels": "白色的裙子", "predict": "白色的裙子"}\n'


def run(folder: Path, content: bytes, *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "predictions.jsonl").write_bytes(content)
    files = ("--predictions", "predictions.jsonl", "--metrics", "out/scores.json")
    return run_step("score_predictions", *files, *flags, folder=folder)


def read(folder: Path, content: str) -> list[dict[str, Any]]:
    path = folder / "predictions.jsonl"
    path.write_bytes(content.encode("utf-8"))
    return read_predictions(path)


def test_means_and_row_scores_are_written_quietly(tmp_path: Path) -> None:
    empty = GOOD.replace('"predict": "白色的裙子"', '"predict": ""')
    done = run(tmp_path, (GOOD + empty).encode("utf-8"), "--rows", "out/rows.jsonl", "--quiet")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    means = json.loads((tmp_path / "out/scores.json").read_text("utf-8"))
    assert {name: means[name] for name in METRICS} == dict.fromkeys(METRICS, 50.0)
    assert (means["rows"], means["empty"], means["attribute-recall"]) == (2, 50.0, 50.0)
    rows = [
        json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text("utf-8").splitlines()
    ]
    assert [row["bleu-4"] for row in rows] == [100.0, 0.0]


def test_another_protocol_can_be_asked_for(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD.encode("utf-8"), "--protocol", "finetune_demo")
    assert done.returncode == 0
    scores = json.loads((tmp_path / "out/scores.json").read_text("utf-8"))
    assert scores["bleu-4"] == scores["protocols"]["finetune_demo"]["bleu-4"] < 1
    assert set(scores["protocols"]) == set(PROTOCOLS)


def test_a_table_shows_every_protocol_and_statistic(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD.encode("utf-8"))
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["protocol", "rows", *METRICS]
    shown = {line.split()[0].rstrip("*"): line.split()[1:] for line in lines if line}
    assert shown["glmtune"] == ["1", "100.0000", "100.0000", "100.0000", "100.0000"]
    assert shown["paddle"][2:] == ["-", "-", "-"]
    assert set(shown) >= {*PROTOCOLS, *STATISTICS}


def test_more_processes_write_the_same_bytes(tmp_path: Path) -> None:
    content = (GOOD + GOOD.replace("predict", "x").replace("x", "predict", 1)) * 20
    for workers in ("1", "2"):
        flags = ("--rows", f"out/{workers}.jsonl", "--workers", workers)
        done = run(tmp_path, content.encode("utf-8"), *flags)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/1.jsonl").read_bytes() == (tmp_path / "out/2.jsonl").read_bytes()


def test_no_processes_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD.encode("utf-8"), "--workers", "0")
    assert (done.returncode, done.stderr) == (2, "error: --workers: found 0; expected 1 or more\n")


@pytest.mark.parametrize("key", ["labels", "label"])
def test_the_reference_goes_by_either_name_and_the_prompt_may_be_missing(
    tmp_path: Path, key: str
) -> None:
    rows = read(tmp_path, json.dumps({key: "参考", "predict": "文"}))
    assert rows == [{"labels": "参考", "predict": "文"}]


def test_the_files_of_thudm_and_llama_factory_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, '{"labels": "参考", "predict": "文"}\n') == [
        {"labels": "参考", "predict": "文"}
    ]
    assert read(tmp_path, '{"prompt": "问", "predict": "文", "label": "参考"}\n') == [
        {"prompt": "问", "labels": "参考", "predict": "文"}
    ]


def test_what_the_statistics_need_is_kept_and_the_rest_is_not(tmp_path: Path) -> None:
    known = {"labels": "参考", "predict": "文", "prompt": "问", "finished": False, "history": []}
    assert read(tmp_path, json.dumps(known | {"score": 3})) == [known]
    ours = known | {"decoded": "文", "decoded_labels": "参"}
    assert read(tmp_path, json.dumps(ours)) == [ours]
    assert read(tmp_path, json.dumps(known | {"decoded_labels": None})) == [known]
    assert read(tmp_path, json.dumps(known | {"finished": None, "prompt": None})) == [
        {"labels": "参考", "predict": "文", "history": []}
    ]


def test_windows_line_ends_blank_lines_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    assert len(read(tmp_path, "\ufeff" + (GOOD * 2).replace("\n", "\r\n\r\n"))) == 2


def test_a_line_separator_inside_a_text_does_not_end_the_row(tmp_path: Path) -> None:
    rows = read(tmp_path, '{"labels": "参\u2028考", "predict": "文\x85"}\n')
    assert rows == [{"labels": "参\u2028考", "predict": "文\x85"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "no rows"),
        (b"\n \n", "no rows"),
        (GOOD.encode() + b"{oops\n", "line 2: not JSON"),
        (GOOD.encode("gbk"), "line 1: not UTF-8"),
        (GOOD.encode() + b"\n[1]\n", "line 3: found list; expected one JSON object per line"),
        (b'{"labels": "a"}', "line 1: no 'predict'; found 'labels'"),
        (b'{"predict": "a"}', "line 1: no 'labels'; found 'predict'"),
        (b"{}", "line 1: no 'labels'; found no keys"),
        (b'{"labels": "a", "predict": null}', "line 1: 'predict' is null; expected a text"),
        (b'{"labels": ["a"], "predict": "a"}', "line 1: 'labels' is [\"a\"]; expected a text"),
        (b'{"prompt": 3, "labels": "a", "predict": "a"}', "line 1: 'prompt' is 3; expected a text"),
        (
            b'{"labels": "a", "predict": "a", "finished": "yes"}',
            "line 1: 'finished' is \"yes\"; expected true, false or no such key",
        ),
        (b"[" * 100_000, "line 1: not JSON"),
        (
            GOOD.encode() + b'{"labels": "a", "predict": "a", "decoded": "a"}',
            "line 1: no 'decoded', unlike line 2; expected it in every row, as this project",
        ),
        (
            b'{"labels": "a", "predict": "a", "decoded": 1}',
            "line 1: 'decoded' is 1; expected a text",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "predictions.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_bad_file_ends_the_script_with_one_message_and_code_two(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD.encode() + b"{oops\n")
    assert done.returncode == 2
    assert done.stderr == (
        "error: predictions.jsonl: line 2: not JSON; expected one JSON object per line\n"
    )
    assert not (tmp_path / "out").exists()
