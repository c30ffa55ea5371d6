"""Compare the results with those of a git revision or a DVC experiment, row by row.

python tools/compare.py HEAD                what the workspace has now against the last commit
python tools/compare.py HEAD gentle         an experiment against the last commit

Prints a table, and writes it with a page into .glmtune/compare. No step reads or writes any of it.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from states import ROOT, WORKSPACE, State, changed_params, read_state

from glmtune.errors import DataError, run_script
from glmtune.files import write_text
from glmtune.metrics.significance import (
    CONFIDENCE,
    MIN_ROWS,
    Interval,
    adjusted_p_values,
    paired_differences,
)
from glmtune.report.blocks import Block, Cell, Figure, Folded, Head, Heading, Prose, Row, Table
from glmtune.report.charts import Dot, dot_panel
from glmtune.report.contents import COMPARED, MethodEntry, Report
from glmtune.report.figures import series_of
from glmtune.report.markdown import plain, to_markdown
from glmtune.report.overview import computed
from glmtune.report.page import render_page
from glmtune.report.svg import Panel
from glmtune.report.tables import METHOD, MODEL, NOTHING, ends, percent_of, signed, with_note
from glmtune.report.words import Text, Words, join

FOLDER = ROOT / ".glmtune" / "compare"
GENERAL = "general-questions"
TITLES: dict[str, Text] = {**COMPARED, GENERAL: Words("General questions", "常识题")}
SAME = Words(", same", "，不变")
NEW_MINUS_OLD = Words("new − old", "新 − 旧")
SHOWN_ANSWERS = 5  # of each end, for each model and method

Key = tuple[str, str]  # model and entry
Rows = list[tuple[int, int]]  # a row of the old state and the same row of the new one


@dataclass(frozen=True)
class Comparison:
    """Two states: the same rows of the runs that both have, in pairs."""

    old: State
    new: State

    @functools.cached_property
    def keys(self) -> list[Key]:
        """The runs that both have, in the order of the new state."""
        known = self._entries(self.old)
        return [key for key in self._entries(self.new) if key in known]

    def only_in(self, state: State) -> list[Key]:
        """The runs that the other state does not have."""
        return [key for key in self._entries(state) if key not in self.keys]

    @functools.cached_property
    def rows(self) -> dict[Key, Rows]:
        """The dev rows that both answered: the same prompt, history and reference."""
        return {key: _same_rows(*self._both(key)) for key in self.keys}

    @functools.cached_property
    def differences(self) -> dict[tuple[str, Key], Interval]:
        """New minus old by score and run; scores without row values are left out."""
        columns = {
            (name, key, side): column
            for key in self.keys
            for name, both in self._columns(key)
            for side, column in enumerate(both)
        }
        pairs = [((*key, 1), (*key, 0)) for key in dict.fromkeys(each[:2] for each in columns)]
        found = paired_differences(columns, pairs)
        return {(name, key): each for ((name, key, _), _), each in found.items()}

    @functools.cached_property
    def adjusted(self) -> dict[tuple[str, Key], float]:
        """The p-values after Holm's correction over all differences."""
        return adjusted_p_values(self.differences)

    @property
    def changed(self) -> dict[tuple[str, Key], Interval]:
        """The differences of scores that changed on some row."""
        return {
            which: each
            for which, each in self.differences.items()
            if (each.low, each.high) != (0, 0)
        }

    def is_significant(self, name: str, key: Key) -> bool:
        """Whether a score changed significantly."""
        return self.adjusted.get((name, key), 1.0) < 1 - CONFIDENCE

    def changed_answers(self, key: Key) -> int:
        """How many dev answers of the first seed are another text."""
        return sum(old["predict"] != new["predict"] for old, new, _ in self.answers(key))

    def answers(self, key: Key) -> Iterator[tuple[dict[str, Any], dict[str, Any], float | None]]:
        """The old and the new prediction of each row, and the change of its BLEU-4."""
        old, new = (entry.first for entry in self._both(key))
        for i, j in self.rows[key]:
            before, after = old.row_scores[i]["bleu-4"], new.row_scores[j]["bleu-4"]
            change = None if None in (before, after) else after - before
            yield old.predictions[i], new.predictions[j], change

    def _columns(self, key: Key) -> Iterator[tuple[str, list[list[float | None]]]]:
        """Each score with its values of the same rows: old and new."""
        for name in COMPARED:
            whole = [entry.column(name) for entry in self._both(key)]
            yield from _if_any(
                name, [[col[row[i]] for row in self.rows[key]] for i, col in enumerate(whole)]
            )
        reports = (self.old.report, self.new.report)
        correct = [r.correct_answers(e) for r, e in zip(reports, self._both(key), strict=True)]
        asked = [[row["prompt"] for row in entry.first.probe] for entry in self._both(key)]
        if asked[0] == asked[1]:
            yield from _if_any(GENERAL, correct)

    def _both(self, key: Key) -> list[MethodEntry]:
        return [self._entries(self.old)[key], self._entries(self.new)[key]]

    @staticmethod
    def _entries(state: State) -> dict[Key, MethodEntry]:
        return {entry.key: entry for entry in state.report.entries}


