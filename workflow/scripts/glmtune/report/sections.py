"""The sections of the report: each is a function of a Report that returns Markdown.

SECTIONS sets their order. To add a section, write a function and list it there.
"""

from __future__ import annotations

from collections.abc import Callable

from glmtune.errors import DataError
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.significance import CONFIDENCE
from glmtune.report.comparison import differences
from glmtune.report.contents import Report
from glmtune.report.data_card import data_section, kind_of
from glmtune.report.definitions import definitions
from glmtune.report.forgetting import forgetting
from glmtune.report.markdown import code, plain, table
from glmtune.report.seeds import seed_table
from glmtune.report.tables import fairer_columns, percent_of, run_table, score_columns, text_columns
from glmtune.report.training_notes import training_notes
from glmtune.report.what_was_run import what_was_run

MODEL_NOTES = {
    "miniature": (
        "A **miniature** is built by this workflow; it has the real architecture at a tiny size "
        "and its own vocabulary. Its scores show what the methods do; they say nothing about the "
        "6B model."
    ),
    "random": (
        "A model with **random weights** has the real configuration but is untrained: its times "
        "and memory are meaningful, its scores are not."
    ),
}


def summary(report: Report) -> str:
    """State what is compared, and the limits of the comparison."""
    opening = (
        f"Each model answers the same {report.rows:,} dev prompts of {kind_of(report)}, "
        f"{_tuned_with(report)}."
    )
    sources = {model: manifest["source"] for model, manifest in report.models.items()}
    models = [
        f"- {model}: {plain(source)}, {_parameter_count(report, model)}"
        for model, source in sources.items()
    ]
    notes = [note for source, note in MODEL_NOTES.items() if source in sources.values()]
    return "\n\n".join(["# Fine-tuning report", opening, "\n".join(models), *notes])


def _tuned_with(report: Report) -> str:
    """Example: "untuned and after tuning with ptuning, lora"."""
    tuned = dict.fromkeys(entry.label for entry in report.entries if entry.first.is_trained)
    if not tuned:
        return "untuned; nothing was tuned"
    untuned = "" if all(run.is_trained for run in report.runs) else "untuned and "
    return f"{untuned}after tuning with {', '.join(tuned)}"


def _parameter_count(report: Report, model: str) -> str:
    """Example: 6,243,584,000 -> "about 6.2 billion parameters"."""
    count = report.parameters_of(model)
    if count is None:
        return "unknown size"
    shown = f"{count / 1e9:.1f} billion" if count >= 1e8 else f"{count / 1e6:.1f} million"
    return f"about {shown} parameters"


def scores(report: Report) -> str:
    """Show the table of scores and further statistics of the generated texts."""
    parts = [
        "## Scores",
        run_table(report, score_columns(report)),
        f"""BLEU-4 and ROUGE follow the definition of {plain(PROTOCOLS[report.protocol].title)}
and compare {_compared_texts(report)}. In
parentheses: the {percent_of(CONFIDENCE)} confidence interval. *− untuned*: the difference from the
untuned model on the same rows. Bold: significant (Holm's correction): a score above that of every
other method of its model, or a difference from zero. *Attributes*: requested attribute values that
appear verbatim in the answer. *General*: general questions answered correctly, see below.
*Dev loss*: loss of the tuned model on the references. *Trained*: trainable parameters, and their
share of all parameters. *Time*: training time.""",
        *_each_seed(report),
        run_table(report, text_columns(report)),
        """*Characters*: mean answer length. *Distinct*: share of distinct answers. *Distinct-4*:
share of distinct word 4-grams. *Repetition-4*: answers that repeat a word 4-gram. *Cut off*:
answers that reached the length limit before they ended.""",
        *_fairer_scores(report),
    ]
    return "\n\n".join(parts)


def _compared_texts(report: Report) -> str:
    """The texts that the headline scores compare."""
    protocol = PROTOCOLS[report.protocol]
    answers = {"predict": "answers as displayed", "decoded": "answers as decoded"}
    references = {"labels": "references as in the data", "decoded_labels": "references as decoded"}
    form = ", both with normalized punctuation and whitespace" if protocol.normal_form else ""
    return f"{answers[protocol.response_key]} and {references[protocol.reference_key]}{form}"


def _each_seed(report: Report) -> list[str]:
    found = seed_table(report)
    text = "Methods with several seeds show the mean ± standard deviation. Each seed separately:"
    return [text, found] if found else []


def _fairer_scores(report: Report) -> list[str]:
    columns = fairer_columns(report)
    if not columns:
        return []
    text = (
        "Scores against fairer references, by the default definition: without "
        f"{plain('<UNK>')}, which no model can guess, and against the references of all rows with "
        "the same prompt."
    )
    return [text, run_table(report, columns)]


def before_and_after(report: Report) -> str:
    """Show the answers to each example prompt side by side."""
    parts = ["## Before and after", ""]
    if not report.examples:
        parts.append("No example prompts are configured.")
    elif report.has_seeds:
        parts += ["Methods with several seeds show the answer of the first one.", ""]
    for prompt in report.examples:
        parts += [f"### {code(prompt)}", "", _answer_table(report, prompt), ""]
    return "\n".join(parts).rstrip()


def _answer_table(report: Report, prompt: str) -> str:
    """One row per model and method, plus the reference if the prompt is a dev row."""
    rows, references = [], []
    for entry in report.entries:
        run = entry.first
        example = run.example_responses.get(prompt)
        if example is None:
            raise DataError(
                f"examples of {run.name}: no answer to {prompt!r}; run generate_predictions again"
            )
        references.append(example.get("labels"))
        rows.append([run.model, entry.label, plain(example["predict"]) or "*(empty)*"])
    reference = next(filter(None, references), None)
    if reference:
        rows.append(["reference", "", plain(reference)])
    return table(["Model", "Method", "Answer"], rows, text_columns=3)


def loss_curves(report: Report) -> str:
    """Show the loss plot and notes on unusual trainings."""
    if not any(run.curve for run in report.runs):
        return "## Loss curves\n\nNo run was trained."
    picture = "![Training loss over steps (dashed: dev loss), one panel per model](plots/loss.svg)"
    notes = "\n".join(training_notes(report))
    return "\n\n".join(["## Loss curves", picture, *([notes] if notes else [])])


SECTIONS: tuple[Callable[[Report], str], ...] = (
    summary,
    scores,
    differences,
    forgetting,
    definitions,
    before_and_after,
    loss_curves,
    data_section,
    what_was_run,
)
