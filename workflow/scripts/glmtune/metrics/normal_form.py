"""One form for two texts that a reader would call the same, whichever vocabulary wrote them.

ChatGLM-6B's vocabulary cannot write full-width punctuation (it normalizes by NFKC) and has tokens
of its own for line breaks, tabs and runs of blanks; those of ChatGLM2 and ChatGLM3 keep every
character. Without one form a difference of vocabularies would count as a difference of answers.
"""

from __future__ import annotations

import re
import unicodedata

# 10² is not 102, nor is 2½ 21⁄2: behind a digit these stay what they are.
_NUMBER_BEHIND_DIGIT = re.compile(r"((?<=\d)[¹²³¼-¾⁰⁴-⁹₀-₉⅐-⅟↉①-⒛]+)")
# Controls without a glyph; tab, line feed, form feed and carriage return are white space.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]")
# ChatGLM-6B's names of white space, zero-width characters, and sentencepiece's mark of a blank.
_WHITE_SPACE = re.compile(r"<n>|<\|tab\|>|<\|blank_\d+\|>|[\u200b-\u200f\ufeff\u2581]")


def normal_form(text: str) -> str:
    """The text in compatibility characters (NFKC), with each run of white space as one blank.

    Letter case, wording and the choice of marks (“ or ", 。 or .) stay: a reader sees those.
    Example: "Ｔ恤，好！<n>（纯棉）" -> "T恤,好! (纯棉)" and "10²" -> "10²"
    """
    parts = _NUMBER_BEHIND_DIGIT.split(text)
    parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
    visible = _INVISIBLE.sub("", "".join(parts))
    return " ".join(_WHITE_SPACE.sub(" ", visible).split())
