"""Rows are encoded to the ids and labels of the official training scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmtune.errors import DataError, ParamsError
from glmtune.families.conversation import shown_answer
from glmtune.families.encoding import Prompt, encode_example, encode_prompts
from glmtune.families.family import Example
from glmtune.families.loading import detect_family, load_tokenizer
from glmtune.families.registry import FAMILIES, get_family
from glmtune.families.vocabulary import WORD_BREAK
from glmtune.labels import IGNORED_LABEL
from glmtune.normal_form import normal_form

TEXTS = [f"类型#裙*颜色#{c}色*风格#{s}" for c in "红黑白蓝" for s in ("简约", "复古", "清新")]
TEXTS += [f"这条{c}色的裙子，{s}大方。" for c in "红黑白蓝" for s in ("简约", "复古", "清新")]
QUERY, ANSWER = "类型#裙*颜色#红色", "红色的裙子。"
FAMILY_NAMES = sorted(FAMILIES)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small trained vocabulary of each family."""
    folder = tmp_path_factory.mktemp("vocabularies")
    for name, family in FAMILIES.items():
        family.train_tokenizer(TEXTS, folder / name, vocab_size=80)
    return {name: load_tokenizer(folder / name) for name in FAMILIES}


def encode(tokenizer: Any, family_name: str, source: int = 64, target: int = 64, **row: Any) -> Any:
    row = {"query": QUERY, "answer": ANSWER} | row
    template = FAMILIES[family_name].template(row.pop("template", None))
    limits = {"max_source_tokens": source, "max_target_tokens": target}
    return template.encode_example(tokenizer, **row, **limits)


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
    assert example.labels == [IGNORED_LABEL] * len(prompt) + targets


