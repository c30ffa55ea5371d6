"""The throughput of a training: tokens and operations per second, and the share of peak (MFU)."""

from __future__ import annotations

import re
from typing import Any

import torch

from glmtune.training.trainer import Throughput

# Dense 16-bit matrix products in TFLOP/s, from the vendors' data sheets; the first match counts.
PEAK_TFLOPS = {
    r"\bB200\b": 2250,
    r"H200$|GH200|H800$|H100.*SXM|H100 80GB HBM3": 989,
    r"H100 NVL|H200 NVL": 835,
    r"H100 PCIe": 756,
    r"H20\b": 148,
    r"A100|A800": 312,
    r"L40S": 362,
    r"L40$": 181,
    r"RTX A6000": 155,
    r"\bA30\b": 165,
    r"\bA40\b": 150,
    r"\bA10\b": 125,
    r"\bL4\b": 121,
    r"RTX 4090$": 165,
    r"RTX 3090 Ti$": 80,
    r"RTX 3090$": 71,
    r"V100-SXM": 125,
    r"V100-PCIE": 112,
    r"\bT4\b": 65,
}


def describe_throughput(
    model: Any, throughput: Throughput, *, mean_length: float, target_share: float, gpus: int = 1
) -> dict[str, float | None]:
    """The throughput of all processes; `mfu` is None on the CPU and on a GPU of unknown peak."""
    rate = throughput.tokens / throughput.seconds
    operations = rate * operations_per_token(model, mean_length, target_share)
    peak = card_peak(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {
        "tokens": throughput.tokens,
        "training_seconds": round(throughput.seconds, 2),
        "tokens_per_second": round(rate, 1),
        "tflops_per_second": round(operations / 1e12, 4),
        "mfu": None if peak is None else round(operations / (gpus * peak * 1e12), 4),
    }


def card_peak(name: str) -> float | None:
    """The 16-bit TFLOP/s of a GPU by its CUDA name; None if unknown."""
    return next((peak for card, peak in PEAK_TFLOPS.items() if re.search(card, name)), None)


def operations_per_token(model: Any, length: float, target_share: float) -> float:
    """Floating-point operations per token, forward and backward; recomputed ones do not count.

    A multiply-add counts as two. A trained weight is used in three products, a frozen one in two.
    Rows are `length` tokens long; `target_share` of them have a target and so pass the output
    layer, and what follows the attention of the last layer.
    """
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = core.transformer.layers
    linears = 0.0
    for name, linear in layers.named_modules():
        if isinstance(linear, torch.nn.Linear):
            in_last_layer = name.startswith(f"{len(layers) - 1}.")
            only_targets = in_last_layer and "query_key_value" not in name
            products = 2 * (3 if linear.weight.requires_grad else 2)
            size = linear.in_features * linear.out_features
            linears += products * size * (target_share if only_targets else 1)
    head = core.get_output_embeddings()
    size = head.in_features * head.out_features  # a shard of the weight has fewer elements
    linears += 2 * (3 if head.weight.requires_grad else 2) * size * target_share
    prefix = core.transformer.prefix_encoder
    seen = length + (0 if prefix is None else prefix.pre_seq_len)
    return linears + 3 * 4 * seen * core.config.hidden_size * core.config.num_layers
