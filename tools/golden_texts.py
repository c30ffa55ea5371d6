"""Golden data of texts, without those that are, or hold, rows of the data set.

Used by golden_fixtures.py. The rows that are left are made-up texts: a few words long, and without
the marks of an attribute list.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OWN_TEXT, OWN_PAIR = 60, 12  # characters
MARKS_OF_ROWS = ("类型#", "BRAND")


def reduce_tokenizer(golden: dict[str, Any]) -> dict[str, Any]:
    """Texts that are no rows of the data set."""
    return golden | {"rows": [row for row in golden["rows"] if is_own(row["text"])]}


def reduce_preprocess(golden: dict[str, Any]) -> dict[str, Any]:
    """The same, with what the official functions made of them; cases without any are left out."""
    small = {}
    for name, case in golden.items():
        rows = case.get("rows", [])
        outputs = assign_outputs(rows, case["out"]) if rows and "out" in case else []
        kept = [i for i, row in enumerate(rows) if is_own(row) and i < len(outputs)]
        if any(outputs[i]["input_ids"] for i in kept):
            out: dict[str, list[Any]] = {key: [] for key in case["out"]}
            for i in kept:
                for key, values in outputs[i].items():
                    out[key] += values
            small[name] = case | {"rows": [rows[i] for i in kept], "out": out}
    return small


def assign_outputs(rows: list[Any], out: dict[str, list[Any]]) -> list[dict[str, list[Any]]]:
    """The outputs of each row: none for a row with an empty column, one for each predicted answer.

    [] if the numbers do not add up.
    """
    width = len(out["input_ids"])
    answers = [count_outputs(row) for row in rows]
    counts = answers if sum(answers) == width else [int(number > 0) for number in answers]
    if sum(counts) != width:
        return []
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [
        {key: values[start : start + count] for key, values in out.items()}
        for start, count in zip(starts, counts, strict=True)
    ]


def count_outputs(row: Any) -> int:
    """How many outputs a row has if every answer has one."""
    if isinstance(row, dict) and "content" in row and "summary" in row:
        return int(bool(row["content"] and row["summary"]))
    messages = row["conversations"] if isinstance(row, dict) else row
    return sum(message["role"].lower() == "assistant" for message in messages)


def reduce_metrics(folder: Path) -> list[tuple[str, bytes]]:
    """Pairs of short texts, and their means."""
    golden = json.loads((folder / "metrics_golden.json").read_text("utf-8"))
    texts = ("prediction", "label")
    rows = [r for r in golden["rows"] if all(len(r[text].strip()) <= OWN_PAIR for text in texts)]
    small = {"versions": golden["versions"], "n": len(rows), "rows": rows}
    for key in ("ptuning_main", "finetune_hf"):
        scores = [row[key] for row in rows if "error" not in row[key]]
        small[f"mean_{key}_over_non_crashing"] = {
            name: sum(score[name] for score in scores) / len(scores) for name in scores[0]
        }
    return [("metrics_golden.json", to_json(small))]


def is_own(value: Any) -> bool:
    """Whether no string in `value` is, or holds, a row of the data set."""
    if isinstance(value, dict):
        return all(map(is_own, value.values()))
    if isinstance(value, list):
        return all(map(is_own, value))
    if not isinstance(value, str):
        return True
    return len(value.strip()) <= OWN_TEXT and not any(mark in value for mark in MARKS_OF_ROWS)


def to_json(value: Any) -> bytes:
    """One line for each value of the first level, so that a diff can be read."""
    lines = [
        f"{json.dumps(key)}: {json.dumps(item, ensure_ascii=False, separators=(',', ':'))}"
        for key, item in value.items()
    ]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()
