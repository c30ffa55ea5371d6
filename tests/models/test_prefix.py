"""P-Tuning v2's prefix: official results, outside the cache, in THUDM's file format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    pad_left,
    prompt,
    tiny_model,
)

from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prefix import load_prefix, save_prefix
from glmtune.checkpoints.saving import save_model
from glmtune.errors import WeightsError
from glmtune.families.registry import FAMILIES
from glmtune.modeling.prefix import PrefixEncoder, PrefixShape, attach_prefix

pytestmark = pytest.mark.numeric

FAMILY_NAMES = sorted(FAMILIES)
ROWS = [prompt([5, 9, 33, 12, 41, 8]), prompt([17])]
IDS = torch.tensor([ROWS[0]])


def tiny_with_prefix(family: str, projection: bool = False) -> Any:
    model = tiny_model(family)
    torch.manual_seed(2)
    attach_prefix(model, pre_seq_len=4, projection=projection)
    return model


def logits(model: Any, ids: torch.Tensor = IDS, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, **options).logits


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        (PrefixShape(28, 32, 128, hidden_size=4096, projected_from=4096), 29_360_128),
        (PrefixShape(28, 2, 128, hidden_size=4096, projected_from=14336), 1_835_008),
    ],
    ids=["chatglm-6b", "chatglm2-6b"],
)
def test_prefix_of_a_6b_model_has_the_published_size(shape: PrefixShape, count: int) -> None:
    with torch.device("meta"):
        encoder = PrefixEncoder(shape, pre_seq_len=128, projection=False)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count


@pytest.mark.parametrize("projection", [False, True], ids=["direct", "projection"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_saved_prefix_loads_unchanged(tmp_path: Path, family: str, projection: bool) -> None:
    model = tiny_with_prefix(family, projection)
    save_model(model, tmp_path / "base")
    save_prefix(model, tmp_path / "prefix")
    again = load_model(tmp_path / "base", prefix=tmp_path / "prefix")
    assert torch.equal(logits(again), logits(model))
    names = torch.load(tmp_path / "prefix" / "pytorch_model.bin", weights_only=True)
    assert all(name.startswith("transformer.prefix_encoder.") for name in names)
    info = json.loads((tmp_path / "prefix" / "info.json").read_text())
    assert (info["pre_seq_len"], info["prefix_projection"]) == (4, projection)


@pytest.mark.parametrize("projection", [False, True], ids=["direct", "projection"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_prefix_is_found_in_a_checkpoint_of_the_complete_model(
    tmp_path: Path, family: str, projection: bool
) -> None:
    """Trainers that also save frozen weights write such files, some in half precision."""
    model = tiny_with_prefix(family, projection)
    save_model(model, tmp_path / "base")
    checkpoint = tmp_path / "checkpoint-3000"
    checkpoint.mkdir()
    torch.save(model.state_dict(), checkpoint / "pytorch_model.bin")
    (checkpoint / "training_args.bin").write_bytes(b"never read")
    again = load_model(tmp_path / "base", prefix=checkpoint)
    assert torch.equal(logits(again), logits(model))
    torch.save(model.half().state_dict(), checkpoint / "pytorch_model.bin")
    half = load_model(tmp_path / "base", prefix=checkpoint).transformer.prefix_encoder
    assert half.embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_saving_a_prefix_twice_writes_the_same_bytes(tmp_path: Path, family: str) -> None:
    model = tiny_with_prefix(family)
    for name in ("a", "b"):
        save_prefix(model, tmp_path / name)
    first, second = (tmp_path / name / "pytorch_model.bin" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_prefix_changes_logits_but_no_base_weight(family: str) -> None:
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = logits(model)
    attach_prefix(model, pre_seq_len=4)
    assert not torch.allclose(logits(model), plain)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    model.transformer.prefix_encoder = None
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("projection", [False, True], ids=["direct", "projection"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_prefixed_batch_generates_the_same_as_single_rows(family: str, projection: bool) -> None:
    model = tiny_with_prefix(family, projection)
    ids, mask = pad_left(ROWS, model.config.pad_token_id)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    batch = model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    uncached = model.generate(ids, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(batch, uncached[:, ids.shape[1] :])
    for i, row in enumerate(ROWS):
        alone = model.generate(torch.tensor([row]), **options)
        assert batch[i].tolist() == alone[0, len(row) :].tolist()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_cache_holds_no_prefix(family: str) -> None:
    output = tiny_with_prefix(family)(IDS, use_cache=True)
    assert output.past_key_values.get_seq_length() == IDS.shape[1]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_reparametrized_prefix_is_computed_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    compute = PrefixEncoder._compute

    def counted(encoder: PrefixEncoder, dtype: torch.dtype) -> torch.Tensor:
        calls.append(dtype)
        return compute(encoder, dtype)

    monkeypatch.setattr(PrefixEncoder, "_compute", counted)
    model = tiny_with_prefix(family, projection=True)
    model.generate(IDS, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert len(calls) == 1


@pytest.mark.parametrize("projection", [False, True], ids=["direct", "projection"])
def test_a_changed_prefix_is_recomputed(projection: bool) -> None:
    model = tiny_with_prefix("chatglm2-6b", projection)
    before = logits(model)
    with torch.no_grad():
        model.transformer.prefix_encoder.embedding.weight.mul_(2)
    assert not torch.allclose(logits(model), before)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_prefix_dropout_applies_only_in_training(family: str) -> None:
    model = tiny_with_prefix(family)
    encoder = model.transformer.prefix_encoder
    assert encoder.dropout.p == 0.1
    assert torch.equal(logits(model), logits(model))
    encoder.train()
    (first, _), *_ = encoder(2, torch.float32)
    assert not torch.equal(first[0], first[1])  # each row of the batch separately


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_prefix_stays_in_full_precision_on_a_half_precision_base(
    tmp_path: Path, family: str, dtype: str
) -> None:
    model = tiny_with_prefix(family)
    save_model(model, tmp_path)
    save_prefix(model, tmp_path / "prefix")
    half = load_model(tmp_path, prefix=tmp_path / "prefix", dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    assert half.transformer.prefix_encoder.embedding.weight.dtype == torch.float32
    half(IDS, labels=IDS).loss.backward()
    assert half.transformer.prefix_encoder.embedding.weight.grad.isfinite().all()


def test_a_prefix_for_another_model_is_refused(tmp_path: Path) -> None:
    save_prefix(tiny_with_prefix("chatglm-6b"), tmp_path)
    with pytest.raises(WeightsError) as caught:
        load_prefix(tiny_model("chatglm2-6b"), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: transformer.prefix_encoder.embedding.weight: found 4x128; this model "
        "(2 layers, 2 key-value heads of 8) expects 4x64; was the prefix tuned on another model?"
    )


def test_a_folder_without_a_prefix_is_refused(tmp_path: Path) -> None:
    model = tiny_model("chatglm2-6b")
    save_model(model, tmp_path)
    with pytest.raises(WeightsError, match="found no prefix; expected transformer.prefix_encoder"):
        load_prefix(model, tmp_path)


def test_saving_needs_a_prefix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no prefix to save"):
        save_prefix(tiny_model("chatglm2-6b"), tmp_path)
