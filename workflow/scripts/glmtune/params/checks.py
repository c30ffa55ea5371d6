"""What may stand in params.yaml: the schema beside the Snakefile, and the rules between its keys.

Each mistake is one line: `key.path: what was found; what is allowed`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from glmtune.families.registry import FAMILIES
from glmtune.locations import kind_of_source
from glmtune.metrics.protocols import PROTOCOLS

SCHEMA_FILE = Path(__file__).resolve().parents[3] / "schemas" / "params.schema.yaml"
# Keys by their former names.
RENAMED = {"generation": "family"}
# Names become folder names and wildcards.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# What is appended to a method's name for its further seeds.
SEED_SUFFIX = ".seed-"
# What is decided by dev losses, and whether they are measured.
DEV_LOSS_KEYS = {"eval_steps", "keep_best", "early_stopping_patience"}
# The method that trains nothing, and the one that trains every weight.
UNTUNED, EVERY_WEIGHT = "none", "full"


def _is_whole(checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: Any, value: Any) -> bool:
    return _is_whole(checker, value) or (isinstance(value, float) and math.isfinite(value))


def _each_once(validator: Any, asked: bool, items: Any, schema: Any) -> Iterator[Any]:
    if (
        asked
        and isinstance(items, list)
        and len({show(item, 10**6) for item in items}) < len(items)
    ):
        yield jsonschema.ValidationError("an entry is there twice")


# JSON Schema lets 16.0 pass as a whole number, and YAML .nan and .inf as numbers. It may
# compare each entry of a list with each other one, which takes minutes for a long list.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {"uniqueItems": _each_once},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_whole, "number": _is_number}
    ),
)


def find_mistakes(values: Mapping[str, Any]) -> Iterator[str]:
    """Every mistake as `key.path: what was found; what is allowed`."""
    schema = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    yield from _schema_mistakes(values, schema)
    methods = values.get("methods")
    if isinstance(methods, dict):
        for name, entry in methods.items():
            if isinstance(entry, dict):
                yield from _method_mistakes(str(name), entry, schema)
    models = values.get("models")
    if isinstance(models, dict):
        for name, entry in models.items():
            if isinstance(entry, dict):
                yield from _model_mistakes(str(name), entry)
    yield from _rules_between_keys(values)


def _method_mistakes(name: str, entry: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    by_method = schema["$defs"]["methods"]
    method = entry.get("method", name)
    if method not in by_method:
        key = f"methods.{name}.method" if "method" in entry else f"methods.{name}"
        hint = "" if "method" in entry else "; or give the entry a `method:`"
        yield f"{key}: unknown method {show(method)}; known: {', '.join(by_method)}{hint}"
        return
    training = schema["properties"]["training"]["properties"] if method != UNTUNED else {}
    entry_schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {**training, "method": {}, **by_method[method]["properties"]},
        "required": by_method[method]["required"],
        "$defs": schema["$defs"],
    }
    yield from _schema_mistakes(entry, entry_schema, f"methods.{name}")
    if not NAME.fullmatch(name):
        yield _name_mistake("methods", name)
    if SEED_SUFFIX in name:
        yield f"methods: the name {show(name)} holds {SEED_SUFFIX!r}, which marks further seeds"


def _model_mistakes(name: str, entry: dict[str, Any]) -> Iterator[str]:
    if "family" not in entry and name not in FAMILIES:
        yield (
            f"models: unknown {show(name)}; known: {', '.join(FAMILIES)}; "
            f"or give the entry a `family:`"
        )
    if not NAME.fullmatch(name):
        yield _name_mistake("models", name)
    if "template" in entry:
        yield from _template_mistakes(name, entry)
    source = entry.get("source")
    if not isinstance(source, str):
        return
    if kind_of_source(source) == "hub" and "revision" not in entry:
        yield (
            f"models.{name}.revision: missing; a hub id needs the 40 digits of a commit, so that "
            f"the same weights come every time (for a local folder write ./{source})"
        )
    for key, sources in (("tokenizer", ("miniature", "random")), ("config", ("random",))):
        if key in entry and source not in sources:
            yield f"models.{name}.{key}: only for source {' or '.join(sources)}; found {source}"


def _template_mistakes(name: str, entry: dict[str, Any]) -> Iterator[str]:
    family = entry.get("family", name)
    if family in FAMILIES and entry["template"] not in FAMILIES[family].templates:
        choices = ", ".join(FAMILIES[family].templates)
        found = show(entry["template"])
        yield f"models.{name}.template: found {found}; expected one of {choices}"


def _name_mistake(key: str, name: str) -> str:
    return f"{key}: the name {show(name)} becomes a folder: use a-z, 0-9, '.', '_' and '-'"


def _rules_between_keys(values: Mapping[str, Any]) -> Iterator[str]:
    methods = values.get("methods")
    bits = values.get("quantization_bit")
    if isinstance(bits, int) and bits in (8, 4) and isinstance(methods, dict):
        for name, entry in methods.items():
            if isinstance(entry, dict) and entry.get("method", name) == EVERY_WEIGHT:
                yield (
                    f"quantization_bit: found {bits}, but methods.{name} trains every weight and "
                    f"packed weights cannot be trained; set it to null or remove methods.{name}"
                )
    yield from _dev_loss_mistakes(values)
    protocol = values.get("protocol")
    if isinstance(protocol, str) and protocol not in PROTOCOLS:
        yield f"protocol: found {show(protocol)}; expected one of {', '.join(PROTOCOLS)}"
    miniature = values.get("miniature")
    if isinstance(miniature, dict):
        hidden, heads = miniature.get("hidden_size"), miniature.get("num_heads")
        if (
            isinstance(hidden, int)
            and isinstance(heads, int)
            and heads > 0
            and hidden % (8 * heads)
        ):
            yield (
                f"miniature.hidden_size: found {hidden}; expected a multiple of "
                f"8 x num_heads = {8 * heads} (rotary positions need heads of a multiple of 8)"
            )
        literal, general = miniature.get("literal_share"), miniature.get("general_share")
        if (
            isinstance(literal, int | float)
            and isinstance(general, int | float)
            and literal + general > 1
        ):
            yield "miniature: literal_share and general_share together exceed 1"


def _dev_loss_mistakes(values: Mapping[str, Any]) -> Iterator[str]:
    """What is decided by dev losses needs them to be measured."""
    sections: dict[str, Any] = {"training": values.get("training")}
    methods = values.get("methods")
    if isinstance(methods, dict):
        sections |= {f"methods.{name}": entry for name, entry in methods.items()}
    shared = sections["training"] if isinstance(sections["training"], dict) else {}
    for section, entry in sections.items():
        merged = shared | entry if isinstance(entry, dict) else {}
        if merged.get("eval_steps") is not None or not isinstance(entry, dict):
            continue
        if section != "training" and not entry.keys() & DEV_LOSS_KEYS:
            continue  # said of `training` already
        for key in ("keep_best", "early_stopping_patience"):
            if merged.get(key):
                yield (
                    f"{section}.{key}: found {show(merged[key])}, but eval_steps is null; give "
                    "eval_steps the number of steps between two dev losses"
                )


def _schema_mistakes(value: Any, schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    validator = _Validator(schema)
    errors = sorted(validator.iter_errors(value), key=lambda error: [str(p) for p in error.path])
    for error in errors:
        for leaf in _leaves(error):
            path = [prefix] if prefix else []
            yield from _explain(
                ".".join([*path, *(str(part) for part in leaf.absolute_path)]), leaf
            )


def _leaves(error: jsonschema.ValidationError) -> list[jsonschema.ValidationError]:
    """Of the alternatives of an `anyOf`, the errors of the one that has the value's type."""
    if error.validator != "anyOf":
        return [error]
    is_object = isinstance(error.instance, dict)
    context = error.context or []
    return [leaf for leaf in context if (leaf.validator != "enum") == is_object] or [error]


