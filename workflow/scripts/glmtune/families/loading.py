"""Loads the tokenizer of a model folder.

    load_tokenizer(folder)    -> the tokenizer of the folder's family
    detect_family(folder)     -> the name of its family, a key of FAMILIES

The tokenizers themselves are in `glmtune.families.tokenizers`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from glmtune.errors import WeightsError
from glmtune.families.byte_vocabulary import is_ranks_file
from glmtune.families.registry import get_family
from glmtune.families.tokenizers import ChatGLMTokenizer, GLM4Tokenizer, Tokenizer
from glmtune.families.vocabulary import read_optional_config

# The vocabulary size of ChatGLM-6B's first release, whose ids begin with 20000 image tokens.
IMAGE_TOKEN_VOCABULARY = 150528
# The digit in a model's name -> its family.
FAMILY_OF = {"2": "chatglm2-6b", "3": "chatglm3-6b-base", "4": "glm-4-9b"}


def load_tokenizer(path: Path | str, family: str | None = None) -> Tokenizer:
    """Load the tokenizer of an official model folder; WeightsError if it is unusable.

    `path` may also be the vocabulary file itself. `family` is a key of FAMILIES; None detects it
    from the folder.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    family = family or detect_family(folder)
    tokenizer_class = get_family(family).tokenizer_class
    if tokenizer_class is ChatGLMTokenizer:
        refuse_first_release(folder)
    file = path if path.is_file() else vocabulary_file(folder, family)
    if tokenizer_class is not GLM4Tokenizer and file.is_file() and is_ranks_file(file):
        raise WeightsError(
            f"{file}: a vocabulary of GLM-4; expected that of {get_family(family).title}; "
            "use family glm-4-9b, or the vocabulary of the model's own folder"
        )
    return tokenizer_class.from_file(file)


def vocabulary_file(folder: Path, family: str) -> Path:
    """The vocabulary in a model folder: the official file, unless only the family's other is there.

    It need not exist.
    """
    described = get_family(family)
    official = folder / described.tokenizer_class.file_name
    if described.other_vocabulary is None or official.is_file():
        return official
    other = folder / described.other_vocabulary
    return other if other.is_file() else official


def detect_family(folder: Path | str) -> str:
    """Detect the family of a model folder, a key of FAMILIES; WeightsError if it is ambiguous.

    Checks the vocabulary's file name and form, then tokenizer_config.json, config.json and the
    folder's name. Chat and Base variants are one family.
    """
    folder = Path(folder)
    if (folder / ChatGLMTokenizer.file_name).is_file():
        return "chatglm-6b"
    vocabulary = vocabulary_file(folder, "glm-4-9b")
    if not vocabulary.is_file():
        raise WeightsError(
            f"{folder}: no vocabulary; expected ice_text.model (ChatGLM-6B), tokenizer.model "
            "(ChatGLM2-6B, ChatGLM3-6B, GLM-4-9B) or tokenizer.json (GLM-4-9B of transformers); "
            "download the whole model folder, or copy the vocabulary and tokenizer_config.json of "
            "its base model into it"
        )
    if vocabulary.suffix == ".json" or is_ranks_file(vocabulary):
        return "glm-4-9b"
    tokenizer_config = read_optional_config(folder / "tokenizer_config.json")
    names = (
        tokenizer_config.get("name_or_path"),
        tokenizer_config.get("tokenizer_class"),  # ChatGLM4Tokenizer; the others' has no number
        # After re-saving with transformers the name may be missing, but role tokens are listed.
        "chatglm3" if "<|user|>" in json.dumps(tokenizer_config) else None,
        read_optional_config(folder / "config.json").get("_name_or_path"),
        folder.resolve().name,
    )
    for name in names:
        if found := re.findall(r"chatglm[23]|glm-?4", str(name), re.IGNORECASE):
            return FAMILY_OF[found[-1][-1]]
    raise WeightsError(
        f"{folder}: ChatGLM2-6B or ChatGLM3-6B? tokenizer.model is the same for both, and neither "
        "tokenizer_config.json nor config.json names the model; "
        'write "name_or_path": "chatglm2-6b" or "chatglm3-6b" into tokenizer_config.json'
    )


def refuse_first_release(folder: Path) -> None:
    """Raise WeightsError for ChatGLM-6B's first release, whose ids are shifted by 20000."""
    image_tokens = read_optional_config(folder / "tokenizer_config.json").get("num_image_tokens", 0)
    vocab_size = read_optional_config(folder / "config.json").get("vocab_size")
    if image_tokens or vocab_size == IMAGE_TOKEN_VOCABULARY:
        raise WeightsError(
            f"{folder}: the first release of ChatGLM-6B (vocabulary {vocab_size}, {image_tokens} "
            "image tokens); expected the current one (vocabulary 130528, no image tokens); "
            "download the current revision of THUDM/chatglm-6b"
        )
