"""Normalizes texts so that those a reader considers the same are equal in any vocabulary.

ChatGLM-6B's vocabulary cannot produce full-width punctuation (it normalizes by NFKC) and has
special tokens for line breaks, tabs and runs of spaces; those of ChatGLM2 and ChatGLM3 keep every
character. Without normalization, differences of vocabularies would count as differences of answers.
"""

from __future__ import annotations

import re
import unicodedata

# 10² is not 102, and 2½ is not 21⁄2: these characters stay unchanged after a digit.
_NUMBER_BEHIND_DIGIT = re.compile(r"((?<=\d)[¹²³¼-¾⁰⁴-⁹₀-₉⅐-⅟↉①-⒛]+)")
# Control characters; tab, line feed, form feed and carriage return are whitespace.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]")
# ChatGLM-6B's whitespace tokens, zero-width characters, and sentencepiece's mark for a space.
_WHITE_SPACE = re.compile(r"<n>|<\|tab\|>|<\|blank_\d+\|>|[\u200b-\u200f\ufeff\u2581]")


def normal_form(text: str) -> str:
    """The text in NFKC, with each run of whitespace as one space.

    Case, wording and the choice of marks (“ or ", 。 or .) stay, since readers see them.
    Example: "Ｔ恤，好！<n>（纯棉）" -> "T恤,好! (纯棉)" and "10²" -> "10²"
    """
    parts = _NUMBER_BEHIND_DIGIT.split(text)
    parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
    visible = _INVISIBLE.sub("", "".join(parts))
    return " ".join(_WHITE_SPACE.sub(" ", visible).split())
