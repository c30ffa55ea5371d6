"""The attribute values that prompts request, and those in a response that contradict its prompt.

A value contradicts a prompt only if that is certain. The prompts of the file say which values exist
and what they are values of; nothing else is known about them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from glmtune.attributes import are_attribute_prompts, attributes_in, is_list

Attributes = list[tuple[str, str]]  # keys and values, as in a prompt
SHORTEST = 2  # characters; a single one, such as 裙, is also a part of other words


def requested_attributes(prompts: Sequence[str]) -> list[Attributes | None]:
    """The attributes that each prompt requests; None for any other prompt.

    All are None unless the file as a whole has attribute prompts (glmtune/attributes.py).
    """
    found = [attributes_in(prompt) for prompt in prompts]
    if not are_attribute_prompts(sum(map(is_list, found)), len(found)):
        return [None] * len(found)
    return found


def distinct_values(attributes: Attributes) -> tuple[str, ...]:
    """The distinct values, in order. Example: 类型#裙*颜色#白色*图案#白色 -> ("裙", "白色")."""
    return tuple(dict.fromkeys(value for _, value in attributes))


@dataclass(frozen=True)
class KnownValues:
    """All values that the prompts of a file request, except those of one character."""

    keys: Mapping[str, frozenset[str]]  # value -> the attributes that it is requested for
    longest: int  # characters

    def contradicting(self, response: str, attributes: Attributes) -> list[str]:
        """The distinct values in a response that contradict its prompt.

        A known value contradicts if the prompt requests each attribute that it can be a value of,
        and requests neither this value nor one that contains it or that it contains.
        Example: 颜色#白色*材质#纯棉 -> 黑色 in 黑色纯棉长裤; 长裤 is of an attribute not requested.
        """
        keys = {key for key, _ in attributes}
        values = distinct_values(attributes)
        return [
            found
            for found in self.found_in(response)
            if self.keys[found] <= keys
            and not any(found in value or value in found for value in values)
        ]

    def found_in(self, text: str) -> list[str]:
        """The distinct known values in a text: at each place the longest, without overlaps."""
        found: dict[str, None] = {}
        start = 0
        while start < len(text):
            lengths = range(min(self.longest, len(text) - start), SHORTEST - 1, -1)
            parts = (text[start : start + length] for length in lengths)
            value = next((part for part in parts if part in self.keys), None)
            if value:
                found[value] = None
            start += len(value or text[start])
        return list(found)


def known_values(prompts: Iterable[Attributes | None]) -> KnownValues:
    """The values that any of these prompts requests."""
    keys: dict[str, set[str]] = defaultdict(set)
    for attributes in prompts:
        for key, value in attributes or ():
            if len(value) >= SHORTEST:
                keys[value].add(key)
    by_value = {value: frozenset(each) for value, each in keys.items()}
    return KnownValues(by_value, max(map(len, by_value), default=0))
