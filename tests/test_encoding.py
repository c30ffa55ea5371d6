"""Rows become ids and labels exactly as the official training scripts make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmtune.errors import DataError, ParamsError
from glmtune.families import FAMILIES, get_family
from glmtune.families.family import IGNORED
from glmtune.tokenizer import detect_generation, load_tokenizer
from glmtune.vocabulary import WORD_BREAK

TEXTS = [f"类型#裙*颜色#{c}色*风格#{s}" for c in "红黑白蓝" for s in ("简约", "复古", "清新")]
TEXTS += [f"这条{c}色的裙子，{s}大方。" for c in "红黑白蓝" for s in ("简约", "复古", "清新")]
QUERY, ANSWER = "类型#裙*颜色#红色", "红色的裙子。"
GENERATIONS = sorted(FAMILIES)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small trained vocabulary of each generation."""
    folder = tmp_path_factory.mktemp("vocabularies")
    for name, family in FAMILIES.items():
        family.train_tokenizer(TEXTS, folder / name, vocab_size=80)
    return {name: load_tokenizer(folder / name) for name in FAMILIES}


def encode(tokenizer: Any, generation: str, source: int = 64, target: int = 64, **row: Any) -> Any:
    row = {"query": QUERY, "answer": ANSWER} | row
    return FAMILIES[generation].encode_example(
        tokenizer, **row, max_source_tokens=source, max_target_tokens=target
    )


