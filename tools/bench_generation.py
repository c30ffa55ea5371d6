"""Generation: the engine against other ways to the same greedy answers, and against its limit.

    engine                    rows join as others leave: `glmtune.generation`
    one_row                   ptuning/evaluate.sh: one row at a time with transformers' generate
    transformers_dynamic      generate in a batch, padded on the left, to the end of its longest row
    transformers_static       the same with a static cache, on the exported model as below
    transformers_continuous   generate_batch of transformers on the model exported to its own
                              GlmForCausalLM; without a prefix, and not ChatGLM-6B
    limit                     nothing but the matrix products of the engine's own run, in their
                              order, attention over prefix and cache and the prompts included

Times are CPU times on the CPU, and the clock's on a GPU. Ways take turns, and a ratio is one of
neighbours: a slow minute of the machine meets all.
"""

from __future__ import annotations

import copy
import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_cases import (
    FAMILY,
    PAD,
    SEED,
    Sizes,
    adgen_like,
    random_model,
    shorter,
    tuning_settings,
)
from bench_products import RecordedProducts
from transformers import ContinuousBatchingConfig, GlmConfig, GlmForCausalLM

from glmtune.checkpoints.transformers_layout import glm_config, glm_state
from glmtune.devices import Device
from glmtune.generation.batches import generate_texts
from glmtune.generation.settings import GenerationSettings
from glmtune.modeling.packing import pack_linears
from glmtune.tuning.registry import get_method

GENERATION_CASES = [
    (family, method) for family in (FAMILY, "chatglm-6b") for method in ("ptuning", "none", "lora")
]
PAGE, BATCH_TOKENS = 32, 1024  # of transformers' continuous batching
Answers = dict[int, list[int]]  # the new tokens of each row


@dataclass(frozen=True)
class Task:
    """The rows of a case, and the model that answers them."""

    model: Any  # as it was trained
    answering: Any  # the same, as predictions use it: weights packed
    prompts: Sequence[list[int]]
    lengths: Sequence[int]
    sizes: Sizes
    family: str


@dataclass(frozen=True)
class Numbers:
    """A tokenizer whose texts are the ids themselves; a random model never means to end."""

    pad_token_id: int = PAD
    stop_token_ids: tuple[int, ...] = ()

    def decode(self, ids: Sequence[int]) -> str:
        """The ids, separated by blanks."""
        return " ".join(map(str, ids))

    def process_response(self, text: str) -> str:
        """The text as it is."""
        return text


