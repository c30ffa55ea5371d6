"""The section on what was run: times, machines, data, models, settings, parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from glmtune.durations import format_seconds
from glmtune.report.contents import Report, Run
from glmtune.report.markdown import code, name, plain, table, yaml_block
from glmtune.report.tables import NOTHING, percent_of

ARITHMETIC = ("cpu_capability", "blas", "torch_threads", "kernel_variables")
ENVIRONMENT = ("hardware", *ARITHMETIC, "device", "dtype", "versions", "git_commit")


def what_was_run(report: Report) -> str:
    """Show everything needed to reproduce the runs."""
    return "\n\n".join(
        [
            "## What was run",
            "Results are reused as long as nothing that affects them changes; the times, machine "
            "and versions are those of the run that computed them. Tokens exclude padding; MFU is "
            "the share of the GPU's peak throughput, where that is known.",
            _runtime_table(report),
            "### Environment",
            "The same seed gives the same numbers on the same type of CPU. Other types sum "
            "products in a different order; training amplifies this, so scores shift slightly.",
            _distinct_environments(report),
            "### Data and models",
            _input_hashes(report),
            "### Settings of each training",
            _training_settings(report),
            "### Parameters",
            yaml_block(dict(report.params.values)),
        ]
    )


def _runtime_table(report: Report) -> str:
    rows = [_runtime_row(run, step) for run in report.runs for step in run.runtimes]
    head = ["Model", "Method", "Step", "Time", "Tokens/s", "MFU", "Peak memory (estimated)"]
    return table(head, rows, text_columns=3)


def _runtime_row(run: Run, step: str) -> list[str]:
    facts = run.runtimes[step]
    shows: dict[str, Callable[[float], str]] = {
        "seconds": format_seconds,
        "tokens_per_second": "{:,.0f}".format,
        "mfu": percent_of,
    }
    values = [(facts.get(key), show) for key, show in shows.items()]
    return [
        run.model,
        run.method,
        step,
        *(NOTHING if value is None else show(value) for value, show in values),
        _peak_memory(facts),
    ]


def _peak_memory(facts: Mapping[str, Any]) -> str:
    """Example: "812 MiB (790)"."""
    peak, estimate = (facts.get(f"{kind}_memory_mib") for kind in ("peak", "estimated"))
    if peak is None:
        return NOTHING
    return f"{peak:,.0f} MiB" + ("" if estimate is None else f" ({estimate:,.0f})")


def _distinct_environments(report: Report) -> str:
    """List each distinct environment with the steps that ran in it."""
    groups: dict[str, list[str]] = {}
    for run in report.runs:
        for step, facts in run.runtimes.items():
            environment = {key: facts[key] for key in ENVIRONMENT if facts.get(key) is not None}
            groups.setdefault(yaml_block(environment), []).append(f"{run.name} {step}")
    return "\n\n".join(
        f"{'All steps' if len(groups) == 1 else ', '.join(steps)}:\n\n{shown}"
        for shown, steps in groups.items()
    )


def _input_hashes(report: Report) -> str:
    data = f"data ({plain(report.dataset['source']['kind'])})"
    rows = []
    for part in ("train", "dev"):
        facts = report.dataset[part]
        rows.append([data, f"{part}, {facts['rows']:,} rows", f"`{facts['sha256']}`"])
    for model, manifest in report.models.items():
        owner = f"{model} ({plain(manifest['source'])}, {manifest['family']})"
        for file, digest in manifest.get("files", {}).items():
            rows.append([owner, name(file), f"`{digest}`"])
    return table(["Source", "File", "SHA-256"], rows, text_columns=3)


def _training_settings(report: Report) -> str:
    lines = [
        f"- {run.name}: {code(json.dumps(run.training['settings'], ensure_ascii=False))}"
        for run in report.runs
        if run.is_trained
    ]
    return "\n".join(lines) or "No run was trained."
