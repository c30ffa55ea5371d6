"""Row formats: detected by content and converted to the same rows for all later steps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_data import read_rows, save

from glmtune.data.formats import FORMATS, Columns
from glmtune.data.reading import ReadOptions, check_file
from glmtune.errors import DataError, ParamsError
from glmtune.families.conversation import as_rounds

FIRST, SECOND = ("红色？", "红色。"), ("蓝色呢？", "蓝色。")
HISTORY = [{"role": "user", "content": FIRST[0]}, {"role": "assistant", "content": FIRST[1]}]
SYSTEM = {"role": "system", "content": "简短。"}
PAIR = {"content": FIRST[0], "summary": FIRST[1]}
SECOND_TURN = {"content": SECOND[0], "summary": SECOND[1], "history": HISTORY}


def said(roles: str, *texts: str, keys: tuple[str, str] = ("role", "content")) -> list[dict]:
    """Messages, e.g. said("user assistant", "问", "答")."""
    return [dict(zip(keys, pair, strict=True)) for pair in zip(roles.split(), texts, strict=True)]


TURNS = (*FIRST, *SECOND)
USER_TURNS = said("user assistant user assistant", *TURNS)
GPT_TURNS = said("human gpt human gpt", *TURNS, keys=("from", "value"))

# format -> (value, its row, the columns taken)
DETECTED: list[tuple[str, Any, dict, dict]] = [
    ("adgen", PAIR, PAIR, {"prompt": "content", "response": "summary"}),
    *(
        ("adgen", {p: FIRST[0], r: FIRST[1]}, PAIR, {"prompt": p, "response": r})
        for p, r in (("src", "tgt"), ("prompt", "response"), ("prompt", "answer"))
    ),
    (
        "adgen",
        {"prompt": SECOND[0], "response": SECOND[1], "history": [list(FIRST)]},
        SECOND_TURN,
        {"prompt": "prompt", "response": "response", "history": "history"},
    ),
    (
        "alpaca",
        {"instruction": "换一种说法。", "input": "好看", "output": "漂亮"},
        {"content": "换一种说法。\n好看", "summary": "漂亮"},
        {"prompt": "instruction", "input": "input", "response": "output"},
    ),
    (
        "alpaca",
        {"instruction": SECOND[0], "output": SECOND[1], "history": [FIRST], "system": "简短。"},
        {**SECOND_TURN, "history": [SYSTEM, *HISTORY]},
        {"prompt": "instruction", "response": "output", "history": "history", "system": "system"},
    ),
    ("chatml", {"messages": USER_TURNS}, SECOND_TURN, {"messages": "messages"}),
    ("chatglm3", {"conversations": USER_TURNS}, SECOND_TURN, {"messages": "conversations"}),
    ("sharegpt", {"conversations": GPT_TURNS}, SECOND_TURN, {"messages": "conversations"}),
    (
        "sharegpt",
        {"conversations": GPT_TURNS[:2], "system": "简短。"},
        {**PAIR, "history": [SYSTEM]},
        {"messages": "conversations", "system": "system"},
    ),
]
BARE = said("SYSTEM USER ASSISTANT USER ASSISTANT", "简短。", *TURNS)


@pytest.mark.parametrize("case", DETECTED, ids=[case[0] for case in DETECTED])
def test_a_format_is_detected_with_its_columns(case: tuple, tmp_path: Path) -> None:
    name, value, row, columns = case
    file = check_file(save(tmp_path, json.dumps([value, value])))
    assert (file.shape.format, file.columns, len(file)) == (name, columns, 2)
    assert list(file) == [row, row]


def test_bare_arrays_of_messages_are_conversations(tmp_path: Path) -> None:
    path = save(tmp_path, json.dumps([BARE, BARE[1:]]))
    assert check_file(path).shape.format == "chatglm3-base-tuning"
    assert read_rows(path) == [{**SECOND_TURN, "history": [SYSTEM, *HISTORY]}, SECOND_TURN]


def test_every_format_has_a_detected_example() -> None:
    assert {case[0] for case in DETECTED} | {"chatglm3-base-tuning"} == set(FORMATS)


def test_an_empty_input_adds_no_line_to_the_instruction(tmp_path: Path) -> None:
    row = {"instruction": "你好", "input": "", "output": "您好"}
    assert read_rows(save(tmp_path, json.dumps(row))) == [{"content": "你好", "summary": "您好"}]


def test_a_history_that_only_a_later_row_has_is_not_lost(tmp_path: Path) -> None:
    later = {"prompt": SECOND[0], "response": SECOND[1], "history": [list(FIRST)]}
    first = {"prompt": "a", "response": "b"}
    path = save(tmp_path, json.dumps([first, later]))
    assert read_rows(path)[1] == SECOND_TURN
    assert check_file(path).columns["history"] == "history"


def test_messages_after_the_last_answer_are_dropped(tmp_path: Path) -> None:
    row = {"messages": [*USER_TURNS, {"role": "user", "content": "谢谢"}]}
    assert read_rows(save(tmp_path, json.dumps(row))) == [SECOND_TURN]


def test_a_call_without_its_result_is_refused(tmp_path: Path) -> None:
    call = {"role": "tool", "name": "weather", "parameters": {"城": "北京"}}
    turns = [*said("user", "天气？"), call, *said("assistant", "冷。")]
    with pytest.raises(DataError, match="'observation' is missing; expected the tool's result"):
        read_rows(save(tmp_path, json.dumps({"conversations": turns})))


def test_tools_and_their_results_become_messages_of_chatglm3(tmp_path: Path) -> None:
    tools = [{"name": "weather"}]
    call = {
        "role": "tool",
        "name": "weather",
        "parameters": {"城": "北京"},
        "observation": {"t": 3},
    }
    turns = [
        *said("user", "天气？"),
        call,
        *said("assistant user assistant", "冷。", "谢谢", "好。"),
    ]
    (row,) = read_rows(save(tmp_path, json.dumps({"tools": tools, "conversations": turns})))
    assert row["history"] == [
        {"role": "system", "content": "", "tools": tools},
        {"role": "user", "content": "天气？"},
        {
            "role": "assistant",
            "metadata": "weather",
            "content": "```python\ntool_call(城='北京')\n```",
        },
        {"role": "observation", "content": '{"t": 3}'},
        {"role": "assistant", "content": "冷。"},
    ]


# (roles in the file, roles of the row's history)
ORDERS = [
    ("assistant user assistant", ""),
    ("system assistant user assistant", "system"),
    ("user user assistant", ""),
    ("user assistant assistant user assistant", "user assistant"),
    ("user assistant user user user assistant", "user assistant"),
    ("user assistant assistant", ""),
]


@pytest.mark.parametrize(("roles", "history"), ORDERS)
def test_chats_in_another_order_are_normalized_to_turns(
    roles: str, history: str, tmp_path: Path
) -> None:
    turns = said(roles, *"abcdef"[: len(roles.split())])
    file = check_file(save(tmp_path, json.dumps([turns])))
    (row,) = file
    assert " ".join(message["role"] for message in row.get("history", ())) == history
    assert sum(file.notes.values()) == 1
    as_rounds(row["content"], row.get("history", ()))  # the form of the older families
    kept = "".join(message["content"] for message in [*row.get("history", ()), *said("x", "")])
    kept += row["content"] + row["summary"]
    is_greeted = any("before the first question" in note for note in file.notes)
    assert len(kept.replace("\n", "")) == len(turns) - is_greeted


def test_two_questions_become_one_with_two_lines(tmp_path: Path) -> None:
    before = {"prompt": "b", "response": "c", "history": said("user", "a")}
    for value in (before, {"messages": said("user user assistant", "a", "b", "c")}):
        rows = read_rows(save(tmp_path, json.dumps(value)))
        assert rows == [{"content": "a\nb", "summary": "c"}]


def test_rows_with_tools_are_refused_if_a_model_does_not_support_them(tmp_path: Path) -> None:
    path = save(tmp_path, json.dumps([[ASKED, *CALLS["chatglm3"]], USER_TURNS]))
    with pytest.raises(DataError, match=r"row 1: tools, a call or an observation; .*leave the row"):
        check_file(path, ReadOptions(takes_tools=False))
    file = check_file(path, ReadOptions(takes_tools=False, skip_bad_rows=True))
    assert list(file) == [SECOND_TURN]


CLOCK = {"name": "clock", "arguments": {"城": "北京"}}
CALL = {"role": "assistant", "metadata": "clock", "content": "```python\ntool_call(城='北京')\n```"}
ASKED, RESULT = {"role": "user", "content": "几点？"}, {"role": "observation", "content": "三点"}
ANSWERED_BY_TOOL = {
    "content": "三点",
    "summary": "三点了。",
    "history": [ASKED, CALL],
    "role": "observation",
}
# The same conversation as written by ChatGLM3, OpenAI (now and formerly) and LLaMA-Factory.
CALLS: dict[str, list[dict]] = {
    "chatglm3": [
        {"role": "tool", "name": "clock", "parameters": {"城": "北京"}, "observation": "三点"}
    ],
    "openai": [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {**CLOCK, "arguments": json.dumps(CLOCK["arguments"])},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "三点"},
    ],
    "openai before": [
        {"role": "assistant", "content": None, "function_call": CLOCK},
        {"role": "function", "name": "clock", "content": "三点"},
    ],
    "llama-factory": [{"role": "function_call", "content": json.dumps(CLOCK)}, RESULT],
}


@pytest.mark.parametrize("written", CALLS)
def test_an_answer_after_a_tool_is_the_answer_of_the_row(written: str, tmp_path: Path) -> None:
    conversation = [ASKED, *CALLS[written], *said("assistant", "三点了。")]
    assert read_rows(save(tmp_path, json.dumps([conversation]))) == [ANSWERED_BY_TOOL]


@pytest.mark.parametrize("written", CALLS)
def test_a_call_at_the_end_is_the_answer_of_the_row(written: str, tmp_path: Path) -> None:
    (row,) = read_rows(save(tmp_path, json.dumps([[ASKED, *CALLS[written]]])))
    assert row == {"content": "几点？", "summary": CALL["content"], "metadata": "clock"}


def test_text_before_a_call_and_each_call_are_separate_messages(tmp_path: Path) -> None:
    calls = {"role": "function_call", "content": json.dumps([CLOCK, CLOCK])}
    turns = [ASKED, *said("assistant", "看一下。"), calls, RESULT, *said("assistant", "三点了。")]
    (row,) = read_rows(save(tmp_path, json.dumps([turns])))
    assert row["history"] == [ASKED, *said("assistant", "看一下。"), CALL, CALL]


def test_a_system_message_of_tools_needs_no_text(tmp_path: Path) -> None:
    system = {"role": "system", "content": None, "tools": [{"name": "clock"}]}
    (row,) = read_rows(save(tmp_path, json.dumps([[system, *USER_TURNS]])))
    assert row["history"][0] == {**system, "content": ""}


def test_lists_in_the_cells_of_a_table_are_read_as_json(tmp_path: Path) -> None:
    cell = json.dumps([FIRST]).replace('"', '""')
    path = save(tmp_path, f'prompt,response,history\n{SECOND[0]},{SECOND[1]},"{cell}"\n', "a.csv")
    assert read_rows(path) == [SECOND_TURN]


@pytest.mark.parametrize(
    ("named", "value"),
    [
        (Columns("q", "a"), {"q": FIRST[0], "a": FIRST[1], "content": "x", "summary": "y"}),
        (Columns(prompt="q"), {"q": FIRST[0], "answer": FIRST[1]}),
        (Columns(response="a"), {"prompt": FIRST[0], "a": FIRST[1]}),
        (Columns("q", "a", "h"), {"q": FIRST[0], "a": FIRST[1], "h": [], "history": [["x", "y"]]}),
    ],
)
def test_named_columns_are_used(named: Columns, value: dict, tmp_path: Path) -> None:
    assert read_rows(save(tmp_path, json.dumps(value)), named) == [PAIR]


def test_a_wrapper_is_read_with_named_columns_too(tmp_path: Path) -> None:
    path = save(tmp_path, json.dumps({"rows": [{"q": FIRST[0], "a": FIRST[1]}]}))
    assert read_rows(path, Columns("q", "a")) == [PAIR]


# value(s) -> what the message must say
INVALID: list[tuple[Any, str]] = [
    ({"prompt": "a", "response": "b", "answer": "c"}, "adgen (prompt, response); adgen (prompt"),
    ({**PAIR, "messages": USER_TURNS}, "adgen (content, summary); chatml (messages, system)"),
    (
        {"text": "a"},
        "not a row of a known format (keys found: text); expected adgen {content, summ",
    ),
    (USER_TURNS, "a single message; expected one conversation per row; put the messages of each"),
    ([PAIR, {"instruction": "a", "output": "b"}], "row 2: a row of format alpaca, after rows of"),
    ({"messages": []}, "not a row of a known format (keys found: messages)"),
    ({"messages": said("user", "a")}, "'messages': no answer (role assistant) to a question"),
    ({"messages": said("assistant", "a")}, "'messages': no answer (role assistant) to a question"),
    ({"messages": said("bot", "a")}, "message 1: 'role' is 'bot'; expected one of system, user"),
    ({"messages": [{"role": None}]}, "message 1: 'role' is null; expected one of system, user"),
    ({"messages": [*USER_TURNS, "a"]}, "message 5 is text; expected {role, content}"),
    ({"messages": said("user assistant", "a", " ")}, "'messages': the last answer is empty"),
    ({"messages": [{"role": "user"}]}, "'messages': message 1: 'content' is null; expected text"),
    ({"messages": said("system assistant", "a", "b")}, "no answer (role assistant) to a question"),
    ({"messages": said("observation assistant", "a", "b")}, "an observation before the first"),
    (
        {"messages": said("user system assistant", "a", "b", "c")},
        "'messages': a system message between a question and its answer; expected it before",
    ),
    (
        {"messages": said("user function_call assistant", "a", "clock()", "c")},
        "message 2: 'content' is text that is not JSON ('clock()'); expected {\"name\": text, \"ar",
    ),
    (
        {"messages": [*USER_TURNS, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        "message 5: the name of the tool is null; expected text",
    ),
    ({"src": "a", "tgt": "b", "history": [["a"]]}, "'history' item 1 is 1 texts; expected [quest"),
    ({"src": "a", "tgt": "b", "history": "x"}, "'history' is text that is not JSON ('x')"),
    ({"src": "a", "tgt": "b", "history": {}}, "'history' is an object; expected a list"),
]


@pytest.mark.parametrize("case", INVALID, ids=[case[1] for case in INVALID])
def test_an_ambiguous_or_invalid_row_is_reported_with_a_fix(case: tuple, tmp_path: Path) -> None:
    path = save(tmp_path, json.dumps(case[0], ensure_ascii=False))
    with pytest.raises(DataError) as caught:
        read_rows(path)
    message = str(caught.value)
    assert re.match(re.escape(f"{path}: ") + r"(line 1|row \d): ", message)
    assert case[1] in message
    assert "; expected " in message
    assert message.count(";") >= 2  # found; expected; fix


def test_a_named_format_is_not_guessed(tmp_path: Path) -> None:
    both = save(tmp_path, json.dumps({**PAIR, "messages": USER_TURNS}))
    assert read_rows(both, data_format="chatml") == [SECOND_TURN]
    assert read_rows(both, data_format="adgen") == [PAIR]
    with pytest.raises(DataError, match=r"not a row of a known format .* expected alpaca \{instr"):
        read_rows(both, data_format="alpaca")


def test_wrong_options_are_reported_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="unknown data format 'xml'; choose from adgen, alpaca"):
        ReadOptions(data_format="xml")
    with pytest.raises(ParamsError, match="columns are named for format chatml"):
        ReadOptions(Columns("a", "b"), "chatml")
    path = save(tmp_path, json.dumps(PAIR))
    with pytest.raises(DataError, match=r"no 'q' \(keys found: content, summary\)"):
        read_rows(path, Columns("q", "a"))
    with pytest.raises(DataError, match=r"no row has 'h' .*; correct --history-column"):
        read_rows(path, Columns(history="h"))


# Samples of the projects that defined the formats: (format, rows, whether any has a history).
SAMPLES = {
    "THUDM_ChatGLM3_cognition_dev.json": ("chatglm3", 60, False),
    "THUDM_ChatGLM3_cognition_train.json": ("chatglm3", 71, False),
    "THUDM_ChatGLM3_cookbook_emo.json": ("alpaca", 60, False),
    "chibinjiang_ConversationGen_history.json": ("adgen", 3, True),
    "minghaochen_formatted_samples.json": ("chatglm3-base-tuning", 27, True),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_files_of_other_projects_are_read(name: str, samples: Path) -> None:
    file = check_file(samples / "sft" / name)
    rows = list(file)
    found = (file.shape.format, len(rows), any("history" in row for row in rows))
    assert found == SAMPLES[name]
