"""How fast training and generation are, against the way the official scripts do it.

    python tools/bench.py --out results/benchmarks.json        about four minutes
    python tools/bench.py --quick --out FILE                   a tiny model: shows that it runs

Both ways use the same model (ChatGLM2's architecture, hidden size 512, 8 layers, the published
vocabulary's size, random weights) and the same rows, whose lengths are spread like AdvertiseGen's.
They take turns in one run, because times of different runs cannot be compared, on one thread, as
params.yaml's torch_threads: with more, a neighbour on the machine stops both.

    training     ours: batches of 4 x 4 by length, padded to their longest row, logits only where
                 there is a target.
                 Official (ptuning/train.sh): every row padded to full length, batches of 1 x 16
                 accumulated, activations recomputed, logits everywhere.
                 Both: P-Tuning v2 with 128 positions, the same loss at every step.
    generation   ours: batches sorted by length, finished rows leave.
                 Official (ptuning/evaluate.sh): one row at a time with transformers' generate;
                 some of the rows are enough, because a row takes as long whatever the others are.
                 Both: greedily, with P-Tuning v2's prefix, the same texts.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from glmtune.checkpoints.building import build_model  # noqa: E402
from glmtune.families.family import Example  # noqa: E402
from glmtune.families.registry import get_family  # noqa: E402
from glmtune.families.tokenized import TokenizedRows, from_examples  # noqa: E402
from glmtune.files import write_json  # noqa: E402
from glmtune.generation.batches import generate_texts  # noqa: E402
from glmtune.generation.settings import GenerationSettings  # noqa: E402
from glmtune.labels import IGNORED_LABEL  # noqa: E402
from glmtune.seeding import seed_everything  # noqa: E402
from glmtune.training.train import train  # noqa: E402
from glmtune.tuning.registry import get_method  # noqa: E402
from glmtune.tuning.settings import PrefixSettings  # noqa: E402

FAMILY = "chatglm2-6b"
SEED = 42
# THUDM's train.sh for ChatGLM2-6B: source and target limits, and the end token.
FULL_LENGTH = 64 + 128 + 1
PAD = 0


@dataclass(frozen=True)
class Way:
    """What one of the two ways did, texts or losses, and its tokens a second."""

    did: Any
    speed: float


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    config: dict[str, int]
    rows: int  # answered by us, in one batch
    rows_one_by_one: int  # of these, answered the official way too
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
    },
    rows=96,
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
    },
    rows=6,
    rows_one_by_one=4,
    steps=2,
    repeats=1,
    pre_seq_len=4,
)


def main() -> None:
    """Measure and print; write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where the figures go (JSON)")
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    sizes = QUICK if flags.quick else MID
    figures = {
        "generation": measure_generation(sizes),
        "training": measure_training(sizes, flags.threads),
        "machine": {
            "processor": platform.machine(),
            "threads": flags.threads,
            "torch": torch.__version__,
        },
        "model": sizes.config,
    }
    write_json(flags.out, figures)
    for name in ("training", "generation"):
        found = figures[name]
        print(
            f"{name}: {found['ours']:.1f} tokens/s, the official way {found['official']:.1f}: "
            f"{found['ratio']:.1f} times as fast ({found['lowest']:.1f} to {found['highest']:.1f})"
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


def random_model(sizes: Sizes) -> Any:
    """The same model at every call."""
    real = get_family(FAMILY).real_config
    return build_model({**real, **sizes.config}, FAMILY, seed=SEED)


# --- generation ----------------------------------------------------------------------------------


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


def measure_generation(sizes: Sizes) -> dict[str, Any]:
    """New tokens a second of both ways, and whether they gave the same texts."""
    model = random_model(sizes)
    get_method("ptuning").prepare(model, _settings(sizes, {}))
    model.eval()
    asked = adgen_like(sizes.rows, model.config.padded_vocab_size)
    prompts = [prompt for prompt, _ in asked]
    lengths = [len(answer) for _, answer in asked]
    some = sizes.rows_one_by_one

    def ours() -> Way:
        settings = GenerationSettings(
            batch_size=sizes.rows,
            max_new_tokens=max(lengths),
            **{"seed": SEED, "do_sample": False, "top_p": 0.7, "temperature": 0.95},
        )
        start = time.perf_counter()
        found = generate_texts(model, Numbers(), prompts, settings, limits=lengths)
        speed = sum(lengths) / (time.perf_counter() - start)
        return Way([prediction.text for prediction in found], speed)

    def official() -> Way:
        start = time.perf_counter()
        texts = [_one_row(model, *row) for row in zip(prompts[:some], lengths, strict=False)]
        return Way(texts, sum(lengths[:some]) / (time.perf_counter() - start))

    figures, our_texts, official_texts = _take_turns(ours, official, sizes.repeats)
    return figures | {
        "unit": "new tokens/s",
        "rows": sizes.rows,
        "rows_one_by_one": some,
        "same_texts": sum(a == b for a, b in zip(our_texts, official_texts, strict=False)),
        "tokens_per_row": statistics.mean(lengths),
    }


@torch.no_grad()
def _one_row(model: Any, prompt: list[int], length: int) -> str:
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=length,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    return Numbers().decode(output[0, len(prompt) :].tolist())


# --- training ------------------------------------------------------------------------------------


class Stopwatch(TrainerCallback):
    """Seconds of each step but the first, which warms up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop."""
        if state.global_step > 1:
            self.seconds.append(time.perf_counter() - self.start)


def measure_training(sizes: Sizes, threads: int) -> dict[str, Any]:
    """Real tokens a second of both ways, and how far their losses are apart."""
    vocabulary = random_model(sizes).config.padded_vocab_size
    pairs = adgen_like(16 * (sizes.steps + 1), vocabulary)
    rows = from_examples(_example(*pair) for pair in pairs)
    padded = from_examples(_example(*pair, length=FULL_LENGTH) for pair in pairs)
    tokens = len(rows.input_ids) / len(rows) * 16  # of a mean step

    def way(data: TokenizedRows, **changes: Any) -> Callable[[], Way]:
        def run() -> Way:
            losses, seconds = _train(sizes, threads, data, changes)
            return Way(losses, tokens / statistics.median(seconds))

        return run

    ours = way(rows, batch_size=4, gradient_accumulation_steps=4)
    official = way(
        padded, batch_size=1, gradient_accumulation_steps=16, gradient_checkpointing=True
    )
    figures, our_losses, official_losses = _take_turns(ours, official, sizes.repeats)
    differences = [abs(a - b) for a, b in zip(our_losses, official_losses, strict=True)]
    return figures | {
        "unit": "tokens/s, padding not counted",
        "steps": sizes.steps,
        "largest_loss_difference": max(differences),
    }


def _example(prompt: list[int], answer: list[int], length: int = 0) -> Example:
    padding = max(0, length - len(prompt) - len(answer))
    labels = [IGNORED_LABEL] * len(prompt) + answer + [IGNORED_LABEL] * padding
    return Example(prompt + answer + [PAD] * padding, labels)


def _settings(sizes: Sizes, changes: dict[str, Any]) -> PrefixSettings:
    values = {
        **{"method": "ptuning", "torch_threads": 1, "quantization_bit": None},
        **{"seed": SEED, "lr": 2e-2, "max_steps": sizes.steps + 1, "logging_steps": 1},
        **{"gradient_accumulation_steps": 1, "gradient_checkpointing": False},
        **{"lr_scheduler": "constant", "warmup_ratio": 0.0, "weight_decay": 0.0},
        **{"max_grad_norm": 1.0, "optimizer": "adamw", "save_steps": 1000, "batch_size": 1},
        **{"eval_steps": None, "keep_best": False, "early_stopping_patience": None},
        **{"pre_seq_len": sizes.pre_seq_len, "prefix_projection": False, "prefix_dropout": 0.0},
    }
    return PrefixSettings(**values | changes)


def _train(
    sizes: Sizes, threads: int, rows: TokenizedRows, changes: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """(loss, seconds) of each step; without dropout, so that both ways have the same losses."""
    settings = _settings(sizes, changes)
    seed_everything(SEED, threads)
    model = get_method("ptuning").prepare(random_model(sizes), settings)
    if settings.gradient_checkpointing:
        model._loss = MethodType(_loss_of_all_logits, model)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as work:
        outcome = train(
            model.train(),
            rows,
            None,
            settings,
            pad_token_id=PAD,
            work=Path(work),
            callbacks=[watch],
        )
    return [point["loss"] for point in outcome.curve], watch.seconds


def _loss_of_all_logits(
    model: Any, hidden: torch.Tensor, labels: torch.Tensor, num_items: Any, _: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the official forward does: logits of every position in fp32, then those with a target."""
    logits = model.get_output_embeddings()(hidden).float()
    targets = labels[:, 1:].flatten()
    total = cross_entropy(
        logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total / num_items, logits


# --- both ----------------------------------------------------------------------------------------


def _take_turns(
    ours: Callable[[], Way], official: Callable[[], Way], repeats: int
) -> tuple[dict[str, float], Any, Any]:
    """The figures of both, and what each did.

    They take turns, and a ratio is one of neighbours: a slow minute of the machine meets both.
    """
    turns = [(ours(), official()) for _ in range(repeats)]
    ratios = [first.speed / second.speed for first, second in turns]
    figures = {
        "ours": statistics.median(first.speed for first, _ in turns),
        "official": statistics.median(second.speed for _, second in turns),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }
    return figures, turns[-1][0].did, turns[-1][1].did


if __name__ == "__main__":
    main()
