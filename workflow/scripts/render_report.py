r"""Render the comparison of all runs.

Reads   results/{scores,predictions,probe,examples,training,curves,runtime}/ of each run,
        results/models/{model}.json, data/tokenized/{model}/manifest.json,
        data/dataset/{manifest.json,card.json,train.jsonl}
Writes  results/report.md, report.html, data_card.md, metrics.json, plots/loss.csv, plots/loss.svg

    python workflow/scripts/render_report.py \
        --runs '[{"model": "chatglm2-6b", "method": "none", "is_trained": false}]' \
        --params '{"examples": ["类型#裙*颜色#白色"]}'
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from glmtune.errors import ParamsError, run_script
from glmtune.protocols import DEFAULT_PROTOCOL, get_protocol
from glmtune.report import read_report, write_report

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
    parser.add_argument(
        "--runs",
        required=True,
        help="JSON list of {model, method, is_trained}, in the order shown; for several seeds of "
        "a method also {base_method, seed}",
    )
    parser.add_argument(
        "--params", required=True, help="JSON object: the values of params.yaml, examples included"
    )
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--out-dir", type=Path, default=Path("results"))
    return parser


def _runs(text: str) -> list[dict[str, Any]]:
    runs = _json(text, "--runs")
    if not (isinstance(runs, list) and runs and all(map(_is_run, runs))):
        raise ParamsError(
            f"--runs: found {text[:60]}; expected a JSON list like "
            '[{"model": "…", "method": "…", "is_trained": true}]'
        )
    return runs


def _is_run(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    known = {**RUN, **{key: kind for key, kind in RUN_OF_SEED.items() if key in value}}
    return all(isinstance(value.get(key), kind) for key, kind in known.items())


def _params(text: str) -> dict[str, Any]:
    params = _json(text, "--params")
    examples = params.get("examples") if isinstance(params, dict) else None
    if not isinstance(examples, list) or not all(isinstance(prompt, str) for prompt in examples):
        raise ParamsError(
            f"--params: found {text[:60]}; expected a JSON object with the values of params.yaml, "
            "among them `examples`, a list of texts"
        )
    get_protocol(params.get("protocol", DEFAULT_PROTOCOL))
    return params


def _json(text: str, flag: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ParamsError(f"{flag}: found {text[:60]}; expected JSON ({error})") from None


if __name__ == "__main__":
    run_script(main)
