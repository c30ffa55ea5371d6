"""Attributes that a prompt in ADGEN's form asks for: 类型#裙*颜色#白色."""

from __future__ import annotations

import re


def asked_values(prompt: str) -> list[str] | None:
    """The distinct attribute values that an ADGEN prompt asks for; None for any other prompt.

    What a chat template puts around it on other lines, or as <|user|>, is passed over.
    Example: "类型#裙*颜色#白色*图案#白色" -> ["裙", "白色"]
    """
    lines = [line.strip() for line in re.split(r"<\|[^|]*\|>|\n", prompt) if "#" in line]
    if len(lines) != 1:
        return None
    attributes = [attribute.split("#") for attribute in lines[0].split("*")]
    if any(len(parts) != 2 or not all(map(str.strip, parts)) for parts in attributes):
        return None
    return list(dict.fromkeys(value for _, value in attributes))
