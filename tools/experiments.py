"""Show the experiments on HEAD: what each changed, and which scores changed with it.

python tools/experiments.py

One row per experiment, with a line for each model and method whose scores changed. It fits a
terminal of 80 columns.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from states import flat

from glmtune.errors import ResourceError, UserError, printable, run_script

ROOT = Path(__file__).resolve().parents[1]
SCORES = {"bleu-4": "BLEU-4", "general-questions": "General"}
WIDTHS = (12, 15, 21, 12, 12)  # experiment, parameters, model and method, the scores
GAP = "  "

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # by model, method and name


@dataclass(frozen=True)
class Experiment:
    """An experiment, HEAD or the workspace."""

    name: str
    params: Mapping[str, Any]  # dotted key -> value
    scores: Scores
    state: str = ""  # queued, running or failed; empty: it has scores


def read_shown(shown: Sequence[Mapping[str, Any]]) -> list[Experiment]:
    """HEAD, its experiments, unfinished ones last, and the workspace, of `dvc exp show --json`."""
    workspace, head = shown[0], shown[1]
    found = [
        _experiment(each["name"], each["revs"][0], each.get("executor"))
        for each in head["experiments"] or []
    ]
    found.sort(key=lambda each: bool(each.state))
    base, now = _experiment("HEAD", head), _experiment("workspace", workspace)
    known = [(each.params, each.scores) for each in (base, *found)]
    edited = [] if (now.params, now.scores) in known else [now]
    return [base, *found, *edited]


def _experiment(
    name: str | None, shown: Mapping[str, Any], executor: Mapping[str, Any] | None = None
) -> Experiment:
    data = shown["data"] or {}
    params = data.get("params", {}).get("params.yaml", {}).get("data", {})
    metrics = data.get("metrics", {}).get("results/metrics.json", {})
    state = (executor or {}).get("state", "")
    if not state and shown.get("error"):
        state = "failed"
    # What an unfinished experiment shows are the scores of its commit.
    done = state in ("", "success")
    scores = metrics.get("data", {}) if done else {}
    return Experiment(name or shown["rev"][:7], flat(params), scores, "" if done else state)


def table(experiments: Sequence[Experiment]) -> Iterator[str]:
    """The lines of the table; HEAD, the first, is what the others are compared with."""
    head, *others = experiments
    changed = {run for each in others for run in changed_runs(head, each)}
    titles = ("Experiment", "Changed", "Model / method", *SCORES.values())
    yield from _lines([[title] for title in titles])
    yield "-" * (sum(WIDTHS) + len(GAP) * (len(WIDTHS) - 1))
    yield from _row(head, head, [run for run in _runs(head) if run in changed])
    for each in others:
        yield from _row(each, head, changed_runs(head, each))


def changed_runs(head: Experiment, other: Experiment) -> list[tuple[str, str]]:
    """The models and methods with another score than in HEAD."""
    return [
        (model, method)
        for model, method in _runs(other)
        if any(
            _score(head, model, method, name) != _score(other, model, method, name)
            for name in SCORES
        )
    ]


def _runs(of: Experiment) -> list[tuple[str, str]]:
    return [(model, method) for model, methods in of.scores.items() for method in methods]


def _row(of: Experiment, head: Experiment, runs: Sequence[tuple[str, str]]) -> Iterator[str]:
    name, params, run = WIDTHS[:3]
    changes = [line for change in _changes(head, of) for line in _wrapped(change, params)]
    columns: list[list[str]] = [_wrapped(of.name, name), changes, [], *([] for _ in SCORES)]
    for model, method in runs:
        names = _wrapped(f"{model} / {method}", run)
        columns[2] += names
        for column, score in zip(columns[3:], SCORES, strict=True):
            column += [_shown(of, head, model, method, score), *[""] * (len(names) - 1)]
    if not runs and of is not head:
        columns[2] = _wrapped(of.state or "no score changed", run)
    yield from _lines(columns)


def _changes(head: Experiment, of: Experiment) -> Iterator[str]:
    """Example: "lr=0.01"."""
    for key in dict.fromkeys([*head.params, *of.params]):
        ours, base = of.params.get(key), head.params.get(key)
        if not _is_same(ours, base):
            value = ours if isinstance(ours, str) else json.dumps(ours, ensure_ascii=False)
            yield f"{key}={value}" if key in of.params else f"no {key}"


def _is_same(ours: Any, base: Any) -> bool:
    """Whether two values are equal; DVC reads 2e-2 as a text, and writes it as 0.02."""
    try:
        return bool(ours == base or float(ours) == float(base))
    except (TypeError, ValueError):
        return False


def _shown(of: Experiment, head: Experiment, model: str, method: str, name: str) -> str:
    """Example: "57.2 +1.4"; in HEAD itself only the value."""
    ours, base = (_score(each, model, method, name) for each in (of, head))
    if ours is None:
        return "–"
    change = "" if base is None or of is head else f" {ours - base:+.1f}"
    return f"{ours:.1f}{change}"


def _score(of: Experiment, model: str, method: str, name: str) -> float | None:
    return of.scores.get(model, {}).get(method, {}).get(name)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(printable(text), width)


def _lines(columns: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a row; numbers are on the right."""
    names = len(WIDTHS) - len(SCORES)
    for cells in itertools.zip_longest(*columns, fillvalue=""):
        placed = (
            cell.ljust(width) if place < names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
        )
        yield GAP.join(placed).rstrip()


def shown_by_dvc() -> list[dict[str, Any]]:
    """What `dvc exp show --json` prints for HEAD; ResourceError with DVC's message if it fails."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResourceError(f"dvc exp show: {done.stderr.strip()}; `make doctor` checks the folder")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run from the command line."""
    experiments = read_shown(shown_by_dvc())
    if not experiments[0].scores:
        raise UserError(
            "HEAD: no scores in results/metrics.json; run `snakemake --cores 1 results/report.md` "
            "and commit: git add -A && git commit"
        )
    print("\n".join(table(experiments)))
    if len(experiments) == 1:
        print("no experiments on this commit; try one: dvc exp run -S lr=1e-2")
    else:
        print("\nBLEU-4, and general questions answered correctly (%); + and - are against HEAD.")
        print("Intervals and answers: make compare REV=HEAD WITH=name")


if __name__ == "__main__":
    run_script(main)
