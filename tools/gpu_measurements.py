"""What `measure_gpu.py` measures: a training, a generation, agreement with the CPU, a matrix rate.

Models have random weights, made on the device: speed and memory do not depend on their values.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from glmtune.checkpoints.building import build_model
from glmtune.devices import Device
from glmtune.families.family import Example
from glmtune.families.registry import FAMILIES
from glmtune.families.tokenized import TokenizedRows, from_examples
from glmtune.generation.batches import generate_texts
from glmtune.generation.settings import GenerationSettings
from glmtune.labels import IGNORED_LABEL
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.quantization import quantize_model
from glmtune.seeding import seed_everything
from glmtune.training.throughput import operations_per_token
from glmtune.training.train import train
from glmtune.tuning.registry import METHODS
from glmtune.tuning.settings import TuningSettings, pick_settings

WARM_UP, MEASURED = 3, 8  # optimizer steps
ANSWER_TOKENS = 128
COMPARED_ROWS = 8  # answered alone too: in half precision the width of a batch can be seen
TINY = {
    **{"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "kv_channels": 16},
    **{"inner_hidden_size": 128, "ffn_hidden_size": 96},
    **{"vocab_size": 300, "padded_vocab_size": 300, "mask_token_id": 290, "gmask_token_id": 291},
    **{"bos_token_id": 292, "eos_token_id": 293},
}
# The settings of THUDM's train.sh and of usual LoRA; the data sets every length.
SETTINGS: dict[str, Any] = {
    **{"seed": 42, "lr": 1e-4, "lr_scheduler": "constant", "warmup_ratio": 0.0},
    **{
        "weight_decay": 0.0,
        "optimizer": "adamw",
        "max_grad_norm": 1.0,
        "logging_steps": 1000,
        "save_steps": 1000,
    },
    **{"pre_seq_len": 128, "prefix_projection": False, "prefix_dropout": 0.1},
    **{"rank": 8, "alpha": 32, "dropout": 0.1, "target_modules": ["query_key_value"]},
    **{"batch_size": 1, "gradient_accumulation_steps": 1, "gradient_checkpointing": False},
    **{"eval_steps": None, "keep_best": False, "early_stopping_patience": None},
    **{"max_steps": 1000, "torch_threads": 1, "quantization_bit": None},
}


@dataclass(frozen=True)
class TrainingCase:
    """One training that is measured; every row is exactly `source` + `target` tokens long."""

    model: str
    method: str
    bits: int | None
    batch_size: int
    accumulation: int
    source: int
    target: int
    checkpointing: bool = False
    deterministic: bool = True


@dataclass(frozen=True)
class GenerationCase:
    """Greedy answers of 128 tokens to `rows` prompts of 16 to 64 tokens."""

    model: str
    method: str
    batch_size: int
    rows: int


class _MeasuredEnough(Exception):
    """Ends a training before the Trainer writes its checkpoint: tens of GB after `full`."""


class _Clock(TrainerCallback):
    """The seconds of each optimizer step after the warm-up."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        synchronize()
        self.times.append(time.perf_counter())
        if len(self.times) == WARM_UP + MEASURED:
            raise _MeasuredEnough

    def median(self) -> float:
        """The median step, in seconds."""
        return statistics.median(np.diff(self.times[WARM_UP - 1 :]))


def _settings(method: str, **changes: Any) -> TuningSettings:
    return pick_settings(SETTINGS | changes | {"method": method})


def measure_training(case: TrainingCase, device: Device, tiny: bool) -> dict[str, Any]:
    """Seconds a step, tokens a second, share of the matrix rate, and peak memory."""
    settings = _settings(
        case.method,
        batch_size=case.batch_size,
        gradient_accumulation_steps=case.accumulation,
        gradient_checkpointing=case.checkpointing,
    )
    seed_everything(settings.seed, torch.get_num_threads())
    torch.use_deterministic_algorithms(case.deterministic, warn_only=True)
    base = random_model(case.model, device, case.bits, tiny)
    model = METHODS[case.method].prepare(base, settings)
    rows = random_rows(base.config, case)
    forget_peak()
    clock = _Clock()
    with tempfile.TemporaryDirectory() as work, suppress(_MeasuredEnough):
        train(
            model.train(),
            rows,
            None,
            settings,
            pad_token_id=base.config.pad_token_id,
            work=Path(work),
            dtype=device.dtype,
            callbacks=[clock],
        )
    seconds = clock.median()
    length = case.source + case.target
    tokens = case.batch_size * case.accumulation * length
    operations = operations_per_token(model, length, case.target / length)
    return {
        "seconds_per_step": seconds,
        "tokens_per_second": tokens / seconds,
        "tflops": tokens / seconds * operations / 1e12,
        **peak_memory(),
    }


