"""Write docs/params.md and docs/zh/params.md: every key of params.yaml. `--check`: are they stale?

Made from the classes of glmtune/params/models.py, the values of presets/default.yaml and, for the
Chinese page, the descriptions in tools/params_zh.yaml.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.params.models import (  # noqa: E402
    METHODS,
    Data,
    Generation,
    Launcher,
    Miniature,
    Model,
    ParamsFile,
    Part,
    Sample,
    Training,
    UserFiles,
)

CHINESE = ROOT / "tools" / "params_zh.yaml"
# Longer values of the default are not repeated in the table.
LONGEST_VALUE = 30

HEADERS = {
    "en": """\
# Parameters

English | [中文](zh/params.md)

Every key of `params.yaml`, with its value in the default run. Unknown keys and values out of range
are refused before anything runs, all of them at once. `params.yaml` itself says when to change each
key and what that costs; `presets/` has sets of values for 6B models.

Written by `make schema` from `workflow/scripts/glmtune/params/models.py`: do not edit this page.
""",
    "zh": """\
# 参数一览

[English](../params.md) | 中文

`params.yaml` 的全部键及默认运行的取值。未知的键、超出范围的值会在运行之前一次性全部报出。\
什么时候该改、改了有什么代价，见 `params.yaml` 里每个键上方的注释；6B 模型的整套取值见 `presets/`。

本页由 `make schema` 根据 `workflow/scripts/glmtune/params/models.py` 生成，请勿手改。
""",
}
COLUMNS = {
    "en": ("key", "allowed", "default", "what it is"),
    "zh": ("键", "取值", "默认值", "含义"),
}
TITLES = {
    "en": {
        "": "Top level",
        "dataset": "Your own files",
        "dataset.train.<n>": "Parts of the training rows",
        "sample": "Synthetic data set",
        "data": "Rows",
        "models.<name>": "Models",
        "miniature": "Miniatures",
        "methods.none": "Method: none",
        "methods.ptuning": "Method: P-Tuning v2",
        "methods.lora": "Method: LoRA",
        "methods.full": "Method: full fine-tuning",
        "training": "Training",
        "training.launcher": "Several processes",
        "generation": "Generation",
    },
    "zh": {
        "": "顶层",
        "dataset": "自己的数据文件",
        "dataset.train.<n>": "训练数据的各个部分",
        "sample": "合成数据集",
        "data": "数据行",
        "models.<name>": "模型",
        "miniature": "微型模型",
        "methods.none": "方法：none（不微调）",
        "methods.ptuning": "方法：P-Tuning v2",
        "methods.lora": "方法：LoRA",
        "methods.full": "方法：全参数微调",
        "training": "训练",
        "training.launcher": "多进程训练",
        "generation": "生成",
    },
}
WORDS = {
    "en": {
        "integer": "whole number",
        "number": "number",
        "string": "string",
        "boolean": "`true` or `false`",
        "array": "list",
        "object": "section",
        "or": " or ",
        "comma": ", ",
        "between": ", ",
        "multiple": "multiple of {}",
        "overrides": "An entry may also override any key of `training`.",
    },
    "zh": {
        "integer": "整数",
        "number": "数",
        "string": "字符串",
        "boolean": "`true` 或 `false`",
        "array": "列表",
        "object": "一组键",
        "or": " 或 ",
        "comma": "，",
        "between": "、",
        "multiple": "{} 的倍数",
        "overrides": "每一项还可以覆盖 `training` 的任何键。",
    },
}
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}


@dataclass(frozen=True)
class Key:
    """A row of the page."""

    path: str
    """As params.yaml nests it, e.g. `training.max_steps`."""
    schema: Mapping[str, Any]
    default: str

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.rpartition(".")[2]


def main() -> int:
    """Write both pages, or say which is stale."""
    stale = 0
    for language in HEADERS:
        file = page_file(language)
        if "--check" not in sys.argv[1:]:
            file.write_text(page(language), encoding="utf-8")
        elif file.read_text(encoding="utf-8") != page(language):
            print(f"{file.relative_to(ROOT)}: stale; `make schema` writes it")
            stale = 1
    return stale


def page_file(language: str) -> Path:
    """Where the page of a language is."""
    return ROOT / "docs" / ("" if language == "en" else language) / "params.md"


def page(language: str) -> str:
    """The page in `en` or `zh`."""
    lines = [HEADERS[language]]
    for title, keys in sections().items():
        lines += [f"## {TITLES[language].get(title, title)}\n"]
        if title:
            lines += [f"`{title}`\n"]
        if title.startswith("methods.") and title != "methods.none":
            lines += [f"{WORDS[language]['overrides']}\n"]
        lines += [_row(COLUMNS[language]), "|---|---|---|---|"]
        lines += [_row(_cells(key, language)) for key in keys]
        lines += [""]
    return "\n".join(lines)


def sections() -> dict[str, list[Key]]:
    """The keys of each section, in the order of params.yaml."""
    shared = Training.model_fields.keys()
    classes = {
        "": ParamsFile,
        "dataset": UserFiles,
        "dataset.train.<n>": Part,
        "sample": Sample,
        "data": Data,
        "models.<name>": Model,
        "miniature": Miniature,
        **{f"methods.{name}": METHODS[name] for name in METHODS},
        "training": Training,
        "training.launcher": Launcher,
        "generation": Generation,
    }
    return {
        title: list(_keys(title, section, set(shared) if title.startswith("methods.") else set()))
        for title, section in classes.items()
    }


@cache
def descriptions(language: str) -> dict[str, str]:
    """The description of every key by its path, in `en` or `zh`."""
    if language != "en":
        found: dict[str, str] = yaml.safe_load(CHINESE.read_text(encoding="utf-8"))
        return found
    return {k.path: k.schema["description"] for keys in sections().values() for k in keys}


def _keys(title: str, section: Any, left_out: set[str]) -> Iterator[Key]:
    values = _default(title)
    for name, schema in section.model_json_schema()["properties"].items():
        is_section = "$ref" in schema or "additionalProperties" in schema
        if name in left_out or (is_section and "description" not in schema):
            continue
        yield Key(f"{title}.{name}" if title else name, schema, _shown(values, name))


def _default(title: str) -> Any:
    """What the default parameters hold at `title`; nothing where the user's names are."""
    values: Any = yaml.safe_load((ROOT / "presets" / "default.yaml").read_text(encoding="utf-8"))
    for part in filter(None, title.split(".")):
        values = values.get(part, {}) if isinstance(values, dict) else {}
    return values


def _shown(values: Any, name: str) -> str:
    if not isinstance(values, dict) or name not in values:
        return ""
    value = values[name]
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    text = text.removesuffix("\n").removesuffix("\n...")
    return f"`{text}`" if len(text) <= LONGEST_VALUE else "…"


def _cells(key: Key, language: str) -> tuple[str, ...]:
    text = descriptions(language)[key.path]
    return f"`{key.name}`", _allowed(key.schema, WORDS[language]), key.default, text


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _allowed(schema: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """What a value may be, in words."""
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return words["between"].join(f"`{'null' if v is None else v}`" for v in values)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return words["or"].join(_allowed(each, words) for each in schema[several])
    if schema.get("type") == "null":
        return "`null`"
    kind = words[schema.get("type", "object")]
    bounds = [text.format(_number(schema[b])) for b, text in BOUNDS.items() if b in schema]
    if "multipleOf" in schema:
        bounds.append(words["multiple"].format(schema["multipleOf"]))
    return words["comma"].join([kind, *bounds])


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


if __name__ == "__main__":
    sys.exit(main())
