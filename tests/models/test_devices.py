"""Devices and precisions: what a GPU changes, as far as a CPU can show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_training import FAMILY_NAMES, TUNINGS, settings_of
from tiny_training import rows as rows  # a fixture

from glmtune.devices import choose_device
from glmtune.families.tokenized import TokenizedRows
from glmtune.seeding import seed_everything
from glmtune.training.train import TrainingOutcome, train
from glmtune.training.trainer import mean_loss
from glmtune.tuning.registry import METHODS

pytestmark = pytest.mark.numeric


def tune(
    family: str, method: str, rows: TokenizedRows, work: Path, dtype: str
) -> tuple[Any, TrainingOutcome]:
    settings = settings_of(method, prefix_dropout=0.0, dropout=0.0)
    seed_everything(settings.seed, threads=1)
    base = tiny_model(family).to(getattr(torch, dtype))
    model = METHODS[method].prepare(base, settings)
    outcome = train(model.train(), rows, rows, settings, pad_token_id=3, work=work, dtype=dtype)
    return model, outcome


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("method", TUNINGS)
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_half_precision_trains_float32_weights_to_about_the_same_loss(
    family: str, method: str, half: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    _, exact = tune(family, method, rows, tmp_path / "1", "float32")
    model, mixed = tune(family, method, rows, tmp_path / "2", half)
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert trained == {torch.float32}
    assert mixed.train_loss == pytest.approx(exact.train_loss, rel=0.02)
    assert mixed.dev_loss == pytest.approx(exact.dev_loss, rel=0.02)


def test_the_dev_loss_is_computed_in_the_type_that_is_trained_in(rows: TokenizedRows) -> None:
    model: Any = tiny_model("chatglm2-6b")
    types = set()
    dense = model.transformer.layers[0].self_attention.dense
    dense.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    for dtype in ("bfloat16", "float16", "float32"):
        mean_loss(model, rows, 8, pad_token_id=3, dtype=dtype)
        assert types == {getattr(torch, dtype)}
        types.clear()


@pytest.mark.parametrize(
    ("has_bfloat16", "dtype"), [(True, "bfloat16"), (False, "float16")], ids=["ampere", "turing"]
)
def test_a_card_is_used_in_the_half_precision_that_it_has(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, dtype: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    device = choose_device()
    assert (device.name, device.dtype) == ("cuda", dtype)
    assert "a card, compute capability 7.5" in device.reason
