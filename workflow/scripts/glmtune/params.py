"""params.yaml: read it, check it, and say what each step of the workflow needs of it.

The values and their meaning stand in params.yaml, types and ranges in the schema beside the
Snakefile; this module adds the rules between keys. It knows nothing about files of a run.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from glmtune.errors import ParamsError
from glmtune.locations import kind_of_source, user_path

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "schemas" / "params.schema.yaml"
GENERATIONS = ("chatglm-6b", "chatglm2-6b", "chatglm3-6b-base")
# Names become folder names and wildcards.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# The method that trains nothing, and the one that trains every weight.
UNTUNED, EVERY_WEIGHT = "none", "full"
# Keys of an entry of `methods:` that come from the top level unless the entry has its own.
TOP_LEVEL_KNOBS = {"ptuning": ("lr", "pre_seq_len")}


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads it: `1e-2` is the number 0.01 (YAML 1.2), and no key may stand twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice: PyYAML would silently take the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: key {key.value!r} stands twice; remove one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _is_whole(checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: Any, value: Any) -> bool:
    return _is_whole(checker, value) or (isinstance(value, float) and math.isfinite(value))


# JSON Schema lets 16.0 pass as a whole number, and YAML .nan and .inf as numbers.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_whole, "number": _is_number}
    ),
)


@dataclass(frozen=True)
class Run:
    """One row of the report: a model tuned by one entry of `methods:`."""

    model: str
    method: str
    is_trained: bool


@dataclass(frozen=True)
class Params:
    """The checked values of params.yaml, complete and with numbers as numbers."""

    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def models(self) -> list[str]:
        """Names of the models, in the file's order."""
        return list(self["models"])

    @property
    def methods(self) -> list[str]:
        """Names of the methods, the untuned baseline first, then in the file's order."""
        return sorted(self["methods"], key=lambda name: self.trains(name))

    @property
    def runs(self) -> list[Run]:
        """Every (model, method), in the order of the report."""
        return [
            Run(model, method, self.trains(method))
            for model in self.models
            for method in self.methods
        ]

    def generation(self, model: str) -> str:
        """The generation of a model, e.g. `chatglm2-6b`."""
        return self["models"][model].get("generation", model)

    def tuning_method(self, method: str) -> str:
        """The method of an entry of `methods:`: none, ptuning, lora or full."""
        return self["methods"][method].get("method", method)

    def trains(self, method: str) -> bool:
        """Whether an entry of `methods:` trains anything."""
        return self.tuning_method(method) != UNTUNED

    def dataset_flags(self) -> str:
        """The flags of `fetch_dataset.py` that decide the content, beside the user's files."""
        dataset = self["dataset"]
        if isinstance(dataset, str):
            rows = self["sample"]
            sizes = f"--train-rows {rows['train_rows']} --dev-rows {rows['dev_rows']}"
            return f"--{dataset} {sizes} --seed {self['seed']}"
        columns = {
            key: dataset[key] for key in ("prompt_column", "response_column") if key in dataset
        }
        return " ".join(f"--{key.replace('_', '-')} {shlex.quote(v)}" for key, v in columns.items())

    def dataset_files(self) -> dict[str, Path]:
        """The user's own files, `{"train": path, "dev": path}`; `{}` for the sample.

        Raises ParamsError for a file that is not there.
        """
        dataset = self["dataset"]
        if isinstance(dataset, str):
            return {}
        files = {split: user_path(dataset[split]) for split in ("train", "dev")}
        for split, path in files.items():
            if not path.is_file():
                raise ParamsError(
                    f"params.yaml: dataset.{split}: no such file {dataset[split]!r} ({path}); "
                    f"a relative path counts from the repository"
                )
        return files

    def token_limits(self) -> dict[str, int]:
        """The limits of prompts and answers, in tokens."""
        return {key: self[key] for key in ("max_source_tokens", "max_target_tokens")}

    def model_settings(self, model: str) -> dict[str, Any]:
        """What decides a model's weights and vocabulary."""
        entry = dict(self["models"][model])
        settings = {**entry, "generation": self.generation(model), "seed": self["seed"]}
        if entry["source"] in ("miniature", "random"):  # the latter for its vocabulary
            settings |= {"miniature": self["miniature"], "torch_threads": self["torch_threads"]}
        return settings

    def training_settings(self, method: str) -> dict[str, Any]:
        """What decides a tuning, beside its model and data."""
        entry = dict(self["methods"][method])
        tuning_method = entry.pop("method", method)
        knobs = {key: self[key] for key in TOP_LEVEL_KNOBS.get(tuning_method, ())}
        shared = {key: self[key] for key in ("seed", "torch_threads", "quantization_bit")}
        return {"method": tuning_method, **shared, **self["training"], **knobs, **entry}

    def generation_settings(self) -> dict[str, Any]:
        """What decides the predictions, beside the weights and the prompts."""
        shared = {key: self[key] for key in ("seed", "torch_threads", "max_source_tokens")}
        return {**shared, **self["generation"], "quantization_bit": self["quantization_bit"]}


