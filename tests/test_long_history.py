"""Long conversations: the oldest turns are dropped and counted, the question and tools stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest

from glmtune.families.encoding import encode_example, encode_prompts
from glmtune.families.family import Template
from glmtune.families.loading import load_tokenizer
from glmtune.families.long_history import LONG_HISTORY, shorten_history
from glmtune.families.registry import FAMILIES
from glmtune.labels import IGNORED_LABEL
from glmtune.params.models import ParamsFile

TEMPLATES = [(name, template) for name, family in FAMILIES.items() for template in family.templates]
QUESTION, ANSWER = "这条裙子是什么颜色", "红色。"
TOOLS = {"role": "system", "content": "简短。", "tools": [{"name": "clock"}]}
NEVER, ALWAYS = (lambda row: False), (lambda row: True)


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def turns(*numbers: int) -> list[dict[str, str]]:
    """Distinguishable turns: numbered questions and answers."""
    return [said(r, f"{n}{r}") for n in numbers for r in ("user", "assistant")]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("vocabularies")
    texts = [QUESTION, ANSWER, "简短。", *(f"{n}userassistant" for n in range(10))]
    for name, family in FAMILIES.items():
        family.train_tokenizer(texts, folder / name, vocab_size=60)
    return {name: load_tokenizer(folder / name) for name in FAMILIES}


def limits_of(template: Template, tokenizer: Any, history: Sequence[Any]) -> dict[str, int]:
    """The smallest limit that fits a prompt with this history."""
    row = {"content": QUESTION, "summary": ANSWER, "history": history}
    wide: Any = {"max_source_tokens": 9999, "max_target_tokens": 99, "long_history": "official"}
    example = encode_example(template, tokenizer, row, **wide)
    return {"max_source_tokens": example.prompt_tokens}


# --- Dropped turns -------------------------------------------------------------------------------


def test_a_row_that_fits_or_has_no_turn_to_drop_is_unchanged() -> None:
    row = {"content": QUESTION, "history": turns(1)}
    assert shorten_history(row, ALWAYS) is row
    for alone in ({"content": QUESTION}, {"content": QUESTION, "history": [TOOLS]}):
        assert shorten_history(alone, NEVER) is alone


@pytest.mark.parametrize("most", range(6))
def test_as_many_of_the_latest_turns_as_fit_are_kept(most: int) -> None:
    row = {"content": QUESTION, "history": turns(1, 2, 3, 4, 5, 6)}
    short = shorten_history(row, lambda row: len(row["history"]) <= 2 * most)
    assert short == {"content": QUESTION, "history": turns(*range(7 - most, 7))}
    assert len(row["history"]) == 12


def test_pairs_are_turns_too() -> None:
    row = {"content": QUESTION, "history": [[f"{n}user", f"{n}assistant"] for n in (1, 2, 3)]}
    short = shorten_history(row, lambda row: len(row["history"]) <= 2)
    assert short["history"] == turns(3)


def test_system_messages_are_always_kept() -> None:
    later = said("system", "later")
    row = {"content": QUESTION, "history": [TOOLS, *turns(1), later, *turns(2)]}
    assert shorten_history(row, NEVER)["history"] == [TOOLS, later]


def test_a_call_and_its_observation_are_dropped_with_their_question() -> None:
    used = [said("user", "q"), said("assistant", "call"), said("observation", "o")]
    row = {"content": QUESTION, "history": [*used, said("assistant", "a"), *turns(2)]}
    short = shorten_history(row, lambda row: len(row["history"]) <= 3)
    assert short["history"] == turns(2)


def test_the_question_before_an_observation_is_kept() -> None:
    asked = [said("user", QUESTION), said("assistant", "call")]
    row = {"content": "o", "role": "observation", "history": [TOOLS, *turns(1, 2), *asked]}
    assert shorten_history(row, NEVER)["history"] == [TOOLS, *asked]
    short = {"content": "o", "role": "observation", "history": asked}
    assert shorten_history(short, NEVER) is short


# --- Tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family_name", "name"), TEMPLATES)
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_the_question_survives_with_the_turns_that_fit(
    tokenizers: dict[str, Any], family_name: str, name: str, kept: int
) -> None:
    tokenizer, template = tokenizers[family_name], FAMILIES[family_name].template(name)
    system, history = said("system", "简短。"), turns(1, 2, 3, 4, 5)
    latest = [system, *history[len(history) - 2 * kept :]]
    limits: Any = limits_of(template, tokenizer, latest) | {"long_history": "shorten"}
    row = {"content": QUESTION, "summary": ANSWER}
    long, short = row | {"history": [system, *history]}, row | {"history": latest}

    ours, expected = encode_prompts(template, tokenizer, [long, short], **limits)
    assert (ours.is_shortened, expected.is_shortened) == (True, False)
    assert ours.ids == expected.ids
    assert QUESTION in tokenizer.decode(ours.ids)

    limits["max_target_tokens"] = 99
    cut, fitting = (encode_example(template, tokenizer, r, **limits) for r in (long, short))
    assert (cut.history_is_shortened, cut.prompt_is_cut) == (True, False)
    assert (cut.input_ids, cut.labels) == (fitting.input_ids, fitting.labels)
    assert cut.prompt_tokens > limits["max_source_tokens"]


@pytest.mark.parametrize(("family_name", "name"), TEMPLATES)
def test_official_truncation_is_the_templates_and_loses_the_question(
    tokenizers: dict[str, Any], family_name: str, name: str
) -> None:
    tokenizer, template = tokenizers[family_name], FAMILIES[family_name].template(name)
    history = turns(1, 2, 3, 4, 5)
    row = {"content": QUESTION, "summary": ANSWER, "history": history}
    limits: Any = limits_of(template, tokenizer, history[:2])
    (prompt,) = encode_prompts(template, tokenizer, [row], **limits, long_history="official")
    assert prompt.ids == template.encode_prompt(tokenizer, QUESTION, history, **limits)
    assert not prompt.is_shortened
    assert QUESTION not in tokenizer.decode(prompt.ids)


@pytest.mark.parametrize(("family_name", "name"), TEMPLATES)
def test_a_question_that_is_too_long_itself_is_truncated_as_without_history(
    tokenizers: dict[str, Any], family_name: str, name: str
) -> None:
    tokenizer, template = tokenizers[family_name], FAMILIES[family_name].template(name)
    limits: Any = {"max_source_tokens": 12, "max_target_tokens": 20, "long_history": "shorten"}
    alone = {"content": QUESTION * 9, "summary": ANSWER}
    ours, expected = (
        encode_example(template, tokenizer, row, **limits)
        for row in (alone | {"history": turns(1, 2)}, alone)
    )
    assert (ours.input_ids, ours.labels) == (expected.input_ids, expected.labels)
    assert (ours.prompt_is_cut, ours.history_is_shortened) == (True, True)
    assert (expected.prompt_is_cut, expected.history_is_shortened) == (True, False)


def test_chatglm3_learns_every_remaining_answer(tokenizers: dict[str, Any]) -> None:
    tokenizer, template = tokenizers["chatglm3-6b-base"], FAMILIES["chatglm3-6b-base"].template()
    history = turns(1, 2, 3)
    limits: Any = limits_of(template, tokenizer, history[2:]) | {"max_target_tokens": 99}
    row = {"content": QUESTION, "summary": ANSWER, "history": history}
    example = encode_example(template, tokenizer, row, **limits, long_history="shorten")
    learned = tokenizer.decode([label for label in example.labels if label != IGNORED_LABEL])
    assert [text in learned for text in ("1assistant", "2assistant", "3assistant", ANSWER)] == [
        *(False, True, True, True)
    ]


def test_params_yaml_has_the_same_choices() -> None:
    assert get_args(ParamsFile.model_fields["long_history"].annotation) == LONG_HISTORY
