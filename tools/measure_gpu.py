"""Measure training, memory, generation and quantized linears at 6B on a GPU, with random weights.

python tools/measure_gpu.py --out FILE.json [--only training generation …] [--seconds 500] [--tiny]

Needs no weights. Prints a line for each measurement and writes FILE.json after each one, so that
stopping it early loses nothing; a second run with the same FILE measures what is missing.
`--tiny` is the same with tiny models, on the CPU too: it shows that the tool runs, no more.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))

import torch
from gpu_measurements import (
    GenerationCase,
    TrainingCase,
    measure_agreement,
    measure_generation,
    measure_matrix_rate,
    measure_training,
)
from quantized_measurements import QuantizedCase, measure_quantized

from glmtune.devices import Device, choose_device
from glmtune.errors import ResourceError
from glmtune.files import read_json, write_json
from glmtune.modeling.precision import BITS
from glmtune.workspace.provenance import git_commit

PACKAGES = ("torch", "transformers", "peft", "accelerate")
MODELS = ("chatglm-6b", "chatglm2-6b")  # ChatGLM3-6B has the second's sizes


@dataclass(frozen=True)
class Measurement:
    """One line of the result: a name that tells it from all others, and how to get it."""

    kind: str
    case: dict[str, Any]
    measure: Callable[[Device, bool], dict[str, Any]]

    @property
    def name(self) -> str:
        """Example: `training model=chatglm2-6b method=lora …`."""
        return " ".join((self.kind, *(f"{key}={value}" for key, value in self.case.items())))


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    kinds = ("agreement", "matrix_rate", "quantized_linear", "training", "generation")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, metavar="KIND")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then stop")
    parser.add_argument("--tiny", action="store_true", help="tiny models: a dry run")
    flags = parser.parse_args()
    device = choose_device()
    if device.name == "cpu" and not flags.tiny:
        raise ResourceError("no CUDA device: nothing to measure; --tiny shows that the tool runs")
    torch.backends.cuda.matmul.allow_tf32 = False
    found = begun(flags.out, describe(device) | {"tiny": flags.tiny})
    begin = time.perf_counter()
    for measurement in measurements():
        if measurement.kind not in flags.only or measurement.name in found["results"]:
            continue
        if time.perf_counter() - begin > flags.seconds:
            print(f"{flags.seconds:.0f} s are over; run it again to continue", file=sys.stderr)
            break
        figures = attempt(measurement, device, flags.tiny)
        found["results"][measurement.name] = measurement.case | figures
        write_json(flags.out, found)
        print(measurement.name, "|", as_text(figures), flush=True)


def begun(file: Path, environment: dict[str, Any]) -> dict[str, Any]:
    """What `file` holds already; ResourceError if it was measured on something else."""
    if not file.is_file():
        return {"environment": environment, "results": {}}
    found = read_json(file)
    for key, value in environment.items():
        if found["environment"].get(key) != value:
            raise ResourceError(
                f"{file}: environment: {key}: found {found['environment'].get(key)!r}; now "
                f"{value!r}; figures of both cannot be compared; choose another --out"
            )
    return found


def measurements() -> Iterator[Measurement]:
    """All measurements, the most wanted first."""
    for model in MODELS:
        yield Measurement("agreement", {"model": model}, partial(measure_agreement, model))
    yield Measurement("matrix_rate", {}, measure_matrix_rate)
    for quantized in quantized_cases():
        yield Measurement(
            "quantized_linear", asdict(quantized), partial(measure_quantized, quantized)
        )
    for training in training_cases():
        yield Measurement("training", asdict(training), partial(measure_training, training))
    for answers in generation_cases():
        yield Measurement("generation", asdict(answers), partial(measure_generation, answers))


def quantized_cases() -> Iterator[QuantizedCase]:
    """The layers' linears of ChatGLM2-6B: dequantized, then applied to 1, 16 and 2048 inputs."""
    for rows, columns in ((4096, 4096), (4608, 4096), (2 * 13696, 4096), (4096, 13696)):
        for bits in BITS:
            for inputs in (None, 1, 16, 2048):
                yield QuantizedCase(rows, columns, bits, inputs)


def training_cases() -> Iterator[TrainingCase]:
    """THUDM's setting (1 x 16) and one batch of 16, the most wanted first."""
    lengths = {"chatglm-6b": (64, 64), "chatglm2-6b": (64, 128)}
    variants: list[tuple[str, int | None, int, int]] = [
        *(("ptuning", bits, 1, 16) for bits in (4, None)),
        *(("ptuning", bits, 16, 1) for bits in (None, 4, 8)),
        *(("lora", None, 1, 16), ("lora", None, 16, 1), ("lora", None, 64, 1)),
        ("full", None, 16, 1),
    ]
    for method, bits, batch, accumulation in variants:
        for model, size in lengths.items():
            yield TrainingCase(model, method, bits, batch, accumulation, *size)
    for model, size in lengths.items():
        yield TrainingCase(model, "lora", None, 16, 1, *size, checkpointing=True)
        yield TrainingCase(model, "lora", None, 16, 1, *size, deterministic=False)
        yield TrainingCase(model, "full", None, 16, 1, *size, checkpointing=True)


def generation_cases() -> Iterator[GenerationCase]:
    """All rows in batches, and a few one by one: the official way."""
    for model in MODELS:
        for method in ("none", "ptuning", "lora"):
            for batch_size in (256, 128):
                yield GenerationCase(model, method, batch_size, rows=1070)
            yield GenerationCase(model, method, batch_size=1, rows=8)


def attempt(measurement: Measurement, device: Device, tiny: bool) -> dict[str, Any]:
    """The figures; what does not fit into the GPU is a result too."""
    try:
        return measurement.measure(device, tiny)
    except torch.OutOfMemoryError:
        return {"failed": "out of GPU memory"}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def describe(device: Device) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    gpu = {}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        gpu = {"memory_gb": card.total_memory / 1e9, "cuda": torch.version.cuda}
    return {
        "device": device.reason,
        "dtype": device.dtype,
        "code": git_commit(),
        "versions": {"python": platform.python_version(), **versions},
        **gpu,
    }


def as_text(figures: dict[str, Any]) -> str:
    """Example: `seconds_per_step 0.123, tokens_per_second 1.56e+04`."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figures.items()
    )


if __name__ == "__main__":
    try:
        main()
    except ResourceError as error:
        sys.exit(str(error))
