"""How many texts the batch changes: rows answered together against the same rows alone.

In float32 none may differ but those with a near tie. In half precision the width of a batch decides
how products are rounded, so that some answers take another way; this says how many. The models are
tiny and random: their best logits lie as close together as any model's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench_cases import FAMILY, QUICK, SEED, adgen_like, random_model
from bench_generation import Numbers

from glmtune.devices import Device
from glmtune.generation.batches import generate_texts
from glmtune.generation.settings import GenerationSettings

DTYPES = ("float32", "bfloat16", "float16")
ROWS = 24
SETTINGS = GenerationSettings(
    batch_size=12, max_new_tokens=32, seed=SEED, do_sample=False, top_p=0.7, temperature=0.95
)


def measure_equality(device: Device) -> dict[str, Any]:
    """For each type and way of decoding: equal texts and near ties, of `ROWS`."""
    return {
        f"{dtype} {'drawn' if drawn else 'greedy'}": _measure(device, dtype, drawn)
        for dtype in DTYPES
        for drawn in (False, True)
    }


def _measure(device: Device, dtype: str, drawn: bool) -> dict[str, int]:
    model = random_model(QUICK, FAMILY, dtype=dtype, device=device.name).eval()
    vocabulary = model.config.vocab_size
    prompts = [prompt for prompt, _ in adgen_like(ROWS, vocabulary)]
    settings = replace(SETTINGS, do_sample=drawn)
    tokenizer: Any = Numbers()
    together = generate_texts(model, tokenizer, prompts, settings)
    alone = generate_texts(model, tokenizer, prompts, replace(settings, batch_size=1))
    pairs = list(zip(together, alone, strict=True))
    return {
        "rows": ROWS,
        "same_texts": sum(a.text == b.text for a, b in pairs),
        "near_ties": sum(a.near_tie or b.near_tie for a, b in pairs),
        "different_without_near_tie": sum(
            a.text != b.text and not (a.near_tie or b.near_tie) for a, b in pairs
        ),
    }
