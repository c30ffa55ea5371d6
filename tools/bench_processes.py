"""Full fine-tuning by several processes against one: losses, memory of a process, steps per second.

    python tools/bench_processes.py [--quick] [--out FILE]

Each case is the workflow's own step on the same random model and rows. On a CPU the processes share
its cores, so their speed says little there; losses and memory are what to look at. Memory is what a
process holds while it trains, beyond its libraries, without what it maps from files (Linux).
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "tools")]

from bench_cases import MID, PAD, QUICK, adgen_like, random_model, tuning_settings  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from glmtune.checkpoints.saving import save_model  # noqa: E402
from glmtune.checkpoints.sources import hash_model  # noqa: E402
from glmtune.families.family import Example  # noqa: E402
from glmtune.families.tokenized import from_examples, tokenized_file  # noqa: E402
from glmtune.files import read_json, write_json  # noqa: E402
from glmtune.labels import IGNORED_LABEL  # noqa: E402
from glmtune.steps.inputs_outputs import ModelFiles, Outputs, Tracking  # noqa: E402
from glmtune.workspace.provenance import describe_arithmetic, describe_hardware  # noqa: E402
from glmtune.workspace.torchrun import call_in_processes  # noqa: E402

CASES = [(1, "none"), (2, "none"), (2, "zero2"), (2, "zero3"), (4, "zero3")]
ROWS, STEPS = 64, 4
SECONDS_BETWEEN_SAMPLES = 0.005


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--out", type=Path, help="where the figures go (JSON)")
    flags = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        inputs, settings = Path(folder), _write_inputs(Path(folder), QUICK if flags.quick else MID)
        for count, sharding in CASES:
            if sharding != "none" and importlib.util.find_spec("deepspeed") is None:
                print(f"{count} processes, {sharding}: left out, DeepSpeed is not installed")
                continue
            found.append(_measure(inputs, settings, count, sharding))
    losses = [case.pop("losses") for case in found]
    print("processes  sharding  loss apart  peak MiB  estimated  tokens/s")
    for case, own in zip(found, losses, strict=True):
        case["apart"] = max(abs(a / b - 1) for a, b in zip(own, losses[0], strict=True))
        print(
            f"{case['processes']:9}  {case['sharding']:8}  {case['apart']:10.1e}  "
            f"{case['peak_mib']:8,}  {case['estimated_mib']:9,}  {case['tokens_per_second']:8.1f}"
        )
    machine = {"hardware": describe_hardware(), **describe_arithmetic()}
    print(f"measured on {machine['hardware']}")
    if flags.out:
        write_json(flags.out, {"machine": machine, "cases": found})


def _write_inputs(folder: Path, sizes: Any) -> Any:
    """A model and tokenized rows, as the steps before leave them; the settings of the training."""
    save_model(random_model(sizes), folder / "model")
    write_json(folder / "model.json", {"files": hash_model(folder / "model")})
    vocabulary = sizes.config.get("padded_vocab_size", 65_024)
    examples = [
        Example(prompt + answer, [IGNORED_LABEL] * len(prompt) + answer)
        for prompt, answer in adgen_like(ROWS, vocabulary - 10)
    ]
    (folder / "data").mkdir()
    for split in ("train", "dev"):
        with tokenized_file(folder / f"data/{split}.safetensors") as append:
            append(from_examples(examples[: ROWS if split == "train" else 8]))
    counts = {"rows": ROWS, "target_tokens": 1, "spelled_tokens": 0, "cut_answers": 0}
    manifest = {"pad_token_id": PAD, "splits": {"train": counts}}
    write_json(folder / "data/manifest.json", manifest)
    changes = {"method": "full", "lr": 1e-4, "max_steps": STEPS}
    changes |= {"batch_size": 4, "gradient_accumulation_steps": 4}
    return tuning_settings(sizes, changes)


def _measure(inputs: Path, settings: Any, count: int, sharding: str) -> dict[str, Any]:
    """Train with `count` processes: the figures of its runtime.json, and the losses."""
    out = inputs / f"{count}-{sharding}"
    out.mkdir()
    # The second has glibc give memory back, which would count otherwise.
    os.environ |= {"PYTHONPATH": str(ROOT / "tools"), "MALLOC_MMAP_THRESHOLD_": "65536"}
    call_in_processes(
        Path(__file__).stem,
        "train_watched",
        processes=count,
        nodes=1,
        starter="",
        model=ModelFiles(folder=inputs / "model", manifest=inputs / "model.json"),
        data=inputs / "data",
        settings=settings,
        outputs=Outputs(out_dir=out, resume_dir=out / "work"),
        tracking=Tracking(trackers=[], run="bench/full", folder=out / "logs"),
        sharding=sharding,
    )
    runtime = read_json(out / "runtime.json")
    with (out / "curve.csv").open(encoding="utf-8") as file:
        losses = [float(point["loss"]) for point in csv.DictReader(file)]
    return {
        "processes": count,
        "sharding": sharding,
        "losses": losses,
        **read_json(out.with_suffix(".json")),
        "tokens_per_second": runtime["tokens_per_second"],
    }


def train_watched(**arguments: Any) -> None:
    """Train as one of the processes; the first writes peak and estimate (MiB)."""
    from glmtune.steps import finetuning
    from glmtune.training import processes

    estimates: list[float] = []
    check, train = finetuning.check_memory, finetuning.train

    def kept_estimate(estimate: Any, *given: Any) -> str:
        estimates.append(estimate.total)
        return check(estimate, *given)

    def watched(*given: Any, callbacks: Any, **named: Any) -> Any:
        peak = _PeakOfSteps()
        outcome = train(*given, callbacks=[*callbacks, peak], **named)
        peaks = processes.gathered(round((peak.bytes - at_start) / 2**20))
        if processes.is_first():
            figures = {"peak_mib": max(peaks), "estimated_mib": round(estimates[0] / 2**20)}
            write_json(arguments["outputs"].out_dir.with_suffix(".json"), figures)
        return outcome

    for name, function in (("check_memory", kept_estimate), ("train", watched)):
        setattr(finetuning, name, function)
    at_start = _own_memory()
    finetuning.finetune(**arguments)


class _PeakOfSteps(TrainerCallback):
    """The most bytes that this process holds of its own while it takes steps, sampled."""

    def __init__(self) -> None:
        self.bytes = 0
        self.ends = threading.Event()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        threading.Thread(target=self._sample, daemon=True).start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The checkpoint of the last step is written after it."""
        if state.global_step == args.max_steps:
            self.ends.set()

    def _sample(self) -> None:
        while not self.ends.is_set():
            self.bytes = max(self.bytes, _own_memory())
            time.sleep(SECONDS_BETWEEN_SAMPLES)


def _own_memory() -> int:
    """The bytes of memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found, "Linux says so since 4.5"
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