def read_params(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read and check params.yaml; `overrides` are Snakemake's `--config` values.

    Raises ParamsError with every mistake, one a line.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `git checkout params.yaml` restores it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected `key: value` lines, found {_show(values)}")
    values = _merge(values, overrides or {})
    mistakes = list(find_mistakes(values))
    if mistakes:
        raise ParamsError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return Params(values)


def _merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            is_number = isinstance(value, str) and _FLOAT.match(value)
            merged[key] = float(value) if is_number else value
    return merged


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
        yield f"{key}: unknown method {_show(method)}; known: {', '.join(by_method)}{hint}"
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


def _model_mistakes(name: str, entry: dict[str, Any]) -> Iterator[str]:
    if "generation" not in entry and name not in GENERATIONS:
        yield (
            f"models: unknown {_show(name)}; known: {', '.join(GENERATIONS)}; "
            f"or give the entry a `generation:`"
        )
    if not NAME.fullmatch(name):
        yield _name_mistake("models", name)
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


def _name_mistake(key: str, name: str) -> str:
    return f"{key}: the name {_show(name)} becomes a folder: use a-z, 0-9, '.', '_' and '-'"


def _rules_between_keys(values: Mapping[str, Any]) -> Iterator[str]:
    methods = values.get("methods")
    if values.get("quantization_bit") in (8, 4) and isinstance(methods, dict):
        for name, entry in methods.items():
            if isinstance(entry, dict) and entry.get("method", name) == EVERY_WEIGHT:
                yield (
                    f"quantization_bit: found {values['quantization_bit']}, but methods.{name} "
                    f"trains every weight and packed weights cannot be trained; set it to null "
                    f"or remove methods.{name}"
                )
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
    found = _show(instance)
    limit: Any = error.validator_value
    schema: Any = error.schema
    match error.validator:
        case "additionalProperties":
            known = sorted(schema.get("properties", {}))
            for name in sorted(set(instance) - set(known)):
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f". Did you mean {near[0]!r}?" if near else ""
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
        case "pattern":
            yield f"{where}found {found}; expected the 40 digits (0-9, a-f) of a commit"
        case "multipleOf":
            yield f"{where}found {found}; expected a multiple of {limit}"
        case "minProperties" | "minItems" | "minLength":
            yield f"{where}found {found}; expected at least one entry"
        case _:
            yield f"{where}found {found}; {error.message}"


def _type_name(name: str | list[str]) -> str:
    words = {"integer": "a whole number", "number": "a number", "string": "a text"}
    words |= {"boolean": "true or false", "object": "a section of keys", "array": "a list"}
    return " or ".join(words[part] for part in ([name] if isinstance(name, str) else name))


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
