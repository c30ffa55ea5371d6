"""What both benchmarks measure with: sizes, rows, models, and the settings of a tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glmtune.checkpoints.building import build_model
from glmtune.families.registry import get_family
from glmtune.tuning.settings import TuningSettings, pick_settings

FAMILY = "chatglm2-6b"
SEED = 42
PAD = 0


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    config: dict[str, int]
    rows: int  # answered by the engine
    slots: int  # of these at once
    rows_in_batches: int  # of these, answered by transformers in one batch
    rows_one_by_one: int  # of these, answered one at a time
    steps: int  # of training, the first not counted
    repeats: int
    pre_seq_len: int


MID = Sizes(
    {
        "num_layers": 8,
        "hidden_size": 512,
        "ffn_hidden_size": 1368,
        "kv_channels": 64,
        "num_attention_heads": 8,
        "inner_hidden_size": 2048,
    },
    rows=400,
    slots=200,
    rows_in_batches=64,
    rows_one_by_one=6,
    steps=2,
    repeats=3,
    pre_seq_len=128,
)
QUICK = Sizes(
    {
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 40,
        "kv_channels": 8,
        "num_attention_heads": 4,
        "padded_vocab_size": 96,
        **{"inner_hidden_size": 48, "vocab_size": 96, "mask_token_id": 90},
        **{"gmask_token_id": 91, "bos_token_id": 92, "eos_token_id": 93},
    },
    rows=6,
    slots=3,
    rows_in_batches=6,
    rows_one_by_one=4,
    steps=2,
    repeats=1,
    pre_seq_len=4,
)


def shorter(sizes: Sizes) -> Sizes:
    """Half as wide, and once: to see all families and methods in a time that one waits for."""
    return replace(
        sizes,
        rows=sizes.rows // 2,
        slots=max(1, sizes.slots // 2),
        rows_in_batches=max(1, sizes.rows_in_batches // 4),
        rows_one_by_one=max(1, sizes.rows_one_by_one // 3),
        repeats=1,
    )


def adgen_like(count: int, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) ids of rows whose lengths are spread as AdvertiseGen's are in tokens."""
    random = np.random.default_rng(SEED)

    def ids(length: float, lowest: int, highest: int) -> list[int]:
        return random.integers(3, vocabulary, int(np.clip(length, lowest, highest))).tolist()

    return [
        (ids(random.normal(35, 10), 12, 64), ids(random.normal(75, 18), 20, 128))
        for _ in range(count)
    ]


def random_model(
    sizes: Sizes, family: str = FAMILY, *, dtype: str = "float32", device: str = "cpu"
) -> Any:
    """The same model at every call."""
    real = get_family(family).real_config
    config = real | {key: value for key, value in sizes.config.items() if key in real}
    return build_model(config, family, seed=SEED, dtype=dtype, device=device)


def tuning_settings(sizes: Sizes, changes: dict[str, Any]) -> TuningSettings:
    """Those of train.sh where nothing else is said."""
    values: dict[str, Any] = {
        **{"method": "ptuning", "torch_threads": 1, "quantization_bit": None},
        **{"seed": SEED, "lr": 2e-2, "max_steps": sizes.steps + 1, "logging_steps": 1},
        **{"gradient_accumulation_steps": 1, "gradient_checkpointing": False},
        **{"lr_scheduler": "constant", "warmup_ratio": 0.0, "weight_decay": 0.0},
        **{"max_grad_norm": 1.0, "optimizer": "adamw", "save_steps": 1000, "batch_size": 1},
        **{"eval_steps": None, "keep_best": False, "early_stopping_patience": None},
        **{"pre_seq_len": sizes.pre_seq_len, "prefix_projection": False, "prefix_dropout": 0.0},
    }
    values |= {"rank": 8, "alpha": 32, "dropout": 0.0, "target_modules": ["query_key_value"]}
    return pick_settings(values | changes)
