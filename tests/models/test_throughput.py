"""The throughput of a training: operations counted by hand, and GPUs found by name."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import tiny_model
from tiny_training import SETTINGS, settings_of

from glmtune.training.throughput import card_peak, describe_throughput, operations_per_token
from glmtune.training.trainer import Throughput
from glmtune.tuning.registry import METHODS


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("Tesla T4", 65),
        ("NVIDIA H20", 148),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", None),
        ("NVIDIA H200 NVL", 835),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("a card of tomorrow", None),
    ],
)
def test_a_gpu_s_peak_is_found_by_name_and_never_guessed(name: str, peak: float | None) -> None:
    assert card_peak(name) == peak


def test_operations_match_a_count_by_hand() -> None:
    """Two layers of hidden 32: qkv 32x64, dense 32x32, MLP 32x80 and 40x32; 80 words."""
    model: Any = tiny_model("chatglm2-6b")
    linears = 2 * (32 * model.transformer.layers[0].self_attention.query_key_value.out_features)
    linears += 1.5 * (32 * 32 + 32 * 80 + 40 * 32)  # the second layer's for every other token
    attention = 3 * 4 * 10 * 32 * 2  # rows of 10 tokens
    METHODS["full"].prepare(model, settings_of("full"))
    expected = 6 * linears + 6 * 32 * 80 * 0.5 + attention
    assert operations_per_token(model, 10, 0.5) == expected


def test_frozen_weights_take_part_in_two_products_of_three() -> None:
    full = METHODS["full"].prepare(tiny_model("chatglm2-6b"), settings_of("full"))
    prefix = METHODS["ptuning"].prepare(tiny_model("chatglm2-6b"), settings_of("ptuning"))
    lora = METHODS["lora"].prepare(tiny_model("chatglm2-6b"), settings_of("lora"))
    every, frozen, low_rank = (operations_per_token(m, 0, 0.5) for m in (full, prefix, lora))
    seen = 3 * 4 * SETTINGS["pre_seq_len"] * 32 * 2  # every token attends to the prefix
    assert frozen - seen == pytest.approx(every * 2 / 3)
    assert frozen - seen < low_rank < every


def test_the_figures_of_a_throughput() -> None:
    model = METHODS["lora"].prepare(tiny_model("chatglm-6b"), settings_of("lora"))
    throughput = describe_throughput(model, Throughput(1000, 2.0), mean_length=10, target_share=0.5)
    assert (throughput["tokens_per_second"], throughput["training_seconds"]) == (500.0, 2.0)
    assert throughput["mfu"] is None  # a CPU
