"""Put experiments on one page: scores and forgetting against each parameter that differs, and cost.

python tools/sweep.py [NAME …]        without names: HEAD and all experiments on it

Writes .glmtune/sweep.html. No step reads it.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compare import row_keys
from experiments import read_shown, shown_by_dvc
from states import ROOT, State, read_state

from glmtune.durations import format_seconds
from glmtune.errors import ParamsError, run_script
from glmtune.files import write_text
from glmtune.metrics.significance import (
    CONFIDENCE,
    Interval,
    adjusted_p_values,
    paired_differences,
)
from glmtune.report.blocks import Block, Cell, Figure, Head, Heading, Prose, Row, Table
from glmtune.report.charts import Point, Series, heat_panel, point_panel
from glmtune.report.contents import COMPARED, MethodEntry
from glmtune.report.markdown import plain
from glmtune.report.page import render_page
from glmtune.report.tables import NOTHING, ends, percent, runtime_figure, with_note
from glmtune.report.words import Text, Words, english

PAGE = ROOT / ".glmtune" / "sweep.html"
SCORE = "bleu-4"
HEAT = ("lr", "pre_seq_len")  # drawn as a heat map if both differ
MANY_FOLD = 8  # values that span more are drawn on a log scale

Key = tuple[str, str]  # model and entry
GENERAL = Words("General questions correct (%)", "常识题正确率（%）")


@dataclass(frozen=True)
class Sweep:
    """Several states with what differs between them."""

    states: list[State]

    @property
    def varied(self) -> list[str]:
        """The parameters with several values."""
        keys = dict.fromkeys(key for state in self.states for key in state.params)
        return [
            key for key in keys if len({json.dumps(s.params.get(key)) for s in self.states}) > 1
        ]

    @property
    def runs(self) -> list[Key]:
        """The models and methods of all states."""
        return list(
            dict.fromkeys(each.key for state in self.states for each in state.report.entries)
        )

    @property
    def keys(self) -> list[Key]:
        """Those whose score differs between states."""
        return [key for key in self.runs if len({m.value for _, m in self.means(key)}) > 1]

    def means(self, key: Key) -> list[tuple[State, Interval]]:
        """The score of each state that has this run, with its interval."""
        found = ((state, state.report.means.get((SCORE, key))) for state in self.states)
        return [(state, mean) for state, mean in found if mean]

    def best(self, key: Key) -> State:
        """The state with the highest score of a run."""
        return max(self.means(key), key=lambda each: each[1].value)[0]

    def beaten(self, key: Key) -> int | None:
        """How many other states the best one is significantly above; None: other dev rows."""
        best = self.best(key)
        entries = {s.name: entry_of(s, key) for s, _ in self.means(key)}
        rows = [list(row_keys(entry)) for entry in entries.values()]
        if any(each != rows[0] for each in rows):
            return None
        pairs = [(best.name, name) for name in entries if name != best.name]
        columns = {name: entry.column(SCORE) for name, entry in entries.items()}
        differences = paired_differences(columns, pairs)
        return sum(p < 1 - CONFIDENCE for p in adjusted_p_values(differences).values())


def entry_of(state: State, key: Key) -> MethodEntry:
    """The run of a state."""
    return next(entry for entry in state.report.entries if entry.key == key)


def sections(sweep: Sweep) -> list[list[Block]]:
    """The best runs, figures for each parameter, and a table for each model and method."""
    first: list[Block] = [
        Heading(
            1, Words(f"{len(sweep.states)} experiments", f"{len(sweep.states)} 个实验"), "sweep"
        ),
        Prose(_verdict(sweep)),
        Prose(SEEN),
    ]
    return [first, *(_of_param(sweep, key) for key in sweep.varied), _heat(sweep), _tables(sweep)]


SEEN = Words(
    "**The best run was chosen on the scored rows.** The best of several runs on the same dev rows "
    "looks better than it is. Before you publish its score, measure it on rows that played no part "
    "in the choice.",
    "**挑选时用的就是评分数据。** 在同一批验证数据上取多次运行的最优值，平均会偏高；"
    "公布之前，请在没有参与挑选的数据上重新评分。",
)


def _verdict(sweep: Sweep) -> Words:
    """Name the best experiment for each model and method."""
    if not sweep.keys:
        return Words("No score differs.", "得分都相同。")
    lines_en, lines_zh = [], []
    for key in sweep.keys:
        best, beaten, others = sweep.best(key), sweep.beaten(key), len(sweep.means(key)) - 1
        run, name = ", ".join(map(plain, key)), plain(best.name)
        test = Words("other dev rows, so not tested", "验证数据不同，未检验")
        if beaten is not None:
            test = beaten_in_words(beaten, others)
        value = dict((s.name, m.value) for s, m in sweep.means(key))[best.name]
        title = COMPARED[SCORE]
        lines_en.append(f"- **{run}**: {name} is highest, {title} {value:.2f}; {test.en}")
        lines_zh.append(f"- **{run}**：{name} 最高，{title} {value:.2f}；{test.zh}")
    if len(sweep.keys) < len(sweep.runs):
        lines_en.append("- No other score differs.")
        lines_zh.append("- 其余得分没有差异。")
    return Words("\n".join(lines_en), "\n".join(lines_zh))


def beaten_in_words(beaten: int, others: int) -> Words:
    """Example: 2, 3 -> "significantly above 2 of the 3 other experiments"."""
    if others == 1:
        if beaten:
            return Words("significantly above the other experiment", "显著高于另一个实验")
        return Words("not significantly above the other experiment", "与另一个实验无显著差异")
    if not beaten:
        return Words(
            f"not significantly above any of the {others} other experiments",
            f"与其余 {others} 个实验均无显著差异",
        )
    return Words(
        f"significantly above {beaten} of the {others} other experiments",
        f"显著高于其余 {others} 个实验中的 {beaten} 个",
    )


# --- figures --------------------------------------------------------------------------------------


def _of_param(sweep: Sweep, param: str) -> list[Block]:
    """Score and forgetting against one parameter; nothing if its values are not numbers."""
    if not all(_is_number(state.params.get(param)) for state in sweep.states):
        return []
    panels = [
        _panel(title, sweep, param, points)
        for title, points in (
            (COMPARED[SCORE], _points(sweep, param, of_probe=False)),
            (GENERAL, _points(sweep, param, of_probe=True)),
        )
        if points
    ]
    alt = Words(
        f"Scores against {param}, each with its interval", f"得分随 {param} 的变化，含置信区间"
    )
    name = f"sweep-{param.replace('.', '-')}"
    return [Heading(2, plain(param), name), Figure(name, panels, alt)]


def _panel(title: Text, sweep: Sweep, param: str, points: Sequence[Point]) -> Any:
    values = [point.x for point in points]
    is_log = min(values) > 0 and max(values) / min(values) >= MANY_FOLD
    key = [_series(sweep, each) for each in sweep.keys]
    return point_panel(title, points, (param, ""), is_log=is_log, key=key)


def _points(sweep: Sweep, param: str, *, of_probe: bool) -> list[Point]:
    found = []
    for place, key in enumerate(sweep.keys):
        apart = min(8, 24 / len(sweep.keys))
        shift = apart * (place - (len(sweep.keys) - 1) / 2)
        for state, mean in sweep.means(key):
            interval = state.report.forgetting.shares[key] if of_probe else mean
            span = (interval.low, interval.high)
            shown = f"{plain(state.name)}: {interval.value:.2f}"
            x = float(state.params[param])
            found.append(
                Point(_series(sweep, key), x, interval.value, shown, y_span=span, shift=shift)
            )
    return found


def _series(sweep: Sweep, key: Key) -> Series:
    place = sweep.keys.index(key)
    return Series(", ".join(key), *key, color=place, shape=place)


def _heat(sweep: Sweep) -> list[Block]:
    """The best score at each pair of values of lr and pre_seq_len."""
    if not set(HEAT) <= set(sweep.varied):
        return []
    panels = []
    for key in sweep.keys:
        cells: dict[tuple[float, float], float] = {}
        for state, mean in sweep.means(key):
            x, y = (float(state.params[param]) for param in HEAT)
            cells[x, y] = max(mean.value, cells.get((x, y), mean.value))
        title = f"{COMPARED[SCORE]}: {', '.join(key)}"
        panels.append(heat_panel(title, cells, HEAT))
    alt = Words("The score at each lr and pre_seq_len", "各 lr 与 pre_seq_len 下的得分")
    return [Heading(2, " × ".join(HEAT), "heat"), Figure("heat", panels, alt)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- tables ---------------------------------------------------------------------------------------


def _tables(sweep: Sweep) -> list[Block]:
    heading = Heading(2, Words("Runs and cost", "各次运行与成本"), "runs")
    return [heading, *itertools.chain.from_iterable(_table(sweep, key) for key in sweep.keys)]


def _table(sweep: Sweep, key: Key) -> list[Block]:
    """A row for each state, the best first."""
    title = ", ".join(map(plain, key))
    header: list[Text | Head] = [
        Words("Experiment", "实验"),
        *map(plain, sweep.varied),
        Head(COMPARED[SCORE], 1),
        Head(GENERAL, 1),
        Head(Words("Training time", "训练用时"), -1),
        Head(Words("Peak memory (MiB)", "峰值内存（MiB）"), -1),
    ]
    ranked = sorted(sweep.means(key), key=lambda each: -each[1].value)
    rows = [Row(_cells(sweep, state, key, mean), *key) for state, mean in ranked]
    anchor = f"runs-{'-'.join(key)}"
    return [Heading(3, title, anchor), Table(title, header, rows, text_columns=1)]


def _cells(sweep: Sweep, state: State, key: Key, mean: Interval) -> list[Text | Cell]:
    correct = state.report.forgetting.shares[key]
    entry = entry_of(state, key)
    cells: list[Text | Cell] = [plain(state.name)]
    for value in (state.params.get(param) for param in sweep.varied):
        cells.append(Cell(plain(json.dumps(value)), value if _is_number(value) else None))
    cells += [_with_interval(mean, "{:.2f}".format), _with_interval(correct, percent)]
    for cost, show in (("seconds", format_seconds), ("peak_memory_mib", "{:,.0f}".format)):
        numbers = entry.numbers(runtime_figure("finetune_model", cost))
        cells.append(Cell(show(sum(numbers)), sum(numbers)) if numbers else NOTHING)
    return cells


def _with_interval(mean: Interval, show: Callable[[float], str]) -> Cell:
    return Cell(with_note(show(mean.value), ends(mean, show), is_bold=False), mean.value)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="experiments and git revisions")
    names = parser.parse_args().names or _all_names()
    if len(names) < 2:
        raise ParamsError(
            "only one set of results; expected two or more experiments; run some: "
            "dvc exp run --queue -S lr=1e-2,2e-2,5e-2 && dvc exp run --run-all"
        )
    sweep = Sweep([read_state(ROOT, name) for name in names])
    write_text(PAGE, render_page(sections(sweep)))
    print(f"{english(_verdict(sweep))}\n\n{PAGE.relative_to(ROOT)}")


def _all_names() -> list[str]:
    """HEAD and its finished experiments."""
    shown = read_shown(shown_by_dvc())
    return [each.name for each in shown if each.scores and each.name != "workspace"]


if __name__ == "__main__":
    run_script(main)
