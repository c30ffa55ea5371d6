"""Generation: the official greedy ids in any batch; drawn answers that can be drawn again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import GOLDEN_FAMILIES, PREFIXES, golden_model, prompt, tiny_model
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from glmtune.errors import WeightsError
from glmtune.families.registry import FAMILIES
from glmtune.generation.batches import Prediction, generate_batches, generate_texts, pad_left
from glmtune.generation.decoding import decode_batch
from glmtune.generation.sampling import Draw, likeliest
from glmtune.generation.settings import GenerationSettings
from glmtune.modeling.prefix import attach_prefix

pytestmark = pytest.mark.numeric

SETTINGS = GenerationSettings(
    seed=1, batch_size=3, max_new_tokens=40, do_sample=False, top_p=0.7, temperature=0.95
)
DRAWN = replace(SETTINGS, do_sample=True, top_p=0.9, max_new_tokens=12)
PROMPTS = [prompt(list(range(5, 5 + length))) for length in (4, 9, 2, 6, 3, 9, 5)]
STOPS = (75, 20, 21, 22, 40, 41)


@dataclass(frozen=True)
class Numbers:
    """A tokenizer whose texts are the ids themselves."""

    pad_token_id: int = 3
    stop_token_ids: tuple[int, ...] = STOPS

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def process_response(self, text: str) -> str:
        return text


def talkative_model(family: str, prefix: bool = False) -> Any:
    """A random model whose answers differ and end: the first family's would repeat itself."""
    model = tiny_model(family)
    torch.manual_seed(0)
    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(torch.randn_like(output.weight))
    if prefix:
        attach_prefix(model, pre_seq_len=3, projection=True, dropout=0.5)
    return model


def by_transformers(model: Any, row: list[int], length: int) -> Prediction:
    ids = torch.tensor([row])
    options = {"max_new_tokens": length, "do_sample": False, "pad_token_id": 3}
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), eos_token_id=list(STOPS), **options
    )
    answer = output[0, len(row) :].tolist()
    finished = answer[-1] in STOPS
    text = Numbers().decode(answer[:-1] if finished else answer)
    return Prediction(text, text, finished)


