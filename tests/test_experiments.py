"""`make experiments`: one row per experiment, in 80 columns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from experiments import read_shown, table  # noqa: E402

MODELS = ("chatglm-6b", "chatglm3-6b-base")


def data(lr: Any = "2e-2", ptuning: float = 50.0, general: float = 90.0) -> dict[str, Any]:
    scores = {
        model: {
            "none": {"bleu-4": 10.0, "general-questions": 95.0},
            "ptuning": {"bleu-4": ptuning, "general-questions": general},
        }
        for model in MODELS
    }
    params = {"lr": lr, "training": {"max_steps": 160}, "seeds": []}
    return {
        "params": {"params.yaml": {"data": params}},
        "metrics": {"results/metrics.json": {"data": scores}},
    }


def revision(rev: str, found: dict[str, Any] | None, error: Any = None) -> dict[str, Any]:
    return {"rev": rev, "name": None, "data": found, "error": error, "experiments": None}


def experiment(name: str, found: dict[str, Any] | None, state: str = "") -> dict[str, Any]:
    executor = {"state": state} if state else None
    return {"name": name, "revs": [revision("b" * 40, found)], "executor": executor}


def lines(*experiments: dict[str, Any], now: dict[str, Any] | None = None) -> list[str]:
    head = revision("a" * 40, data()) | {"experiments": list(experiments)}
    return list(table(read_shown([revision("workspace", now or data()), head])))


def test_an_experiment_shows_its_parameters_and_what_changed() -> None:
    shown = lines(experiment("gentle", data(lr=0.01, ptuning=52.5, general=93.0)))
    (row,) = [line for line in shown if line.startswith("gentle")]
    assert " ".join(row.split()) == "gentle lr=0.01 chatglm-6b / ptuning 52.5 +2.5 93.0 +3.0"
    assert not any("/ none" in line for line in shown)


def test_head_shows_the_values_that_an_experiment_changed() -> None:
    shown = lines(experiment("gentle", data(ptuning=52.5)))
    (row,) = [line for line in shown if line.startswith("HEAD")]
    assert row.split()[-2:] == ["50.0", "90.0"]


def test_the_table_fits_80_columns_whatever_the_names_are() -> None:
    changed = data(lr="long " * 30, ptuning=100.0, general=100.0)
    shown = lines(experiment("a-very-long-name-of-an-experiment" * 3, changed))
    assert max(map(len, shown)) <= 80


def test_a_number_that_dvc_reads_as_text_is_the_same_number() -> None:
    shown = lines(experiment("same", data(lr=0.02)))
    (row,) = [line for line in shown if line.startswith("same")]
    assert row.split() == ["same", "no", "score", "changed"]


def test_an_experiment_without_results_shows_its_state_and_no_scores() -> None:
    shown = lines(
        experiment("waits", data(lr=0.01), "queued"), experiment("broke", data(), "failed")
    )
    assert [line.split()[-1] for line in shown[-2:]] == ["queued", "failed"]


def test_the_workspace_is_listed_if_it_is_neither_head_nor_an_experiment() -> None:
    edited = data(lr=0.3, ptuning=1.0)
    assert any(line.startswith("workspace") for line in lines(now=edited))
    assert not any(line.startswith("workspace") for line in lines())
    same = lines(experiment("applied", edited), now=edited)
    assert not any(line.startswith("workspace") for line in same)


def test_names_cannot_control_the_terminal() -> None:
    shown = lines(experiment("a\x1b[31mb", data(ptuning=1.0)))
    assert "\x1b" not in "".join(shown)
