"""The command that writes a data set, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SHARED
from steps import run_step

from glmtune.data.adgen.fetching import AdgenFiles
from glmtune.data.origins import Opener, Request, from_parts
from glmtune.data.splits import write_dataset
from glmtune.files import hash_folder, read_json, read_jsonl

SCRIPT = ROOT / "workflow" / "scripts" / "fetch_dataset.py"
ROW = '{"content": "裙", "summary": "好"}\n'


SAMPLE = ("--sample", "--train-rows", "30", "--dev-rows", "10", "--seed", "7")


def fetch(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    return run_step("fetch_dataset", *flags)


def fetch_sample(folder: Path) -> subprocess.CompletedProcess[str]:
    return fetch(*SAMPLE, "--out-dir", folder)


def test_the_sample_is_the_same_in_every_process(tmp_path: Path) -> None:
    for folder, hash_seed in (("a", "1"), ("b", "2")):
        command = [sys.executable, str(SCRIPT), *SAMPLE, "--out-dir", str(tmp_path / folder)]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, check=True)
    assert hash_folder(tmp_path / "a") == hash_folder(tmp_path / "b")
    assert set(hash_folder(tmp_path / "a")) == {
        "train.jsonl",
        "dev.jsonl",
        "card.json",
        "left_out.jsonl",
        "manifest.json",
    }
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
    assert read_json(tmp_path / "out" / "manifest.json")["source"] == {
        "kind": "files",
        "format": "adgen",
        "columns": {"prompt": "q", "response": "a"},
    }


def test_files_of_different_forms_make_one_data_set(tmp_path: Path) -> None:
    train, dev = tmp_path / "train.csv", tmp_path / "dev.json"
    train.write_text("prompt,answer\n裙,好\n", encoding="gbk")
    dev.write_text('[[{"role": "USER", "content": "a"}, {"role": "ASSISTANT", "content": "b"}]]')
    refused = fetch("--train", train, "--dev", dev, "--out-dir", tmp_path / "out")
    assert refused.returncode == 2
    assert f"iconv -f GB18030 -t UTF-8 {train} > train.utf8.csv" in refused.stderr
    train.write_text("prompt,answer\n裙,好\n", encoding="utf-8")
    done = fetch("--train", train, "--dev", dev, "--out-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8") == ROW
    assert read_json(tmp_path / "out" / "manifest.json")["source"] == {
        "kind": "files",
        "format": "adgen",
        "columns": {"prompt": "prompt", "response": "answer"},
        "dev": {"format": "chatglm3-base-tuning", "columns": {}},
    }


def test_train_under_the_name_of_dev_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    train, dev, out = tmp_path / "train.json", tmp_path / "dev.json", tmp_path / "out"
    for path in (train, dev):
        path.write_text(ROW, encoding="utf-8")
    refused = fetch("--train", train, "--dev", dev, "--out-dir", out)
    assert refused.returncode == 2
    assert f"error: {dev}: line 1: 1 of 1 rows (100%) also appear in {train}" in refused.stderr
    assert not out.exists()
    for meant in ((train, train), (train, dev, "--max-leakage", "1")):
        flags = ("--train", meant[0], "--dev", *meant[1:])
        done = fetch(*flags, "--out-dir", out)
        assert done.returncode == 0, done.stderr
        assert "dev: 1 of 1 rows also appear in train" in done.stdout
        assert read_json(out / "card.json")["leakage"]["pairs"] == 1
    flags = ("--train", train, "--dev", train, "--max-leakage", "0.05")
    assert fetch(*flags, "--out-dir", out).returncode == 2


def test_a_mixture_with_held_out_rows_is_written_and_described(tmp_path: Path) -> None:
    own, general, out = tmp_path / "own.jsonl", tmp_path / "general.csv", tmp_path / "out"
    lines = [f'{{"q": "问{i % 40}", "a": "答{i}"}}\n' for i in range(80)]
    own.write_text("".join(lines), encoding="utf-8")
    general.write_text("question,answer\n法国的首都？,巴黎。\n", encoding="utf-8")
    flags = ("--dev-share", "0.1", "--valid-share", "0.05", "--seed", "3", "--out-dir", out)
    named = ("--prompt-column", "q", "--response-column", "a")
    parts = ("--mix", general, "--share", "0.1", "--mix", "general", "--share", "0.05")
    done = fetch("--train", own, *named, *parts, *flags)
    assert done.returncode == 0, done.stderr
    assert f"{out}: 80 train rows, 8 dev rows, 4 valid rows" in done.stdout
    assert "train: mixed in 8 rows, a share of 0.1, of 1, each 8.0 times on average" in done.stdout
    assert "train: mixed in 4 rows, a share of 0.05, of " in done.stdout
    manifest = read_json(out / "manifest.json")
    columns = {"prompt": "q", "response": "a"}
    assert manifest["source"] == {
        "kind": "files",
        "format": "adgen",
        "columns": columns,
        "held_out": {"dev": 0.1, "valid": 0.05, "seed": 3},
    }
    assert [part["kind"] for part in manifest["train"]["parts"]] == ["files", "files", "general"]
    assert [part["rows"] for part in manifest["train"]["parts"]] == [68, 8, 4]
    assert str(tmp_path) not in (out / "manifest.json").read_text(encoding="utf-8")
    rows = {split: read_jsonl(out / f"{split}.jsonl") for split in ("train", "dev", "valid")}
    prompts = {split: {row["content"] for row in each} for split, each in rows.items()}
    assert not prompts["dev"] & (prompts["train"] | prompts["valid"])
    assert set(read_json(out / "card.json")["splits"]) == set(rows)
    done = fetch("--train", own, "--dev", own, *named, "--out-dir", out)
    assert done.returncode == 0, done.stderr
    assert not (out / "valid.jsonl").exists()


def test_the_project_s_own_data_can_be_a_part(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(ROW, encoding="utf-8")
    sizes = ("--train-rows", "30", "--dev-rows", "10", "--seed", "7", "--out-dir", tmp_path / "a")
    done = fetch(
        "--train", own, "--train", "sample", "--dev", "sample", *sizes, "--out-dir", tmp_path / "a"
    )
    assert done.returncode == 0, done.stderr
    fetch_sample(tmp_path / "b")
    mixed, alone = (read_jsonl(tmp_path / each / "train.jsonl") for each in "ab")
    assert mixed[1:] == alone
    assert read_json(tmp_path / "a/manifest.json")["source"]["dev"] == {"kind": "sample", "seed": 7}


def test_bad_rows_are_skipped_and_a_subset_is_drawn_on_request(tmp_path: Path) -> None:
    train, dev, out = tmp_path / "train.json", tmp_path / "dev.json", tmp_path / "out"
    rows = [f'{{"content": "q{i}", "summary": "a{i}"}}\n' for i in range(9)]
    train.write_text("null\n" + "".join(rows[:8]) + "{}\n")
    dev.write_text(rows[8])
    flags = ("--train", train, "--dev", dev, "--out-dir", out, "--on-bad-rows", "skip")
    done = fetch(*flags, "--max-train-rows", "3", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert "train: dropped 2 unusable rows, first line 1, 10; all: " in done.stdout
    entry = read_json(out / "manifest.json")["train"]
    assert entry["rows"] == 3
    assert entry["chosen_from"] == {"rows": 8, "seed": 1}
    assert entry["skipped"] == {"rows": 2, "unit": "line", "first": [1, 10]}


def test_adgen_is_taken_from_where_the_user_says_and_its_licence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files themselves are not this project's to ship: the fetching is tested elsewhere."""
    files = {split: tmp_path / f"{split}.json" for split in ("train", "dev")}
    for number, path in enumerate(files.values()):
        path.write_text(ROW.replace("裙", f"裙{number}"), encoding="utf-8")
    asked = []

    def fetch_adgen(folder: Path, *, sources: list[str]) -> AdgenFiles:
        asked.append((folder, sources))
        return AdgenFiles(files["train"], files["dev"], {"kind": "adgen"})

    monkeypatch.setattr("glmtune.data.adgen.fetching.fetch_adgen", fetch_adgen)
    opener = Opener(adgen_folder=tmp_path / "kept", adgen_sources=["my.tar.gz"])
    origin = from_parts(Request(["adgen"], "adgen"), opener, tmp_path / "out")
    assert asked == [(tmp_path / "kept", ["my.tar.gz"])]
    dataset = write_dataset(
        tmp_path / "out", origin.train, origin.dev, origin.source, licence=origin.licence
    )
    assert dataset.manifest["source"] == {"kind": "adgen"}
    for statement in ("not part of this project", "CC BY 4.0", "CC BY-NC 4.0"):
        assert statement in dataset.card["licence"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_a_whole_adgen_is_read_in_little_memory(tmp_path: Path) -> None:
    """114,599 rows of 60 MB take about 55 MB: they are never all in memory."""
    content, summary = "类型#甲*风格#乙丙*图案#丁戊*裙长#己庚辛", "一二三四五六，七八九十。" * 9
    train, dev = tmp_path / "train.json", tmp_path / "dev.json"
    with train.open("w", encoding="utf-8") as lines:
        for i in range(114_599):
            lines.write(f'{{"content": "{content}*号#{i}", "summary": "{i}{summary}"}}\n')
    dev.write_text(ROW, encoding="utf-8")
    program = (
        "import pathlib, re, runpy, sys\n"
        f"sys.argv[1:] = ['--train', {str(train)!r}, '--dev', {str(dev)!r},"
        f" '--out-dir', {str(tmp_path / 'out')!r}]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        # Of this program alone; getrusage also counts the one that started it.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 150
    assert read_json(tmp_path / "out" / "manifest.json")["train"]["rows"] == 114_599


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
        (["--train", "sample", "--dev", "sample", "--seed", "1"], "--sample takes --train-rows"),
        (["--train", "a", "--dev", "b", "--dev-share", "0.1"], "expected one of the two"),
        (["--train", "a", "--dev-share", "0.1"], "--dev-share and --valid-share need --seed"),
        (["--train", "a", "--dev-share", "1", "--seed", "1"], "expected a share between 0 and 1"),
        (["--mix", "a", "--share", "0.1", "--dev", "b"], "name both --train FILE and --dev FILE"),
        (["--train", "a", "--dev", "b", "--mix", "c"], "expected one --share for each --mix"),
        (
            ["--train", "a", "--dev", "b", *["--mix", "c", "--share", "0.5"] * 2],
            "expected shares from 0, together less than 1",
        ),
        (["--train", "a", "--dev", "b", "--mix", "c", "--share", "0.5"], "--mix, --dev-share and"),
        (["--sample", "--seed", "1"], "--sample takes --train-rows, --dev-rows and --seed"),
        (["--sample", "--train", "a", "--train-rows", "1", "--dev-rows", "1"], "--sample takes"),
        (
            ["--sample", "--train-rows", "0", "--dev-rows", "1", "--seed", "1"],
            "expected 1 or more",
        ),
        (["--train", "a", "--dev", "b", "--train-rows", "1"], "only for --sample; else --max-tr"),
        (["--train", "a", "--dev", "b", "--adgen"], "--adgen takes no files"),
        (["--train", "a", "--dev", "b", "--max-dev-rows", "3"], "--max-dev-rows need --seed"),
        (["--train", "a", "--dev", "b", "--max-dev-rows", "0", "--seed", "1"], "1 or more"),
        (["--train", "a", "--dev", "b", "--max-leakage", "5"], "a share from 0 to 1"),
        (["--train", "a", "--dev", "b", "--format", "xml"], "choose from 'adgen', 'alpaca'"),
        (
            ["--train", "a", "--dev", "b", "--format", "chatml", "--prompt-column", "q"],
            "only for adgen",
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


def test_the_step_loads_only_what_it_needs() -> None:
    program = (
        "import sys, runpy; sys.argv = ['fetch_dataset.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'jieba', 'pyarrow', 'requests'}\n"
        "sys.exit(bool(heavy & set(sys.modules)))"
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
