"""What a script says when something goes wrong: a message to act on, or a bug's traceback."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError
from steps import run_step

from glmtune import errors
from glmtune.errors import UserError, printable, run_script, shown_name
from glmtune.params.values import read_params
from glmtune.workspace.code_inputs import SCRIPTS

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, UserError) and kind is not UserError
]


def message_of(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    """What `run_script` prints for an error of a user's."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script(main)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_user_s_mistake_is_its_message_and_exit_code_2(
    kind: type[UserError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message_of(kind("params.yaml: lr: found 2"), capsys) == (
        "error: params.yaml: lr: found 2\n"
    )


def test_the_message_stands_behind_what_was_printed_before_it() -> None:
    """In a pipe Python holds printed lines back until the end, errors it does not."""
    script = (
        "from glmtune.errors import DataError, run_script\n"
        "def main():\n"
        "    print('1 row')\n"
        "    raise DataError('a row is missing')\n"
        "run_script(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(SCRIPTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.stdout == "1 row\nerror: a row is missing\n"


def test_every_kind_of_error_is_in_the_drawing() -> None:
    assert [kind.__name__ for kind in KINDS if f"─ {kind.__name__} " not in errors.__doc__] == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/data/model.safetensors"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        RuntimeError("Data processing error: No space left on device"),
        # What torch.save says when its file ends early.
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 6528 vs 6420"),
    ],
    ids=["the system's", "safetensors'", "the hub's", "torch's"],
)
def test_a_full_disk_is_explained(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    path = getattr(error, "filename", None) or "the output folder"
    assert message_of(error, capsys) == (
        f"error: {path}: no space left on the disk; free some space and run the command again\n"
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_without_permission_is_explained(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    message = message_of(OSError(number, "refused", "/models/a"), capsys)
    assert message.startswith("error: /models/a: access denied (")
    assert message.endswith("check the owner and permissions of the folder\n")


def test_a_full_gpu_is_answered_with_the_parameters_to_lower(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch  # takes seconds; no other test here needs it

    message = message_of(torch.OutOfMemoryError("CUDA out of memory. Tried to …"), capsys)
    for key in ("training.batch_size", "gradient_checkpointing", "quantization_bit"):
        assert key in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("lr"), FileNotFoundError(2, "gone"), AssertionError()])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def main() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run_script(main)
    assert caught.value is error


def test_a_script_started_too_early_says_which_file_is_missing(tmp_path: Path) -> None:
    """As a user sees it: one line, no traceback."""
    outputs = [
        word
        for name in ("checkpoint", "manifest", "curve", "runtime")
        for word in (f"--{name}", "x")
    ]
    settings = read_params(SCRIPTS.parents[1] / "params.yaml").other_training_settings("lora")
    (tmp_path / "lora.json").write_text(json.dumps(settings), encoding="utf-8")
    flags = ["--model", "model", "--model-manifest", "model.json", "--data", "data"]
    flags += [
        "--method",
        "lora",
        "--lr",
        "1e-2",
        "--max-steps",
        "4",
        "--batch-size",
        "2",
        "--seed",
        "1",
    ]
    done = run_step("finetune_model", *flags, "--settings", "lora.json", *outputs, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: model.json: no such file; run the step that writes it first\n"
    assert [path.name for path in tmp_path.iterdir()] == ["lora.json"]


def test_a_message_holds_nothing_that_steers_a_terminal() -> None:
    message = str(
        UserError("name \x1b]0;title\x07\x1b[2J \u202eevil\u2066 \x85\u2028 裙子\u3000。\n2")
    )
    assert message == (
        "name \\x1b]0;title\\x07\\x1b[2J \\u202eevil\\u2066 \\x85\\u2028 裙子\u3000。\n2"
    )
    assert printable("👩\u200d🔬 ❤\ufe0f می\u200cخواهم") == "👩\u200d🔬 ❤\ufe0f می\u200cخواهم"
    assert shown_name("a\nb" * 60) == "a\\nb" * 33 + "a…"


def said_by(*lines: str) -> tuple[str, str]:
    """What a script whose `main` has these lines writes to its two streams."""
    head = "import sys, warnings\nfrom tqdm import tqdm\nfrom glmtune.errors import run_script\n"
    body = "".join(f"    {line}\n" for line in lines)
    done = subprocess.run(
        [sys.executable, "-c", f"{head}def main():\n{body}run_script(main)\n"],
        env={"PYTHONPATH": str(SCRIPTS), "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )
    return done.stdout.decode(), done.stderr.decode()


def test_nothing_that_a_script_prints_steers_a_terminal() -> None:
    note = r"'key \x1b[2J\x07 \u202e裙子\rdone \ud800\n'"
    shown = "key \\x1b[2J\\x07 \\u202e裙子\\rdone \\ud800"
    assert said_by(f"print({note})") == (f"{shown}\n\n", "")
    assert shown in said_by(f"warnings.warn({note})")[1]
    _, bug = said_by(f"raise KeyError({note}, ValueError({note}))", "# \x1b[31m")
    assert bug.startswith("Traceback (most recent call last)")
    assert "\x1b" not in bug
    _, bug = said_by(f"raise RuntimeError({note})")
    assert bug.rstrip().endswith(f"RuntimeError: {shown}")


def test_a_reader_that_has_enough_ends_a_script_without_a_word() -> None:
    """As `make sweep | head`."""
    script = (
        "import sys; from glmtune.errors import run_script\n"
        "def main():\n"
        "    print('first'); sys.stdin.read(); print('second')\n"
        "run_script(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(SCRIPTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stdin
        assert run.stdout
        assert run.stderr
        assert run.stdout.readline() == b"first\n"
        run.stdout.close()
        run.stdin.close()
        assert run.stderr.read() == b""
        assert run.wait() == 141


def test_a_progress_bar_still_overwrites_its_own_line() -> None:
    bars = "for _ in tqdm(range(2), desc='a'): list(tqdm(range(2), desc='b', leave=False))"
    _, drawn = said_by(bars)
    assert drawn.startswith("\ra:   0%|")
    assert "\x1b[A\r" in drawn
    assert "\\" not in drawn