def compare(old: State, new: State) -> Comparison:
    """Pair two states; DataError if their scores or rows cannot be compared."""
    protocols = [state.report.protocol for state in (old, new)]
    if protocols[0] != protocols[1]:
        raise DataError(
            f"params.yaml: protocol: {old.name} was scored by {protocols[0]}, {new.name} by "
            f"{protocols[1]}; expected one protocol, because each defines the scores differently; "
            f"run one of them again with the other's protocol"
        )
    found = Comparison(old, new)
    if not any(found.rows.values()):
        raise DataError(
            f"{old.name} and {new.name}: no model and method answered the same dev rows in both; "
            "compare states of the same data, models and methods"
        )
    return found


def _same_rows(old: MethodEntry, new: MethodEntry) -> Rows:
    """Pair equal rows in order; the second of two equal rows with the second."""
    places = {key: place for place, key in enumerate(row_keys(old))}
    return [(places[key], j) for j, key in enumerate(row_keys(new)) if key in places]


def row_keys(entry: MethodEntry) -> Iterator[tuple[str, int]]:
    """What identifies each dev row: its texts, and how many equal rows come before it."""
    seen: Counter[str] = Counter()
    for row in entry.first.predictions:
        text = json.dumps([row.get(key) for key in ("prompt", "history", "labels")])
        yield text, seen[text]
        seen[text] += 1


def _if_any(
    name: str, both: list[list[float | None]]
) -> Iterator[tuple[str, list[list[float | None]]]]:
    if any(None not in pair for pair in zip(*both, strict=True)):
        yield name, both


# --- the page -------------------------------------------------------------------------------------


def sections(found: Comparison) -> list[list[Block]]:
    """What changed: parameters, scores in words and in a table, a figure, the answers."""
    return [
        [
            Heading(1, _title(found), "comparison"),
            Prose(_summary(found)),
            Prose(_states(found)),
            table(found),
            _figure(found),
            Prose(_explanation(found)),
        ],
        _params(found),
        _answers(found),
    ]


def _title(found: Comparison) -> Words:
    old, new = plain(found.old.name), plain(found.new.name)
    return Words(f"{new} compared with {old}", f"{new} 与 {old} 对比")


def _summary(found: Comparison) -> Words:
    """State which differences are significant, by rule."""
    changes = [key for key in found.differences if found.is_significant(*key)]
    lines_en, lines_zh = [], []
    for name, (model, method) in changes:
        value = found.differences[name, (model, method)].value
        title, run = TITLES[name], f"{plain(model)}, {plain(method)}"
        word = Words("higher", "升高") if value > 0 else Words("lower", "下降")
        en, zh = (title.en, title.zh) if isinstance(title, Words) else (title, title)
        lines_en.append(f"- **{run}**: {en} {word.en} by {abs(value):.2f}")
        lines_zh.append(f"- **{run}**：{zh}{word.zh} {abs(value):.2f}")
    if not changes:
        return Words("No difference is significant.", "没有显著差异。")
    return Words("\n".join(lines_en), "\n".join(lines_zh))