def measure_generation(case: GenerationCase, device: Device, tiny: bool) -> dict[str, Any]:
    """Seconds for the rows, answers a second, peak memory, and equality with rows alone."""
    seed_everything(SETTINGS["seed"], torch.get_num_threads())
    base = random_model(case.model, device, None, tiny)
    model: Any = base
    if case.method != "none":
        model = METHODS[case.method].prepare(base, _settings(case.method))
    random = np.random.default_rng(0)
    lengths = random.integers(16, 65, case.rows)
    prompts = [[*random_ids(random, n), *prompt_end(base.config)] for n in lengths]
    settings = GenerationSettings(
        batch_size=case.batch_size,
        max_new_tokens=8 if tiny else ANSWER_TOKENS,
        seed=42,
        do_sample=False,
        top_p=0.7,
        temperature=0.95,
    )
    tokenizer: Any = _NeverEnding(base.config)
    generate_texts(model.eval(), tokenizer, prompts[: case.batch_size], settings)  # warm-up
    forget_peak()
    start = time.perf_counter()
    found = generate_texts(model, tokenizer, prompts, settings)
    synchronize()
    seconds = time.perf_counter() - start
    figures = {"seconds": seconds, "rows_per_second": case.rows / seconds, **peak_memory()}
    if case.batch_size == 1:
        return figures
    one_by_one = replace(settings, batch_size=1)
    alone = generate_texts(model, tokenizer, prompts[:COMPARED_ROWS], one_by_one)
    same = [a.text == b.text for a, b in zip(found, alone, strict=False)]
    return figures | {
        "same_texts_as_alone": statistics.mean(same),
        "near_ties": sum(answer.near_tie for answer in found),
    }


def measure_agreement(model: str, device: Device, tiny: bool) -> dict[str, Any]:
    """Largest difference of logits from the CPU's float32, in standard deviations of these.

    The model is always tiny: the CPU has to compute it too.
    """
    ids = torch.randint(5, 280, (4, 24), generator=torch.Generator().manual_seed(0))
    cpu = random_model(model, Device("cpu", "float32", ""), None, tiny=True)
    ids = torch.cat((ids, torch.tensor([prompt_end(cpu.config) or [9, 9]] * 4), ids), dim=1)
    with torch.no_grad():
        expected = cpu(ids).logits
        differences = {}
        for dtype in ("float32", device.dtype, "float16"):
            there: Any = random_model(model, Device("cpu", "float32", ""), None, tiny=True)
            there = there.to(device.name, getattr(torch, dtype))
            found = there(ids.to(device.name)).logits.float().cpu()
            differences[dtype] = float((found - expected).abs().max() / expected.std())
    return {"largest_difference": differences}


def measure_matrix_rate(device: Device, tiny: bool) -> dict[str, float]:
    """TFLOP/s of a square matrix product in the type of the device: what a model cannot exceed."""
    size = 256 if tiny else 8192
    a, b = (
        torch.randn(size, size, device=device.name, dtype=getattr(torch, device.dtype))
        for _ in range(2)
    )
    return {"tflops": 2 * size**3 / median_seconds(lambda: a @ b) / 1e12}


def median_seconds(work: Callable[[], Any], calls: int = 1) -> float:
    """Of one call, after a warm-up; the median of ten measurements of `calls` calls each."""
    times = []
    for _ in range(13):
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times[3:])


def random_model(name: str, device: Device, bits: int | None, tiny: bool) -> ChatGLMCausalLM:
    """The configuration of a family with random weights, made on the device."""
    config = FAMILIES[name].real_config
    if tiny:
        config = {key: TINY.get(key, value) for key, value in config.items()}
    model = build_model(config, name, seed=1, dtype=device.dtype, device=device.name)
    if bits is not None:
        quantize_model(model, bits)
    return model


def random_rows(config: Any, case: TrainingCase) -> TokenizedRows:
    """Rows for two steps; the Trainer goes round. The end of the prompt counts as source."""
    random = np.random.default_rng(0)
    end = prompt_end(config)
    examples = []
    for _ in range(2 * case.batch_size * case.accumulation):
        source = [*random_ids(random, case.source - len(end)), *end]
        target = random_ids(random, case.target)
        examples.append(Example(source + target, [IGNORED_LABEL] * len(source) + target))
    return from_examples(examples)


def random_ids(random: np.random.Generator, count: int) -> list[int]:
    """Ordinary tokens, which every vocabulary here has."""
    return [int(i) for i in random.integers(5, 280, count)]


def prompt_end(config: Any) -> list[int]:
    """The tokens between prompt and answer: [gMASK] `<sop>` where the model has them."""
    gmask = getattr(config, "gmask_token_id", None)
    return [] if gmask is None else [gmask, config.bos_token_id]


class _NeverEnding:
    """In place of a tokenizer: no token ends an answer, so that all have the full length."""

    def __init__(self, config: Any) -> None:
        self.pad_token_id = config.pad_token_id
        self.stop_token_ids = ()

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def process_response(self, text: str) -> str:
        return text


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget_peak() -> None:
    """Peak memory counts from here on; what is allocated now counts in."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, float]:
    """Peak in GB (10^9): of tensors, and of what PyTorch held for them."""
    if not torch.cuda.is_available():
        return {}
    return {
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "peak_reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
    }
