"""Turns pydantic's errors about params.yaml into the messages that a user reads."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from glmtune.params.models import METHODS, Launcher, Model, ParamsFile, Part, Section, UserFiles

# Keys by their former names.
RENAMED = {"generation": "family"}
# Kind of error -> the end of its message; pydantic fills in the braces.
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "greater_than": "more than {gt:.0f}",
    "greater_than_equal": "at least {ge:.0f}",
    "less_than": "less than {lt:.0f}",
    "less_than_equal": "at most {le:.0f}",
    "multiple_of": "a multiple of {multiple_of:.0f}",
    "string_too_short": "at least one entry",
    "too_short": "at least one entry",
    "string_too_long": "at most {max_length:,}",
    "too_long": "at most {max_length}",
}
# The keys of `dataset:` with alternatives of their own.
SPLITS = ("train", "dev", "valid")
# Other keys with alternatives, and the names of these.
TAGGED = {
    *(("target_modules", "names"), ("target_modules", "all")),
    *(("batch_size", "count"), ("batch_size", "word")),
    *(("processes", "count"), ("processes", "word")),
}
# Sections whose class is not the annotation of their key.
SECTIONS: dict[str, type[Section]] = {"dataset": UserFiles, "models": Model}


def sentences(values: Mapping[str, Any]) -> Iterator[str]:
    """Each mistake in types, ranges, choices and keys as `key.path: found …; expected …`.

    Sorted by key, the entries of `methods:` last.
    """
    try:
        ParamsFile.model_validate(values)
    except ValidationError as error:
        found = sorted(error.errors(include_url=False), key=_order)
        for mistake in found:
            path = ".".join(map(str, _path(mistake, values)))
            yield f"{path}: {_sentence(mistake, values)}" if path else _sentence(mistake, values)


def _order(error: Any) -> tuple[bool, list[str], bool, str]:
    """Sort key: by section; in each, unknown keys by name, then missing ones as in the class."""
    path = [str(part) for part in _path(error, {})]
    is_entry = path[:1] == ["methods"] and len(path) > 1
    unknown = str(error["loc"][-1]) if _is_unknown(error) else ""
    return is_entry, path, not unknown, unknown


def _path(error: Any, values: Mapping[str, Any]) -> list[int | str]:
    """Where params.yaml has it, e.g. ["methods", "lora", "rank"]; the section of a key."""
    named = _alternatives(error["loc"])
    path = [part for place, part in enumerate(error["loc"]) if place not in named]
    if error["type"] == "union_tag_invalid" and _names_a_method(path, values):
        return [*path, "method"]
    return path[:-1] if error["type"] == "missing" or _is_unknown(error) else path


def _alternatives(loc: tuple[int | str, ...]) -> set[int]:
    """The positions at which pydantic's path has the name of an alternative."""
    of_keys = {place for place in range(1, len(loc)) if loc[place - 1 : place + 1] in TAGGED}
    if loc[0] == "methods":
        return {2, *of_keys}
    if loc[0] == "examples":
        return {1}
    if loc[0] == "dataset":
        return {1, 3} if loc[2:3] and loc[2] in SPLITS else {1}
    return of_keys


def _is_unknown(error: Any) -> bool:
    return error["type"] in ("extra_forbidden", "invalid_key")


def _names_a_method(path: list[int | str], values: Mapping[str, Any]) -> bool:
    return "method" in values.get("methods", {}).get(path[1], {})


def _section(loc: tuple[int | str, ...]) -> type[Section]:
    """The class of the section at pydantic's path, e.g. LoRA at ("methods", "mine", "lora")."""
    if not loc:
        return ParamsFile
    first = str(loc[0])
    if loc[-1] == "launcher":
        return Launcher
    if first == "methods":
        return METHODS[str(loc[2])]
    if "parts" in loc:
        return Part
    section: Any = SECTIONS.get(first, ParamsFile.model_fields[first].annotation)
    return section


def _sentence(error: Any, values: Mapping[str, Any]) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    found = f"found {show(value)}"
    match kind:
        case "extra_forbidden" | "invalid_key":
            return _unknown_key(error["loc"][-1], _section(error["loc"][:-1]))
        case "missing":
            return f"missing key {error['loc'][-1]!r}"
        case "union_tag_invalid":
            is_named = _names_a_method(error["loc"], values)
            hint = "" if is_named else "; or give the entry a `method:`"
            return f"unknown method {show(value['method'])}; known: {', '.join(METHODS)}{hint}"
        case "literal_error":
            choices = context["expected"].replace(" or ", ", ").replace("'", '"')
            return f"{found}; expected one of {choices}"
        case "string_too_long":
            found = f"found {len(value):,} characters"
        case "too_long":
            found = f"found {len(value)} entries"
    if kind in EXPECTED:
        return f"{found}; expected {EXPECTED[kind].format(**context)}"
    return f"{found}; {error['msg']}"


def _unknown_key(name: int | str, section: type[Section]) -> str:
    known = sorted(section.model_fields)
    meant = _in_sections(str(name)) if section is ParamsFile else []
    meant = meant or difflib.get_close_matches(str(name), known, n=1)
    hint = f". Did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    if RENAMED.get(str(name)) in known:
        hint = f". It is now called {RENAMED[str(name)]!r}"
    return f"unknown key {name!r}; known keys: {', '.join(known)}{hint}"


def _in_sections(name: str) -> list[str]:
    """The full names of a key that is not at the top level, e.g. "training.eval_steps"."""
    fields = ((key, field.annotation) for key, field in ParamsFile.model_fields.items())
    fixed = {
        key: kind for key, kind in fields if isinstance(kind, type) and issubclass(kind, Section)
    }
    methods = {f"methods.{key}": kind for key, kind in METHODS.items()}
    for sections in (fixed, methods):
        if found := [key for key, kind in sections.items() if name in kind.model_fields]:
            return [f"{key}.{name}" for key in found]
    return []


def show(value: Any, longest: int = 60) -> str:
    """A value as messages show it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= longest else text[: longest - 3] + "..."