def _states(found: Comparison) -> Words:
    """When and by which code each state was computed."""
    states = [(plain(state.name), computed(state.report)) for state in (found.old, found.new)]
    return Words(
        "; ".join(f"{name}: {made.en}" for name, made in states) + ".",
        "；".join(f"{name}：{made.zh}" for name, made in states) + "。",
    )


def table(found: Comparison) -> Table:
    """One row per model and method: each score before and after, and the difference."""
    # No heat scale: it would color what is unchanged by what changed elsewhere.
    header = [MODEL, METHOD, *TITLES.values(), Words("Changed answers", "变化的回答")]
    rows = [_row(found, key) for key in found.keys]
    return Table(Words("What changed", "变化"), header, rows, text_columns=2, named=2)


def _row(found: Comparison, key: Key) -> Row:
    changed = f"{found.changed_answers(key)} / {len(found.rows[key])}"
    cells = [_cell(found, name, key) for name in TITLES]
    return Row([*map(plain, key), *cells, changed], *key)


def _cell(found: Comparison, name: str, key: Key) -> Cell:
    """Example: "57.00 **+2.13** (+0.90 … +3.41)": now, the change, its interval."""
    if (name, key) not in found.differences:
        return Cell(NOTHING)
    now = _now(found.new.report, name, key)
    difference = found.changed.get((name, key))
    if difference is None:
        return Cell(SAME.map(f"{now:.2f}{{}}".format), 0.0)
    change = with_note(
        signed(difference.value),
        ends(difference, signed),
        is_bold=found.is_significant(name, key),
    )
    return Cell(f"{now:.2f} {change}", difference.value)


def _now(report: Report, name: str, key: Key) -> float:
    entry = next(entry for entry in report.entries if entry.key == key)
    column = report.correct_answers(entry) if name == GENERAL else entry.column(name)
    return statistics.fmean(value for value in column if value is not None)


def _figure(found: Comparison) -> Figure:
    """The scores that changed, with their intervals: a panel per model and score."""
    models = dict.fromkeys(model for model, _ in found.keys)
    panels = [panel for model in models for name in TITLES for panel in _panels(found, model, name)]
    alt = Words(
        "The scores that changed, each with the interval of its change; right of 0 is better",
        "有变化的得分及变化量的置信区间；0 的右侧表示变好",
    )
    return Figure("changes", panels, alt)


def _panels(found: Comparison, model: str, name: str) -> Iterator[Panel]:
    """The changes of a score, one dot per method of a model; models share the scale."""
    changed = {key: each for (score, key), each in found.changed.items() if score == name}
    series = series_of(found.new.report)
    dots = [
        Dot(replace(series.of(entry), shape=0), each.value, each.low, each.high, signed(each.value))
        for entry in found.new.report.entries_of(model)
        if (each := changed.get(entry.key))
    ]
    if dots:
        domain = [0.0, *(end for each in changed.values() for end in (each.low, each.high))]
        label = join([TITLES[name], NEW_MINUS_OLD], ", ", "，")
        yield dot_panel(model, dots, domain, label)


def _explanation(found: Comparison) -> Words:
    rows = max(map(len, found.rows.values()))
    level, confidence, few = f"{1 - CONFIDENCE:.2f}", percent_of(CONFIDENCE), rows < MIN_ROWS
    missing_en = [_only_in(found, state) for state in (found.old, found.new)]
    note = Words(
        f"Each cell: the value in {plain(found.new.name)}, its change and the {confidence} "
        f"interval of the change. The same {rows:,} dev rows in pairs; bold: p < {level} after "
        "Holm's correction over all differences of this page. General questions: percentage "
        "answered correctly.",
        f"每格：{plain(found.new.name)} 的值、变化量及其 {confidence} 置信区间。"
        f"同样的 {rows:,} 行验证数据逐行配对；加粗表示对本页全部差异做 Holm 校正后 p < {level}。"
        "常识题：答对的百分比。",
    )
    short = Words(
        f" Fewer than {MIN_ROWS} rows: nothing can be significant.",
        f"少于 {MIN_ROWS} 行，无法判断显著性。",
    )
    extra = [each for each in missing_en if each.en] + ([short] if few else [])
    return Words(
        note.en + "".join(each.en for each in extra), note.zh + "".join(each.zh for each in extra)
    )


