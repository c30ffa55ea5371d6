"""The registry of ChatGLM and GLM-4 families that this project fine-tunes."""

from __future__ import annotations

from glmtune.errors import ParamsError
from glmtune.families import chatglm, chatglm2, chatglm3, glm4
from glmtune.families.family import Family
from glmtune.families.tokenizers import (
    ChatGLM2Tokenizer,
    ChatGLM3Tokenizer,
    ChatGLMTokenizer,
    GLM4Tokenizer,
)

FAMILIES: dict[str, Family] = {
    "chatglm-6b": Family(
        name="chatglm-6b",
        title="ChatGLM-6B",
        tokenizer_class=ChatGLMTokenizer,
        templates=chatglm.TEMPLATES,
        train_tokenizer=chatglm.train_tokenizer,
        real_config=chatglm.REAL_CONFIG,
        miniature_config=chatglm.miniature_config,
    ),
    "chatglm2-6b": Family(
        name="chatglm2-6b",
        title="ChatGLM2-6B",
        tokenizer_class=ChatGLM2Tokenizer,
        templates=chatglm2.TEMPLATES,
        train_tokenizer=chatglm2.train_tokenizer,
        real_config=chatglm2.REAL_CONFIG,
        miniature_config=chatglm2.miniature_config,
        interpolates_positions=True,
    ),
    "chatglm3-6b-base": Family(
        name="chatglm3-6b-base",
        title="ChatGLM3-6B-Base",
        tokenizer_class=ChatGLM3Tokenizer,
        templates=chatglm3.TEMPLATES,
        train_tokenizer=chatglm3.train_tokenizer,
        real_config=chatglm3.REAL_CONFIG,
        miniature_config=chatglm3.miniature_config,
        # openai_api_demo of ChatGLM3.
        tools_introduction=(
            "Answer the following questions as best as you can. "
            "You have access to the following tools:"
        ),
    ),
    "glm-4-9b": Family(
        name="glm-4-9b",
        title="GLM-4-9B",
        tokenizer_class=GLM4Tokenizer,
        templates=glm4.TEMPLATES,
        train_tokenizer=glm4.train_tokenizer,
        real_config=glm4.REAL_CONFIG,
        miniature_config=glm4.miniature_config,
        other_vocabulary="tokenizer.json",
    ),
}


def get_family(name: str) -> Family:
    """The family of that name; ParamsError lists the choices."""
    if name not in FAMILIES:
        raise ParamsError(f"unknown family {name!r}; choose from {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