@pytest.mark.parametrize("prefix", [False, True], ids=["plain", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_batch_size_gives_what_transformers_gives_row_by_row(
    family: str, prefix: bool
) -> None:
    model = talkative_model(family, prefix)
    expected = [by_transformers(model, row, 40) for row in PROMPTS]
    for size in (1, 3, 7):
        settings = replace(SETTINGS, batch_size=size)
        assert generate_texts(model, Numbers(), PROMPTS, settings) == expected
    assert {prediction.finished for prediction in expected} == {True, False}
    assert len({prediction.text for prediction in expected}) > 3


@pytest.mark.parametrize("kind", ["base", *PREFIXES])
@pytest.mark.parametrize("version", GOLDEN_FAMILIES)
def test_greedy_ids_are_those_of_the_official_code(
    reference: Path, version: str, kind: str
) -> None:
    model = golden_model(reference, version, kind)
    cases = json.loads((reference / version / "generate_golden.json").read_text())[kind]
    for case in cases.values():
        input_ids = torch.tensor(case["input_ids"])
        mask = (input_ids != model.config.pad_token_id).long()
        end = model.config.eos_token_id
        answers = decode_batch(
            model,
            input_ids,
            torch.tensor(case.get("attention_mask", mask.tolist())),
            limits=[len(new) for new in case["new_ids"]],
            stop_ids=[end],
            choose=likeliest,
        )
        for answer, expected in zip(answers, case["new_ids"], strict=True):
            ids = [*answer.ids, end] if answer.finished else answer.ids
            assert ids == expected[: len(ids)]
            assert set(expected[len(ids) :]) <= {model.config.pad_token_id}


def test_rows_that_ended_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = talkative_model("chatglm2-6b")
    limits = [2, 9, 4, 6, 3, 8, 5]
    sizes = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda ids, **rest: sizes.append(len(ids)) or forward(ids, **rest)
    )
    settings = replace(SETTINGS, batch_size=7)
    found = generate_texts(model, Numbers(stop_token_ids=()), PROMPTS, settings, limits=limits)
    assert [len(prediction.text.split()) for prediction in found] == limits
    assert sizes == [7, 7, 6, 5, 4, 3, 2, 2, 1]


def test_a_text_is_shown_as_chat_shows_it_beside_what_was_decoded() -> None:
    class Shouting(Numbers):
        def decode(self, ids: list[int]) -> str:
            return f" {super().decode(ids)}\n"

        def process_response(self, text: str) -> str:
            return f"shown:{text}"

    model = talkative_model("chatglm2-6b")
    plain = generate_texts(model, Numbers(), PROMPTS, SETTINGS)
    found = generate_texts(model, Shouting(), PROMPTS, SETTINGS)
    assert [each.decoded for each in found] == [each.decoded for each in plain]
    assert [each.text for each in found] == [f"shown: {each.decoded}\n" for each in plain]


def test_answers_come_in_the_order_of_the_prompts() -> None:
    """Batches are sorted by length; the caller does not notice."""
    model = talkative_model("chatglm2-6b")
    order = (2, 0, 4, 1, 3, 0)
    first = generate_texts(model, Numbers(), PROMPTS, SETTINGS)
    again = generate_texts(model, Numbers(), [PROMPTS[i] for i in order], SETTINGS)
    assert again == [first[i] for i in order]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_ends_at_any_stop_token_and_is_cut_at_the_limit(family: str) -> None:
    model = talkative_model(family)
    settings = replace(SETTINGS, max_new_tokens=7)
    whole = generate_texts(model, Numbers(stop_token_ids=()), PROMPTS, settings)
    assert not any(prediction.finished for prediction in whole)
    ends = {
        prediction.text.split()[place] for prediction, place in zip(whole, (2, 4), strict=False)
    }
    stops = tuple(map(int, ends))
    cut = generate_texts(model, Numbers(stop_token_ids=stops), PROMPTS, settings)
    for before, after in zip(whole, cut, strict=True):
        tokens = before.text.split()
        places = [place for place, token in enumerate(tokens) if token in ends]
        expected = tokens[: places[0]] if places else tokens
        assert after == Prediction(" ".join(expected), " ".join(expected), bool(places))
    assert {prediction.finished for prediction in cut} == {True, False}


def test_prompts_that_were_answered_are_left_out_batch_by_batch() -> None:
    """A batch is answered whole or not at all: in half precision its make-up can be seen."""
    model = talkative_model("chatglm2-6b")
    every = list(generate_batches(model, Numbers(), PROMPTS, DRAWN))
    assert [sorted(batch) for batch in every] == [[1, 3, 5], [0, 4, 6], [2]]
    left = list(generate_batches(model, Numbers(), PROMPTS, DRAWN, answered={1, 3, 5, 0, 4}))
    assert left == every[1:]
    assert list(generate_batches(model, Numbers(), PROMPTS, DRAWN, answered=range(7))) == []


# --- Sampling --------------------------------------------------------------------------------


def test_a_drawn_answer_depends_on_seed_and_number_only() -> None:
    model = talkative_model("chatglm2-6b")
    alone = generate_texts(model, Numbers(), PROMPTS, replace(DRAWN, batch_size=1))
    for size in (3, 7):
        assert generate_texts(model, Numbers(), PROMPTS, replace(DRAWN, batch_size=size)) == alone
    # Prompts 1 and 5 are the same; nothing drawn elsewhere in between changes them.
    assert alone[1] != alone[5]
    assert generate_texts(model, Numbers(), PROMPTS[:2], DRAWN) == alone[:2]
    assert generate_texts(model, Numbers(), PROMPTS, replace(DRAWN, seed=2)) != alone


@pytest.mark.parametrize(("temperature", "top_p"), [(0.95, 0.7), (2.0, 1.0), (0.5, 0.95)])
def test_tokens_are_drawn_as_often_as_transformers_would(temperature: float, top_p: float) -> None:
    torch.manual_seed(3)
    logits = 2 * torch.randn(1, 60)
    warped = LogitsProcessorList(
        [TemperatureLogitsWarper(temperature), TopKLogitsWarper(50), TopPLogitsWarper(top_p)]
    )(torch.zeros(1, 1, dtype=torch.long), logits)
    expected = warped.softmax(dim=-1)[0]
    rows = 20_000
    settings = replace(DRAWN, seed=7, temperature=temperature, top_p=top_p)
    draw = Draw.for_rows(range(rows), 1, settings)
    counts = Counter(draw(logits.expand(rows, -1), range(rows), 0).tolist())
    found = torch.tensor([counts[token] / rows for token in range(60)])
    assert not found[expected == 0].any()
    error = (expected * (1 - expected) / rows).sqrt()  # of a binomial share
    assert ((found - expected).abs() <= 4.5 * error + 1e-9).all()


def test_the_highest_chance_draws_a_token_that_may_be_drawn() -> None:
    logits = torch.tensor([[0.0, 0.1, -9.0, 0.2, -9.0]])
    draw = Draw(torch.tensor([[1.0], [0.0]]), temperature=1.0, top_p=0.9)
    assert draw(logits, [0], 0).tolist() == [0]
    assert draw(logits, [1], 0).tolist() == [3]


def test_scores_that_are_no_numbers_are_told_and_no_nonsense_is_written() -> None:
    model = tiny_model("chatglm2-6b")
    model.get_output_embeddings().weight.data[0] = float("nan")
    with pytest.raises(WeightsError, match="scores for the next token are not numbers"):
        generate_texts(model, Numbers(), PROMPTS, SETTINGS)


def test_prompts_are_padded_on_the_left() -> None:
    input_ids, attention_mask = pad_left([[5], [6, 7]], pad_token_id=3)
    assert input_ids.tolist() == [[3, 5], [6, 7]]
    assert attention_mask.tolist() == [[0, 1], [1, 1]]
