"""The memory estimated before a training, compared with what a training really keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_config
from tiny_training import FAMILY_NAMES, LORA_KINDS, TUNINGS, settings_of
from tiny_training import rows as rows  # a fixture

from glmtune.checkpoints.building import build_model
from glmtune.devices import Device
from glmtune.errors import ResourceError
from glmtune.families.registry import FAMILIES
from glmtune.families.tokenized import TokenizedRows
from glmtune.tuning.memory_estimate import (
    BatchShape,
    MemoryEstimate,
    advice,
    check_memory,
    estimate_memory,
    explained_when_full,
    largest_batch,
)
from glmtune.tuning.registry import METHODS

CPU = Device("cpu", "float32", "")
HALF = Device("cpu", "bfloat16", "")  # as on a GPU, with the CPU's kernels
BATCH = BatchShape(rows=3, length=12, targets=5)
# THUDM's train.sh, apart from the batch.
REAL: dict[str, Any] = {"pre_seq_len": 128, "rank": 8}


def estimate(family: str, method: str, layers: int = 2, **changes: Any) -> MemoryEstimate:
    settings = settings_of(method, **changes)
    config = tiny_config(family) | {"num_layers": layers}
    return estimate_memory(config, METHODS[method], settings, BATCH, CPU)


def real(family: str, method: str, batch: BatchShape, **changes: Any) -> MemoryEstimate:
    """The estimate for the 6B configuration."""
    config = FAMILIES[family].real_config
    return estimate_memory(
        config, METHODS[method], settings_of(method, **REAL | changes), batch, HALF
    )


def bytes_kept(model: Any, base: Any) -> int:
    """The bytes that autograd saves in a forward pass on real tensors."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # kept alive, so that no other reuses its address
        return tensor

    ids = torch.zeros(BATCH.rows, BATCH.length, dtype=torch.long)
    positions = torch.zeros(base.position_shape(*ids.shape), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        base.transformer(ids, None, positions, None, None)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("method", TUNINGS)
def test_every_part_equals_what_a_real_training_keeps(family: str, method: str) -> None:
    base = build_model(tiny_config(family) | {"num_layers": 5}, seed=1)
    model: Any = METHODS[method].prepare(base, settings_of(method)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    found = estimate(family, method, layers=5)
    of_a_layer = found.activations - estimate(family, method, layers=4).activations
    assert found.activations - of_a_layer == bytes_kept(model, base)
    assert found.weights == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert found.gradients == sum(p.nbytes for p in trained)
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert found.optimizer == sum(moment.nbytes for moment in moments)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_gradient_checkpointing_reduces_activations(family: str) -> None:
    plain = estimate(family, "lora", layers=8)
    saving = estimate(family, "lora", layers=8, gradient_checkpointing=True)
    assert saving.activations < plain.activations / 2
    assert saving.fixed == plain.fixed


def test_quantized_weights_are_smaller_and_dequantized_one_at_a_time() -> None:
    batch = BatchShape(4, 193, 129)
    plain, quantized = (real("chatglm2-6b", "lora", batch, quantization_bit=b) for b in (None, 4))
    assert quantized.weights < plain.weights / 3
    assert 0 < quantized.dequantizing < 1e9
    assert plain.dequantizing == 0


def test_eight_bit_optimizers_keep_the_moments_of_embeddings_in_fp32() -> None:
    """As in transformers; a prefix without projection is an embedding."""
    plain, small = (estimate("chatglm2-6b", "full", optimizer=o) for o in ("adamw", "adamw_8bit"))
    embeddings = 80 * 32
    assert small.optimizer == (plain.optimizer - 8 * embeddings) / 4 + 8 * embeddings
    prefixes = [estimate("chatglm2-6b", "ptuning", optimizer=o) for o in ("adamw", "adamw_8bit")]
    assert prefixes[0].optimizer == prefixes[1].optimizer


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_prefix_is_kept_while_activations_are_recomputed(family: str) -> None:
    short, long = (
        estimate(family, "ptuning", layers=8, gradient_checkpointing=True, pre_seq_len=n)
        for n in (1, 101)
    )
    config = tiny_config(family)
    groups = config.get("multi_query_group_num", config["num_attention_heads"])
    of_a_position = 8 * 2 * groups * 8 * 4  # layers, keys and values, dims, float32
    assert long.activations - short.activations >= BATCH.rows * 100 * of_a_position


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_inputs_of_recomputed_layers_count_in_their_own_type(family: str) -> None:
    """Full fine-tuning keeps its residual path in float32 under autocast."""
    settings = settings_of("full", gradient_checkpointing=True)
    deep, deeper = (
        estimate_memory(
            tiny_config(family) | {"num_layers": n}, METHODS["full"], settings, BATCH, HALF
        )
        for n in (9, 10)
    )
    assert deeper.activations - deep.activations == BATCH.rows * BATCH.length * 32 * 4


def test_a_gpu_keeps_the_norms_of_chatglm_6b_in_float32() -> None:
    settings = settings_of("lora")
    config = tiny_config("chatglm-6b")
    cpu, cuda = (
        estimate_memory(config, METHODS["lora"], settings, BATCH, Device(name, "bfloat16", ""))
        for name in ("cpu", "cuda")
    )
    assert cuda.activations > cpu.activations


@pytest.mark.parametrize("name", ["auto", "torch", "triton", "cpm_kernels"])
def test_the_requested_dequantizer_is_not_run_on_shapes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLMTUNE_QUANTIZATION_KERNEL", name)
    assert estimate("chatglm2-6b", "lora", quantization_bit=8).total > 0


def test_estimates_are_close_to_published_figures() -> None:
    """THUDM: 6.7 GB for ChatGLM-6B in 4 bits with 1 row at a time; a user's logs: 5.3 GB."""
    one_row = BatchShape(1, 128, 64)
    assert 4.5e9 < real("chatglm-6b", "ptuning", one_row, quantization_bit=4).total < 6.7e9
    # All weights in fp32 with gradients and moments: 16 bytes each.
    assert real("chatglm-6b", "full", one_row).fixed == pytest.approx(16 * 6.17e9, rel=0.01)


def test_what_dora_computes_lengths_from_is_not_kept() -> None:
    one_token = BatchShape(1, 1, 1)
    dora = real("chatglm2-6b", "lora", one_token, dora=True, dropout=0.0)
    lora = real("chatglm2-6b", "lora", one_token, dropout=0.0)
    assert lora.activations < dora.activations < 2 * lora.activations


@pytest.mark.parametrize("kind", LORA_KINDS)
def test_every_kind_of_lora_has_an_estimate(kind: str) -> None:
    plain = estimate("chatglm2-6b", "lora")
    found = estimate("chatglm2-6b", "lora", **LORA_KINDS[kind])
    assert (found.gradients > plain.gradients) == ("dora" in kind)


def test_a_model_of_one_layer_has_an_estimate() -> None:
    one, two = (estimate("chatglm2-6b", "lora", layers=n) for n in (1, 2))
    assert 0 < one.activations < two.activations


def test_the_largest_batch_has_the_longest_row_and_most_targets(rows: TokenizedRows) -> None:
    lengths = [len(rows[i][0]) for i in range(len(rows))]
    targets = [int((rows[i][1] != -100).sum()) for i in range(len(rows))]
    assert largest_batch(rows, 4) == BatchShape(4, max(lengths), max(targets))
    assert largest_batch(rows, 10_000).rows == len(rows) == 24


def test_each_process_has_its_share_of_what_is_shared_out() -> None:
    alone = MemoryEstimate(24e9, 24e9, 48e9, 10e9, 1e9, 0)
    assert alone.of_process(1, "zero3") == alone
    copies = alone.of_process(8, "none")
    assert copies.fixed == alone.fixed + 24e9  # what the processes send is a copy
    two, three = (alone.of_process(8, sharding) for sharding in ("zero2", "zero3"))
    assert (two.weights, two.gradients, two.optimizer) == (24e9, 3e9, 9e9)
    assert (three.weights, three.gradients, three.optimizer) == (3e9, 3e9, 9e9)
    assert two.activations == three.activations == alone.activations
    assert three.total < two.total < alone.total
    # Each loads the whole model first.
    assert alone.of_process(100, "zero3").total == alone.weights


FULL = MemoryEstimate(25e9, 25e9, 50e9, 16e9, 1e9, 0)


def test_a_training_that_cannot_fit_is_refused_with_advice() -> None:
    settings = settings_of("full")
    with pytest.raises(ResourceError) as caught:
        check_memory(FULL, 24e9, settings)
    message = str(caught.value)
    assert message.startswith("estimated memory: 117 GB (weights 25, gradients 25, optimizer 50, ")
    assert "; available: 24 GB; to save memory, change in params.yaml: " in message
    assert "lora or ptuning instead of full" in message
    assert "batch_size" not in message  # no smaller batch would help


def test_a_training_that_may_not_fit_starts_with_a_warning() -> None:
    settings = settings_of("lora", batch_size=4, gradient_accumulation_steps=4)
    line = check_memory(MemoryEstimate(12e9, 0, 0, 16e9, 1e9, 0), 24e9, settings)
    assert line.startswith("warning: estimated memory: 29 GB")
    assert "batch_size 4 -> 2 with gradient_accumulation_steps 4 -> 8" in line
    assert "gradient_checkpointing: true; quantization_bit: 4" in line
    small = MemoryEstimate(12e9, 0, 0, 0, 0, 0)
    assert check_memory(small, 24e9, settings).startswith("estimated memory: 12 GB")


def test_a_smaller_batch_keeps_the_size_of_the_step() -> None:
    settings = settings_of("lora", batch_size=9, gradient_accumulation_steps=2)
    line = check_memory(MemoryEstimate(1e9, 0, 0, 9e9, 0, 0), 2e9, settings)
    assert "batch_size 9 -> 3 with gradient_accumulation_steps 2 -> 6" in line


OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB of "
    "which 1.20 GiB is free. Including non-PyTorch memory, …"
)


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (torch.OutOfMemoryError(OUT_OF_MEMORY), "which 1.20 GiB is free"),
        (RuntimeError("CUDA error: out of memory"), "CUDA error: out of memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        ),
    ],
)
def test_out_of_gpu_memory_is_explained_with_advice(error: Exception, facts: str) -> None:
    settings = settings_of("lora", batch_size=1, gradient_checkpointing=True)
    with pytest.raises(ResourceError) as caught, explained_when_full(settings):
        raise error
    assert str(caught.value).endswith(
        f"{facts}; to save memory, change in params.yaml: quantization_bit: 4 (not with full, "
        "dora or init); or use a machine with more memory"
    )


def test_the_last_advice_is_more_memory() -> None:
    least: dict[str, Any] = {"batch_size": 1, "gradient_checkpointing": True, "quantization_bit": 4}
    assert advice(settings_of("lora", **least)) == "use a machine with more memory"


def test_other_errors_are_unchanged() -> None:
    with pytest.raises(RuntimeError, match="illegal"), explained_when_full(settings_of("lora")):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
