"""Training by several processes: the numbers and files of one, however they are sharded."""

from __future__ import annotations

import csv
import importlib.util
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from called_in_processes import starter_on
from tiny_training import make_rows, settings_of, write_inputs
from trained_in_processes import start_together, train_together

from glmtune.checkpoints.prepared import open_prepared
from glmtune.files import read_json
from glmtune.training.batching import Collator, RowDataset, grouped_by_length
from glmtune.tuning.method import tuned_model
from glmtune.tuning.registry import METHODS

pytestmark = pytest.mark.numeric

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
# Epochs of 24 rows in steps of 14, the second of 10: seven passes, or five, of two rows, of which
# two processes have one each, and a third has none.
CHANGES: dict[str, Any] = {
    **{"batch_size": 2, "gradient_accumulation_steps": 7, "max_steps": 6, "save_steps": 3},
    **{"eval_steps": 2, "keep_best": True, "prefix_dropout": 0.0, "dropout": 0.0, "lr": 1e-3},
}
SHARDINGS = ["none", *(pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3"))]

Trained = Callable[..., Path]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder with a tiny model of a family and its tokenized data."""
    folders: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            write_inputs(folders[family], family, make_rows())
        return folders[family]

    return of


@pytest.fixture(scope="module")
def alone(inputs: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What one process learns with CHANGES; each is trained once."""
    done: dict[tuple[str, str], Path] = {}

    def of(family: str, method: str) -> Path:
        if (family, method) not in done:
            out = done[family, method] = tmp_path_factory.mktemp("alone")
            ok(train_together(inputs(family), out, method, 1, **CHANGES))
        return done[family, method]

    return of


def ok(done: CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def curve_of(out: Path) -> list[dict[str, str]]:
    with (out / "done/curve.csv").open() as file:
        return list(csv.DictReader(file))


def tuned(family: Path, out: Path, method: str) -> dict[str, torch.Tensor]:
    """The weights of the model, loaded from the files of a training."""
    ref = tuned_model(METHODS[method], family / "model", out / "done/checkpoint")
    model: Any = open_prepared(ref, dtype="float32", device="cpu")
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def assert_same_training(first: Path, second: Path, family: Path, method: str) -> None:
    """Equal losses, dev losses, figures and weights, up to the order of additions."""
    curves = curve_of(first), curve_of(second)
    for expected, found in zip(*curves, strict=True):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert (value == "") == (found[key] == "")
            if value:
                assert float(found[key]) == pytest.approx(float(value), rel=1e-5), (key, expected)
    manifests = [read_json(out / "done/manifest.json") for out in (first, second)]
    for key in ("settings", "steps", "best_step", "trainable_parameters", "total_parameters"):
        assert manifests[0][key] == manifests[1][key]
    assert manifests[0]["dev_loss"] == pytest.approx(manifests[1]["dev_loss"], rel=1e-5)
    assert manifests[0]["checkpoint"].keys() == manifests[1]["checkpoint"].keys()
    weights = [tuned(family, out, method) for out in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        if name.endswith("query_key_value.bias"):
            continue  # a bias of keys has no gradient but rounding, which AdamW makes steps of
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=2e-5)
    tokens = [read_json(out / "done/runtime.json")["tokens"] for out in (first, second)]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "count", "expected"),
    [
        (1, 16, 1, (1, 16)),  # one process: as params.yaml says
        (16, 1, 2, (16, 1)),
        (1, 16, 8, (8, 2)),
        (1, 16, 16, (16, 1)),
        (1, 16, 3, (2, 8)),  # 16 rows in equal passes of at most 3
        (4, 3, 8, (12, 1)),
        (2, 1, 4, (2, 1)),  # two of them have no row
    ],
)
def test_a_step_has_as_many_rows_whatever_the_number_of_processes(
    batch_size: int, accumulation: int, count: int, expected: tuple[int, int]
) -> None:
    settings = settings_of("full", batch_size=batch_size, gradient_accumulation_steps=accumulation)
    assert settings.rows_and_passes(count) == expected


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 9])
def test_the_processes_share_the_rows_of_a_step_and_none_is_left_out(parts: int) -> None:
    dataset, collate = RowDataset(make_rows()), Collator(3)
    batches = [collate(dataset[start : start + 7]) for start in (0, 7)]
    shares = [grouped_by_length(batches, 3, part=part, parts=parts) for part in range(parts)]
    assert {len(share) for share in shares} == {2}  # all wait for each other in each pass
    assert all(len(batch["input_ids"]) > 0 for share in shares for batch in share)

    def rows_of(found: list[dict[str, torch.Tensor]]) -> list[tuple[list[int], list[int]]]:
        rows = []
        for batch in found:
            for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
                labels = batch["labels"][i, :length].tolist()
                if max(labels) >= 0:  # else it only keeps a process company
                    rows.append((batch["input_ids"][i, :length].tolist(), labels))
        return sorted(rows)

    assert rows_of([batch for share in shares for batch in share]) == rows_of(batches)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method", "count"),
    [("chatglm-6b", "ptuning", 2), ("chatglm2-6b", "lora", 2), ("chatglm2-6b", "full", 3)],
)
def test_several_processes_learn_what_one_does(
    family: str, method: str, count: int, inputs: Any, alone: Trained, tmp_path: Path
) -> None:
    ok(train_together(inputs(family), tmp_path, method, count, **CHANGES))
    assert_same_training(alone(family, method), tmp_path, inputs(family), method)
    runtime = read_json(tmp_path / "done/runtime.json")
    assert (runtime["processes"], runtime["sharding"]) == (count, "none")


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
@pytest.mark.parametrize("family", ["chatglm-6b", "chatglm2-6b"])
def test_shards_are_shared_out_and_saved_whole(
    sharding: str, family: str, inputs: Any, alone: Trained, tmp_path: Path
) -> None:
    ok(train_together(inputs(family), tmp_path, "full", 2, sharding, **CHANGES))
    assert_same_training(alone(family, "full"), tmp_path, inputs(family), "full")
    size = read_json(tmp_path / "done/manifest.json")["trainable_parameters"]
    held = read_json(tmp_path / "held.json")
    parts = [part / size for part in (*held["moment"], *held["weights"])]
    expected = [0.5, 0.5, 1, 1] if sharding == "zero2" else [0.5] * 4
    np.testing.assert_allclose(parts, expected, rtol=0.01)  # padded to equal shards


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", pytest.param("zero3", marks=needs_deepspeed)])
def test_several_machines_learn_what_one_process_does(
    sharding: str, inputs: Any, alone: Trained, tmp_path: Path
) -> None:
    family, method = "chatglm2-6b", "full"
    machines: dict[str, Any] = {"nodes": 2, "starter": starter_on(2, tmp_path)}
    done = train_together(inputs(family), tmp_path, method, 2, sharding, **machines, **CHANGES)
    ok(done)
    assert done.stdout.count(f"processes: 4, sharding {sharding}") == 1  # only one of them speaks
    assert_same_training(alone(family, method), tmp_path, inputs(family), method)
    runtime = read_json(tmp_path / "done/runtime.json")
    assert (runtime["processes"], runtime["machines"]) == (4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_on_one_machine_ends_all_and_they_resume(
    rank: int, inputs: Any, alone: Trained, tmp_path: Path
) -> None:
    family, method = "chatglm2-6b", "full"
    machines: dict[str, Any] = {"nodes": 2, "starter": starter_on(2, tmp_path)}
    dead = train_together(
        inputs(family), tmp_path, method, 1, dies=(rank, 5), **machines, **CHANGES
    )
    assert dead.returncode == 2
    assert dead.stderr.count("error: ") == 1, dead.stderr
    assert f"error: process {rank} on {os.uname().nodename} was killed by SIGKILL" in dead.stderr
    assert "Traceback" not in dead.stderr
    assert list((tmp_path / "done").iterdir()) == []
    assert [path.name for path in (tmp_path / "work").glob("checkpoint-*")] == ["checkpoint-3"]
    ok(train_together(inputs(family), tmp_path, method, 1, **machines, **CHANGES))
    assert_same_training(alone(family, method), tmp_path, inputs(family), method)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_half_precision_and_recomputed_activations_are_as_with_one_process(
    sharding: str, inputs: Any, tmp_path: Path
) -> None:
    """Weights stay in float32; losses are equal to the precision of bfloat16."""
    changes = CHANGES | {"gradient_checkpointing": True}
    curves = []
    for count, shards in ((1, "none"), (2, sharding)):
        out = tmp_path / str(count)
        family = inputs("chatglm2-6b")
        ok(train_together(family, out, "full", count, shards, dtype="bfloat16", **changes))
        assert read_json(out / "done/runtime.json")["dtype"] == "bfloat16"
        curves.append([float(point["loss"]) for point in curve_of(out)])
        dtypes = {tensor.dtype for tensor in tuned(family, out, "full").values()}
        assert dtypes == {torch.float32}
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_process_that_dies_ends_the_others_with_one_message_and_all_resume(
    sharding: str, inputs: Any, alone: Trained, tmp_path: Path
) -> None:
    family, method = "chatglm2-6b", "full"
    dead = train_together(inputs(family), tmp_path, method, 2, sharding, dies=(1, 5), **CHANGES)
    assert dead.returncode == 2
    messages = [line for line in dead.stderr.splitlines() if "error: " in line]
    assert len(messages) == 1, dead.stderr
    assert "error: process 1 was killed by SIGKILL, most likely because memory" in messages[0]
    assert "Traceback" not in dead.stderr
    assert list((tmp_path / "done").iterdir()) == []
    assert [path.name for path in (tmp_path / "work").glob("checkpoint-*")] == ["checkpoint-3"]
    if sharding != "none":
        other = train_together(inputs(family), tmp_path, method, 1, **CHANGES)
        assert other.returncode == 2
        expected = f"written by 2 processes with sharding {sharding}; found 1 process"
        assert expected in other.stderr
    count = 2 if sharding != "none" else 1
    ok(train_together(inputs(family), tmp_path, method, count, sharding, **CHANGES))
    assert_same_training(alone(family, method), tmp_path, inputs(family), method)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_step_that_started_it(
    sent: signal.Signals, inputs: Any, tmp_path: Path
) -> None:
    endless = CHANGES | {"max_steps": 10**6, "save_steps": 1, "eval_steps": None}
    endless |= {"keep_best": False}
    started = start_together(inputs("chatglm2-6b"), tmp_path, "lora", 2, **endless)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "work").glob("checkpoint-*/files.json")):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(started.pid).children(recursive=True)
    assert len(children) >= 2
    started.send_signal(sent)
    _, errors = started.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert started.returncode != 0
    assert b"Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_all_processes_fail_with_one_message(nodes: int, inputs: Any, tmp_path: Path) -> None:
    changes = CHANGES | {"lr": 1e30, "nodes": nodes, "starter": starter_on(nodes, tmp_path)}
    done = train_together(inputs("chatglm2-6b"), tmp_path, "full", 2, **changes)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert "lower lr" in done.stderr
