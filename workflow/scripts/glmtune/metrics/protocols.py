"""Whose scores: each protocol is one group's way to decode answers together with its way to score.

Public code computes several different numbers under the names BLEU-4 and ROUGE; docs/metrics.md
holds them side by side. Every way to score is computed from the same predictions; only another way
to decode needs new ones. Plain data: how each score is computed is `glmtune.metrics.scorings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmtune.errors import ParamsError


@dataclass(frozen=True)
class ScoringProtocol:
    """How one group decodes, which rows it scores, and by which definition."""

    title: str  # as a table calls it
    source: str  # the public code that defines it
    scoring: str  # a key of SCORINGS in glmtune/metrics/scorings.py
    differs: str  # in a few words: what is unlike the default
    decoding: Mapping[str, Any] | None = (
        None  # overrides of `generation`; None: as params.yaml says
    )
    # Which texts of our own predictions files it scores (docs/formats.md): what its code gets.
    response_key: str = "decoded"
    reference_key: str = "decoded_labels"
    normal_form: bool = False  # both are brought to the form of glmtune/metrics/normal_form.py
    long_history: str | None = None  # how it cuts prompts; None: as params.yaml says
    reference_tokens: int | None = None  # `decoded_labels` are cut to so many tokens; None: whole
    first_rows: int | None = None  # only so many rows are scored; None: all


PROTOCOLS: dict[str, ScoringProtocol] = {
    "glmtune": ScoringProtocol(
        title="glmtune",
        source="this project",
        scoring="thudm",
        differs="answers as a person reads them, in one form with the whole references",
        response_key="predict",
        reference_key="labels",
        normal_form=True,
    ),
    "thudm": ScoringProtocol(
        title="THUDM ptuning",
        source="ChatGLM-6B and ChatGLM2-6B, ptuning/main.py",
        scoring="thudm",
        differs="sampled; answers and references as the model's tokenizer decodes them, "
        "references cut at 64 tokens",
        decoding={"do_sample": True, "top_p": 0.7, "temperature": 0.95},
        long_history="official",
        reference_tokens=64,
    ),
    "llamafactory": ScoringProtocol(
        title="LLaMA-Factory",
        source="LLaMA-Factory, train/sft/metric.py; ChatGLM-Efficient-Tuning, metric.py",
        scoring="llamafactory",
        differs="sampled; both texts as the model's tokenizer decodes them",
        decoding={"do_sample": True, "top_p": 0.7, "temperature": 0.95},
    ),
    "finetune_demo": ScoringProtocol(
        title="ChatGLM3 finetune_demo",
        source="ChatGLM3, finetune_demo/finetune_hf.py",
        scoring="finetune_demo",
        differs="BLEU-4 over words, 0 to 1; the first 50 rows only",
        decoding={"do_sample": False},
        first_rows=50,
    ),
    "mindformers": ScoringProtocol(
        title="MindFormers",
        source="MindFormers, core/metric/metric.py, ADGENMetric",
        scoring="mindformers",
        differs="rows with a blank answer are left out",
    ),
    "ms_swift": ScoringProtocol(
        title="ms-swift",
        source="ms-swift, metrics/nlg.py, compute_rouge_bleu",
        scoring="ms_swift",
        differs="BLEU-4 over words; ROUGE by the package rouge; blank rows are left out",
        reference_key="labels",
    ),
    "ssbuild": ScoringProtocol(
        title="ssbuild",
        source="ssbuild/chatglm_finetuning, evaluate.py",
        scoring="ssbuild",
        differs="sacrebleu; ROUGE-L by the package rouge, 0 to 1; no ROUGE-1, ROUGE-2",
        response_key="predict",
        reference_key="labels",
    ),
    "yongzhuo": ScoringProtocol(
        title="yongzhuo",
        source="yongzhuo/ChatGLM2-SFT, ft_chatglm2/evaluation.py",
        scoring="yongzhuo",
        differs="over characters, 0 to 1; BLEU-4 counts a blank between any two as well",
        reference_key="labels",
        decoding={"do_sample": True, "top_p": 0.8, "temperature": 0.8},
    ),
    "paddle": ScoringProtocol(
        title="PaddleNLP",
        source="PaddleNLP, metrics/bleu.py, as examples/text_generation/unimo-text uses it",
        scoring="paddle",
        differs="BLEU-4 of the whole file, 0 to 1, not smoothed; no ROUGE",
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
