"""Render the comparison of all runs.

Reads   results/{scores,predictions,probe,examples,training,curves,runtime}/ of each run,
        results/models/{model}.json, data/tokenized/{model}/manifest.json,
        data/dataset/{manifest.json,card.json,train.jsonl}
Writes  results/report.md, report.html, data_card.md, metrics.json, plots/loss.csv, plots/loss.svg

    python workflow/scripts/render_report.py --runs .glmtune/settings/<hash>.json
        --params .glmtune/settings/<hash>.json

The first file is a list like [{"model": "chatglm2-6b", "method": "none", "is_trained": false}], in
the order shown; several seeds of a method also have {"base_method", "seed"}. The second holds the
values of params.yaml.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from glmtune.errors import ParamsError, run_script
from glmtune.metrics.protocols import DEFAULT_PROTOCOL, get_protocol
from glmtune.report.reading import read_report
from glmtune.report.writing import write_report
from glmtune.workspace.step_settings import read_settings

RUN = {"model": str, "method": str, "is_trained": bool}
RUN_OF_SEED = {"base_method": str, "seed": int}  # a run may say which method and seed it is


def main() -> None:
    """Read the flags, read the results, write the report."""
    flags = _parser().parse_args()
    report = read_report(
        _runs(flags.runs),
        _params(flags.params),
        results_dir=flags.results_dir,
        data_dir=flags.data_dir,
    )
    write_report(report, flags.out_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", required=True, help="the runs to compare: a JSON file")
    parser.add_argument("--params", required=True, help="the values of params.yaml: a JSON file")
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--out-dir", type=Path, default=Path("results"))
    return parser


def _runs(file: str) -> list[dict[str, Any]]:
    runs = read_settings(file)
    if not (isinstance(runs, list) and runs and all(map(_is_run, runs))):
        raise ParamsError(
            f"{file}: found {_start_of(runs)}; expected a list like "
            '[{"model": "…", "method": "…", "is_trained": true}]'
        )
    return runs


def _is_run(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    known = {**RUN, **{key: kind for key, kind in RUN_OF_SEED.items() if key in value}}
    return all(isinstance(value.get(key), kind) for key, kind in known.items())


def _params(file: str) -> dict[str, Any]:
    params = read_settings(file)
    examples = params.get("examples") if isinstance(params, dict) else None
    if not isinstance(examples, list) or not all(isinstance(prompt, str) for prompt in examples):
        raise ParamsError(
            f"{file}: found {_start_of(params)}; expected an object with the values of "
            "params.yaml, among them `examples`, a list of texts"
        )
    get_protocol(params.get("protocol", DEFAULT_PROTOCOL))
    return params


def _start_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]


if __name__ == "__main__":
    run_script(main)
