"""The checks of params.yaml: keys, values, and the rules between keys.

Each mistake is one line: `key.path: what was found; what is allowed`. The rules between keys work
on unchecked values, so they also report on a file with other mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from glmtune.families.registry import FAMILIES
from glmtune.locations import MODELSCOPE, PLAIN_NAME, kind_of_source
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.params.models import METHODS
from glmtune.params.sentences import sentences, show

# Names become folder names and wildcards.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# Kind of source -> what its revision is, in words, and what else may have been meant.
REVISIONS = {
    "hub": (
        re.compile("[0-9a-f]{40}"),
        "a commit hash of 40 digits (0-9, a-f)",
        "; for a local folder write ./{source}",
    ),
    "modelscope": (PLAIN_NAME, "a commit, tag or branch (A-Z, a-z, 0-9, '.', '_' and '-')", ""),
}
# Appended to a method's name for each seed after the first.
SEED_SUFFIX = ".seed-"
# The keys that depend on dev losses, and the one that has them measured.
DEV_LOSS_KEYS = {"eval_steps", "keep_best", "early_stopping_patience"}
# The method that trains nothing, and the one that trains all weights.
UNTUNED, EVERY_WEIGHT = "none", "full"


def find_mistakes(values: Mapping[str, Any]) -> Iterator[str]:
    """Every mistake as `key.path: what was found; what is allowed`."""
    yield from sentences(values)
    for name, entry in _entries(values, "methods"):
        if entry.get("method", name) in METHODS:
            yield from _method_mistakes(name)
    for name, entry in _entries(values, "models"):
        yield from _model_mistakes(name, entry)
    yield from _rules_between_keys(values)


def _entries(values: Mapping[str, Any], section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = values.get(section)
    if isinstance(entries, dict):
        yield from ((str(n), entry) for n, entry in entries.items() if isinstance(entry, dict))


def _method_mistakes(name: str) -> Iterator[str]:
    if not NAME.fullmatch(name):
        yield _name_mistake("methods", name)
    if SEED_SUFFIX in name:
        reserved = f"{SEED_SUFFIX!r}, which is reserved for further seeds"
        yield f"methods: found the name {show(name)} with {reserved}; choose another name"


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
    if kind_of_source(source) in REVISIONS:
        yield from _download_mistakes(f"models.{name}", source, entry)
    for key, sources in (("tokenizer", ("miniature", "random")), ("config", ("random",))):
        if key in entry and source not in sources:
            allowed = " or ".join(sources)
            yield f"models.{name}.{key}: only for source {allowed}; found {source}; remove the key"


def _download_mistakes(key: str, source: str, entry: dict[str, Any]) -> Iterator[str]:
    kind, repository = kind_of_source(source), source.removeprefix(MODELSCOPE).split("/")
    is_named = len(repository) == 2 and all(map(PLAIN_NAME.fullmatch, repository))
    if kind == "modelscope" and not is_named:
        yield f"{key}.source: found {show(source)}; expected {MODELSCOPE}owner/name"
    pattern, expected, other = REVISIONS[kind]
    if "revision" not in entry:
        yield (
            f"{key}.revision: missing; {source} needs {expected}, so that every run gets the same "
            f"weights{other.format(source=source)}"
        )
    elif isinstance(entry["revision"], str) and not pattern.fullmatch(entry["revision"]):
        yield f"{key}.revision: found {show(entry['revision'])}; expected {expected}"


def _template_mistakes(name: str, entry: dict[str, Any]) -> Iterator[str]:
    family = entry.get("family", name)
    if family in FAMILIES and entry["template"] not in FAMILIES[family].templates:
        choices = ", ".join(FAMILIES[family].templates)
        found = show(entry["template"])
        yield f"models.{name}.template: found {found}; expected one of {choices}"


def _name_mistake(key: str, name: str) -> str:
    return f"{key}: the name {show(name)} becomes a folder name: use a-z, 0-9, '.', '_' and '-'"


def _rules_between_keys(values: Mapping[str, Any]) -> Iterator[str]:
    methods = values.get("methods")
    bits = values.get("quantization_bit")
    if isinstance(bits, int) and bits in (8, 4) and isinstance(methods, dict):
        for name, entry in methods.items():
            if isinstance(entry, dict) and entry.get("method", name) == EVERY_WEIGHT:
                yield (
                    f"quantization_bit: found {bits}, but methods.{name} trains all weights, and "
                    f"quantized weights cannot be trained; set it to null or remove methods.{name}"
                )
            for key in _keys_for_full_precision(entry):
                yield (
                    f"methods.{name}.{key}: found {show(entry[key])}, which computes with the "
                    f"base's own weights, but quantization_bit is {bits}; set that to null or "
                    f"remove methods.{name}.{key}"
                )
    yield from _sharding_mistakes(values)
    yield from _share_mistakes(values)
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
                f"8 x num_heads = {8 * heads} (rotary embeddings need heads of a multiple of 8)"
            )
        literal, general = miniature.get("literal_share"), miniature.get("general_share")
        if (
            isinstance(literal, int | float)
            and isinstance(general, int | float)
            and literal + general > 1
        ):
            found = f"found {literal + general:g}; expected at most 1"
            yield f"miniature: literal_share + general_share: {found}"


def _keys_for_full_precision(entry: Any) -> list[str]:
    """The keys of a LoRA entry at values that need the base model in half or full precision."""
    if not isinstance(entry, dict):
        return []
    usual = {"dora": False, "init": "default"}
    return [key for key, value in usual.items() if entry.get(key, value) != value]


def _sharding_mistakes(values: Mapping[str, Any]) -> Iterator[str]:
    """Only full fine-tuning has enough to shard, and only AdamW's moments can be."""
    shared = values.get("training")
    shared = shared if isinstance(shared, dict) else {}
    for name, entry in _entries(values, "methods"):
        merged = shared | entry
        launcher = merged.get("launcher")
        launcher = launcher if isinstance(launcher, dict) else {}
        sharding = launcher.get("sharding")
        if sharding not in ("zero2", "zero3") or entry.get("method", name) == UNTUNED:
            continue
        section = f"methods.{name}" if "launcher" in entry else "training"
        if entry.get("method", name) != EVERY_WEIGHT:
            yield (
                f"{section}.launcher.sharding: found {sharding}, but methods.{name} trains few "
                "weights, which are not sharded; set it to none here, and for full fine-tuning "
                "in its own entry: methods.full.launcher"
            )
        elif launcher.get("processes") == 1:
            yield (
                f"{section}.launcher: found sharding {sharding} with 1 process, which has nothing "
                "to shard; set processes to more, or to all, or sharding to none"
            )
        elif merged.get("optimizer") not in (None, "adamw"):
            yield (
                f"{section}.launcher.sharding: found {sharding} with optimizer "
                f"{show(merged['optimizer'])}; expected adamw, whose moments can be sharded"
            )


