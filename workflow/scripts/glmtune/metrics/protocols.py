"""Scoring protocols: each describes how one group decodes answers and scores them.

Public code computes several different numbers under the names BLEU-4 and ROUGE; docs/metrics.md
compares them. All scores are computed from the same predictions; only different decoding requires
new ones. Plain data; the scores are computed in `glmtune.metrics.scorings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmtune.errors import ParamsError


@dataclass(frozen=True)
class ScoringProtocol:
    """How one group decodes, which rows it scores, and by which definition."""

    title: str  # shown in tables
    source: str  # the public code that defines it
    scoring: str  # a key of SCORINGS in glmtune/metrics/scorings.py
    differs: str  # brief differences from the default
    decoding: Mapping[str, Any] | None = None  # overrides of `generation`; None: as in params.yaml
    # The texts of our own predictions files (docs/formats.md) that its code would score.
    response_key: str = "decoded"
    reference_key: str = "decoded_labels"
    normal_form: bool = False  # whether both texts are normalized (glmtune/normal_form.py)
    long_history: str | None = None  # how it truncates prompts; None: as in params.yaml
    reference_tokens: int | None = None  # limit of `decoded_labels` in tokens; None: no limit
    first_rows: int | None = None  # the number of rows it scores; None: all


PROTOCOLS: dict[str, ScoringProtocol] = {
    "glmtune": ScoringProtocol(
        title="glmtune",
        source="this project",
        scoring="thudm",
        differs="answers as displayed and full references, both normalized",
        response_key="predict",
        reference_key="labels",
        normal_form=True,
    ),
    "thudm": ScoringProtocol(
        title="THUDM ptuning",
        source="ChatGLM-6B and ChatGLM2-6B, ptuning/main.py",
        scoring="thudm",
        differs="sampled; answers and references as decoded by the model's tokenizer, references "
        "truncated to 64 tokens",
        decoding={"do_sample": True, "top_p": 0.7, "temperature": 0.95},
        long_history="official",
        reference_tokens=64,
    ),
    "llamafactory": ScoringProtocol(
        title="LLaMA-Factory",
        source="LLaMA-Factory, train/sft/metric.py; ChatGLM-Efficient-Tuning, metric.py",
        scoring="llamafactory",
        differs="sampled; both texts as decoded by the model's tokenizer",
        decoding={"do_sample": True, "top_p": 0.7, "temperature": 0.95},
    ),
    "finetune_demo": ScoringProtocol(
        title="ChatGLM3 finetune_demo",
        source="ChatGLM3, finetune_demo/finetune_hf.py",
        scoring="finetune_demo",
        differs="BLEU-4 over words, 0 to 1; only the first 50 rows",
        decoding={"do_sample": False},
        first_rows=50,
    ),
    "mindformers": ScoringProtocol(
        title="MindFormers",
        source="MindFormers, core/metric/metric.py, ADGENMetric",
        scoring="mindformers",
        differs="rows with a blank answer are skipped",
    ),
    "ms_swift": ScoringProtocol(
        title="ms-swift",
        source="ms-swift, metrics/nlg.py, compute_rouge_bleu",
        scoring="ms_swift",
        differs="BLEU-4 over words; ROUGE by the package rouge; blank rows are skipped",
        reference_key="labels",
    ),
    "ssbuild": ScoringProtocol(
        title="ssbuild",
        source="ssbuild/chatglm_finetuning, evaluate.py",
        scoring="ssbuild",
        differs="sacrebleu; ROUGE-L by the package rouge, 0 to 1; no ROUGE-1 or ROUGE-2",
        response_key="predict",
        reference_key="labels",
    ),
    "yongzhuo": ScoringProtocol(
        title="yongzhuo",
        source="yongzhuo/ChatGLM2-SFT, ft_chatglm2/evaluation.py",
        scoring="yongzhuo",
        differs="over characters, 0 to 1; BLEU-4 also counts a space between any two",
        reference_key="labels",
        decoding={"do_sample": True, "top_p": 0.8, "temperature": 0.8},
    ),
    "paddle": ScoringProtocol(
        title="PaddleNLP",
        source="PaddleNLP, metrics/bleu.py, as examples/text_generation/unimo-text uses it",
        scoring="paddle",
        differs="BLEU-4 of the whole file, 0 to 1, unsmoothed; no ROUGE",
        reference_key="labels",
    ),
}
DEFAULT_PROTOCOL = "glmtune"


def get_protocol(name: str) -> ScoringProtocol:
    """The protocol called `name`; ParamsError lists the known ones."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        known = ", ".join(PROTOCOLS)
        raise ParamsError(f"unknown scoring protocol '{name}'; choose from {known}") from None
