"""What serving does with texts: names, prompts, answers as they come, the command's mistakes."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtune.commands.flags import add_model, choose
from glmtune.commands.main import COMMANDS
from glmtune.commands.texts import CHINESE, ENGLISH
from glmtune.errors import DataError, ParamsError
from glmtune.families.conversation import TRAINING_TIME
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.families.tool_calls import tool_call
from glmtune.files import write_json
from glmtune.serving.answer_text import AnswerText
from glmtune.serving.catalog import find, read_folder, read_results, stamp_of
from glmtune.serving.prompts import (
    chat_prompt,
    plain_prompt,
    read_messages,
    refuse_long,
    texts_of,
)
from glmtune.workspace.code_inputs import SCRIPTS

VERSIONS = {"v1": "chatglm-6b", "v2": "chatglm2-6b", "v3": "chatglm3-6b-base"}
# What an answer may consist of: all that is shown differently once more of it is there.
PARTS = st.lists(
    st.sampled_from(
        [*"，,!:;? \n\t好a2<>|[]", "<n>", "<|tab|>", "<|blank_3|>", "<|blank", TRAINING_TIME[0]]
        + ["[[训练", "时间]]", "年", "裙", "😀", "𠮷", "```", "stop"]
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("vocabularies")
    texts = ["你好，好的裙。a,b:c;d?e!2023年", "[[训练时间]] stop"]
    for name, family in FAMILIES.items():
        family.train_tokenizer(texts, folder / name, vocab_size=50)
    return {name: load_tokenizer(folder / name, name) for name in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_shown_are_never_taken_back(trained: dict[str, Any], family: str) -> None:
    tokenizer = trained[family]

    @given(PARTS, st.sampled_from([(), ("stop",), ("，好", "top")]))
    def check(text: str, stops: tuple[str, ...]) -> None:
        ids = tokenizer.encode(text, add_special_tokens=False)
        whole = tokenizer.process_response(tokenizer.decode(ids))
        answer = AnswerText(tokenizer, stops=stops)
        shown = ""
        for token in ids:
            shown += answer.add([token])
            assert whole.startswith(shown)
        shown += answer.finish()
        ends = [whole.index(stop) for stop in stops if stop in whole]
        assert shown == whole[: min(ends, default=len(whole))]
        assert answer.is_stopped is bool(ends)

    check()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_s_messages_become_the_official_prompt(goldens: Path, version: str) -> None:
    family = VERSIONS[version]
    golden = json.loads((goldens / version / "tokenizer_golden.json").read_text("utf-8"))
    tokenizer = load_tokenizer(goldens / version / "checkpoint", family)
    checked = 0
    for case in golden["prompts"].values():
        if not isinstance(case, dict) or "query" not in case:
            continue
        messages = []
        for item in case["history"]:
            if isinstance(item, dict):
                messages.append(item)
            else:
                messages.append({"role": "user", "content": item[0]})
                messages.append({"role": "assistant", "content": item[1]})
        role = "tool" if case.get("role") == "observation" else "user"
        messages.append({"role": role, "content": case["query"]})
        assert chat_prompt(tokenizer, family, read_messages(messages)) == case["ids"]
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_that_are_typed_stay_text(trained: dict[str, Any], family: str) -> None:
    tokenizer = trained[family]
    special = set(tokenizer.special_ids.values()) | {tokenizer.eos_token_id}
    plain = chat_prompt(tokenizer, family, [{"role": "user", "content": "你好"}])
    names = [name for name in tokenizer.special_ids if name != "[MASK]"]
    text = "你好" + " ".join([*names, "</s>", "<eop>好", "<sop><sop>"])
    typed = chat_prompt(tokenizer, family, [{"role": "user", "content": text}])
    assert [i for i in typed if i in special] == [i for i in plain if i in special]
    assert "<eop>好" in tokenizer.decode(typed)
    assert plain_prompt(tokenizer, "你好") == tokenizer.encode("你好")


def test_tools_are_laid_out_as_chatglm3_does(trained: dict[str, Any]) -> None:
    track = {"name": "track", "parameters": {"type": "object"}}
    messages = read_messages(
        [
            {"role": "user", "content": "价格？"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"type": "function", "function": {"name": "track", "arguments": '{"a": "x"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        ],
        [{"type": "function", "function": track}],
    )
    assert [message["role"] for message in messages] == [
        *("system", "user", "assistant", "observation")
    ]
    assert messages[0]["tools"] == [track]
    assert messages[2]["metadata"] == "track"
    assert messages[2]["content"] == "```python\ntool_call(a='x')\n```"
    assert chat_prompt(trained["chatglm3-6b-base"], "chatglm3-6b-base", messages)
    with pytest.raises(DataError, match="no place for tools"):
        chat_prompt(trained["chatglm2-6b"], "chatglm2-6b", messages)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (
            "track\n```python\ntool_call(symbol='10111', n=2)\n```",
            {"name": "track", "arguments": '{"symbol": "10111", "n": 2}'},
        ),
        ("好的。", None),
        ("track\n```python\ntool_call(a=open('x'))\n```", None),
        ("track\n```python\n__import__('os').system('x')\n```", None),
        ("track\n```python\n" + "(" * 10_000 + "\n```", None),
        ("track\n```python\ntool_call(a=1e999)\n```", None),
    ],
)
def test_a_call_is_read_and_never_run(text: str, call: dict[str, str] | None) -> None:
    assert tool_call(text) == call


NESTED: list[Any] = []
for _ in range(2000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        ({}, "without a name"),
        ({"function": "f"}, "without a name"),
        ({"name": "f", "parameters": NESTED}, "nested too deeply"),
        ({"name": "f", "description": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_a_description_that_is_none_is_refused(tool: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_messages([{"role": "user", "content": "你好"}], [tool])


def test_a_short_text_that_becomes_a_huge_prompt_is_refused_before_it_does() -> None:
    """Tools are indented: each of these brackets stands on a line of its own."""
    parameters: list[Any] = []
    for _ in range(300):
        parameters = [parameters]
    tools = [{"name": "f", "parameters": parameters}] * 1000
    messages = read_messages([{"role": "user", "content": "你好"}], tools)
    with pytest.raises(DataError, match="more than 512 tokens"):
        refuse_long(texts_of(messages), 512)
    refuse_long(
        texts_of(read_messages([{"role": "user", "content": "你好"}], [{"name": "f"}])), 512
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for family in ("chatglm-6b", "chatglm2-6b"):
        (tmp_path / "models" / family).mkdir(parents=True)
        write_json(tmp_path / "models" / f"{family}.json", {"family": family})
        for method, file in (("ptuning", "info.json"), ("lora", "adapter_config.json")):
            write_json(tmp_path / "checkpoints" / family / method / file, {})
    write_json(tmp_path / "checkpoints" / "chatglm2-6b" / "full" / "config.json", {})
    return tmp_path


def test_what_was_trained_is_found_by_name(results: Path) -> None:
    catalog = read_results(results)
    kinds = {name: served.kind for name, served in catalog.items() if served.name[7] == "2"}
    assert kinds == {
        "chatglm2-6b": "base",
        "chatglm2-6b/full": "full",
        "chatglm2-6b/lora": "adapter",
        "chatglm2-6b/ptuning": "prefix",
    }
    assert find(catalog, "chatglm2-6b/none").name == "chatglm2-6b"


def test_a_wrong_name_is_answered_with_the_nearest(results: Path) -> None:
    with pytest.raises(ParamsError, match="expected one of chatglm2-6b/ptuning"):
        find(read_results(results), "chatglm2-6b/ptunig")


def test_a_folder_without_models_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="make report"):
        read_results(tmp_path)
    with pytest.raises(Exception, match="no such folder"):
        read_folder(tmp_path / "no", prefix=None)


def glmtune(*arguments: str, cwd: Path | None = None, **more: Any) -> Any:
    """The command, where importing torch is an error."""
    code = "import sys; sys.modules['torch'] = None; from glmtune.commands.main import run; run()"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
        **more,
    )


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_torch(command: str) -> None:
    done = glmtune(*filter(None, [command]), "--help")
    assert done.returncode == 0, done.stderr
    assert "glmtune" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chatt"], "expected chat"),
        (["chat", "chatglm2-6b/ptunig"], "expected one of chatglm2-6b/ptuning"),
        (["chat", "chatglm2-6b", "--temperature", "11"], "expected 0 to 10"),
        (["serve", "chatglm2-6b/lroa"], "expected one of chatglm2-6b/lora"),
        (["serve", "--max-memory", "much"], "expected a size such as"),
        (["export", "nobody", "--format", "official", "--out", "x"], "unknown model 'nobody'"),
        (["answer", "chatglm2-6b", "no.txt", "--out", "x"], "no.txt: No such file"),
        (["chat", "chatglm2-6b/lora", "--prefix", "x"], "the folder of a base model"),
        (["score", "--predictions", "no.jsonl"], "no such file"),
        (["chat", ""], "unknown model ''"),
        (["chat", "/nowhere"], "unknown model '/nowhere'"),
        (["chat", "chatglm2-6b", "--device", "gpu"], "expected cpu, cuda or cuda:N"),
        (["chat", "chatglm2-6b", "--top-p", "0"], "expected 1e-06 to 1"),
        (["chat", "chatglm2-6b", "--seed", "-1"], "expected 0 or more"),
        (["serve", "--port", "65536"], "expected 65535 or less"),
        (["serve", "--host", "999.1.1.1"], "expected an address of this machine"),
        (["serve", "--dev", "no.jsonl"], "no.jsonl: no such file"),
        (["serve", "--api-key", ""], "which an HTTP header cannot hold"),
        (["export", "chatglm2-6b", "--format", "onnx", "--out", "x"], "invalid choice: 'onnx'"),
        (["answer", "chatglm2-6b", "chatglm2-6b.txt", "--out", "chatglm2-6b.txt"], "overwritten"),
    ],
)
def test_mistakes_are_one_message_and_need_no_torch(
    results: Path, arguments: list[str], told: str
) -> None:
    if arguments[0] == "serve":
        for extra in ("fastapi", "uvicorn"):
            pytest.importorskip(extra, reason="the server needs the extra `serve`")
    (results / "chatglm2-6b.txt").write_text("你好", encoding="utf-8")
    flags = [] if arguments[0] in ("chatt", "score") else ["--results", "."]
    done = glmtune(*arguments, *flags, cwd=results)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told_at_once(results: Path) -> None:
    pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = glmtune("serve", "--results", ".", "--port", port, cwd=results)
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert "listening" not in done.stdout


def test_a_folder_is_found_wherever_it_is(results: Path) -> None:
    flags = argparse.ArgumentParser()
    add_model(flags)
    base, prefix = results / "models/chatglm2-6b", results / "checkpoints/chatglm2-6b/ptuning"
    for folder in (str(base), os.path.relpath(base)):
        given = [folder, "--prefix", str(prefix), "--results", str(results)]
        _, served = choose(flags.parse_args(given))
        assert (served.name, served.folder) == ("chatglm2-6b/ptuning", base)


def test_files_that_changed_are_noticed(results: Path) -> None:
    served = read_results(results)["chatglm2-6b/lora"]
    assert stamp_of(served) == served.stamp
    write_json(results / "checkpoints/chatglm2-6b/lora/adapter_config.json", {"r": 8})
    assert stamp_of(served) != served.stamp


def test_models_are_listed(results: Path) -> None:
    done = glmtune("models", "--results", ".", cwd=results)
    assert [line.split()[0] for line in done.stdout.splitlines()][:3] == [
        *("chatglm-6b", "chatglm-6b/lora", "chatglm-6b/ptuning")
    ]


def test_chat_says_the_same_in_both_languages() -> None:
    import re

    assert ENGLISH.keys() == CHINESE.keys()
    for key, text in ENGLISH.items():
        fields = re.compile(r"\{\w+\}")
        assert sorted(fields.findall(text)) == sorted(fields.findall(CHINESE[key])), key