def _explain(key: str, error: jsonschema.ValidationError) -> Iterator[str]:
    where = f"{key}: " if key else ""
    instance: Any = error.instance
    found = show(instance)
    limit: Any = error.validator_value
    schema: Any = error.schema
    match error.validator:
        case "additionalProperties":
            known = sorted(schema.get("properties", {}))
            for name in sorted(set(instance) - set(known)):
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f". Did you mean {near[0]!r}?" if near else ""
                if RENAMED.get(name) in known:
                    hint = f". It is called {RENAMED[name]!r} now"
                yield f"{where}unknown key {name!r}; known keys: {', '.join(known)}{hint}"
        case "required":
            missing = [name for name in limit if name not in instance]
            # jsonschema reports each missing key on its own; its message names the one.
            for name in missing:
                if error.message.startswith(repr(name)):
                    yield f"{where}missing key {name!r}"
        case "type":
            yield f"{where}found {found}; expected {_type_name(limit)}"
        case "enum":
            choices = ", ".join(json.dumps(choice) for choice in limit)
            yield f"{where}found {found}; expected one of {choices}"
        case "minimum":
            yield f"{where}found {found}; expected at least {limit}"
        case "maximum":
            yield f"{where}found {found}; expected at most {limit}"
        case "exclusiveMinimum":
            yield f"{where}found {found}; expected more than {limit}"
        case "exclusiveMaximum":
            yield f"{where}found {found}; expected less than {limit}"
        case "pattern":
            yield f"{where}found {found}; expected the 40 digits (0-9, a-f) of a commit"
        case "uniqueItems":
            yield f"{where}found {found}; expected each entry once"
        case "maxItems":
            yield f"{where}found {len(instance)} entries; expected at most {limit}"
        case "maxLength":
            yield f"{where}found {len(instance):,} characters; expected at most {limit:,}"
        case "multipleOf":
            yield f"{where}found {found}; expected a multiple of {limit}"
        case "minProperties" | "minItems" | "minLength":
            yield f"{where}found {found}; expected at least one entry"
        case _:
            yield f"{where}found {found}; {error.message}"


def _type_name(name: str | list[str]) -> str:
    words = {"integer": "a whole number", "number": "a number", "string": "a text"}
    words |= {"boolean": "true or false", "object": "a section of keys", "array": "a list"}
    words |= {"null": "null"}
    return " or ".join(words[part] for part in ([name] if isinstance(name, str) else name))


def show(value: Any, longest: int = 60) -> str:
    """A value as messages show it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= longest else text[: longest - 3] + "..."
