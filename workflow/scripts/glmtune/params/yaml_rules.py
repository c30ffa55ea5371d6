"""How PyYAML (YAML 1.1) and ruamel.yaml (YAML 1.2) read a scalar.

They differ in numbers and booleans: `010` is 8 or 10, `no` is false or a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from glmtune.errors import shown_name

TAG = "tag:yaml.org,2002:"
FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$")
SURROGATES = re.compile("[\ud800-\udfff]")
LONGEST_NUMBER = 100
# The rules of ruamel.yaml 0.19 for YAML 1.2 (its resolver.py), in its order.
DVC_RULES = [
    ("bool", re.compile("true|True|TRUE|false|False|FALSE")),
    (
        "float",
        re.compile(
            r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
            r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
    ),
    ("int", re.compile("[-+]?(?:0b[01_]+|0o?[0-7_]+|[0-9][0-9_]*|0x[0-9a-fA-F_]+)|[-+]_[0-9_]*")),
    ("merge", re.compile("<<")),
    ("null", re.compile("~|null|Null|NULL|")),
    (
        "timestamp",
        re.compile(
            r"\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?"
            r"(?:[ \t]*(?:Z|[-+]\d\d?(?::\d\d)?))?",
            re.ASCII,
        ),
    ),
    ("value", re.compile("=")),
]


def _to_int(text: str) -> int:
    digits = text.replace("_", "").lower()
    return int(digits, {"0b": 2, "0o": 8, "0x": 16}.get(digits.lstrip("+-")[:2], 10))


def _to_float(text: str) -> float:
    digits = text.replace("_", "").lower()
    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))


CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: text.lower() == "true",
    "float": _to_float,
    "int": _to_int,
    "null": lambda text: None,
    "str": str,
}


def read_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    """The value of a scalar; ValueError if DVC reads another one, or neither can read it."""
    text = node.value
    if SURROGATES.search(text):
        raise ValueError("found half a character (\\ud800 to \\udfff); write the whole character")
    if node.style is not None:
        return text
    shown, dvc_tag = shown_name(text, 40), tag_for_dvc(text)
    kinds = {node.tag.removeprefix(TAG), dvc_tag}
    if kinds - {"str", "null", "bool", "int", "float"}:
        kind = "a date" if "timestamp" in kinds else "a special character"
        raise ValueError(f"found {shown}, {kind} in YAML; write {quoted(shown)} for a string")
    if kinds & {"int", "float"} and len(text) > LONGEST_NUMBER:
        raise ValueError(
            f"found a number of {len(text):,} characters; expected at most {LONGEST_NUMBER}"
        )
    try:
        ours, dvcs = loader.construct_object(node), CONVERSIONS[dvc_tag](text)
    except ValueError:
        raise ValueError(
            f"found {shown}, which looks like a number but is not one; write digits, or "
            f"{quoted(shown)} for a string"
        ) from None
    if repr(ours) != repr(dvcs):
        raise ValueError(
            f"found {shown}; Snakemake reads {_shown(ours)} (YAML 1.1), DVC {_shown(dvcs)} "
            f"(YAML 1.2); write {' or '.join(_ways(ours, dvcs, text))}"
        )
    return ours


def is_text(node: yaml.Node) -> bool:
    """Whether both rules read a plain scalar as a string."""
    return node.tag == TAG + "str" and tag_for_dvc(node.value) == "str"


def tag_for_dvc(text: str) -> str:
    """What a plain scalar is to ruamel.yaml, e.g. "010" -> "int", "no" -> "str"."""
    return next((tag for tag, pattern in DVC_RULES if pattern.fullmatch(text)), "str")


def read_plain(text: str) -> Any:
    """What a plain scalar is to DVC, e.g. "20" -> 20, "1e-2" -> 0.01; other texts stay as they are.

    For values that Snakemake hands on as strings: those inside of a section of `--config`.
    """
    try:
        return CONVERSIONS.get(tag_for_dvc(text), str)(text)
    except ValueError:
        return text


def _ways(ours: Any, dvcs: Any, text: str) -> Iterator[str]:
    """How to write each of two values so that both readers agree."""
    yield _shown(ours)
    yield _shown(dvcs)
    if not isinstance(ours, str) and not isinstance(dvcs, str):
        yield f"{quoted(text)} for a string"


def _shown(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def quoted(text: str) -> str:
    """A text as YAML and JSON write it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)
