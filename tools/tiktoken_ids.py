"""The ids that tiktoken, which GLM-4's official code uses, gives with a vocabulary of our own.

`pip install tiktoken`, then `python tools/tiktoken_ids.py` writes tests/fixtures/glm4, and with
`--check` fails if the ids there differ.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.families.byte_vocabulary import (  # noqa: E402
    PATTERN,
    Ranks,
    ranks_as_lines,
    read_ranks,
    train_ranks,
)
from glmtune.synthetic.grammar import pretraining_rows  # noqa: E402

FOLDER = ROOT / "tests" / "fixtures" / "glm4"
ENGLISH = "It's the first of the words that I've seen, and they're what we'll use: 12345 times!"
# Characters of which random texts are made: what the pattern treats differently.
ALPHABET = [*"ab的裙1٣ \t\n\r'sS-=。，_", "  ", "'ll", "ſ", "\u3000", "\u0301", "😀", "\u200d", "ﷺ"]


def encoding(ranks: Ranks) -> Any:
    """The tiktoken library's own tokenizer with these ranks, as the official code makes it."""
    import tiktoken

    return tiktoken.Encoding(
        "glm4", pat_str=PATTERN, mergeable_ranks=dict(ranks), special_tokens={}
    )


def texts() -> list[str]:
    """Rows of the grammar, code, and random texts of awkward characters."""
    rows = pretraining_rows(20, literal_share=0.5, general_share=0.2, seed=1)
    drawn = random.Random(0)
    awkward = ("".join(drawn.choices(ALPHABET, k=drawn.randint(1, 30))) for _ in range(200))
    code = "def f(x):\n\treturn x  # 注释\n\n\n    pass\r\n"
    return [ENGLISH, code, *(text for row in rows for text in row.values()), *awkward]


def main() -> None:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args()
    vocabulary, golden = FOLDER / "tokenizer.model", FOLDER / "tiktoken_ids.json"
    if not flags.check:
        vocabulary.write_bytes(ranks_as_lines(train_ranks(texts(), pieces=700)))
    theirs = encoding(read_ranks(vocabulary))
    found = [{"text": text, "ids": theirs.encode_ordinary(text)} for text in texts()]
    content = json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n"
    if not flags.check:
        golden.write_text(content, encoding="utf-8")
    elif golden.read_text(encoding="utf-8") != content:
        sys.exit(f"{golden}: tiktoken gives other ids")


if __name__ == "__main__":
    main()
