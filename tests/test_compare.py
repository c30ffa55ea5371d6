"""`make compare`: the same rows of two states, tested in pairs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_tree import PARAMS, change, write_jsonl, write_run, write_scores, write_tree

from glmtune.errors import DataError, ParamsError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from compare import GENERAL, Comparison, compare, sections, table  # noqa: E402
from states import WORKSPACE, State, changed_params, read_state  # noqa: E402

from glmtune.report.markdown import to_markdown  # noqa: E402
from glmtune.report.page import render_page  # noqa: E402

MODEL = "chatglm-6b"


def write_state(folder: Path, **params: Any) -> State:
    """A workspace with results; the differences from the usual parameters are named."""
    write_tree(folder)
    models = {name: {"source": "miniature"} for name in ("chatglm-6b", "chatglm2-6b")}
    text = yaml.safe_dump({**PARAMS, "models": models, **params}, allow_unicode=True)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return read(folder, "old")


def read(folder: Path, name: str) -> State:
    return replace(read_state(folder, WORKSPACE), name=name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "project"


@pytest.fixture
def better(folder: Path) -> Comparison:
    """LoRA of one model scores 10 higher on every row, and forgets most questions."""
    old = write_state(folder)
    write_scores(folder / "results", MODEL, "lora", 34.0)
    (folder / f"results/probe/{MODEL}/lora.jsonl").write_bytes(
        (folder / f"results/probe/{MODEL}/ptuning.jsonl").read_bytes()
    )
    return compare(old, read(folder, "new"))


def test_a_change_is_significant_where_rows_changed_and_nowhere_else(better: Comparison) -> None:
    changed = [each for each in better.differences if better.is_significant(*each)]
    run = (MODEL, "lora")
    assert set(changed) == {("bleu-4", run), ("rouge-l", run), (GENERAL, run)}
    assert better.differences["bleu-4", run].value == pytest.approx(10)
    assert better.differences[GENERAL, run].value < -50


def test_the_table_shows_the_new_value_and_its_change(better: Comparison) -> None:
    (line,) = [
        line for line in to_markdown([table(better)]).splitlines() if f"{MODEL} | lora" in line
    ]
    assert "65.00 **+10.00**" in line
    unchanged = [line for line in to_markdown([table(better)]).splitlines() if ", same" in line]
    assert len(unchanged) == 5


def test_the_page_is_whole_and_names_what_got_worse(better: Comparison) -> None:
    page = render_page(sections(better))
    assert "General questions lower by" in page
    assert "常识题下降" in page
    assert 'id="figure-changes"' in page


def test_only_rows_that_both_answered_are_compared(folder: Path) -> None:
    old = write_state(folder)
    for path in (folder / "results").glob("predictions/*/*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([lines[0].replace("#0", "#new"), *lines[1:]]), encoding="utf-8")
    found = compare(old, read(folder, "new"))
    assert {len(rows) for rows in found.rows.values()} == {41}
    assert found.rows[MODEL, "lora"][0] == (1, 1)


def test_rows_in_another_order_are_paired_by_their_text(folder: Path) -> None:
    old = write_state(folder)
    for part in ("predictions/*/*.jsonl", "scores/*/*.rows.jsonl"):
        for path in (folder / "results").glob(part):
            lines = path.read_text(encoding="utf-8").splitlines()
            path.write_text("\n".join(reversed(lines)), encoding="utf-8")
    found = compare(old, read(folder, "new"))
    assert {each.value for each in found.differences.values()} == {0.0}


def test_a_run_that_only_one_state_has_is_named(folder: Path) -> None:
    old = write_state(folder)
    for path in list((folder / "results").rglob("lora.*")):
        path.unlink()
    found = compare(old, read(folder, "new"))
    assert found.only_in(old) == [(MODEL, "lora"), ("chatglm2-6b", "lora")]
    assert "Only in old: chatglm-6b / lora" in to_markdown(sections(found)[0])


def test_changed_parameters_are_listed_by_their_full_key(folder: Path, tmp_path: Path) -> None:
    old = write_state(folder)
    new = write_state(tmp_path / "other", lr=0.5, training={"max_steps": 3})
    assert changed_params(old, new) == {"lr": (0.01, 0.5), "training.max_steps": (None, 3)}


def test_scores_of_two_definitions_are_not_compared(folder: Path, tmp_path: Path) -> None:
    old, new = write_state(folder), write_state(tmp_path / "other", protocol="thudm")
    with pytest.raises(DataError, match="protocol: old was scored by glmtune, new by thudm"):
        compare(old, replace(new, name="new"))


def test_other_data_are_not_compared(folder: Path) -> None:
    old = write_state(folder)
    for path in (folder / "results").glob("predictions/*/*.jsonl"):
        path.write_text(path.read_text(encoding="utf-8").replace("裙子", "鞋"), encoding="utf-8")
    with pytest.raises(DataError, match="no model and method answered the same dev rows"):
        compare(old, read(folder, "new"))


def test_texts_of_models_stay_text(folder: Path) -> None:
    old = write_state(folder)
    write_run(folder / "results", MODEL, "lora")
    write_scores(folder / "results", MODEL, "lora", 90.0)
    rows = [
        {"prompt": f"类型#裙*颜色#{row}", "labels": f"裙子{row}", "predict": "<script>x</script>"}
        for row in range(42)
    ]
    write_jsonl(folder / f"results/predictions/{MODEL}/lora.jsonl", rows)
    page = render_page(sections(compare(old, read(folder, "new"))))
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page


# --- revisions ------------------------------------------------------------------------------------


@pytest.fixture
def recorded(folder: Path) -> Path:
    """A DVC project with one commit of results."""
    write_state(folder)
    results = (f"results/{path.name}" for path in (folder / "results").iterdir())
    outs = [{name: {"persist": True}} for name in ("data", *results)]
    stage = {"cmd": "true", "params": [{"params.yaml": None}], "outs": outs}
    (folder / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"workflow": stage}}), encoding="utf-8"
    )
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "dvc", "init", "-q")
    for command in (
        "dvc commit -q -f",
        "git add -A",
        "git -c user.name=t -c user.email=t@example.invalid commit -qm results",
    ):
        run(folder, *command.split())
    return folder


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_a_revision_is_read_from_dvcs_cache(recorded: Path) -> None:
    write_scores(recorded / "results", MODEL, "lora", 34.0)
    found = compare(read_state(recorded, "HEAD"), read_state(recorded, WORKSPACE))
    assert found.differences["bleu-4", (MODEL, "lora")].value == pytest.approx(10)


def test_results_that_the_cache_lost_are_named(recorded: Path) -> None:
    for path in (recorded / ".dvc/cache/files/md5").rglob("*"):
        if path.is_file() and path.suffix != ".dir":
            path.unlink()
    with pytest.raises(DataError, match=r"HEAD: (data|results)/.*: DVC's cache does not hold it"):
        read_state(recorded, "HEAD")


def test_an_unknown_revision_is_named(recorded: Path) -> None:
    with pytest.raises(ParamsError, match="nonsense: unknown Git revision"):
        read_state(recorded, "nonsense")


def test_a_state_of_an_older_version_says_how_to_score_it_again(folder: Path) -> None:
    write_state(folder)
    change(folder / f"results/scores/{MODEL}/lora.json", protocols={})
    with pytest.raises(DataError, match=f"{WORKSPACE}: results/scores/{MODEL}/lora.json"):
        read(folder, "old")
