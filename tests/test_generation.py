"""Generation: batches change nothing, rows keep their order, answers end where they end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tiny_models import prompt, tiny_model

from glmtune.families import FAMILIES
from glmtune.generation import Prediction, generate_texts, pad_left
from glmtune.prefix import attach_prefix

SETTINGS = {
    "seed": 1,
    "batch_size": 3,
    "max_new_tokens": 7,
    "do_sample": False,
    "top_p": 0.7,
    "temperature": 0.95,
}
PROMPTS = [prompt(list(range(5, 5 + length))) for length in (4, 9, 2, 6, 3)]


@dataclass(frozen=True)
class Numbers:
    """A tokenizer whose texts are the ids themselves."""

    pad_token_id: int = 3
    eos_token_id: int = 75

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize("generation", FAMILIES)
def test_a_batch_answers_as_single_rows_do(generation: str) -> None:
    model = tiny_model(generation)
    # The first generation's output layer is its embedding: a random model repeats itself for ever.
    torch.manual_seed(0)
    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(torch.randn_like(output.weight))
    alone = [generate_texts(model, Numbers(), [row], SETTINGS)[0] for row in PROMPTS]
    for size in (2, 3, 5):
        assert generate_texts(model, Numbers(), PROMPTS, SETTINGS | {"batch_size": size}) == alone
    assert len({prediction.text for prediction in alone}) > 1


@pytest.mark.parametrize("generation", FAMILIES)
def test_a_tuned_prefix_answers_in_a_batch_as_alone(generation: str) -> None:
    model = tiny_model(generation)
    attach_prefix(model, pre_seq_len=3, dropout=0.5)
    alone = [generate_texts(model, Numbers(), [row], SETTINGS)[0] for row in PROMPTS]
    assert generate_texts(model, Numbers(), PROMPTS, SETTINGS) == alone


def test_answers_come_in_the_order_of_the_prompts() -> None:
    """Batches are sorted by length; the caller does not notice."""
    model = tiny_model("chatglm2-6b")
    prompts = [PROMPTS[i] for i in (2, 0, 4, 1, 3, 0)]
    first = generate_texts(model, Numbers(), PROMPTS, SETTINGS)
    again = generate_texts(model, Numbers(), prompts, SETTINGS)
    assert again == [first[i] for i in (2, 0, 4, 1, 3, 0)]


@pytest.mark.parametrize("generation", FAMILIES)
def test_a_row_that_ended_waits_for_the_others_without_changing(generation: str) -> None:
    """Its end token is the third token of one greedy answer, so that this row ends earlier."""
    model = tiny_model(generation)
    torch.manual_seed(0)
    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(torch.randn_like(output.weight))
    whole = generate_texts(model, Numbers(eos_token_id=79), PROMPTS, SETTINGS)
    end = int(whole[0].text.split()[2])
    cut = generate_texts(model, Numbers(eos_token_id=end), PROMPTS, SETTINGS)
    for before, after in zip(whole, cut, strict=True):
        tokens = before.text.split()
        expected = tokens[: tokens.index(str(end))] if str(end) in tokens else tokens
        assert after == Prediction(" ".join(expected), str(end) in tokens)
    assert cut[0].finished
    assert not all(prediction.finished for prediction in cut)


def test_an_answer_ends_at_the_end_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("chatglm2-6b")
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **_: torch.tensor([[*input_ids[0], 8, 75, 9, 9]])
    )
    (prediction,) = generate_texts(model, Numbers(), PROMPTS[:1], SETTINGS)
    assert (prediction.text, prediction.finished) == ("8", True)


def test_a_cut_answer_is_not_finished() -> None:
    predictions = generate_texts(
        tiny_model("chatglm2-6b"), Numbers(), PROMPTS, SETTINGS | {"max_new_tokens": 1}
    )
    assert any(not prediction.finished for prediction in predictions)


def test_sampling_is_the_same_with_the_same_seed_and_another_with_another() -> None:
    model = tiny_model("chatglm2-6b")
    sampled = [
        generate_texts(
            model, Numbers(), PROMPTS, SETTINGS | {"do_sample": True, "top_p": 1.0, "seed": seed}
        )
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_prompts_are_padded_on_the_left() -> None:
    input_ids, attention_mask = pad_left([[5], [6, 7]], pad_token_id=3)
    assert input_ids.tolist() == [[3, 5], [6, 7]]
    assert attention_mask.tolist() == [[0, 1], [1, 1]]