# --- One row by hand -----------------------------------------------------------------------------


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_a_chatglm_row_is_prompt_gmask_sop_answer_eop(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    special, answer = tokenizer.special_ids, plain(tokenizer, ANSWER)
    targets = [special["<sop>"], *answer, special["<eop>"]]
    prompt = [*plain(tokenizer, QUERY), special["[gMASK]"]]
    example = encode(tokenizer, "chatglm-6b")
    assert example.input_ids == prompt + targets
    assert example.labels == [IGNORED] * len(prompt) + targets


def test_a_chatglm2_row_is_gmask_sop_round_one_answer_eos(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm2-6b"]
    special = tokenizer.special_ids
    prompt = [special["[gMASK]"], special["sop"]]
    prompt += plain(tokenizer, f"[Round 1]\n\n问：{QUERY}\n\n答：")
    targets = [*plain(tokenizer, ANSWER), 2]
    example = encode(tokenizer, "chatglm2-6b")
    assert example.input_ids == prompt + targets
    assert example.labels == [IGNORED] * len(prompt) + targets


def test_a_chatglm3_row_is_a_user_and_an_assistant_message(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    special, line = tokenizer.special_ids, plain(tokenizer, "\n")
    prompt = [special["[gMASK]"], special["sop"], special["<|user|>"], *line]
    prompt += [*plain(tokenizer, QUERY), special["<|assistant|>"]]
    targets = [*line, *plain(tokenizer, ANSWER), 2]
    example = encode(tokenizer, "chatglm3-6b-base")
    assert example.input_ids == prompt + targets
    assert example.labels == [IGNORED] * len(prompt) + targets


# --- What holds for every generation -------------------------------------------------------------


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_prompt_is_masked_and_the_answer_is_not(
    tokenizers: dict[str, Any], generation: str
) -> None:
    tokenizer = tokenizers[generation]
    prompt = FAMILIES[generation].encode_prompt(tokenizer, QUERY, max_source_tokens=64)
    example = encode(tokenizer, generation)
    assert len(example.input_ids) == len(example.labels)
    targets = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(targets).strip() == ANSWER
    assert targets[-1] == tokenizer.eos_token_id
    # What generate() gets is how the row begins (its last token is v1's first target).
    assert example.input_ids[: len(prompt)] == prompt
    assert set(example.labels[: len(prompt) - 1]) == {IGNORED}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_cut_prompt_keeps_its_special_tokens(tokenizers: dict[str, Any], generation: str) -> None:
    tokenizer, family = tokenizers[generation], FAMILIES[generation]
    whole = family.encode_prompt(tokenizer, QUERY * 9, max_source_tokens=999)
    cut = family.encode_prompt(tokenizer, QUERY * 9, max_source_tokens=12)
    specials = set(tokenizer.special_ids.values())
    assert len(cut) <= 13 < len(whole)
    assert [i for i in cut if i in specials] == [i for i in whole if i in specials]


@pytest.mark.parametrize("generation", ["chatglm-6b", "chatglm2-6b"])
def test_a_cut_answer_keeps_its_end_token(tokenizers: dict[str, Any], generation: str) -> None:
    tokenizer = tokenizers[generation]
    example = encode(tokenizer, generation, 12, 8, query=QUERY * 9, answer=ANSWER * 9)
    assert len(example.input_ids) <= 12 + 8 + 1
    assert example.labels[-1] == example.input_ids[-1] == tokenizer.eos_token_id


def test_a_cut_chatglm3_answer_has_no_end_token_as_in_finetune_demo(
    tokenizers: dict[str, Any],
) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    example = encode(tokenizer, "chatglm3-6b-base", 24, 8, answer=ANSWER * 9)
    assert len(example.input_ids) == 24 + 8 + 1
    assert tokenizer.eos_token_id not in example.input_ids


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_prompt_longer_than_every_limit_leaves_a_target(
    tokenizers: dict[str, Any], generation: str
) -> None:
    example = encode(tokenizers[generation], generation, 12, 8, query=QUERY * 50)
    assert any(label != IGNORED for label in example.labels)
    assert len(example.input_ids) <= 12 + 8 + 1


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_history_comes_before_the_query(tokenizers: dict[str, Any], generation: str) -> None:
    tokenizer, family = tokenizers[generation], FAMILIES[generation]
    history = [("白色的裙子", "简约。")]
    ids = family.encode_prompt(tokenizer, QUERY, history, max_source_tokens=128)
    text = tokenizer.decode(ids)
    assert text.index("白色的裙子") < text.index("简约。") < text.index(QUERY)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("limits", [{"source": 1}, {"target": 0}])
def test_a_limit_without_room_is_refused(
    tokenizers: dict[str, Any], generation: str, limits: dict[str, int]
) -> None:
    with pytest.raises(ParamsError, match=r"max_(source|target)_tokens: \d; expected at least 4"):
        encode(tokenizers[generation], generation, **limits)


def test_an_unknown_chatglm3_role_is_named(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="unknown role 'narrator'; choose from system, user"):
        encode(
            tokenizers["chatglm3-6b-base"],
            "chatglm3-6b-base",
            history=[{"role": "narrator", "content": "x"}],
        )


# --- Small vocabularies and configs --------------------------------------------------------------


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_trained_vocabulary_is_recognised_deterministic_and_quiet(
    tmp_path: Path, generation: str, capfd: pytest.CaptureFixture[str]
) -> None:
    family = FAMILIES[generation]
    for folder in ("first", "second"):
        family.train_tokenizer(iter(TEXTS), tmp_path / folder, vocab_size=80)
    assert "".join(capfd.readouterr()) == ""
    name = family.tokenizer_class.file_name
    contents = [(tmp_path / folder / name).read_bytes() for folder in ("first", "second")]
    assert contents[0] == contents[1]
    assert detect_generation(tmp_path / "first") == generation


@pytest.mark.parametrize("generation", ["chatglm2-6b", "chatglm3-6b-base"])
def test_words_after_a_break_become_pieces_used_within_sentences(
    tmp_path: Path, generation: str
) -> None:
    words = [WORD_BREAK + word for word in ("裙子", "红色", "风格", "图案")] * 3
    FAMILIES[generation].train_tokenizer(words, tmp_path, vocab_size=60)
    tokenizer = load_tokenizer(tmp_path)
    assert len(plain(tokenizer, "红色裙子图案风格")) == 1 + 4  # the blank, then a piece a word


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_vocabulary_smaller_than_the_characters_is_refused(
    tmp_path: Path, generation: str
) -> None:
    with pytest.raises(DataError, match=r"vocab_size: 9 pieces .* expected at least \d\d; raise"):
        FAMILIES[generation].train_tokenizer(TEXTS, tmp_path, vocab_size=9)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_miniature_config_has_the_real_keys_and_the_vocabulary_s_ids(
    tokenizers: dict[str, Any], generation: str
) -> None:
    family, tokenizer = FAMILIES[generation], tokenizers[generation]
    config = family.miniature_config(tokenizer, hidden_size=48, num_layers=2, num_heads=4)
    assert config.keys() == family.real_config.keys()
    assert config["eos_token_id"] == tokenizer.eos_token_id
    assert config["pad_token_id"] == tokenizer.pad_token_id
    rows = config.get("vocab_size") or config["padded_vocab_size"]
    assert rows % 8 == 0
    assert 0 <= rows - tokenizer.vocab_size < 8
    with pytest.raises(ParamsError, match="hidden_size: 50 with 4 heads"):
        family.miniature_config(tokenizer, hidden_size=50, num_layers=2, num_heads=4)


def test_an_unknown_generation_is_answered_with_the_choices() -> None:
    with pytest.raises(
        ParamsError, match="unknown generation 'chatglm4-6b'; choose from chatglm-6b"
    ):
        get_family("chatglm4-6b")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_registry_names_are_the_families_own(generation: str) -> None:
    assert FAMILIES[generation].name == generation


# --- The official preprocessing ------------------------------------------------------------------


class Golden:
    """Rows and results of one official preprocessing function."""

    def __init__(self, reference: Path, version: str, case: str) -> None:
        self.tokenizer = load_tokenizer(reference / version / "checkpoint")
        text = (reference / version / "preprocess_golden.json").read_text(encoding="utf-8")
        case_data = json.loads(text)[case]
        self.rows, self.args, self.out = (case_data[key] for key in ("rows", "args", "out"))

    def usable_rows(self) -> list[dict[str, Any]]:
        """main.py leaves out rows with an empty column; in this project the data step does."""
        return [row for row in self.rows if row["content"] and row["summary"]]

    def limits(self) -> dict[str, int]:
        values = list(self.args.values())
        return {"max_source_tokens": values[0], "max_target_tokens": values[1]}


FIRST_TWO = [("v1", "chatglm-6b"), ("v2", "chatglm2-6b")]


@pytest.mark.parametrize(("version", "generation"), FIRST_TWO)
@pytest.mark.parametrize("case", ["train_plain", "train_history", "train_source_prefix"])
def test_training_rows_equal_ptuning_main(
    reference: Path, version: str, generation: str, case: str
) -> None:
    golden = Golden(reference, version, case)
    prefix = golden.args.get("source_prefix", "")
    if prefix and version == "v2":
        pytest.skip("main.py puts source_prefix before [Round 1]; here it is part of the query")
    compared = 0
    outputs = zip(golden.out["input_ids"], golden.out["labels"], strict=True)
    for row, (ids, labels) in zip(golden.usable_rows(), outputs, strict=True):
        if version == "v1" and row.get("history") == []:
            continue  # main.py writes [Round 0] here, but neither when it evaluates nor in chat()
        example = FAMILIES[generation].encode_example(
            golden.tokenizer,
            prefix + row["content"],
            row["summary"],
            row.get("history") or (),
            **golden.limits(),
        )
        length = len(example.input_ids)
        assert example.input_ids == ids[:length]
        assert example.labels == labels[:length]
        assert set(ids[length:]) <= {golden.tokenizer.pad_token_id}
        assert set(labels[length:]) <= {IGNORED}
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize(("version", "generation"), FIRST_TWO)
@pytest.mark.parametrize("case", ["eval_plain", "eval_history"])
def test_prompts_equal_ptuning_main(
    reference: Path, version: str, generation: str, case: str
) -> None:
    golden = Golden(reference, version, case)
    for row, ids in zip(golden.usable_rows(), golden.out["input_ids"], strict=True):
        prompt = FAMILIES[generation].encode_prompt(
            golden.tokenizer,
            row["content"],
            row.get("history") or (),
            max_source_tokens=golden.args["max_source_length"],
        )
        padding = len(ids) - len(prompt)
        assert prompt == ids[padding:]
        assert set(ids[:padding]) <= {golden.tokenizer.pad_token_id}


def read_conversation(row: dict[str, Any]) -> tuple[str, str, list[dict[str, Any]]]:
    """(query, answer, history as messages) of a finetune_demo row."""
    *history, query, answer = row["conversations"]
    return query["content"], answer["content"], history


@pytest.mark.parametrize("case", ["train_adgen", "train_adgen_truncated", "train_multi_turn"])
def test_training_rows_equal_finetune_demo(reference: Path, case: str) -> None:
    golden = Golden(reference, "v3", case)
    outputs = zip(golden.out["input_ids"], golden.out["labels"], strict=True)
    for row, (ids, labels) in zip(golden.rows, outputs, strict=True):
        query, answer, history = read_conversation(row)
        example = FAMILIES["chatglm3-6b-base"].encode_example(
            golden.tokenizer, query, answer, history, **golden.limits()
        )
        if set(labels) == {IGNORED}:  # nothing to learn: ours cuts the prompt instead
            assert set(example.labels) != {IGNORED}
            continue
        assert example.input_ids == ids
        assert example.labels == labels


@pytest.mark.parametrize("case", ["eval_adgen", "eval_multi_turn"])
def test_prompts_equal_finetune_demo(reference: Path, case: str) -> None:
    golden = Golden(reference, "v3", case)
    prompts = []
    for row in golden.rows:
        messages = row["conversations"]
        for position, message in enumerate(messages):
            if message["role"] == "assistant":  # finetune_demo predicts every answer of a row
                query, history = messages[position - 1]["content"], messages[: position - 1]
                prompt = FAMILIES["chatglm3-6b-base"].encode_prompt(
                    golden.tokenizer, query, history, max_source_tokens=128
                )
                prompts.append(prompt)
    assert prompts == golden.out["input_ids"]
