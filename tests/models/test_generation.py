"""Generation: the official greedy ids in any batch; drawn answers that can be drawn again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import ALL_LINEARS, tuned_adapter
from tiny_models import GOLDEN_FAMILIES, PREFIXES, golden_model, prompt, tiny_model
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from glmtune.checkpoints.adapters import load_adapter
from glmtune.errors import WeightsError
from glmtune.families.registry import FAMILIES
from glmtune.generation.answer_log import Answer
from glmtune.generation.batches import generate_groups, generate_texts
from glmtune.generation.engine import Engine, Request
from glmtune.generation.sampling import Candidates, Sampler, sample, top_candidates
from glmtune.generation.settings import GenerationSettings
from glmtune.modeling import packing
from glmtune.modeling.packing import PackedLinear, pack_linears
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


numbers: Any = Numbers  # generation asks for one of our tokenizers, and needs no more than this


def talkative_model(family: str, prefix: bool = False) -> Any:
    """A random model whose answers differ and end: the first family's would repeat itself."""
    model = tiny_model(family)
    torch.manual_seed(0)
    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(torch.randn_like(output.weight))
    if prefix:
        attach_prefix(model, pre_seq_len=3, projection=True, dropout=0.5)
    return model


def by_transformers(model: Any, row: list[int], length: int) -> Answer:
    ids = torch.tensor([row])
    options = {"max_new_tokens": length, "do_sample": False, "pad_token_id": 3}
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), eos_token_id=list(STOPS), **options
    )
    answer = output[0, len(row) :].tolist()
    finished = answer[-1] in STOPS
    text = Numbers().decode(answer[:-1] if finished else answer)
    return Answer(text, text, finished)


