"""The pre-training corpus of miniatures, and the vocabulary that belongs to it."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

from glmtune.checkpoints.sources import vocabulary_files
from glmtune.families.registry import get_family
from glmtune.families.vocabulary import WORD_BREAK
from glmtune.files import write_json
from glmtune.miniatures.settings import MiniatureSettings, ModelSettings
from glmtune.synthetic.grammar import pretraining_rows, set_off_values


def corpus(settings: ModelSettings) -> tuple[dict[str, str], ...]:
    """The pre-training rows for `settings`: listings, ad copy, general questions."""
    assert settings.miniature is not None, f"{settings.source} has a corpus"
    return _drawn(settings.miniature, settings.seed)


@lru_cache(maxsize=1)  # both the vocabulary and the weights are trained on it
def _drawn(miniature: MiniatureSettings, seed: int) -> tuple[dict[str, str], ...]:
    return tuple(
        pretraining_rows(
            miniature.rows,
            literal_share=miniature.literal_share,
            general_share=miniature.general_share,
            seed=seed,
        )
    )


def write_vocabulary(settings: ModelSettings, folder: Path) -> None:
    """Copy the vocabulary that `settings` name into `folder`, or train one on the corpus."""
    family = get_family(settings.family)
    given = vocabulary_files(settings.tokenizer)
    if given:
        # A vocabulary alone does not reveal its family: ChatGLM2 and 3 have the same one.
        write_json(folder / "tokenizer_config.json", {"name_or_path": f"glmtune/{family.name}"})
        for path in given:
            is_official = path.suffix == ".model"
            name = family.tokenizer_class.file_name if is_official else path.name
            shutil.copyfile(path, folder / name)
        return
    assert settings.miniature is not None, "no vocabulary is given"
    # No piece may join a value with its neighbors ("是米白", "米白，"): the prompt's pieces would
    # then differ from the answer's, and there would be nothing to copy.
    texts = (set_off_values(text, WORD_BREAK) for row in corpus(settings) for text in row.values())
    family.train_tokenizer(texts, folder, vocab_size=settings.miniature.vocab_size)
