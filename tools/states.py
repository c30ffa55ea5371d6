"""States of the results: the workspace, a git revision or a DVC experiment, each read as a report.

What a revision recorded is read from DVC's cache, or from a remote that has it.
No weights are read.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.errors import DataError, ParamsError, first_line, shown_name  # noqa: E402
from glmtune.params.reading import read_yaml  # noqa: E402
from glmtune.report.contents import Report  # noqa: E402
from glmtune.report.reading import read_report  # noqa: E402
from glmtune.report.request import RequestedRun, parse_params  # noqa: E402

WORKSPACE = "workspace"
SEED = re.compile(r"(?P<entry>.+)\.seed-(?P<seed>\d+)")  # the files of a further seed
# What a report reads of a state; the folders of weights are not among it.
READ = re.compile(
    r"results/((scores|predictions|probe|examples|training|curves|runtime)/.+|models/[^/]+\.json)"
    r"|data/(dataset/(manifest\.json|card\.json|train\.jsonl)|tokenized/[^/]+/manifest\.json)"
)


@dataclass(frozen=True)
class State:
    """The results that one run of the workflow left, and the parameters it had."""

    name: str  # as the user wrote it
    params: Mapping[str, Any]  # dotted key -> value
    report: Report


def read_state(root: Path, name: str) -> State:
    """Read the results of the workspace, a git revision or an experiment.

    ParamsError if there is no such revision, DataError if its results are not there.
    """
    if name == WORKSPACE:
        return _read(name, root)
    with tempfile.TemporaryDirectory() as folder:
        _fetch(root, name, Path(folder))
        return _read(name, Path(folder))


def changed_params(old: State, new: State) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ; None: the state has no such key."""
    keys = dict.fromkeys([*old.params, *new.params])
    both = {key: (old.params.get(key), new.params.get(key)) for key in keys}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Example: {"a": {"b": 1}, "c": [{"d": 2}]} -> {"a.b": 1, "c.0.d": 2}."""
    if isinstance(values, list) and values and all(isinstance(each, dict) for each in values):
        values = {str(place): each for place, each in enumerate(values)}
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _read(name: str, folder: Path) -> State:
    values = read_yaml(folder / "params.yaml")
    results = folder / "results"
    runs = sorted(_runs(results), key=lambda run: _place(run, values))
    if not runs:
        raise DataError(
            f"{name}: no scores in results/scores; run `snakemake --cores 1 results/report.md`"
        )
    try:
        report = read_report(
            runs,
            parse_params(values, f"{name}: params.yaml"),
            results_dir=results,
            data_dir=folder / "data",
        )
    except DataError as error:
        text = str(error).replace(f"{folder}/", "")
        raise DataError(f"{name}: {text}") from None
    return State(name, flat(values), report)


def _runs(results: Path) -> Iterator[RequestedRun]:
    for path in (results / "scores").glob("*/*.json"):
        model, method = path.parent.name, path.stem
        match = SEED.fullmatch(method)
        yield RequestedRun(
            model=model,
            method=method,
            is_trained=(results / f"training/{model}/{method}.json").is_file(),
            entry=match["entry"] if match else method,
            seed=int(match["seed"]) if match else None,
        )


def _place(run: RequestedRun, values: Mapping[str, Any]) -> tuple[int, int, str]:
    """Models and methods in the order of params.yaml."""
    models, methods = list(values["models"]), list(values["methods"])
    orders = (models, run.model), (methods, run.entry)
    model, method = (names.index(n) if n in names else len(names) for names, n in orders)
    return model, method, run.method


def _fetch(root: Path, rev: str, folder: Path) -> None:
    """Copy what a report reads of a revision into a folder."""
    try:
        files = DVCFileSystem(str(root), rev=rev)
        (folder / "params.yaml").write_bytes(files.read_bytes("params.yaml"))
        found = [name for part in ("results", "data") for name in _files_below(files, part)]
    except (DvcException, FileNotFoundError) as error:
        raise ParamsError(
            f"{shown_name(rev)}: {first_line(error)}; expected a git revision with params.yaml and "
            "dvc.lock, or an experiment: `git log --oneline` and `dvc exp list --all` show them"
        ) from None
    for name in found:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.write_bytes(files.read_bytes(name))
        except OSError:
            raise _not_here(rev, name) from None
    if not any(name.startswith("results/scores/") for name in found):
        raise _not_here(rev, "results/scores")


def _files_below(files: DVCFileSystem, folder: str) -> list[str]:
    return [name for name in files.find(folder) if READ.fullmatch(name)]


def _not_here(rev: str, name: str) -> DataError:
    return DataError(
        f"{shown_name(rev)}: {name}: DVC's cache does not hold it, nor does a remote; expected the "
        f"results recorded in that revision; `dvc fetch` gets them from a remote, or compute them "
        "again: `git checkout`, `snakemake --cores 1 results/report.md`, commit"
    )