def measure_generation(
    sizes: Sizes, device: Device, cases: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Figures of the first case, and those of all under `cases`; the others are shorter."""
    found = {}
    for number, (family, method) in enumerate(cases):
        task = prepare(shorter(sizes) if number else sizes, device, family, method)
        found[f"{family} {method}"] = measure_case(task)
        print(f"{family} {method}: {found[f'{family} {method}']}", flush=True)
    first = next(iter(found.values()))
    return first | {"unit": "new tokens/s", "rows": sizes.rows, "cases": found}


def prepare(sizes: Sizes, device: Device, family: str, method: str) -> Task:
    """A random model with what `method` adds to it, and rows as AdvertiseGen's."""
    model = random_model(sizes, family, dtype=device.dtype, device=device.name)
    torch.manual_seed(SEED)
    if method != "none":
        get_method(method).prepare(model, tuning_settings(sizes, {"method": method}))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # begins as zeros, without effect
            torch.nn.init.normal_(weight, std=0.02)
    vocabulary = model.config.vocab_size
    end = [vocabulary - 2, vocabulary - 1]
    if family != FAMILY:  # the tokens between prompt and answer
        end = [model.config.gmask_token_id, model.config.bos_token_id]
    asked = adgen_like(sizes.rows, min(vocabulary, 90) if vocabulary < 100 else 60000)
    prompts = [[*prompt, *end] for prompt, _ in asked]
    lengths = [len(answer) for _, answer in asked]
    answering = copy.deepcopy(model.eval())
    pack_linears(answering)
    return Task(model, answering, prompts, lengths, sizes, family)


def measure_case(task: Task) -> dict[str, Any]:
    """Tokens a second of every way: the median, and the spread of the ratio to one row."""
    ways = {"engine": engine, "one_row": one_row, **BATCHED}
    speeds: dict[str, list[float]] = {name: [] for name in [*ways, "limit"]}
    answers: dict[str, Answers] = {}
    notes: dict[str, str] = {}
    memory: dict[str, float] = {}
    products = RecordedProducts(task.answering)
    with products:
        engine(task)
    for _ in range(task.sizes.repeats):
        for name, way in ways.items():
            if name in notes:
                continue
            before = forget_peak(task)
            try:
                answers[name], seconds = timed(task, partial(way, task))
            except (
                RuntimeError,
                ValueError,
                TypeError,
                AttributeError,
                ImportError,
                IndexError,
            ) as error:
                notes[name] = f"does not run: {type(error).__name__}: {error}"[:120]
                continue
            speeds[name].append(sum(map(len, answers[name].values())) / seconds)
            memory[name] = max(memory.get(name, 0), peak_memory_mb(task) - before)
        answered = sum(map(len, answers["engine"].values()))
        speeds["limit"].append(answered / products.seconds_alone())
    ratios = [a / b for a, b in zip(speeds["engine"], speeds["one_row"], strict=True)]
    shares = [a / b for a, b in zip(speeds["engine"], speeds["limit"], strict=True)]
    medians = {name: statistics.median(found) for name, found in speeds.items() if found}
    alone = answers["one_row"]
    return {
        "ours": medians["engine"],
        "official": medians["one_row"],
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "products": statistics.median(shares),
        "tokens_per_second": medians,
        "spread": {name: [min(v), max(v)] for name, v in speeds.items() if v},
        "memory_mb": memory,
        "rows_one_by_one": len(alone),
        "same_texts": sum(answers["engine"][row] == ids for row, ids in alone.items()),
        "notes": notes,
    }


def engine(task: Task) -> Answers:
    """All rows."""
    settings = GenerationSettings(
        batch_size=task.sizes.slots,
        max_new_tokens=max(task.lengths),
        seed=SEED,
        do_sample=False,
        top_p=0.7,
        temperature=0.95,
    )
    tokenizer: Any = Numbers()
    found = generate_texts(task.answering, tokenizer, task.prompts, settings, limits=task.lengths)
    return {row: [int(word) for word in answer.text.split()] for row, answer in enumerate(found)}


def one_row(task: Task) -> Answers:
    """Some rows are enough, because a row takes as long whatever the others are."""
    rows = range(task.sizes.rows_one_by_one)
    return {row: _generate(task.model, task, [row])[row] for row in rows}


def transformers_dynamic(task: Task) -> Answers:
    """A batch of rows."""
    return _generate(task.model, task, range(task.sizes.rows_in_batches))


def transformers_static(task: Task) -> Answers:
    """A batch of rows in a cache of fixed size, which only transformers' own class works with."""
    rows = range(task.sizes.rows_in_batches)
    return _generate(exported(task), task, rows, cache_implementation="static")


def transformers_continuous(task: Task) -> Answers:
    """Rows that join and leave, in transformers' own way; every row to the same length."""
    model = exported(task)
    rows, length = range(task.sizes.rows_in_batches), round(statistics.mean(task.lengths))
    model.generation_config.update(max_new_tokens=length, do_sample=False, eos_token_id=-1)
    inputs = [task.prompts[row] for row in rows]
    # Left to itself it takes nearly all memory that is free, and the system kills what is running.
    pages = sum(-(-(len(prompt) + length) // PAGE) + 1 for prompt in inputs)
    found = model.generate_batch(
        inputs,
        generation_config=model.generation_config,
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=pages, max_batch_tokens=BATCH_TOKENS
        ),
    )
    if len(found) < len(rows):
        raise RuntimeError(f"answered {len(found)} of {len(rows)} rows")
    return {row: list(out.generated_tokens) for row, out in enumerate(found.values())}


BATCHED = {
    "transformers_dynamic": transformers_dynamic,
    "transformers_static": transformers_static,
    "transformers_continuous": transformers_continuous,
}


def exported(task: Task) -> Any:
    """The model as transformers' own class; an adapter is left out, a prefix has no place in it."""
    model = task.model
    if task.family != FAMILY or model.transformer.prefix_encoder is not None:
        raise ValueError("only ChatGLM2 and ChatGLM3 without a prefix can be exported")
    values = glm_config(model.config, (model.config.eos_token_id,), str(model.dtype)[6:])
    found: Any = GlmForCausalLM(GlmConfig(**values)).to(model.device, model.dtype)
    state = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in model.state_dict().items()
        if "lora_" not in name
    }
    found.load_state_dict(glm_state(state, model.config))
    return found.eval()


@torch.no_grad()
def _generate(model: Any, task: Task, rows: Sequence[int], **options: Any) -> Answers:
    width = max(len(task.prompts[row]) for row in rows)
    padded = [[PAD] * (width - len(task.prompts[row])) + task.prompts[row] for row in rows]
    mask = [[0] * (width - len(task.prompts[row])) + [1] * len(task.prompts[row]) for row in rows]
    output = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        max_new_tokens=max(task.lengths[row] for row in rows),
        **{"do_sample": False, "eos_token_id": None, "pad_token_id": PAD},
        **options,
    )[:, width:].tolist()
    return {row: ids[: task.lengths[row]] for row, ids in zip(rows, output, strict=True)}


# --- time and memory -----------------------------------------------------------------------------


def timed(task: Task, work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, and its seconds."""
    on_gpu = task.model.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    found = work()
    if on_gpu:
        torch.cuda.synchronize()
    return found, clock() - start


def forget_peak(task: Task) -> float:
    """Let peak memory count from here on; returns what is held now, in MB."""
    if task.model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc holds what the way before has freed
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory_mb(task)


def peak_memory_mb(task: Task) -> float:
    """Peak since then, weights and libraries included: of the GPU, or resident; 0 if unknown."""
    if task.model.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0
