"""What a report is asked for: the runs to compare, and the values of params.yaml; both checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmtune.errors import ParamsError
from glmtune.metrics.protocols import DEFAULT_PROTOCOL, get_protocol


@dataclass(frozen=True)
class RequestedRun:
    """One model with one method and one seed."""

    model: str
    method: str  # names its files: the entry, and for a further seed a suffix, as in lora.seed-43
    is_trained: bool
    entry: str  # of `methods:` in params.yaml
    seed: int | None


@dataclass(frozen=True)
class ReportParams:
    """What the report says of params.yaml."""

    values: Mapping[str, Any]  # all of them, as they are shown
    examples: list[str] | None  # the user's own prompts; None: they are left to the workflow
    protocol: str  # whose definition of BLEU-4 and ROUGE the scores have
    methods: Mapping[str, str]  # of each entry: its method, e.g. lora
    generation: Mapping[str, Any]  # how answers are decoded unless the protocol says
    token_limits: Mapping[str, int]  # of prompts and answers, by key


def parse_runs(value: Any, source: str) -> list[RequestedRun]:
    """The runs in the order shown, from a list like [{"model": …, "method": …, "is_trained": …}].

    A run may have "entry" and "seed", too. `source` is the file that a ParamsError names.
    """
    if not (isinstance(value, list) and value and all(map(_is_run, value))):
        raise ParamsError(
            f"{source}: found {_start_of(value)}; expected a list like "
            '[{"model": "…", "method": "…", "is_trained": true}]'
        )
    return [
        RequestedRun(
            model=run["model"],
            method=run["method"],
            is_trained=run["is_trained"],
            entry=run.get("entry", run["method"]),
            seed=run.get("seed"),
        )
        for run in value
    ]


def parse_params(value: Any, source: str) -> ReportParams:
    """The values of params.yaml, of which only `examples` must be there.

    `source` is the file that a ParamsError names.
    """
    examples = value.get("examples") if isinstance(value, dict) else None
    is_list = isinstance(examples, list) and all(isinstance(prompt, str) for prompt in examples)
    if examples != "auto" and not is_list:
        raise ParamsError(
            f"{source}: found {_start_of(value)}; expected an object with the values of "
            "params.yaml, among them `examples`, auto or a list of texts"
        )
    protocol = value.get("protocol", DEFAULT_PROTOCOL)
    get_protocol(protocol)
    methods, limits = value.get("methods", {}), ("max_source_tokens", "max_target_tokens")
    return ReportParams(
        values=value,
        examples=None if examples == "auto" else examples,
        protocol=protocol,
        methods={name: entry.get("method", name) for name, entry in methods.items()},
        generation=value.get("generation", {}),
        token_limits={key: value[key] for key in limits if key in value},
    )


def _is_run(value: Any) -> bool:
    required = {"model": str, "method": str, "is_trained": bool}
    optional = {"entry": str, "seed": int}
    return isinstance(value, dict) and all(
        isinstance(value.get(key), kind)
        for key, kind in (required | optional).items()
        if key in required or key in value
    )


def _start_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]