def _share_mistakes(values: Mapping[str, Any]) -> Iterator[str]:
    """Some part must be used in full, and something must be left of it."""
    dataset = values.get("dataset")
    if not isinstance(dataset, dict):
        return
    parts = dataset.get("train")
    if isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts):
        if all("share" in part for part in parts):
            yield (
                "dataset.train: found a share for every part; expected one part without a share, "
                "all of whose rows are used; remove the share of your own data"
            )
        yield from _sum_mistake("dataset.train", [part.get("share", 0) for part in parts])
    yield from _sum_mistake("dataset", [dataset.get("dev"), dataset.get("valid")])


def _sum_mistake(key: str, values: list[Any]) -> Iterator[str]:
    shares = [value for value in values if isinstance(value, int | float)]
    if all(share < 1 for share in shares) and sum(shares) >= 1:
        yield f"{key}: found shares that add up to {sum(shares):g}; expected less than 1"


def _dev_loss_mistakes(values: Mapping[str, Any]) -> Iterator[str]:
    """The keys that depend on dev losses need eval_steps."""
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
            continue  # reported for `training` already
        for key in ("keep_best", "early_stopping_patience"):
            if merged.get(key):
                yield (
                    f"{section}.{key}: found {show(merged[key])}, but eval_steps is null; set "
                    "eval_steps to the number of steps between two dev loss measurements"
                )
