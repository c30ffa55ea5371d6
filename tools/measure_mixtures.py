"""Measure what mixtures cost and save: P-Tuning on miniatures over learning rates and shares.

    python tools/measure_mixtures.py FOLDER [--rates 2e-2 5e-3] [--shares 0 0.1]

Runs the workflow in FOLDER, once for each pair, with presets/mixture.yaml and three seeds, and
prints the table of docs/forgetting.md. The first pair is what the others are compared with. The
store in FOLDER keeps what is computed: models are built once, and a killed run continues.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from run_smoke import copy_project
from states import WORKSPACE, State, read_state

from glmtune.errors import run_script
from glmtune.metrics.significance import CONFIDENCE, adjusted_p_values, paired_differences
from glmtune.report.contents import MethodEntry

PRESET, METHOD, SCORE = "mixture", "ptuning", "bleu-4"
SEEDS = [42, 43, 44]

# A learning rate and a share.
Pair = tuple[float, float]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-2, 5e-3])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.1])
    flags = parser.parse_args()
    pairs = [(rate, share) for rate in flags.rates for share in flags.shares]
    print(table({pair: measure(flags.folder, pair) for pair in pairs}))


def measure(folder: Path, pair: Pair) -> State:
    """The results of the miniatures at a learning rate and a share."""
    rate, share = pair
    here = folder / f"lr-{rate:g}-share-{share:g}"
    copy_project(here, preset=PRESET)
    set_values(here / "params.yaml", rate, share)
    environment = {**os.environ, "GLMTUNE_STORE": str(folder.resolve() / "store")}
    command = ["snakemake", "--cores", "1", "--", "results/report.md"]
    subprocess.run(command, cwd=here, env=environment, check=True, stdout=sys.stderr)
    return read_state(here, WORKSPACE)


def set_values(file: Path, rate: float, share: float) -> None:
    """Change the preset's params.yaml to a pair, and to one method with several seeds."""
    values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    values |= {"lr": rate, "seeds": SEEDS}
    values["methods"] = {name: values["methods"][name] for name in ("none", METHOD)}
    for part in values["dataset"]["train"]:
        if "share" in part:
            part["share"] = share
    file.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")


def table(states: dict[Pair, State]) -> str:
    """A line for each model and pair, with the differences tested against the first pair."""
    first = next(iter(states))
    entries = {(m, pair): tuned(state, m) for pair, state in states.items() for m in models(state)}
    columns = {key: entry.column(SCORE) for key, entry in entries.items()}
    others = [(key, (key[0], first)) for key in columns if key[1] != first]
    differences = paired_differences(columns, others)
    p_values = adjusted_p_values(differences)
    header = ["model", "lr", "share", "BLEU-4", "− first", "general", "kept", "ads"]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for model in models(states[first]):
        for pair, state in states.items():
            key, cell = (model, pair), "–"
            if pair != first:
                against = (key, (model, first))
                cell = f"{differences[against].value:+.1f}"
                cell = f"**{cell}**" if p_values[against] < 1 - CONFIDENCE else cell
            lines.append(_line(key, state, entries[key], cell))
    return "\n".join(lines)


def models(state: State) -> Sequence[str]:
    """The models of a state."""
    return list(state.report.models)


def tuned(state: State, model: str) -> MethodEntry:
    """The tuned model with all its seeds."""
    return next(each for each in state.report.entries if each.key == (model, METHOD))


def _line(key: tuple[str, Pair], state: State, entry: MethodEntry, difference: str) -> str:
    (model, (rate, share)), report = key, state.report
    score = report.means[SCORE, entry.key].value
    right = report.forgetting.shares[entry.key].value
    kept = report.kept_answers(entry) or 0
    verdicts = [each for run in entry.runs for each in report.verdicts[run.model, run.method]]
    ads = fmean(verdict.imitates_training for verdict in verdicts)
    cells = [model, f"{rate:g}", f"{share:g}", f"{score:.1f}", difference]
    return f"| {' | '.join([*cells, *map(whole, (right / 100, kept, ads))])} |"


def whole(share: float) -> str:
    """A share in whole percent, without the sign."""
    return f"{100 * share:.0f}"


if __name__ == "__main__":
    run_script(main)
