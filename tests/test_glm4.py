"""GLM-4's prompts: published ids, tools and calls, and rows as its finetune_demo makes them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from glmtune.errors import DataError, WeightsError
from glmtune.families.byte_vocabulary import CHARACTER_OF, ranks_as_lines, read_ranks
from glmtune.families.conversation import shown_answer
from glmtune.families.encoding import encode_example
from glmtune.families.glm4_tokenizer import GLM4Tokenizer
from glmtune.families.loading import detect_family, load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.families.tool_calls import call_as_json, tool_call
from glmtune.labels import IGNORED_LABEL
from glmtune.serving.prompts import chat_prompt, read_messages

GLM4 = ROOT / "tests" / "fixtures" / "glm4"
TEMPLATE = FAMILIES["glm-4-9b"].template()
LIMITS: Any = {"max_source_tokens": 500, "max_target_tokens": 500, "long_history": "official"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(GLM4)


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


# --- Published ids -------------------------------------------------------------------------------

# Words with their published ids; every test of other programs that quotes ids of glm-4-9b-chat has
# some. Single bytes have the ids of all vocabularies of this form: "!" is 0, line feed 198.
PUBLISHED_PIECES = {
    **{"hello": 14978, "You": 2610, " are": 525, " assistant": 17821, "how": 5158, " can": 646},
    **{" I": 358, " help": 1492, " you": 498, " much": 1753, " is": 374, "你好": 109377},
    **{"An": 2082, " increasing": 7703, " sequence": 8499, " one": 825, " two": 1378},
    **{" three": 2326, "！": 6313, "，": 3837, "很高兴": 118295, "见到": 103810, "你": 98406},
    **{"有什么": 101665, "可以帮助": 110368, "你的": 99444, "吗": 99212, "？": 11314},
    **{"晚上": 101160, "睡不着": 120410, "应该": 99379, "怎么办": 103298},
}
HELP = [151337, 198, 5158, 646, 358, 1492, 498, 30]
SYSTEM = [151335, 198, 2610, 525, 17821, 13]
GREETING = [109377, 9281, 239, 233, 6313, 118295, 103810, 98406, 3837]
GREETING += [101665, 110368, 99444, 99212, 11314]
USER, ASSISTANT = 151336, 151337
PUBLISHED_PROMPTS = [
    ([("user", "hello")], [USER, 198, 14978]),
    ([("system", "You are assistant."), ("user", "hello")], [*SYSTEM, USER, 198, 14978]),
    (
        [
            *[("system", "You are assistant."), ("user", "hello")],
            *[("assistant", "how can I help you?"), ("user", "how much is 2+2?")],
        ],
        [*SYSTEM, USER, 198, 14978, *HELP] + [USER, 198, 5158, 1753, 374, 220, 17, 10, 17, 30],
    ),
    ([("user", "你好")], [USER, 198, 109377]),
    (
        [
            *[("user", "你好"), ("assistant", "你好👋！很高兴见到你，有什么可以帮助你的吗？")],
            ("user", "晚上睡不着应该怎么办"),
        ],
        [USER, 198, 109377, ASSISTANT, 198, *GREETING] + [USER, 198, 101160, 120410, 99379, 103298],
    ),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> GLM4Tokenizer:
    """A vocabulary as large as GLM-4's with the published pieces, and made-up ones between them.

    What a published piece is joined from is made up too: its beginnings, from low ranks on.
    """
    by_place = sorted(range(256), key=lambda byte: CHARACTER_OF[byte])
    ranks = {bytes([byte]): place for place, byte in enumerate(by_place)}
    ranks |= {text.encode(): i for text, i in PUBLISHED_PIECES.items()}
    ranks |= {"👋".encode()[:2]: 9281}
    free = iter(sorted(set(range(151329)) - set(ranks.values())))
    pieces = [text.encode() for text in PUBLISHED_PIECES]
    beginnings = {piece[:end]: None for piece in pieces for end in range(2, len(piece))}
    ranks |= {part: next(free) for part in beginnings if part not in ranks}
    ranks |= {b"\xff" + base64.b64encode(str(i).encode()): i for i in free}
    file = tmp_path_factory.mktemp("published") / "tokenizer.model"
    file.write_bytes(ranks_as_lines(ranks))
    return GLM4Tokenizer.from_file(file)


@pytest.mark.parametrize(("messages", "ids"), PUBLISHED_PROMPTS)
def test_prompts_have_the_published_ids(
    published: Any, messages: list[tuple[str, str]], ids: list[int]
) -> None:
    *history, last = [{"role": role, "content": content} for role, content in messages]
    found = published.chat_prompt_ids(last["content"], history)
    assert found == [151331, 151333, *ids, 151337]


def test_special_tokens_have_the_published_ids(published: Any) -> None:
    text = "An increasing sequence: one, two, three."
    ids = [151331, 151333, 2082, 7703, 8499, 25, 825, 11, 1378, 11, 2326, 13]
    assert published.encode(text) == ids
    assert published.decode(ids) == text
    assert published.stop_token_ids == (151329, 151336, 151338)
    assert published.pad_token_id == published.eos_token_id == 151329
    assert published.special_ids["<|end_of_video|>"] == published.vocab_size - 1 == 151342


# --- Tools ---------------------------------------------------------------------------------------

TOOL = {"name": "track", "description": "追踪股价", "parameters": {"type": "object"}}
PYTHON_CALL = "```python\ntool_call(symbol='10111', n=2)\n```"
JSON_CALL = '{"symbol": "10111", "n": 2}'


def test_tools_are_described_as_in_the_chat_template(tokenizer: Any) -> None:
    messages = read_messages(
        [
            {"role": "user", "content": "价格？"},
            {"role": "assistant", "metadata": "track", "content": PYTHON_CALL},
            {"role": "tool", "content": "42"},
        ],
        [{"type": "function", "function": TOOL}],
    )
    shown = tokenizer.decode(chat_prompt(tokenizer, "glm-4-9b", messages), False)
    described = json.dumps(TOOL, ensure_ascii=False, indent=4)
    assert shown == (
        "[gMASK]<sop><|system|>\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 "
        "GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具\n\n"
        f"## track\n\n{described}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
        f"<|user|>\n价格？<|assistant|>track\n{JSON_CALL}<|observation|>\n42<|assistant|>"
    )


def test_a_system_text_stays_beside_the_tools(tokenizer: Any) -> None:
    message = {"role": "system", "content": "简短。", "tools": [TOOL]}
    shown = tokenizer.decode(tokenizer.message_ids(message), False)
    assert shown.count("<|system|>") == 2
    assert shown.endswith("<|system|>\n简短。")
    with pytest.raises(DataError, match="one without a name"):
        tokenizer.message_ids(message | {"tools": [{"type": "python"}]})
    with pytest.raises(DataError, match="unknown role 'tool'; choose from system, user"):
        tokenizer.message_ids({"role": "tool", "content": "x"})


def test_an_answer_that_is_a_call_is_read_as_one() -> None:
    assert tool_call(f"track\n{JSON_CALL}") == {"name": "track", "arguments": JSON_CALL}
    for text in ("track\n[1]", "track\n1e999", "track\n{", f"\n{JSON_CALL}", '{"a": 1}'):
        assert tool_call(text) is None
    assert call_as_json(PYTHON_CALL) == JSON_CALL
    assert call_as_json("```python\nopen('x')\n```") == "```python\nopen('x')\n```"
    assert call_as_json(JSON_CALL) == JSON_CALL


# --- Training rows -------------------------------------------------------------------------------


def test_a_row_ends_where_the_next_question_would_begin(tokenizer: Any) -> None:
    example = encode_example(TEMPLATE, tokenizer, {"content": "裙", "summary": "好"}, **LIMITS)
    targets = [*plain(tokenizer, "\n"), *plain(tokenizer, "好"), tokenizer.special_ids["<|user|>"]]
    prompt = tokenizer.chat_prompt_ids("裙")
    assert example.input_ids == prompt + targets
    assert example.labels == [IGNORED_LABEL] * len(prompt) + targets
    assert targets[-1] in tokenizer.stop_token_ids
    reference = TEMPLATE.encode_reference(tokenizer, "好", max_target_tokens=9)
    assert reference == targets


def test_every_answer_and_the_token_behind_it_is_a_target(tokenizer: Any) -> None:
    call = {"role": "assistant", "metadata": "track", "content": PYTHON_CALL}
    history: list[Any] = [{"role": "system", "content": "", "tools": [TOOL]}]
    history += [{"role": "user", "content": "价格？"}, call]
    row = {"content": "42", "role": "observation", "summary": "是42。", "history": history}
    example = encode_example(TEMPLATE, tokenizer, row, **LIMITS)
    targets = [label for label in example.labels if label != IGNORED_LABEL]
    assert tokenizer.decode(targets, False) == f"track\n{JSON_CALL}<|observation|>\n是42。<|user|>"


def test_the_reference_of_a_call_is_as_the_model_writes_it(tokenizer: Any) -> None:
    row = {"content": "价格？", "summary": PYTHON_CALL, "metadata": "track"}
    example = encode_example(TEMPLATE, tokenizer, row, **LIMITS)
    targets = [label for label in example.labels if label != IGNORED_LABEL]
    shown = tokenizer.process_response(tokenizer.decode(targets))
    assert shown == shown_answer(row, TEMPLATE.written_call) == f"track\n{JSON_CALL}"


# --- Folders -------------------------------------------------------------------------------------


def test_the_family_is_told_by_the_form_of_the_vocabulary(tmp_path: Path) -> None:
    content = (GLM4 / "tokenizer.model").read_bytes()
    folder = tmp_path / "chatglm3-6b"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(content)
    assert detect_family(folder) == "glm-4-9b"
    with pytest.raises(WeightsError, match="a vocabulary of GLM-4; expected that of ChatGLM3-6B"):
        load_tokenizer(folder, "chatglm3-6b-base")
    sentencepiece = ROOT / "tests/fixtures/v3/checkpoint/tokenizer.model"
    with pytest.raises(WeightsError, match="not a vocabulary of GLM-4"):
        load_tokenizer(sentencepiece, "glm-4-9b")


def test_a_cut_off_vocabulary_is_noticed_by_its_special_tokens(tmp_path: Path) -> None:
    lines = (GLM4 / "tokenizer.model").read_bytes().splitlines(keepends=True)
    listed = {str(len(lines) + 2): {"content": "[gMASK]", "special": True}}
    config = {"name_or_path": "THUDM/glm-4-9b", "added_tokens_decoder": listed}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines))
    assert load_tokenizer(tmp_path).special_ids["[gMASK]"] == len(lines) + 2
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines[:-5]))
    with pytest.raises(WeightsError, match=r"951 pieces, so \[gMASK\] is token 953; .* 958, as"):
        load_tokenizer(tmp_path)


def test_a_folder_of_transformers_own_layout_has_the_same_vocabulary(tmp_path: Path) -> None:
    ranks = read_ranks(GLM4 / "tokenizer.model")
    names = {"".join(CHARACTER_OF[byte] for byte in piece): rank for piece, rank in ranks.items()}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": names}}))
    assert detect_family(tmp_path) == "glm-4-9b"
    ours, other = load_tokenizer(GLM4), load_tokenizer(tmp_path)
    assert other.encode("白色的裙子。") == ours.encode("白色的裙子。")
    assert other.special_ids == ours.special_ids
