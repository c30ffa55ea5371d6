"""What miniatures are pre-trained on, and the vocabulary that goes with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmtune.families import get_family
from glmtune.grammar import pretraining_rows, set_off_values
from glmtune.sources import vocabulary_files
from glmtune.vocabulary import WORD_BREAK


def corpus(settings: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of `Params.model_settings`: listings, ad copy, general questions."""
    miniature = settings["miniature"]
    return list(
        pretraining_rows(
            miniature["rows"],
            literal_share=miniature["literal_share"],
            general_share=miniature["general_share"],
            seed=settings["seed"],
        )
    )


def write_vocabulary(settings: Mapping[str, Any], folder: Path) -> None:
    """Put the vocabulary that settings name into `folder`, or train one on the corpus."""
    given = vocabulary_files(settings)
    for path in given:
        shutil.copyfile(path, folder / path.name)
    if given:
        return
    # No piece may join a value with its neighbours ("是白色", "白色的"): the prompt's pieces would not
    # be the answer's, and there would be nothing to copy.
    texts = (set_off_values(text, WORD_BREAK) for row in corpus(settings) for text in row.values())
    family = get_family(settings["generation"])
    family.train_tokenizer(texts, folder, vocab_size=settings["miniature"]["vocab_size"])
