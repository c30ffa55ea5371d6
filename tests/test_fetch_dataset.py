"""The command that writes a data set, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SHARED

from glmtune.files import hash_folder, read_json, read_jsonl

SCRIPT = ROOT / "workflow" / "scripts" / "fetch_dataset.py"
ROW = '{"content": "裙", "summary": "好"}\n'


def fetch(*flags: str | Path, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, flags)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


def fetch_sample(folder: Path, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    sizes = ("--train-rows", "30", "--dev-rows", "10", "--seed", "7")
    return fetch("--sample", *sizes, "--out-dir", folder, hash_seed=hash_seed)


def test_the_sample_is_the_same_in_every_process(tmp_path: Path) -> None:
    for folder, hash_seed in (("a", "1"), ("b", "2")):
        done = fetch_sample(tmp_path / folder, hash_seed)
        assert done.returncode == 0, done.stderr
    assert hash_folder(tmp_path / "a") == hash_folder(tmp_path / "b")
    assert set(hash_folder(tmp_path / "a")) == {"train.jsonl", "dev.jsonl", "manifest.json"}
    manifest = read_json(tmp_path / "a" / "manifest.json")
    assert (manifest["train"]["rows"], manifest["dev"]["rows"]) == (30, 10)
    assert str(tmp_path) not in (tmp_path / "a" / "manifest.json").read_text(encoding="utf-8")


def test_a_users_files_are_normalised_and_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text('[\n  {"q": "裙", "a": "好", "x": 1}\n]\r\n', encoding="utf-8-sig")
    before = mine.read_bytes()
    columns = ("--prompt-column", "q", "--response-column", "a")
    done = fetch("--train", mine, "--dev", mine, "--out-dir", tmp_path / "out", *columns)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8") == ROW
    assert mine.read_bytes() == before


def test_a_bad_file_is_one_message_and_exit_code_2_and_earlier_data_stay(tmp_path: Path) -> None:
    good, bad, out = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "out"
    good.write_text(ROW, encoding="utf-8")
    bad.write_text(ROW + '{"content": "裙"}\n', encoding="utf-8")
    assert fetch("--train", good, "--dev", good, "--out-dir", out).returncode == 0
    before = hash_folder(out)
    done = fetch("--train", good, "--dev", bad, "--out-dir", out)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {bad}: line 2: no 'summary'")
    assert len(done.stderr.splitlines()) == 1
    assert hash_folder(out) == before


def test_a_users_own_file_is_never_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "train.jsonl"
    mine.write_text('[{"content": "裙", "summary": "好"}]', encoding="utf-8")
    done = fetch("--train", mine, "--dev", mine, "--out-dir", tmp_path)
    assert done.returncode == 2
    assert "would overwrite your file" in done.stderr
    assert mine.read_text(encoding="utf-8").startswith("[")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train", "a.json"], "name both --train FILE and --dev FILE"),
        (["--sample", "--seed", "1"], "--sample takes --train-rows, --dev-rows and --seed"),
        (["--sample", "--train", "a", "--train-rows", "1", "--dev-rows", "1"], "--sample takes"),
        (
            ["--sample", "--train-rows", "0", "--dev-rows", "1", "--seed", "1"],
            "expected 1 or more",
        ),
    ],
)
def test_flags_that_describe_no_use_are_refused(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    done = fetch(*flags, "--out-dir", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_step_needs_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, runpy; sys.argv = ['fetch_dataset.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'jieba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPT.parent, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"--sample" in done.stdout


def test_real_adgen_rows_are_read_as_they_are(tmp_path: Path) -> None:
    adgen = SHARED / "adgen"
    if not adgen.is_dir():
        pytest.skip("ADGEN rows are not beside this checkout")
    train, dev = adgen / "train_first4000.json", adgen / "dev_first700.json"
    done = fetch("--train", train, "--dev", dev, "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = read_json(tmp_path / "manifest.json")
    assert (manifest["train"]["rows"], manifest["dev"]["rows"]) == (4000, 700)
    assert read_jsonl(tmp_path / "dev.jsonl") == read_jsonl(dev)