def _only_in(found: Comparison, state: State) -> Words:
    names = ", ".join(f"{plain(model)} / {plain(method)}" for model, method in found.only_in(state))
    if not names:
        return Words("", "")
    return Words(
        f" Only in {plain(state.name)}: {names}.", f"只在 {plain(state.name)} 中：{names}。"
    )


def _params(found: Comparison) -> list[Block]:
    changed = changed_params(found.old, found.new)
    heading = Heading(2, Words("Changed parameters", "变化的参数"), "params")
    if not changed:
        none = Words("None: code, data or the machine changed.", "无：变化来自代码、数据或机器。")
        return [heading, Prose(none)]
    header: list[Text | Head] = [
        Words("Parameter", "参数"),
        *(plain(each.name) for each in (found.old, found.new)),
    ]
    rows = [Row([plain(key), *map(_value, values)]) for key, values in changed.items()]
    return [heading, Table(heading.title, header, rows, text_columns=1)]


def _value(value: Any) -> str:
    return NOTHING if value is None else plain(json.dumps(value, ensure_ascii=False))


def _answers(found: Comparison) -> list[Block]:
    """The answers whose BLEU-4 changed most, for each run."""
    blocks: list[Block] = []
    for key in found.keys:
        changed = [each for each in found.answers(key) if each[2]]
        ranked = sorted(changed, key=lambda each: each[2] or 0.0)
        shown = ranked[:SHOWN_ANSWERS] + ranked[SHOWN_ANSWERS:][-SHOWN_ANSWERS:]
        if shown:
            title = ", ".join(map(plain, key))
            blocks.append(Folded(title, [_answer_table(found, key, shown)]))
    heading = Heading(2, Words("Answers that changed most", "变化最大的回答"), "answers")
    return [heading, *blocks] if blocks else []


def _answer_table(
    found: Comparison,
    key: Key,
    shown: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], float | None]],
) -> Table:
    header: list[Text | Head] = [
        Words("Prompt", "提示词"),
        Words("Reference", "参考答案"),
        plain(found.old.name),
        plain(found.new.name),
        join([COMPARED["bleu-4"], NEW_MINUS_OLD], ", ", "，"),
    ]
    rows = [
        Row(
            [
                *(plain(old.get(name) or "") for name in ("prompt", "labels", "predict")),
                plain(new["predict"]),
                Cell(signed(change or 0.0), change),
            ],
            *key,
        )
        for old, new, change in shown
    ]
    caption = Words("Largest changes of BLEU-4", "BLEU-4 变化最大的行")
    return Table(caption, header, rows, text_columns=4)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", help="a git revision or an experiment, e.g. HEAD")
    parser.add_argument("new", nargs="?", default=WORKSPACE, help="the same; else the workspace")
    flags = parser.parse_args()
    found = compare(read_state(ROOT, flags.old), read_state(ROOT, flags.new))
    name = re.sub(r"[^\w.-]+", "-", f"{flags.old}..{flags.new}")
    written = sections(found)
    shown = to_markdown([table(found)])
    write_text(FOLDER / f"{name}.html", render_page(written))
    markdown = [block for part in written for block in part if not isinstance(block, Figure)]
    write_text(FOLDER / f"{name}.md", to_markdown(markdown) + "\n")
    print(f"{shown}\n\n{FOLDER.relative_to(ROOT)}/{name}.html and .md")


if __name__ == "__main__":
    run_script(main)