def test_a_chatglm2_row_is_gmask_sop_round_one_answer_eos(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm2-6b"]
    special = tokenizer.special_ids
    prompt = [special["[gMASK]"], special["sop"]]
    prompt += plain(tokenizer, f"[Round 1]\n\n问：{QUERY}\n\n答：")
    targets = [*plain(tokenizer, ANSWER), 2]
    example = encode(tokenizer, "chatglm2-6b")
    assert example.input_ids == prompt + targets
    assert example.labels == [IGNORED_LABEL] * len(prompt) + targets


def test_a_chatglm3_row_is_a_user_and_an_assistant_message(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    special, line = tokenizer.special_ids, plain(tokenizer, "\n")
    prompt = [special["[gMASK]"], special["sop"], special["<|user|>"], *line]
    prompt += [*plain(tokenizer, QUERY), special["<|assistant|>"]]
    targets = [*line, *plain(tokenizer, ANSWER), 2]
    example = encode(tokenizer, "chatglm3-6b-base")
    assert example.input_ids == prompt + targets
    assert example.labels == [IGNORED_LABEL] * len(prompt) + targets


# --- Every family --------------------------------------------------------------------------------


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_the_prompt_is_masked_and_the_answer_is_not(
    tokenizers: dict[str, Any], family_name: str
) -> None:
    tokenizer = tokenizers[family_name]
    prompt = FAMILIES[family_name].template().encode_prompt(tokenizer, QUERY, max_source_tokens=64)
    example = encode(tokenizer, family_name)
    assert len(example.input_ids) == len(example.labels)
    targets = [label for label in example.labels if label != IGNORED_LABEL]
    assert tokenizer.decode(targets).strip() == ANSWER
    assert targets[-1] == getattr(tokenizer, "answer_end_id", tokenizer.eos_token_id)
    assert targets[-1] in tokenizer.stop_token_ids
    # The row begins with the ids for generate() (whose last token is v1's first target).
    assert example.input_ids[: len(prompt)] == prompt
    assert set(example.labels[: len(prompt) - 1]) == {IGNORED_LABEL}


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_truncated_prompt_keeps_its_special_tokens(
    tokenizers: dict[str, Any], family_name: str
) -> None:
    tokenizer, template = tokenizers[family_name], FAMILIES[family_name].template()
    whole = template.encode_prompt(tokenizer, QUERY * 9, max_source_tokens=999)
    cut = template.encode_prompt(tokenizer, QUERY * 9, max_source_tokens=12)
    specials = set(tokenizer.special_ids.values())
    assert len(cut) <= 13 < len(whole)
    assert [i for i in cut if i in specials] == [i for i in whole if i in specials]


@pytest.mark.parametrize("family_name", ["chatglm-6b", "chatglm2-6b"])
def test_a_truncated_answer_keeps_its_end_token(
    tokenizers: dict[str, Any], family_name: str
) -> None:
    tokenizer = tokenizers[family_name]
    example = encode(tokenizer, family_name, 12, 8, query=QUERY * 9, answer=ANSWER * 9)
    assert len(example.input_ids) <= 12 + 8 + 1
    assert example.labels[-1] == example.input_ids[-1] == tokenizer.eos_token_id


def test_a_truncated_chatglm3_answer_has_no_end_token_as_in_finetune_demo(
    tokenizers: dict[str, Any],
) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    example = encode(tokenizer, "chatglm3-6b-base", 24, 8, answer=ANSWER * 9)
    assert len(example.input_ids) == 24 + 8 + 1
    assert tokenizer.eos_token_id not in example.input_ids


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_prompt_longer_than_every_limit_leaves_a_target(
    tokenizers: dict[str, Any], family_name: str
) -> None:
    example = encode(tokenizers[family_name], family_name, 12, 8, query=QUERY * 50)
    assert any(label != IGNORED_LABEL for label in example.labels)
    assert len(example.input_ids) <= 12 + 8 + 1


# --- Conversations -------------------------------------------------------------------------------

TURNS = [("白色的裙子", "简约。"), ("黑色的裙子", "清新。")]
MESSAGES = [
    {"role": role, "content": text}
    for turn in TURNS
    for role, text in zip(("user", "assistant"), turn, strict=True)
]
SYSTEM = {"role": "system", "content": "风格大方"}
TEMPLATES = [(name, template) for name in FAMILY_NAMES for template in FAMILIES[name].templates]


def targets_of(tokenizer: Any, example: Example) -> str:
    return tokenizer.decode([label for label in example.labels if label != IGNORED_LABEL])


@pytest.mark.parametrize(("family_name", "name"), TEMPLATES)
def test_turns_and_messages_are_the_same_history(
    tokenizers: dict[str, Any], family_name: str, name: str
) -> None:
    tokenizer, template = tokenizers[family_name], FAMILIES[family_name].template(name)
    ids = template.encode_prompt(tokenizer, QUERY, MESSAGES, max_source_tokens=256)
    assert ids == template.encode_prompt(tokenizer, QUERY, TURNS, max_source_tokens=256)
    text = tokenizer.decode(ids)
    positions = [text.index(said) for turn in TURNS for said in turn]
    assert positions == sorted(positions)
    assert positions[-1] < text.index(QUERY)
    example = encode(tokenizer, family_name, 256, 64, template=name, history=MESSAGES)
    assert example.input_ids[: len(ids)] == ids


@pytest.mark.parametrize(("family_name", "name"), TEMPLATES)
def test_a_template_trains_on_the_answers_it_declares(
    tokenizers: dict[str, Any], family_name: str, name: str
) -> None:
    template = FAMILIES[family_name].template(name)
    example = encode(tokenizers[family_name], family_name, 256, 64, template=name, history=MESSAGES)
    learned = targets_of(tokenizers[family_name], example)
    earlier = [answer for _, answer in TURNS]
    assert [answer in learned for answer in earlier] == [template.trains_on == "every answer"] * 2
    assert ANSWER in learned
    assert not any(question in learned for question in [QUERY, *(q for q, _ in TURNS)])


@pytest.mark.parametrize(("family_name", "name"), TEMPLATES)
def test_a_system_text_comes_first_and_is_not_learned(
    tokenizers: dict[str, Any], family_name: str, name: str
) -> None:
    tokenizer = tokenizers[family_name]
    history = [SYSTEM, *MESSAGES]
    example = encode(tokenizer, family_name, 256, 64, template=name, history=history)
    text = tokenizer.decode(example.input_ids)
    assert text.index(SYSTEM["content"]) < text.index(TURNS[0][0])
    assert SYSTEM["content"] not in targets_of(tokenizer, example)


@pytest.mark.parametrize("family_name", ["chatglm-6b", "chatglm2-6b"])
def test_without_roles_a_system_text_is_a_line_before_the_first_question(
    tokenizers: dict[str, Any], family_name: str
) -> None:
    template = FAMILIES[family_name].template()
    limit = {"max_source_tokens": 256}
    tokenizer, joined = tokenizers[family_name], SYSTEM["content"] + "\n"
    alone = template.encode_prompt(tokenizer, QUERY, [SYSTEM], **limit)
    assert alone == template.encode_prompt(tokenizer, joined + QUERY, **limit)
    (question, answer), second = TURNS
    ids = template.encode_prompt(tokenizer, QUERY, [SYSTEM, *MESSAGES], **limit)
    turns = [(joined + question, answer), second]
    assert ids == template.encode_prompt(tokenizer, QUERY, turns, **limit)


@pytest.mark.parametrize("family_name", ["chatglm-6b", "chatglm2-6b"])
@pytest.mark.parametrize(
    ("history", "complaint"),
    [
        (
            [*MESSAGES, {"role": "observation", "content": "22 度"}],
            "message 5: tools, a call or an observation; expected only .*use chatglm3-6b-base",
        ),
        ([{**SYSTEM, "tools": [{"name": "track"}]}], "message 1: tools, a call or an obs"),
        (MESSAGES[1:], r"message 1: role 'assistant'; expected a question \(user\)"),
        ([*MESSAGES[:1] * 2], r"message 2: role 'user'; expected an answer \(assistant\)"),
        (MESSAGES[:1], "ends with a question; expected an answer to it"),
        ([{"role": "tool", "content": ""}], "message 1: unknown role 'tool'; choose from system"),
    ],
)
def test_messages_that_rounds_cannot_represent_are_refused(
    tokenizers: dict[str, Any], family_name: str, history: list[dict[str, Any]], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        encode(tokenizers[family_name], family_name, history=history)


@pytest.mark.parametrize("name", FAMILIES["chatglm3-6b-base"].templates)
def test_chatglm3_reads_tool_results_and_does_not_learn_to_write_them(
    tokenizers: dict[str, Any], name: str
) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    history = [
        {**SYSTEM, "tools": [{"name": "track"}]},
        {"role": "user", "content": "红色"},
        {"role": "assistant", "metadata": "track", "content": "简约"},
        {"role": "observation", "content": "黑白蓝"},
        {"role": "assistant", "content": "清新"},
    ]
    example = encode(tokenizer, "chatglm3-6b-base", 512, 64, template=name, history=history)
    text = tokenizer.decode(example.input_ids, skip_special_tokens=False)
    assert text.index('"name": "track"') < text.index("<|observation|> \n 黑白蓝")
    learned = targets_of(tokenizer, example)
    assert "track" in learned
    assert "清新" in learned
    assert "黑白蓝" not in learned


def test_every_answer_of_base_tuning_ends_with_the_end_token(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    row = {"history": MESSAGES}
    ends = {
        name: encode(tokenizer, "chatglm3-6b-base", 256, 64, template=name, **row).labels.count(2)
        for name in FAMILIES["chatglm3-6b-base"].templates
    }
    assert ends == {"finetune-demo": 1, "chatglm3-base-tuning": 3}


def test_an_unknown_template_is_reported_with_the_choices() -> None:
    family = FAMILIES["chatglm3-6b-base"]
    with pytest.raises(ParamsError, match="unknown template 'alpaca' of chatglm3-6b-base; choose"):
        family.template("alpaca")
    assert family.template() is family.template("finetune-demo")


# --- Limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family_name", "name"), TEMPLATES)
def test_the_lengths_of_a_row_are_the_limits_without_truncation(
    tokenizers: dict[str, Any], family_name: str, name: str
) -> None:
    tokenizer = tokenizers[family_name]
    row: dict[str, Any] = {"template": name, "answer": ANSWER * 3}
    whole = encode(tokenizer, family_name, 256, 256, **row)
    limits = whole.prompt_tokens, whole.answer_tokens
    fitting = encode(tokenizer, family_name, *limits, **row)
    assert fitting == whole
    assert (fitting.prompt_is_cut, fitting.answer_is_cut) == (False, False)
    shorter = encode(tokenizer, family_name, limits[0], limits[1] - 1, **row)
    assert (shorter.prompt_is_cut, shorter.answer_is_cut) == (False, True)
    assert shorter.input_ids != whole.input_ids
    asked = encode(tokenizer, family_name, *limits, **row, query=QUERY * 20)
    assert asked.prompt_is_cut
    assert asked.prompt_tokens > limits[0]


@pytest.mark.parametrize(("family_name", "name"), TEMPLATES)
def test_a_truncated_reference_is_the_beginning_of_the_answer(
    tokenizers: dict[str, Any], family_name: str, name: str
) -> None:
    tokenizer, template = tokenizers[family_name], FAMILIES[family_name].template(name)
    whole = template.encode_reference(tokenizer, ANSWER, max_target_tokens=64)
    assert tokenizer.decode(whole).strip() == ANSWER
    cut = template.encode_reference(tokenizer, ANSWER, max_target_tokens=5)
    assert len(cut) == 5 <= len(whole)
    assert ANSWER.startswith(tokenizer.decode(cut).strip())


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
@pytest.mark.parametrize("limits", [{"source": 1}, {"target": 0}])
def test_a_limit_without_room_is_refused(
    tokenizers: dict[str, Any], family_name: str, limits: dict[str, int]
) -> None:
    with pytest.raises(ParamsError, match=r"max_(source|target)_tokens: \d; expected at least 4"):
        encode(tokenizers[family_name], family_name, **limits)


def test_an_unknown_chatglm3_role_is_named(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="unknown role 'narrator'; choose from system, user"):
        encode(
            tokenizers["chatglm3-6b-base"],
            "chatglm3-6b-base",
            history=[{"role": "narrator", "content": "x"}],
        )


# --- Small vocabularies and configs --------------------------------------------------------------


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_trained_vocabulary_is_recognized_deterministic_and_quiet(
    tmp_path: Path, family_name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    family = FAMILIES[family_name]
    for folder in ("first", "second"):
        family.train_tokenizer(iter(TEXTS), tmp_path / folder, vocab_size=80)
    assert "".join(capfd.readouterr()) == ""
    name = family.tokenizer_class.file_name
    contents = [(tmp_path / folder / name).read_bytes() for folder in ("first", "second")]
    assert contents[0] == contents[1]
    assert detect_family(tmp_path / "first") == family_name


@pytest.mark.parametrize("family_name", ["chatglm2-6b", "chatglm3-6b-base"])
def test_words_after_a_break_become_pieces_used_within_sentences(
    tmp_path: Path, family_name: str
) -> None:
    words = [WORD_BREAK + word for word in ("裙子", "红色", "风格", "图案")] * 3
    FAMILIES[family_name].train_tokenizer(words, tmp_path, vocab_size=60)
    tokenizer = load_tokenizer(tmp_path)
    assert len(plain(tokenizer, "红色裙子图案风格")) == 1 + 4  # dummy space, 4 words


@pytest.mark.parametrize("family_name", [name for name in FAMILY_NAMES if name != "glm-4-9b"])
def test_a_vocabulary_smaller_than_the_characters_is_refused(
    tmp_path: Path, family_name: str
) -> None:
    with pytest.raises(DataError, match=r"vocab_size: 9 pieces .* expected at least \d\d; raise"):
        FAMILIES[family_name].train_tokenizer(TEXTS, tmp_path, vocab_size=9)


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_miniature_config_has_the_real_keys_and_the_vocabulary_s_ids(
    tokenizers: dict[str, Any], family_name: str
) -> None:
    family, tokenizer = FAMILIES[family_name], tokenizers[family_name]
    config = family.miniature_config(tokenizer, hidden_size=48, num_layers=2, num_heads=4)
    assert config.keys() == family.real_config.keys()
    assert config["eos_token_id"] in (tokenizer.eos_token_id, list(tokenizer.stop_token_ids))
    assert config["pad_token_id"] == tokenizer.pad_token_id
    rows = config.get("vocab_size") or config["padded_vocab_size"]
    assert rows % 8 == 0
    assert 0 <= rows - tokenizer.vocab_size < 8
    with pytest.raises(ParamsError, match="hidden_size: 50 with 4 heads"):
        family.miniature_config(tokenizer, hidden_size=50, num_layers=2, num_heads=4)


def test_an_unknown_family_is_reported_with_the_choices() -> None:
    with pytest.raises(ParamsError, match="unknown family 'chatglm4-6b'; choose from chatglm-6b"):
        get_family("chatglm4-6b")


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_registry_names_equal_the_names_of_the_families(family_name: str) -> None:
    assert FAMILIES[family_name].name == family_name


# --- Conversations with tools --------------------------------------------------------------------

OFFICIAL: Any = {"max_source_tokens": 99, "long_history": "official"}
CALL = {"role": "assistant", "metadata": "clock", "content": "红色"}
TOLD = {"history": [{"role": "user", "content": QUERY}, CALL], "role": "observation"}


def test_chatglm3_answers_an_observation_as_in_chat(tokenizers: dict[str, Any]) -> None:
    tokenizer, template = tokenizers["chatglm3-6b-base"], get_family("chatglm3-6b-base").template()
    row = {"content": "三点", "summary": ANSWER, **TOLD}
    prompt = tokenizer.chat_prompt_ids("三点", TOLD["history"], role="observation")
    assert encode_prompts(template, tokenizer, [row], **OFFICIAL) == [Prompt(prompt)]
    example = encode_example(template, tokenizer, row, **OFFICIAL, max_target_tokens=99)
    answer = [*plain(tokenizer, "\n"), *plain(tokenizer, ANSWER), tokenizer.eos_token_id]
    assert example.input_ids == prompt + answer
    assert example.labels[len(prompt) :] == answer


def test_chatglm3_learns_the_name_of_the_tool_that_it_calls(tokenizers: dict[str, Any]) -> None:
    tokenizer, template = tokenizers["chatglm3-6b-base"], get_family("chatglm3-6b-base").template()
    row = {"content": QUERY, "summary": CALL["content"], "metadata": "clock"}
    whole = encode_example(template, tokenizer, row, **OFFICIAL, max_target_tokens=99)
    targets = [label for label in whole.labels if label != IGNORED_LABEL]
    shown = tokenizer.process_response(tokenizer.decode(targets))
    assert (
        normal_form(shown) == normal_form(shown_answer(row, template.written_call)) == "clock 红色"
    )
    # Also where the prompt alone would fill the limits.
    limits: Any = OFFICIAL | {"max_source_tokens": 4}
    cut = encode_example(template, tokenizer, row, **limits, max_target_tokens=4)
    left = [label for label in cut.labels if label != IGNORED_LABEL]
    assert left
    assert left == targets[: len(left)]


@pytest.mark.parametrize("family_name", ["chatglm-6b", "chatglm2-6b"])
def test_numbered_rounds_do_not_support_tools(tokenizers: dict[str, Any], family_name: str) -> None:
    template = get_family(family_name).template()
    for more in (TOLD, {"metadata": "clock"}, {"history": [{**CALL, "role": "system"}]}):
        row = {"content": QUERY, "summary": ANSWER, **more}
        with pytest.raises(DataError, match="do not support tools; use chatglm3-6b-base"):
            encode_prompts(template, tokenizers[family_name], [row], **OFFICIAL)
