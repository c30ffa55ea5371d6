"""chat(): the official prompt, its end tokens, and the answer as the official chat() shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import glmtune
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.families.tokenizers import Tokenizer

pytestmark = pytest.mark.numeric

TEXTS = ["你好，你是谁？", "我是助手,今天[[训练时间]]。\n第二行。", "[Round 0]\n\n问：答："]
ANSWERS = {
    "chatglm-6b": ("我是助手,今天[[训练时间]]。\n第二行。", "我是助手，今天2023年。\n第二行。"),
    "chatglm2-6b": ("我是助手,今天[[训练时间]]。\n第二行。", "我是助手,今天2023年。\n第二行。"),
    "chatglm3-6b-base": (
        "\n我是助手,今天[[训练时间]]。\n第二行。",
        "我是助手,今天2023年。\n第二行。",
    ),
    "glm-4-9b": ("\n你好，[[训练时间]]\n第二行", "你好，2023年\n第二行"),
}


class Scripted:
    """In place of a model: says the tokens it was given, whatever it is asked."""

    device = torch.device("cpu")
    prefix_encoder = None

    def __init__(self, ids: list[int]) -> None:
        self.ids = iter(ids)
        self.asked: list[int] = []

    @property
    def transformer(self) -> Scripted:
        return self

    def __call__(self, tokens: torch.Tensor, *_: Any) -> torch.Tensor:
        self.asked = self.asked or tokens[0].tolist()
        hidden = torch.nn.functional.one_hot(torch.tensor(next(self.ids)), 400).float()
        return hidden.expand(*tokens.shape, -1)

    def get_output_embeddings(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def prompt_position_ids(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.arange(ids.shape[1])[None]

    def next_position_ids(self, positions: torch.Tensor) -> torch.Tensor:
        return positions + 1


def tokenizer_of(family: str, folder: Path) -> Tokenizer:
    FAMILIES[family].train_tokenizer(TEXTS, folder, vocab_size=120)
    return load_tokenizer(folder, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_stops_and_looks_as_in_the_official_chat(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(family, tmp_path)
    said, shown = ANSWERS[family]
    history = [("你好，你是谁？", "我是助手。")]
    for stop in tokenizer.stop_token_ids:
        answer = tokenizer.encode(said, add_special_tokens=False)
        model: Any = Scripted([*answer, stop, *answer])
        assert glmtune.chat(model, tokenizer, "你是谁？", history) == shown
        assert model.asked == tokenizer.chat_prompt_ids("你是谁？", history)


def test_chatglm3_also_stops_where_another_role_would_speak(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("chatglm3-6b-base", tmp_path)
    roles = [tokenizer.special_ids[role] for role in ("<|user|>", "<|observation|>")]
    assert set(roles) < set(tokenizer.stop_token_ids)


def test_a_long_answer_is_cut(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("chatglm2-6b", tmp_path)
    ids = tokenizer.encode("你好，你是谁？", add_special_tokens=False)
    model: Any = Scripted(ids)
    assert glmtune.chat(model, tokenizer, "问", max_new_tokens=3) == tokenizer.decode(ids[:3])


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    tokenizer: Any = None
    model: Any = None
    with pytest.raises(TypeError, match="max_length"):
        glmtune.chat(model, tokenizer, "问", max_length=3)  # type: ignore[call-arg]


def test_chat_stays_a_function_once_it_was_used() -> None:
    assert callable(glmtune.chat)
    assert callable(glmtune.chat)
