"""Render the comparison of all runs.

Reads   results/{scores,predictions,probe,examples,training,curves,runtime}/ of each run,
        results/models/{model}.json, data/tokenized/{model}/manifest.json,
        data/dataset/{manifest.json,card.json,train.jsonl}
Writes  results/report.md, report.html, data_card.md, metrics.json, plots/loss.csv, figures/*.svg

    python workflow/scripts/render_report.py --runs .glmtune/settings/<hash>.json
        --params .glmtune/settings/<hash>.json

The first file is a list like [{"model": "chatglm2-6b", "method": "none", "is_trained": false}], in
the order shown; several seeds of a method also have {"entry", "seed"}. The second holds the
values of params.yaml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.errors import run_script
from glmtune.report.reading import read_report
from glmtune.report.request import parse_params, parse_runs
from glmtune.report.writing import write_report
from glmtune.workspace.step_settings import read_settings


def main() -> None:
    """Read the flags, read the results, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", required=True, help="the runs to compare: a JSON file")
    parser.add_argument("--params", required=True, help="the values of params.yaml: a JSON file")
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--out-dir", type=Path, default=Path("results"))
    flags = parser.parse_args()

    report = read_report(
        parse_runs(read_settings(flags.runs), flags.runs),
        parse_params(read_settings(flags.params), flags.params),
        results_dir=flags.results_dir,
        data_dir=flags.data_dir,
    )
    write_report(report, flags.out_dir)


if __name__ == "__main__":
    run_script(main)