@pytest.mark.parametrize("prefix", [False, True], ids=["plain", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_batch_size_gives_what_transformers_gives_row_by_row(
    family: str, prefix: bool
) -> None:
    model = talkative_model(family, prefix)
    expected = [by_transformers(model, row, 40) for row in PROMPTS]
    for size in (1, 3, 7):
        settings = replace(SETTINGS, batch_size=size)
        assert generate_texts(model, numbers(), PROMPTS, settings) == expected
    assert {answer.finished for answer in expected} == {True, False}
    assert len({answer.text for answer in expected}) > 3


@pytest.mark.parametrize("kind", ["base", *PREFIXES])
@pytest.mark.parametrize("version", GOLDEN_FAMILIES)
def test_greedy_ids_are_those_of_the_official_code(
    reference: Path, version: str, kind: str
) -> None:
    model = golden_model(reference, version, kind)
    cases = json.loads((reference / version / "generate_golden.json").read_text())[kind]
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    for case in cases.values():
        rows = torch.tensor(case["input_ids"])
        mask = torch.tensor(case.get("attention_mask", (rows != pad).long().tolist())).bool()
        prompts = [row[real].tolist() for row, real in zip(rows, mask, strict=True)]
        limits = [len(new) for new in case["new_ids"]]
        found = run_engine(model, prompts, limits, stop_ids=[end])
        for ids, expected in zip(found, case["new_ids"], strict=True):
            assert ids == expected[: len(ids)]
            assert set(expected[len(ids) :]) <= {pad}


def run_engine(
    model: Any, prompts: list[list[int]], limits: list[int], *, stop_ids: Any = (), slots: int = 8
) -> list[list[int]]:
    """The tokens of each prompt, a stop token among them."""
    engine = Engine(model, slots=slots)
    found: dict[int, list[int]] = {}
    for ids, limit in zip(prompts, limits, strict=True):
        found[engine.add(Request(ids, limit, stop_ids))] = []
    while engine.is_busy:
        for event in engine.step():
            found[event.row].append(event.token)
    return list(found.values())


def test_rows_join_as_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    model = talkative_model("chatglm2-6b")
    limits = [2, 9, 4, 6, 3, 8, 5]
    sizes = []
    forward = model.transformer.forward

    def watched(ids: torch.Tensor, *rest: Any) -> Any:
        sizes.append(tuple(ids.shape))
        return forward(ids, *rest)

    monkeypatch.setattr(model.transformer, "forward", watched)
    found = run_engine(model, PROMPTS, limits, slots=4)
    assert [len(ids) for ids in found] == limits
    joining = [shape for shape in sizes if shape[1] > 1]
    running = [rows for rows, length in sizes if length == 1]
    assert sum(rows for rows, _ in joining) == len(PROMPTS)
    assert max(running) == 4
    assert sum(running) == sum(limits) - len(PROMPTS)  # nobody is computed after the end
    assert len(running) < max(limits[:4]) + max(limits[4:])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", [False, True], ids=["plain", "prefix"])
def test_rows_added_and_cancelled_at_any_moment_do_not_change_the_others(
    family: str, prefix: bool
) -> None:
    model = talkative_model(family, prefix)
    alone = [run_engine(model, [row], [12], slots=1)[0] for row in PROMPTS]
    engine = Engine(model, slots=4)
    rows: dict[int, int] = {}
    found: dict[int, list[int]] = {number: [] for number in range(len(PROMPTS))}
    for step in range(100):
        if step % 2 == 0 and step // 2 < len(PROMPTS):
            rows[engine.add(Request(PROMPTS[step // 2], 12))] = step // 2
        if step == 5:
            engine.cancel(0)  # it runs
            engine.cancel(99)  # nobody
        for event in engine.step():
            found[rows[event.row]].append(event.token)
    assert not engine.is_busy
    assert found[0] == alone[0][:5]
    assert [found[number] for number in range(1, len(PROMPTS))] == alone[1:]


def test_a_waiting_row_can_be_cancelled_and_an_idle_engine_has_no_events() -> None:
    engine = Engine(talkative_model("chatglm2-6b"), slots=1)
    first, second = engine.add(Request(PROMPTS[0], 2)), engine.add(Request(PROMPTS[1], 2))
    engine.cancel(second)
    events = engine.step() + engine.step()
    assert [(event.row, event.end) for event in events] == [(first, None), (first, "length")]
    assert not engine.is_busy
    assert engine.step() == []


def test_limits_stop_tokens_and_samplers_are_those_of_each_row() -> None:
    model = talkative_model("chatglm2-6b")
    plain = run_engine(model, PROMPTS[:1], [9], slots=1)[0]
    sampler = Sampler(temperature=1.0, top_p=0.9, seed=3)
    requests = [
        Request(PROMPTS[0], 9),
        Request(PROMPTS[0], 9, stop_ids=[plain[3]]),
        Request(PROMPTS[0], 9, sampler=sampler),
        Request(PROMPTS[0], 2, sampler=replace(sampler, seed=4)),
    ]

    def tokens(chosen: list[Request]) -> list[list[int]]:
        engine = Engine(model, slots=4)
        found: dict[int, list[int]] = {engine.add(request): [] for request in chosen}
        while engine.is_busy:
            for event in engine.step():
                found[event.row].append(event.token)
        return list(found.values())

    together = tokens(requests)
    assert together[0] == plain
    assert together[1] == plain[: plain.index(plain[3]) + 1]
    assert together[2] == tokens(requests[2:3])[0] != plain
    assert len(together[3]) == 2


@pytest.mark.parametrize("drawn", [False, True], ids=["greedy", "drawn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_weights_give_the_same_texts(
    monkeypatch: pytest.MonkeyPatch, family: str, drawn: bool
) -> None:
    settings = replace(SETTINGS, do_sample=drawn)
    expected = generate_texts(talkative_model(family, True), numbers(), PROMPTS, settings)
    monkeypatch.setattr(packing, "FEWEST_ELEMENTS", 0)
    monkeypatch.setattr(packing, "PART", 24)  # the output layer in several parts
    model = talkative_model(family, True)
    embeddings = model.get_input_embeddings().weight.clone()
    pack_linears(model)
    assert type(model.get_output_embeddings()) is PackedLinear
    assert generate_texts(model, numbers(), PROMPTS, settings) == expected
    ids = torch.tensor(PROMPTS[:1])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, talkative_model(family, True)(ids).logits)
    assert torch.equal(model.get_input_embeddings().weight, embeddings)  # tied ones, too


def test_the_layers_that_an_adapter_adapts_are_packed_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    adapter = tuned_adapter(tmp_path, tiny_model("chatglm2-6b"), targets=ALL_LINEARS)
    model = talkative_model("chatglm2-6b")
    load_adapter(model, adapter)
    expected = generate_texts(model.eval(), numbers(), PROMPTS, SETTINGS)
    assert expected != generate_texts(talkative_model("chatglm2-6b"), numbers(), PROMPTS, SETTINGS)
    monkeypatch.setattr(packing, "FEWEST_ELEMENTS", 1024)  # not the adapter's own
    pack_linears(model)
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == 2 * 4 + 1
    assert generate_texts(model, numbers(), PROMPTS, SETTINGS) == expected


def test_small_weights_and_half_precision_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = talkative_model("chatglm2-6b")
    half = talkative_model("chatglm2-6b").to(torch.bfloat16)
    pack_linears(small)
    monkeypatch.setattr(packing, "FEWEST_ELEMENTS", 0)
    pack_linears(half)
    for model in (small, half):
        assert not any(isinstance(module, PackedLinear) for module in model.modules())


def test_a_half_precision_model_is_answered_too() -> None:
    for family in FAMILIES:
        model = talkative_model(family, prefix=True).to(torch.bfloat16)
        (found,) = run_engine(model, PROMPTS[:1], [5], slots=1)
        assert len(found) == 5


def test_a_text_is_shown_as_chat_shows_it_beside_what_was_decoded() -> None:
    class Shouting(Numbers):
        def decode(self, ids: list[int]) -> str:
            return f" {super().decode(ids)}\n"

        def process_response(self, text: str) -> str:
            return f"shown:{text}"

    model = talkative_model("chatglm2-6b")
    plain = generate_texts(model, numbers(), PROMPTS, SETTINGS)
    shouting: Any = Shouting()
    found = generate_texts(model, shouting, PROMPTS, SETTINGS)
    assert [each.decoded for each in found] == [each.decoded for each in plain]
    assert [each.text for each in found] == [f"shown: {each.decoded}\n" for each in plain]


def test_answers_come_in_the_order_of_the_prompts() -> None:
    """Batches are sorted by length; the caller does not notice."""
    model = talkative_model("chatglm2-6b")
    order = (2, 0, 4, 1, 3, 0)
    first = generate_texts(model, numbers(), PROMPTS, SETTINGS)
    again = generate_texts(model, numbers(), [PROMPTS[i] for i in order], SETTINGS)
    assert again == [first[i] for i in order]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_ends_at_any_stop_token_and_is_cut_at_the_limit(family: str) -> None:
    model = talkative_model(family)
    settings = replace(SETTINGS, max_new_tokens=7)
    whole = generate_texts(model, numbers(stop_token_ids=()), PROMPTS, settings)
    assert not any(answer.finished for answer in whole)
    ends = {answer.text.split()[place] for answer, place in zip(whole, (2, 4), strict=False)}
    stops = tuple(map(int, ends))
    cut = generate_texts(model, numbers(stop_token_ids=stops), PROMPTS, settings)
    for before, after in zip(whole, cut, strict=True):
        tokens = before.text.split()
        places = [place for place, token in enumerate(tokens) if token in ends]
        expected = tokens[: places[0]] if places else tokens
        assert after == Answer(" ".join(expected), " ".join(expected), bool(places))
    assert {answer.finished for answer in cut} == {True, False}


def test_prompts_that_were_answered_are_left_out_group_by_group() -> None:
    """A group is answered whole or not at all: in half precision its make-up can be seen."""
    model = talkative_model("chatglm2-6b")
    drawn = replace(DRAWN, batch_size=1)
    prompts = PROMPTS + PROMPTS
    every = list(generate_groups(model, numbers(), prompts, drawn))
    groups = [sorted(group) for group in every]
    assert groups == [[1, 5, 8, 12], [3, 6, 10, 13], [0, 4, 7, 11], [2, 9]]
    answered = {*groups[0], *groups[1], 4, 7}  # the third in part
    assert list(generate_groups(model, numbers(), prompts, drawn, answered=answered)) == every[2:]
    assert list(generate_groups(model, numbers(), prompts, drawn, answered=range(14))) == []


def test_rows_with_two_almost_equal_logits_are_marked() -> None:
    model = talkative_model("chatglm2-6b")
    assert not any(a.near_tie for a in generate_texts(model, numbers(), PROMPTS, SETTINGS))
    head = model.get_output_embeddings().weight.data
    head[1::2] = head[::2] + 1e-7
    assert all(a.near_tie for a in generate_texts(model, numbers(), PROMPTS, SETTINGS))


# --- Sampling --------------------------------------------------------------------------------


def test_a_drawn_answer_depends_on_seed_and_number_only() -> None:
    model = talkative_model("chatglm2-6b")
    alone = generate_texts(model, numbers(), PROMPTS, replace(DRAWN, batch_size=1))
    for size in (3, 7):
        assert generate_texts(model, numbers(), PROMPTS, replace(DRAWN, batch_size=size)) == alone
    # Prompts 1 and 5 are the same; nothing drawn elsewhere in between changes them.
    assert alone[1] != alone[5]
    assert generate_texts(model, numbers(), PROMPTS[:2], DRAWN) == alone[:2]
    assert generate_texts(model, numbers(), PROMPTS, replace(DRAWN, seed=2)) != alone


@pytest.mark.parametrize(("temperature", "top_p"), [(0.95, 0.7), (2.0, 1.0), (0.5, 0.95)])
def test_tokens_are_drawn_as_often_as_transformers_would(temperature: float, top_p: float) -> None:
    torch.manual_seed(3)
    logits = 2 * torch.randn(1, 60)
    warpers: Any = LogitsProcessorList(
        [TemperatureLogitsWarper(temperature), TopKLogitsWarper(50), TopPLogitsWarper(top_p)]
    )
    warped = warpers(torch.zeros(1, 1, dtype=torch.long), logits)
    expected = warped.softmax(dim=-1)[0]
    rows = 20_000
    samplers = [Sampler(temperature, top_p, (7, row)) for row in range(rows)]
    uniforms = torch.tensor([next(sampler.uniforms()) for sampler in samplers])
    best = Candidates(*logits.expand(rows, -1).topk(50))
    counts = Counter(sample(best, samplers, uniforms).tolist())
    found = torch.tensor([counts[token] / rows for token in range(60)])
    assert not found[expected == 0].any()
    error = (expected * (1 - expected) / rows).sqrt()  # of a binomial share
    assert ((found - expected).abs() <= 4.5 * error + 1e-9).all()


def test_the_highest_number_samples_a_token_that_may_be_sampled() -> None:
    best = Candidates(*torch.tensor([[0.0, 0.1, -9.0, 0.2, -9.0]]).expand(2, -1).topk(5))
    sampler = Sampler(temperature=1.0, top_p=0.9, seed=0)
    assert sample(best, [sampler] * 2, torch.tensor([1.0, 0.0])).tolist() == [0, 3]


@pytest.mark.parametrize("words", [64, 100, 2048, 2112, 2050, 5000])
def test_candidates_are_the_highest_logits_whatever_the_size_of_the_vocabulary(words: int) -> None:
    torch.manual_seed(words)
    head = torch.nn.Linear(8, words, bias=False)
    hidden = torch.randn(5, 8)
    with torch.no_grad():
        logits = head(hidden)
        two, fifty = top_candidates(hidden, head, 2), top_candidates(hidden, head, 50)
    torch.testing.assert_close(two.logits, logits.topk(2).values)
    assert two.ids[:, 0].tolist() == logits.argmax(dim=-1).tolist()
    torch.testing.assert_close(fifty.logits, logits.topk(50).values)
    torch.testing.assert_close(logits.gather(1, fifty.ids), fifty.logits)


def test_of_equal_logits_the_lowest_id_is_chosen() -> None:
    head = torch.nn.Linear(4, 5000, bias=False)
    with torch.no_grad():
        head.weight.fill_(1.0)
        head.weight[:70] = 0.0
        best = top_candidates(torch.ones(3, 4), head, 2)
    assert best.ids[:, 0].tolist() == [70] * 3
    assert (best.logits[:, 0] == best.logits[:, 1]).all()


def test_nan_logits_are_reported_and_no_nonsense_is_written() -> None:
    model = tiny_model("chatglm2-6b")
    model.get_output_embeddings().weight.data[0] = float("nan")
    with pytest.raises(WeightsError, match="the model produced NaN or inf logits"):
        generate_texts(model, numbers(), PROMPTS, SETTINGS)
