"""The sections of the report: each is a function of a Report that returns Markdown.

SECTIONS is their order; a new section is a function here or beside, and a line there.
"""

from __future__ import annotations

from collections.abc import Callable

from glmtune.errors import DataError
from glmtune.report.comparison import PERCENT, differences
from glmtune.report.contents import Report
from glmtune.report.markdown import code, plain, table
from glmtune.report.origins import provenance
from glmtune.report.tables import SCORE_COLUMNS, TEXT_COLUMNS, run_table

MODEL_NOTES = {
    "miniature": (
        "A **miniature** has the real architecture at a tiny size and a vocabulary of its own, "
        "and is built by this workflow. Its scores show what the methods do; they say nothing "
        "about the 6B model."
    ),
    "random": (
        "A model with **random weights** has the real configuration and has learnt nothing: its "
        "times and memory mean something, its scores do not."
    ),
}
DATA_KINDS = {
    "sample": "the synthetic sample data, which this workflow's own grammar writes",
    "files": "the user's own data",
}


def summary(report: Report) -> str:
    """What is compared, and how far it may be believed."""
    kind = report.dataset["source"]["kind"]
    data = DATA_KINDS.get(kind) or plain(kind)
    opening = f"Each model answers the same {report.rows:,} dev prompts of {data}, {_how(report)}."
    sources = {model: manifest["source"] for model, manifest in report.models.items()}
    models = [
        f"- {model}: {plain(source)}, {_size(report, model)}" for model, source in sources.items()
    ]
    notes = [note for source, note in MODEL_NOTES.items() if source in sources.values()]
    return "\n\n".join(["# Fine-tuning report", opening, "\n".join(models), *notes])


def _how(report: Report) -> str:
    """Example: "untuned and after tuning with ptuning, lora"."""
    tuned = ", ".join(dict.fromkeys(run.label for run in report.runs if run.is_trained))
    if not tuned:
        return "untuned; nothing was tuned"
    untuned = "" if all(run.is_trained for run in report.runs) else "untuned and "
    return f"{untuned}after tuning with {tuned}"


def _size(report: Report, model: str) -> str:
    """Example: 6,243,584,000 -> "about 6.2 billion parameters"."""
    totals = [run.training.get("total_parameters", 0) for run in report.runs_of(model)]
    # The smallest total: a method may add weights of its own.
    count = report.models[model].get("parameters") or min(filter(None, totals), default=None)
    if count is None:
        return "unknown size"
    shown = f"{count / 1e9:.1f} billion" if count >= 1e8 else f"{count / 1e6:.1f} million"
    return f"about {shown} parameters"


def scores(report: Report) -> str:
    """The table of runs, and a second one about the texts themselves."""
    return f"""## Scores

{run_table(report, SCORE_COLUMNS)}

BLEU-4 and ROUGE are 0 to 100, as THUDM's ptuning/main.py defines them; an empty answer scores 0.
In brackets behind BLEU-4 and ROUGE-L: the {PERCENT} interval of the difference from the untuned
model on the same rows. Bold: best of its model. *Attributes*: asked attribute values that stand
literally in the answer. *Distinct*: different answers among all. *Dev loss* is that of the tuned
model on the references. *Trained*: parameters, and their share of all. *Time*: of the training.

{run_table(report, TEXT_COLUMNS)}

*Repetitive*: answers in which some four words in a row come twice. *Cut off*: answers that reached
the length limit before they ended."""


def before_and_after(report: Report) -> str:
    """The answers to each example prompt, side by side."""
    parts = ["## Before and after", ""]
    if not report.examples:
        parts.append("No example prompts were asked for.")
    for prompt in report.examples:
        parts += [f"### {code(prompt)}", "", _answer_table(report, prompt), ""]
    return "\n".join(parts).rstrip()


def _answer_table(report: Report, prompt: str) -> str:
    """A row per run, and the reference if the prompt is one of the dev rows."""
    rows, references = [], []
    for model in report.models:
        for run in report.runs_of(model):
            answer = run.answers.get(prompt)
            if answer is None:
                raise DataError(
                    f"examples of {run.name}: no answer to {prompt!r}; "
                    "run generate_predictions again"
                )
            references.append(answer.get("labels"))
            rows.append([run.model, run.label, plain(answer["predict"]) or "*(empty)*"])
    reference = next(filter(None, references), None)
    if reference:
        rows.append(["reference", "", plain(reference)])
    return table(["Model", "Method", "Answer"], rows, text_columns=3)


def loss_curves(report: Report) -> str:
    """The picture of the training losses."""
    if not any(run.curve for run in report.runs):
        return "## Loss curves\n\nNo run was trained."
    return "## Loss curves\n\n![Training loss over steps, one panel a model](plots/loss.svg)"


SECTIONS: tuple[Callable[[Report], str], ...] = (
    summary,
    scores,
    differences,
    before_and_after,
    loss_curves,
    provenance,
)
