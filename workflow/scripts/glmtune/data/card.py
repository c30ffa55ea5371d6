"""Statistics of a data set's rows, collected while writing them: the content of card.json."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from glmtune.attributes import are_attribute_prompts, attributes_in, is_list
from glmtune.data.leakage import Fingerprints, count_repeated
from glmtune.data.rows import Row
from glmtune.distribution import distribution

MOST_ATTRIBUTES = 20


@dataclass
class SplitFacts:
    """Running statistics of one split's rows."""

    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    prompt_characters: array[int] = field(default_factory=lambda: array("L"))
    response_characters: array[int] = field(default_factory=lambda: array("L"))
    counts: Counter[str] = field(default_factory=Counter)
    attributes: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Add a row."""
        prompt, response, history = row["content"], row["summary"], row.get("history", ())
        self.fingerprints.add(row)
        earlier = sum(len(message["content"]) for message in history)
        self.prompt_characters.append(earlier + len(prompt))
        self.response_characters.append(len(response))
        self.counts["multi_turn"] += any(message["role"] == "assistant" for message in history)
        self.counts["unk"] += "<UNK>" in response
        self.counts["brand"] += "BRAND" in response
        attributes = attributes_in(prompt)
        self.counts["lists"] += is_list(attributes)
        self.attributes.update({key for key, _ in attributes or ()})

    def describe(self) -> dict[str, Any]:
        """Return the split's part of the card."""
        rows = len(self.response_characters)
        has_attributes = are_attribute_prompts(self.counts["lists"], rows)
        # Ties are sorted by name: the order of a set differs between processes.
        ranked = sorted(self.attributes.items(), key=lambda item: (-item[1], item[0]))
        return {
            "rows": rows,
            "prompt_characters": distribution(self.prompt_characters),
            "answer_characters": distribution(self.response_characters),
            "multi_turn_rows": self.counts["multi_turn"],
            "repeated_rows": count_repeated(self.fingerprints.pairs),
            "repeated_prompts": count_repeated(self.fingerprints.prompts),
            "unk_answers": self.counts["unk"],
            "brand_answers": self.counts["brand"],
            "attributes": dict(ranked[:MOST_ATTRIBUTES]) if has_attributes else {},
        }
