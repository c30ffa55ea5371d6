"""What miniatures are pre-trained on, and the vocabulary that goes with it."""

from __future__ import annotations

import shutil
from pathlib import Path

from glmtune.checkpoints.sources import vocabulary_files
from glmtune.families.registry import get_family
from glmtune.families.vocabulary import WORD_BREAK
from glmtune.files import write_json
from glmtune.miniatures.settings import ModelSettings
from glmtune.synthetic.grammar import pretraining_rows, set_off_values


def corpus(settings: ModelSettings) -> list[dict[str, str]]:
    """The rows that settings ask for: listings, ad copy, general questions."""
    miniature = settings.miniature
    assert miniature is not None, f"{settings.source} has a corpus"
    return list(
        pretraining_rows(
            miniature.rows,
            literal_share=miniature.literal_share,
            general_share=miniature.general_share,
            seed=settings.seed,
        )
    )


def write_vocabulary(settings: ModelSettings, folder: Path) -> None:
    """Put the vocabulary that settings name into `folder`, or train one on the corpus."""
    family = get_family(settings.family)
    given = vocabulary_files(settings.tokenizer)
    if given:
        # A vocabulary by itself does not say whose it is: ChatGLM2 and 3 have the same.
        write_json(folder / "tokenizer_config.json", {"name_or_path": f"glmtune/{family.name}"})
        for path in given:
            is_vocabulary = path.suffix == ".model"
            name = family.tokenizer_class.file_name if is_vocabulary else path.name
            shutil.copyfile(path, folder / name)
        return
    assert settings.miniature is not None, "no vocabulary is given"
    # No piece may join a value with its neighbours ("是米白", "米白，"): the prompt's pieces would
    # not be the answer's, and there would be nothing to copy.
    texts = (set_off_values(text, WORD_BREAK) for row in corpus(settings) for text in row.values())
    family.train_tokenizer(texts, folder, vocab_size=settings.miniature.vocab_size)
