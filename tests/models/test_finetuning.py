"""One tuning as a step of the workflow: what it says, and what it writes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model
from tiny_training import SETTINGS, SPLIT, settings_of, write_inputs
from tiny_training import rows as rows  # a fixture

from glmtune.checkpoints.saving import save_model
from glmtune.checkpoints.sources import hash_model
from glmtune.errors import ParamsError, ResourceError, WeightsError
from glmtune.families.tokenized import TokenizedRows
from glmtune.files import read_json, write_json
from glmtune.modeling.quantization import quantize_model
from glmtune.steps import finetuning
from glmtune.steps.inputs_outputs import ModelFiles, Outputs, Tracking
from glmtune.training import notes as training_notes
from glmtune.training.train import train

pytestmark = pytest.mark.numeric

STEP: dict[str, Any] = {"method": "lora", "eval_steps": 2, "keep_best": True}


@pytest.fixture
def folder(rows: TokenizedRows, tmp_path: Path) -> Path:
    """A model and tokenised data, as the steps before leave them."""
    write_inputs(tmp_path, "chatglm2-6b", rows)
    return tmp_path


def run(folder: Path, *trackers: str, **changes: Any) -> Path:
    done = folder / "done"
    done.mkdir(exist_ok=True)
    finetuning.finetune(
        model=ModelFiles(folder=folder / "model", manifest=folder / "model.json"),
        data=folder / "data",
        settings=settings_of(**STEP | changes),
        outputs=Outputs(out_dir=done, resume_dir=folder / "work"),
        tracking=Tracking(trackers=[*trackers], run="tiny/lora", folder=folder / "logs"),
        sharding="none",
    )
    return done


def test_pace_and_memory_stand_in_the_runtime_and_not_in_the_manifest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(folder)
    runtime, manifest = (read_json(done / f"{name}.json") for name in ("runtime", "manifest"))
    assert runtime["tokens_per_second"] > 0
    assert runtime["mfu"] is None
    assert runtime["estimated_memory_mib"] > 50  # the libraries count on the CPU, as in the peak
    assert not set(runtime) & set(manifest)
    assert (manifest["steps"], manifest["best_step"], manifest["notes"]) == (4, 4, [])
    assert "estimated memory: " in capsys.readouterr().err


def test_the_manifest_holds_the_settings_file_and_nothing_else(folder: Path) -> None:
    of_others = {"pre_seq_len", "prefix_projection", "prefix_dropout"}
    expected = {key: value for key, value in SETTINGS.items() if key not in of_others}
    assert read_json(run(folder) / "manifest.json")["settings"] == expected | STEP


def test_the_curve_has_an_empty_cell_where_nothing_was_measured(folder: Path) -> None:
    head, *lines = (run(folder) / "curve.csv").read_text().splitlines()
    assert head == "step,loss,learning_rate,dev_loss"
    assert [line.endswith(",") for line in lines] == [True, False, True, False]


@pytest.mark.parametrize(
    ("lr", "risk"), [(1e-6, "hardly learn"), (0.1, "may diverge"), (1e-4, None)]
)
def test_an_unusual_rate_of_a_large_model_is_warned_of(
    lr: float,
    risk: str | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(training_notes, "LARGE", 1)
    manifest = json.loads((run(folder, lr=lr, keep_best=False) / "manifest.json").read_text())
    warning = capsys.readouterr().err
    if risk is None:
        assert manifest["notes"] == []
        assert "warning" not in warning
    else:
        (note,) = manifest["notes"]
        assert (
            f"lr {lr:g} is outside the published range of LoRA on 6B models (2e-05 to 0.002)"
            in note
        )
        assert risk in note
        assert f"warning: {note}" in warning


def test_fewer_rows_than_a_step_takes_are_pointed_out(folder: Path) -> None:
    done = run(folder, batch_size=20, gradient_accumulation_steps=2)
    (note,) = read_json(done / "manifest.json")["notes"]
    assert note.startswith("batch_size 20 x gradient_accumulation_steps 2 exceeds the 24 training")


def test_a_resumed_training_counts_the_time_before(folder: Path) -> None:
    first = read_json(run(folder) / "runtime.json")
    shutil.rmtree(folder / "done")
    second = read_json(run(folder) / "runtime.json")  # from the checkpoint of the last step
    assert second["tokens"] == first["tokens"]
    earlier = read_json(folder / "work" / "checkpoint-4" / "throughput.json")["seconds"]
    assert second["training_seconds"] >= round(earlier, 2) > 0
    assert second["seconds"] > second["training_seconds"]
    assert "earlier_seconds" not in second


def test_a_model_that_cannot_fit_is_refused_before_its_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "free_memory", lambda device: 1000.0)
    monkeypatch.setattr(finetuning, "open_prepared", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ResourceError, match=r"estimated memory: .* GB; .* in params.yaml: "):
        run(folder)


def test_an_estimate_that_fails_stops_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finetuning, "estimate_memory", lambda *_: 1 / 0)
    assert read_json(run(folder) / "runtime.json")["estimated_memory_mib"] is None
    assert "memory: not estimated (ZeroDivisionError: " in capsys.readouterr().err


def test_every_weight_of_a_quantized_model_cannot_be_trained(folder: Path) -> None:
    model = tiny_model("chatglm2-6b").half()
    quantize_model(model, 4)
    save_model(model, folder / "model")
    write_json(folder / "model.json", {"source": "folder", "files": hash_model(folder / "model")})
    with pytest.raises(ParamsError, match=r"full trains all weights, .* to 4 bits, which"):
        run(folder, method="full")
    assert (run(folder) / "checkpoint").is_dir()  # LoRA can


def test_weights_replaced_during_a_training_leave_no_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_and_replace(*arguments: Any, **options: Any) -> Any:
        outcome = train(*arguments, **options)
        save_model(tiny_model("chatglm2-6b", seed=2), folder / "model")
        return outcome

    monkeypatch.setattr(finetuning, "train", train_and_replace)
    with pytest.raises(WeightsError, match=r"model\.safetensors: found SHA-256 .* its manifest"):
        run(folder)
    assert not (folder / "done" / "manifest.json").exists()


def test_a_training_that_diverges_is_told_in_log_and_manifest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(folder, method="full", lr=5.0, max_steps=8, keep_best=False)
    (note,) = read_json(done / "manifest.json")["notes"]
    assert re.match(r"the loss began at 4\.\d\d and ended at \d+\.\d\d: training diverged; ", note)
    assert "lower lr (now 5), or lengthen its warm-up" in note
    assert f"warning: {note}" in capsys.readouterr().err


def test_a_vocabulary_that_does_not_cover_the_data_is_told_before_training(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spelled = {"train": SPLIT | {"spelled_tokens": 48, "cut_answers": 21}}
    write_json(folder / "data/manifest.json", {"pad_token_id": 3, "splits": spelled})
    (note,) = read_json(run(folder) / "manifest.json")["notes"]
    assert "60% of the answers' tokens are single bytes or unknown, 88% of the answers are" in note
    assert "set models.<name>.tokenizer" in note
    assert f"warning: {note}" in capsys.readouterr().err
