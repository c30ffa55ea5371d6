"""Every kind of golden data of the models, and by how much this project differs from it.

    COMPARISONS["logits"].measure(folder, "v2") -> the largest difference

`folder` has v1/, v2/ and v3/ in the official layout, complete or as tests/fixtures keeps it.
tests/test_goldens.py holds each to its tolerance; `python tools/golden_fixtures.py --table` prints
them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from golden_training import TRAINED, gradient_norms, gradients, losses_under_adamw, step_loss
from safetensors.torch import load_file
from tiny_models import (
    GOLDEN_FAMILIES,
    LORA_TOLERANCE,
    PREFIXES,
    TOLERANCE,
    golden_error,
    golden_mask,
    golden_model,
    golden_tensors,
    logits_error,
    relative_error,
)

from glmtune.checkpoints.loading import load_model
from glmtune.modeling.causal_lm import visible_positions
from glmtune.modeling.chatglm import first_index
from glmtune.modeling.precision import BITS
from glmtune.modeling.quantization import dequantize, quantize_model

VERSIONS = tuple(sorted(GOLDEN_FAMILIES))
EXACT = dict.fromkeys(VERSIONS, 0.0)
# The official code also rounds rotary angles to fp16 in v1 and v2, this project never does.
FP16_ROUNDINGS = {"v1": 64, "v2": 16, "v3": 16}
FP16 = {version: n * torch.finfo(torch.float16).eps for version, n in FP16_ROUNDINGS.items()}


@dataclass(frozen=True)
class Comparison:
    """A number that says how far this project is from one kind of golden data: 0 is the same."""

    measure: Callable[[Path, str], float]
    tolerance: dict[str, float]
    """By family; a kind that a family does not have is left out."""


# --- Logits ----------------------------------------------------------------------------------


def logits(folder: Path, version: str, file: str = "base", kind: str = "base") -> float:
    """All inputs of a file of logits, with the mask that belongs to them."""
    tensors = golden_tensors(folder, version, f"logits_{file}")
    model = golden_model(folder, version, kind)
    if file == "fp16_cpu":
        model = model.half()
    return max(golden_error(model, version, tensors, name) for name in inputs(tensors))


def inputs(tensors: dict[str, torch.Tensor]) -> list[str]:
    """The names of the inputs in a file of logits."""
    return sorted(key.removesuffix(".input_ids") for key in tensors if key.endswith(".input_ids"))


def logits_at_official_positions(folder: Path, version: str) -> float:
    """Position ids as the official tokenizer made them, instead of this project's."""
    tensors = golden_tensors(folder, version, "logits_base")
    model = golden_model(folder, version)
    with torch.no_grad():
        found = model(tensors["zh.input_ids"], position_ids=tensors["zh.position_ids"]).logits
    return logits_error(found, tensors, "zh")


def logits_of_ids_alone(folder: Path, version: str) -> float:
    """Neither mask nor positions: the official model derives both from the special tokens."""
    tensors = golden_tensors(folder, version, "logits_base_input_ids_only")
    model = golden_model(folder, version)
    differences = []
    for name in ("", "mask_infill."):
        with torch.no_grad():
            found = model(tensors[f"{name}input_ids"]).logits
        differences.append(logits_error(found, tensors, f"{name}logits"))
    return max(differences)


def wrong_mask_entries(folder: Path, version: str) -> float:
    """How many pairs of tokens differ in whether the first sees the second; v1 stores them."""
    tensors = golden_tensors(folder, version, "logits_base")
    start = golden_model(folder, version).config.bos_token_id
    wrong = 0
    for name in inputs(tensors):
        hidden = tensors.get(f"{name}.attention_mask")
        if hidden is not None:
            ids, mask = tensors[f"{name}.input_ids"], golden_mask(version, tensors, name)
            visible = visible_positions(
                mask, ids.shape[1], 0, context_lengths=first_index(ids, start), device=ids.device
            )
            assert visible is not None
            wrong += int((visible == hidden)[:, 0][mask.bool()].sum())
    return float(wrong)


def hidden_states(folder: Path, version: str) -> float:
    """The input of every layer, and what the output layer gets."""
    tensors = golden_tensors(folder, version, "hidden_states_en")
    model = golden_model(folder, version)
    with torch.no_grad():
        found = model(tensors["input_ids"], output_hidden_states=True).hidden_states
    expected = [tensors[f"hidden_{i}"] for i in range(4)] + [tensors["after_final_layernorm"]]
    pairs = zip(found, expected, strict=True)
    return max(relative_error(f[:, -e.shape[1] :], e) for f, e in pairs)


def prefix_keys_and_values(folder: Path, version: str, kind: str) -> float:
    """The prefix itself: ours (1, heads, positions, d), theirs (positions, 1, heads, d)."""
    file = folder / version / f"ptuning_{kind}" / "past_key_values.safetensors"
    golden = load_file(file)["past_key_values"]
    with torch.no_grad():
        layers = golden_model(folder, version, kind).transformer.prefix_encoder(1, torch.float32)
        found = torch.stack([torch.stack(layer) for layer in layers])
    return relative_error(found, golden.permute(0, 1, 3, 4, 2, 5))


# --- Greedy answers --------------------------------------------------------------------------


def wrong_greedy_ids(folder: Path, version: str, kind: str, use_cache: bool) -> float:
    """How many ids of the greedy answers differ; single rows, a conversation and a batch."""
    cases = json.loads((folder / version / "generate_golden.json").read_text())[kind]
    model = golden_model(folder, version, kind)
    wrong = 0
    for case in cases.values():
        ids = torch.tensor(case["input_ids"])
        padding = (ids != model.config.pad_token_id).long().tolist()
        mask = torch.tensor(case.get("attention_mask", padding))
        output = model.generate(
            ids, attention_mask=mask, max_new_tokens=32, do_sample=False, use_cache=use_cache
        )
        wrong += int((output[:, ids.shape[1] :] != torch.tensor(case["new_ids"])).sum())
    return float(wrong)


