"""What the data are: a section of the report, and a file of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from glmtune.report.contents import Report
from glmtune.report.markdown import code, name, plain, table
from glmtune.report.tables import NOTHING

SPLITS = ("train", "dev")
DATA_KINDS = {
    "sample": "the synthetic sample data, which this workflow's own grammar writes",
    "adgen": "AdvertiseGen (ADGEN)",
    "files": "the user's own data",
}
HASH_SHOWN = 12  # digits; all of them stand in the section on what was run


def data_section(report: Report) -> str:
    """The data card as a section of the report."""
    return f"## Data\n\n{_card(report)}"


def data_card(report: Report) -> str:
    """The data card as a file of its own."""
    return f"# Data card\n\n{_card(report)}\n"


def kind_of(report: Report) -> str:
    """Whose data it is, in words."""
    kind = report.dataset["source"]["kind"]
    return DATA_KINDS.get(kind) or plain(kind)


def _card(report: Report) -> str:
    return f"""{_source_and_licence(report)}

{_rows_table(report)}

{_leakage_and_attributes(report)}

{_tokens_table(report)}

{_explain_numbers(report)}"""


def _source_and_licence(report: Report) -> str:
    source = {key: value for key, value in report.dataset["source"].items() if key != "kind"}
    facts = f": {code(json.dumps(source, ensure_ascii=False))}" if source else ""
    licence = plain(report.card["licence"] or "nothing is stated with the data")
    return f"- Source: {kind_of(report)}{facts}\n- Licence: {licence}"


# --- rows -----------------------------------------------------------------------------------------


def _rows_table(report: Report) -> str:
    """A row a fact, a column a split; facts that no split has are left out."""
    splits = report.card["splits"]
    facts: dict[str, Callable[[str], str]] = {
        "Rows": lambda split: f"{report.dataset[split]['rows']:,}",
        "SHA-256": lambda split: f"`{report.dataset[split]['sha256'][:HASH_SHOWN]}…`",
        "Chosen from": lambda split: _subset_of(report.dataset[split]),
        "Skipped rows": lambda split: _skipped_rows(report.dataset[split]),
        "Notes": lambda split: _reading_notes(report.dataset[split]),
        "Characters of a prompt": lambda split: _mean_p95_max(splits[split]["prompt_characters"]),
        "Characters of an answer": lambda split: _mean_p95_max(splits[split]["answer_characters"]),
        "Conversations of several turns": _count_and_share(splits, "multi_turn_rows"),
        "Repeated rows": _count_and_share(splits, "repeated_rows"),
        "Repeated prompts": _count_and_share(splits, "repeated_prompts"),
        f"Answers with {plain('<UNK>')}": _count_and_share(splits, "unk_answers"),
        "Answers with BRAND": _count_and_share(splits, "brand_answers"),
    }
    rows = [[fact, *map(show, SPLITS)] for fact, show in facts.items()]
    shown = [row for row in rows if any(row[1:])]
    return table(["", *SPLITS], shown, text_columns=1)


def _subset_of(facts: Mapping[str, Any]) -> str:
    chosen = facts.get("chosen_from")
    return f"{chosen['rows']:,} rows, seed {chosen['seed']}" if chosen else ""


def _skipped_rows(facts: Mapping[str, Any]) -> str:
    skipped = facts.get("skipped")
    if not skipped:
        return ""
    numbers = ", ".join(map(str, skipped["first"]))
    more = ", …" if skipped["rows"] > len(skipped["first"]) else ""
    return f"{skipped['rows']:,} ({skipped['unit']} {numbers}{more})"


def _reading_notes(facts: Mapping[str, Any]) -> str:
    """What reading did to some rows, and to how many."""
    notes = facts.get("notes", {}).items()
    return "; ".join(f"{count:,} rows: {plain(note)}" for note, count in notes)


def _count_and_share(splits: Mapping[str, Any], key: str) -> Callable[[str], str]:
    def show(split: str) -> str:
        count, rows = splits[split][key], splits[split]["rows"]
        return f"{count:,} ({_percent_of_rows(count, rows)})" if count else "0"

    return show


def _leakage_and_attributes(report: Report) -> str:
    """What dev shares with train, and which attributes are asked for."""
    leakage, train = report.card["leakage"], report.card["splits"]["train"]
    lines = [
        f"- Dev rows that train has too: {leakage['pairs']:,}; only their prompt: "
        f"{leakage['prompts'] - leakage['pairs']:,}; only their answer: "
        f"{leakage['answers'] - leakage['pairs']:,}."
    ]
    if train["attributes"]:
        keys = ", ".join(f"{name(key)} {rows:,}" for key, rows in train["attributes"].items())
        lines.append(f"- Attributes, with the train rows that ask for them: {keys}.")
    return "\n".join(lines)


# --- tokens ---------------------------------------------------------------------------------------


def _tokens_table(report: Report) -> str:
    rows = [
        [
            model,
            plain(manifest["template"]),
            plain(manifest["trains_on"]),
            f"{manifest['splits']['train']['tokens']:,}",
            _mean_p95_max(manifest["splits"]["train"]["prompt_tokens"]),
            _mean_p95_max(manifest["splits"]["train"]["answer_tokens"]),
            _share_cut(manifest, "shortened_prompts"),
            _share_cut(manifest, "cut_prompts"),
            _share_cut(manifest, "cut_answers"),
        ]
        for model, manifest in report.tokenized.items()
    ]
    header = ["Model", "Template", "Trained on", "Tokens", "Of a prompt", "Of an answer"]
    cut = ["Histories shortened", "Prompts cut", "Answers cut"]
    return table([*header, *cut], rows, text_columns=3)


def _share_cut(manifest: Mapping[str, Any], key: str) -> str:
    """Share of rows cut, train and dev."""
    splits = (manifest["splits"][split] for split in SPLITS)
    return " / ".join(_percent_of_rows(facts[key], facts["rows"]) for facts in splits)


def _explain_numbers(report: Report) -> str:
    limits = report.params.token_limits
    named = " and ".join(f"`{key}` {value}" for key, value in limits.items())
    by = f" by {named}" if named else ""
    return (
        "Characters and tokens: mean, 95th percentile, greatest. The second table counts tokens of "
        f"the train rows, and train / dev rows cut{by}. *Histories shortened*: prompts without "
        "their oldest turns, so that the question fits. *Prompts cut*: those that lack their end."
    )


def _mean_p95_max(figures: Mapping[str, float | None]) -> str:
    """Mean, 95th percentile, greatest."""
    if figures["mean"] is None:
        return NOTHING
    return f"{figures['mean']:.1f}, {figures['p95']:,.0f}, {figures['max']:,.0f}"


def _percent_of_rows(count: int, rows: int) -> str:
    return f"{100 * count / rows:.1f} %" if rows else NOTHING
