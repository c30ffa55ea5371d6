"""Attributes that prompts in ADGEN's form ask for: 类型#裙*颜色#白色.

A single `#` proves nothing (C#是什么, 5#楼), so whether prompts are lists of attributes is decided
for all prompts of a file together.
"""

from __future__ import annotations

import re


def attributes_in(prompt: str) -> list[tuple[str, str]] | None:
    """Keys and values if the prompt can be read as a list of attributes, else None.

    What a chat template puts around it on other lines, or as <|user|>, is passed over.
    Example: "类型#裙*颜色#白色" -> [("类型", "裙"), ("颜色", "白色")]
    """
    lines = [line.strip() for line in re.split(r"<\|[^|]*\|>|\n", prompt) if "#" in line]
    if len(lines) != 1:
        return None
    attributes = [attribute.split("#") for attribute in lines[0].split("*")]
    if any(len(parts) != 2 or not all(map(str.strip, parts)) for parts in attributes):
        return None
    return [(key, value) for key, value in attributes]


def is_list(attributes: list[tuple[str, str]] | None) -> bool:
    """Whether a prompt surely is a list: of two attributes or more, as all of ADGEN are."""
    return attributes is not None and len(attributes) > 1


def are_attribute_prompts(lists: int, prompts: int) -> bool:
    """Whether a file asks for attributes: more than half of its prompts are lists of them."""
    return 2 * lists > prompts