# --- Quantized and sharded weights --------------------------------------------------------------


def wrong_quantized_tensors(folder: Path, version: str, bits: int, dtype: str) -> float:
    """How many tensors differ when this project quantizes the checkpoint."""
    model = load_model(folder / version / "checkpoint", dtype=dtype)
    quantize_model(model, bits)
    official = load_model(folder / version / f"checkpoint_int{bits}", dtype=dtype).state_dict()
    return float(different(model.state_dict(), official))


def dequantized_weights(folder: Path, version: str, bits: int) -> float:
    """Weights dequantized from the official quantized checkpoint."""
    golden = load_file(folder / version / f"quant_int{bits}.safetensors")
    model = load_model(folder / version / f"checkpoint_int{bits}")
    differences = []
    for name, expected in golden.items():
        if name.startswith("dequant."):
            linear: Any = model.get_submodule(name.removeprefix("dequant.").removesuffix(".weight"))
            found = dequantize(linear.weight, linear.weight_scale, bits)[: len(expected)]
            differences.append(float((found.float() - expected.float()).abs().max()))
    return max(differences)


def logits_of_quantized_weights(folder: Path, version: str, bits: int) -> float:
    """Logits in fp32 of the official quantized checkpoint."""
    golden = load_file(folder / version / f"quant_int{bits}.safetensors")
    model = load_model(folder / version / f"checkpoint_int{bits}")
    with torch.no_grad():
        found = model(golden["batch3.input_ids"][:1]).logits
    name = "batch3.logits_row0_fp32_with_dequantised_weights"
    return logits_error(found, golden, name)


def wrong_sharded_tensors(folder: Path, version: str) -> float:
    """How many tensors differ between the whole file in fp32 and the shards in fp16."""
    models = [load_model(folder / version / name) for name in ("checkpoint", "checkpoint_sharded")]
    return float(different(*(model.state_dict() for model in models)))


def different(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> int:
    """How many names have not the same tensor in both."""
    return sum(
        name not in first or name not in second or not torch.equal(first[name], second[name])
        for name in first.keys() | second.keys()
    )


# --- The registry ----------------------------------------------------------------------------

COMPARISONS: dict[str, Comparison] = {
    "logits": Comparison(logits, TOLERANCE),
    "logits at official positions": Comparison(logits_at_official_positions, TOLERANCE),
    "logits of ids alone": Comparison(logits_of_ids_alone, {"v1": TOLERANCE["v1"]}),
    "logits, prefix direct": Comparison(
        partial(logits, file="prefix_direct", kind="prefix_direct"), TOLERANCE
    ),
    "logits, prefix projection": Comparison(
        partial(logits, file="prefix_projection", kind="prefix_projection"), TOLERANCE
    ),
    "logits, LoRA": Comparison(partial(logits, file="lora", kind="lora"), LORA_TOLERANCE),
    "logits in fp16": Comparison(partial(logits, file="fp16_cpu"), FP16),
    "attention masks": Comparison(wrong_mask_entries, {"v1": 0.0}),
    "hidden states": Comparison(hidden_states, TOLERANCE),
    **{
        f"keys and values, {kind}": Comparison(
            partial(prefix_keys_and_values, kind=kind), TOLERANCE
        )
        for kind in PREFIXES
    },
    **{
        f"greedy ids, {kind}{'' if use_cache else ', no cache'}": Comparison(
            partial(wrong_greedy_ids, kind=kind, use_cache=use_cache), EXACT
        )
        for kind in ("base", *PREFIXES)
        for use_cache in (True, False)
    },
    **{
        f"int{bits} bytes from {dtype}": Comparison(
            partial(wrong_quantized_tensors, bits=bits, dtype=dtype), EXACT
        )
        for bits in BITS
        for dtype in ("float32", "float16")
    },
    **{
        f"int{bits} weights, dequantized": Comparison(
            partial(dequantized_weights, bits=bits), EXACT
        )
        for bits in BITS
    },
    **{
        f"int{bits} logits": Comparison(partial(logits_of_quantized_weights, bits=bits), TOLERANCE)
        for bits in BITS
    },
    "shards": Comparison(wrong_sharded_tensors, EXACT),
    **{
        f"{what}, {kind}{', checkpointing' if checkpointing else ''}": Comparison(
            partial(measure, kind=kind, checkpointing=checkpointing),
            LORA_TOLERANCE if kind == "lora" else TOLERANCE,
        )
        for what, measure, kinds in (
            ("loss", step_loss, TRAINED),
            ("gradient norms", gradient_norms, TRAINED),
            ("gradients", gradients, ("prefix_direct", "lora")),
        )
        for kind in kinds
        for checkpointing in (False, True)
    },
    **{
        f"losses under AdamW, {kind}": Comparison(partial(losses_under_adamw, kind=kind), TOLERANCE)
        for kind in PREFIXES
    },
}


def table(folder: Path) -> str:
    """All comparisons as a Markdown table; a difference beyond its tolerance is marked."""
    lines = [f"| golden | {' | '.join(VERSIONS)} |", "|---|---:|---:|---:|"]
    for name, comparison in COMPARISONS.items():
        cells = []
        for version in VERSIONS:
            tolerance = comparison.tolerance.get(version)
            if tolerance is None:
                cells.append("–")
                continue
            found = comparison.measure(folder, version)
            cells.append(f"{found:.2g}")
            if not found <= tolerance:
                cells[-1] += f" > {tolerance:g}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
