"""The server: what clients get of it, whatever they send."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny_results import METHODS, write_results

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="a client for the tests, of the extra `dev`")
openai = pytest.importorskip("openai", reason="a client for the tests, of the extra `dev`")

from running_server import PROMPT, Server  # noqa: E402

import glmtune  # noqa: E402
from glmtune.checkpoints.loading import load_model  # noqa: E402
from glmtune.checkpoints.prepared import ModelRef, open_prepared  # noqa: E402
from glmtune.checkpoints.saving import save_model  # noqa: E402
from glmtune.families.loading import load_tokenizer  # noqa: E402
from glmtune.families.registry import FAMILIES  # noqa: E402
from glmtune.generation.batches import NEAR_TIE  # noqa: E402
from glmtune.generation.engine import Engine, Request  # noqa: E402
from glmtune.labels import IGNORED_LABEL  # noqa: E402
from glmtune.serving import replies  # noqa: E402
from glmtune.serving.answering import Delta  # noqa: E402
from glmtune.serving.openai_api import ChatParts  # noqa: E402
from glmtune.serving.prompts import chat_prompt, read_messages  # noqa: E402

pytestmark = pytest.mark.numeric

NAMES = [name for family in FAMILIES for name in (family, *(f"{family}/{m}" for m in METHODS))]
KEY = "k-1"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("served") / "results", *FAMILIES)


@pytest.fixture(scope="module")
def server(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    dev = tmp_path_factory.mktemp("dev") / "dev.jsonl"
    dev.write_text(json.dumps({"content": PROMPT, "summary": "白色的裙。"}) + "\n")
    running = Server(results, "--dev", str(dev))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as made:
        yield made


def expected(results: Path, name: str, *, limit: int = 24) -> str:
    """What `glmtune.chat` answers, with the model opened as the workflow's steps open it."""
    family, _, method = name.partition("/")
    base, checkpoint = results / "models" / family, results / "checkpoints" / name
    parts = {"ptuning": {"prefix": checkpoint}, "lora": {"adapter": checkpoint}}
    folder = checkpoint if method == "full" else base
    model = open_prepared(ModelRef(folder, family=family, **parts.get(method, {})))
    return glmtune.chat(model, load_tokenizer(base, family), PROMPT, max_new_tokens=limit)


def streamed(client: Any, name: str, **more: Any) -> list[Any]:
    messages = [{"role": "user", "content": PROMPT}]
    with client.chat.completions.create(
        model=name, messages=messages, stream=True, **more
    ) as stream:
        return list(stream)


def text_of(parts: list[Any], number: int = 0) -> str:
    choices = [choice for part in parts for choice in part.choices if choice.index == number]
    return "".join(choice.delta.content or "" for choice in choices)


def test_every_method_is_listed_after_its_untuned_model(client: Any) -> None:
    assert sorted(model.id for model in client.models.list()) == sorted(NAMES)
    assert client.models.retrieve("chatglm-6b/lora").id == "chatglm-6b/lora"


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_that_of_the_model_with_its_method(
    client: Any, results: Path, name: str
) -> None:
    answer = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": PROMPT}], max_tokens=24
    )
    assert answer.choices[0].message.content == expected(results, name)
    assert answer.model == name
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_methods_do_not_disturb_each_other(server: Server, results: Path) -> None:
    wanted = {name: expected(results, name) for name in NAMES[:4]}
    with ThreadPoolExecutor(16) as pool:
        names = NAMES[:4] * 6
        answers = list(pool.map(lambda name: server.chat(name, max_tokens=24), names))
    found = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert found == [wanted[name] for name in names]


@pytest.mark.parametrize("name", ["chatglm-6b/ptuning", "chatglm2-6b/lora", "chatglm3-6b-base"])
def test_streamed_parts_joined_are_the_whole_answer(client: Any, results: Path, name: str) -> None:
    options = {"include_usage": True}
    parts = streamed(client, name, max_tokens=24, stream_options=options)
    assert text_of(parts) == expected(results, name)
    assert [c.finish_reason for p in parts for c in p.choices if c.finish_reason] == ["length"]
    assert parts[-1].usage.completion_tokens == 24


def test_sampling_repeats_with_a_seed_and_gives_n_answers(client: Any) -> None:
    asked = {"temperature": 1.5, "top_p": 0.95, "seed": 7, "n": 3, "max_tokens": 16}
    messages = [{"role": "user", "content": PROMPT}]
    first, second = (
        [
            choice.message.content
            for choice in client.chat.completions.create(
                model="chatglm2-6b", messages=messages, **asked
            ).choices
        ]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 3
    parts = streamed(client, "chatglm2-6b", **asked)
    assert [text_of(parts, number) for number in range(3)] == first


def test_an_answer_ends_before_a_stop_word(client: Any, results: Path) -> None:
    whole = expected(results, "chatglm2-6b")
    stop = whole[5:8]
    answer = client.chat.completions.create(
        model="chatglm2-6b",
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=24,
        stop=stop,
    )
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert (
        text_of(streamed(client, "chatglm2-6b", max_tokens=24, stop=[stop]))
        == (whole[: whole.index(stop)])
    )


def test_a_completion_goes_on_from_its_prompt(client: Any) -> None:
    asked = {"model": "chatglm2-6b", "prompt": PROMPT, "max_tokens": 8}
    whole = client.completions.create(**asked).choices[0]
    with client.completions.create(**asked, stream=True) as stream:
        parts = "".join(part.choices[0].text for part in stream if part.choices)
    assert whole.text == parts
    assert whole.finish_reason == "length"


def test_a_list_of_one_prompt_is_a_prompt(client: Any) -> None:
    """As LangChain's completion models send it."""
    asked = {"model": "chatglm2-6b/lora", "max_tokens": 6}
    texts = [
        client.completions.create(prompt=prompt, **asked).choices[0].text
        for prompt in (PROMPT, [PROMPT])
    ]
    assert texts[0] == texts[1]


def test_thudm_s_api_answers_in_its_own_form(server: Server) -> None:
    body = {"prompt": PROMPT, "history": [["你好", "好"]], "max_length": 60, "temperature": 0.5}
    answer = server.post("/", json=body).json()
    assert answer["status"] == 200
    assert answer["history"] == [["你好", "好"], [PROMPT, answer["response"]]]
    assert set(answer) == {"response", "history", "status", "time"}


def test_curl_gets_an_answer(server: Server) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4})
    command = ["curl", "-s", f"{server.url}/v1/chat/completions", "-d", body]
    try:
        done = subprocess.run(
            [*command, "-H", "Content-Type: application/json"], capture_output=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    assert json.loads(done.stdout)["choices"][0]["finish_reason"] == "length"


def test_tools_are_for_chatglm3_only(server: Server, client: Any) -> None:
    tools = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}]
    messages = [{"role": "user", "content": "价格？"}]
    answer = client.chat.completions.create(
        model="chatglm3-6b-base", messages=messages, tools=tools, max_tokens=4
    )
    assert answer.choices[0].finish_reason in ("length", "stop")
    refused = server.chat("chatglm2-6b", tools=tools)
    assert refused.status_code == 400
    assert "ChatGLM3" in refused.json()["error"]["message"]


CALL = "track\n```python\ntool_call(symbol='10111')\n```"


def test_a_call_of_a_tool_is_answered_as_one_whole_or_streamed() -> None:
    whole = replies.chat_choice(0, CALL, "stop", may_call=True)
    assert whole["finish_reason"] == "tool_calls"
    function = whole["message"]["tool_calls"][0]["function"]
    assert function == {"name": "track", "arguments": '{"symbol": "10111"}'}
    parts = ChatParts(may_call=True)
    assert parts.of(Delta(0, "track\n"), "track\n") == []
    called, ended = parts.of(Delta(0, "```", "stop"), CALL)
    assert called["delta"]["tool_calls"][0]["function"] == function
    assert ended["finish_reason"] == "tool_calls"
    said = parts.of(Delta(0, "。", "stop"), "好的。")
    assert said[0]["delta"] == {"content": "好的。"}
    assert replies.chat_choice(0, CALL, "stop", may_call=False)["message"]["content"] == CALL


def test_a_model_trained_to_call_a_tool_calls_it(tmp_path: Path) -> None:
    family, question = "chatglm3-6b-base", "价格？"
    tools = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}]
    messages = [{"role": "user", "content": question}]
    results = write_results(tmp_path / "results", family)
    tokenizer: Any = load_tokenizer(results / "models" / family, family)
    prompt = chat_prompt(tokenizer, family, read_messages(messages, tools))
    answer = [*tokenizer.encode(CALL, add_special_tokens=False), tokenizer.eos_token_id]
    tuned = results / "checkpoints" / family / "full"
    model = load_model(tuned, family=family).train()
    learn_by_heart(model, prompt, answer)
    save_model(model, tuned)
    server = Server(results)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        asked = {"model": f"{family}/full", "messages": messages, "temperature": 0.01}
        choice = client.chat.completions.create(**asked, tools=tools).choices[0]
        parts = client.chat.completions.create(**asked, tools=tools, stream=True)
        streamed = [part.choices[0] for part in parts if part.choices]
        without = client.chat.completions.create(**asked, max_tokens=4).choices[0]
    server.stop()
    assert choice.finish_reason == streamed[-1].finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    (called,) = [part.delta.tool_calls for part in streamed if part.delta.tool_calls]
    for function in (call.function, called[0].function):
        assert (function.name, function.arguments) == ("track", '{"symbol": "10111"}')
    assert without.message.tool_calls is None


def learn_by_heart(model: Any, prompt: list[int], answer: list[int]) -> None:
    ids = torch.tensor([prompt + answer])
    labels = torch.tensor([[IGNORED_LABEL] * len(prompt) + answer])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


SENT: dict[str, tuple[dict[str, Any], int]] = {
    "half JSON": ({"content": b'{"messages": ['}, 400),
    "invalid UTF-8": ({"content": b'{"messages": "\xff"}'}, 400),
    "no object": ({"content": b"[1]"}, 422),
    "nothing": ({"content": b""}, 422),
    "deep nesting": ({"content": b"[" * 100_000}, 400),
    "half a character": (
        {"content": b'{"messages": [{"role": "user", "content": "\\ud800"}]}'},
        400,
    ),
    "an integer of 5000 digits": ({"content": b'{"n": ' + b"9" * 5000 + b"}"}, 400),
    "NaN": ({"content": b'{"messages": [{}], "temperature": NaN}'}, 422),
    "no messages": ({"json": {"messages": []}}, 422),
    "messages of text": ({"json": {"messages": "你好"}}, 422),
    "a message of text": ({"json": {"messages": ["你好"]}}, 422),
    "no role": ({"json": {"messages": [{"content": "你好"}]}}, 400),
    "an unknown role": ({"json": {"messages": [{"role": "cat", "content": "你好"}]}}, 400),
    "no question": ({"json": {"messages": [{"role": "assistant", "content": "你好"}]}}, 400),
    "a picture": (
        {"json": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}},
        400,
    ),
}
USER = [{"role": "user", "content": "你好"}]
SENT |= {
    f"{key} {value}": ({"json": {"messages": USER, key: value}}, 422)
    for key, value in [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 10**30),
        ("max_tokens", "5"),
        ("temperature", -1),
        ("temperature", 1e300),
        ("top_p", 0),
        ("n", 10**9),
        ("seed", 10**30),
        ("stop", [1]),
        ("stop", ["a"] * 100),
        ("stream", "yes"),
    ]
}
SENT |= {
    f"half a character to {path} of {model}": (
        {"content": f'{{"model": "{model}", "prompt": "\\ud800"}}'.encode(), "path": path},
        422,
    )
    for path in ("/", "/v1/completions")
    for model in FAMILIES
}
SENT["a tool without a name"] = (
    {"json": {"messages": USER, "model": "chatglm3-6b-base", "tools": [{}]}},
    400,
)
SENT["an unknown model"] = ({"json": {"messages": USER, "model": "chatglm2-6b/ptunign"}}, 404)
SENT["an over-long prompt"] = (
    {"json": {"messages": [{"role": "user", "content": "白" * 5000}]}},
    400,
)
SENT["10,000 messages"] = ({"json": {"messages": [*USER, *USER] * 5000}}, 400)
SENT["a body over the limit"] = ({"content": b" " * ((1 << 20) + 1)}, 413)


@pytest.mark.parametrize("what", SENT)
def test_what_is_wrong_is_told_as_openai_s_error(server: Server, what: str) -> None:
    options, status = SENT[what]
    headers = {"Content-Type": "application/json"}
    answer = server.post(**{"path": "/v1/chat/completions", "headers": headers, **options})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert len(error["message"]) < 1000


@pytest.mark.parametrize(
    "sent", [{"temperature": 1e-300}, {"temperature": 1e-40}, {"temperature": 1, "top_p": 1e-300}]
)
def test_next_to_no_chance_is_the_greedy_answer(server: Server, sent: dict[str, Any]) -> None:
    """Numbers that float32 does not have must not end the answers of others."""
    greedy = server.chat(max_tokens=8).json()["choices"][0]["message"]["content"]
    answer = server.chat(max_tokens=8, **sent)
    assert answer.json()["choices"][0]["message"]["content"] == greedy


def test_a_site_that_points_its_name_here_gets_nothing(server: Server) -> None:
    for host, status in (("evil.example", 400), ("localhost:1", 200), ("[::1]:1", 200)):
        answer = httpx.get(f"{server.url}/v1/models", headers={"Host": host})
        assert answer.status_code == status
    assert "--allow-host" in httpx.get(server.url, headers={"Host": "evil"}).text


def test_another_content_type_is_refused_with_a_sentence(server: Server) -> None:
    answer = server.post("/", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert "expected application/json" in answer.json()["error"]["message"]


def test_monitors_may_ask_for_heads_only(server: Server) -> None:
    assert [httpx.head(f"{server.url}{path}").status_code for path in ("/", "/health")] == [200] * 2


def test_a_body_in_pieces_is_limited_too(server: Server) -> None:
    pieces = (b" " * 65536 for _ in range(64))
    assert server.post("/v1/chat/completions", content=pieces).status_code == 413


def test_a_wrong_name_is_answered_with_the_nearest(server: Server) -> None:
    message = server.chat("chatglm2-6b/ptunign").json()["error"]["message"]
    assert "chatglm2-6b/ptuning" in message


def test_an_unknown_path_and_row_are_openai_s_errors_too(server: Server) -> None:
    for path in ("/v2", "/v1/dev-rows/1", "/v1/dev-rows/-1", "/v1/models/no"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == 404


def test_the_api_is_described_without_the_network(server: Server) -> None:
    described = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/", "/health"} <= set(
        described
    )
    page = httpx.get(f"{server.url}/docs").text
    assert "/v1/chat/completions" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_page_loads_nothing(server: Server) -> None:
    answer = httpx.get(server.url)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "://" not in answer.text
    assert "innerHTML" not in answer.text


def test_a_dev_row_comes_with_its_reference(server: Server) -> None:
    row = httpx.get(f"{server.url}/v1/dev-rows/0").json()
    assert row == {"rows": 1, "number": 0, "content": PROMPT, "summary": "白色的裙。"}


def test_a_client_that_goes_away_frees_its_row(server: Server) -> None:
    body = {"messages": USER, "max_tokens": 500, "stream": True, "temperature": 9}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/chat/completions", json={**body, "stream": False}, timeout=0.01
        )
    server.until_idle()


def closest_call(results: Path, prompt: str) -> float:
    """How far the best logit was above the second at the closest step of an answer."""
    folder = results / "models" / "chatglm2-6b"
    tokenizer = load_tokenizer(folder, "chatglm2-6b")
    engine = Engine(open_prepared(ModelRef(folder)), slots=1)
    engine.add(Request(tokenizer.chat_prompt_ids(prompt), 16, tokenizer.stop_token_ids))
    margins = []
    while engine.is_busy:
        margins += [event.margin for event in engine.step()]
    return min(margins)


def test_64_clients_get_what_each_gets_alone(server: Server, results: Path) -> None:
    prompts = [f"类型#裙*颜色#{number}" for number in range(64)]

    def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return server.chat(messages=messages, max_tokens=16).json()["choices"][0]["message"][
            "content"
        ]

    alone = list(map(ask, prompts))
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, prompts))
    pairs = zip(prompts, alone, together, strict=True)
    differing = [prompt for prompt, one, other in pairs if one != other]
    assert all(closest_call(results, prompt) < NEAR_TIE for prompt in differing)


def test_memory_is_that_of_the_rows_at_work(server: Server) -> None:
    process = psutil.Process(server.process.pid)

    def ask(number: int) -> int:
        return server.chat(NAMES[number % 4], max_tokens=8).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(100))) == {200}
        before = process.memory_info().rss
        assert set(pool.map(ask, range(400))) == {200}
    assert process.memory_info().rss - before < 20 << 20


def test_a_slow_reader_does_not_stop_the_others(server: Server) -> None:
    body = {"messages": USER, "max_tokens": 400, "stream": True, "n": 8, "temperature": 5}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body):
        assert server.chat(max_tokens=4).status_code == 200
    server.until_idle()


def test_a_key_is_asked_for_where_there_is_one(results: Path) -> None:
    server = Server(results, "--api-key", KEY)
    try:
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(server.url).status_code == 200
        for key in ("", "Bearer", "Bearer k-2", KEY, f"Bearer {KEY}é"):
            headers = {"Authorization": key.encode()}
            answer = httpx.get(f"{server.url}/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "authentication_error"
        assert server.post("/", json={"prompt": "你好"}).status_code == 401
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            assert len(list(client.models.list())) == len(NAMES)
    finally:
        server.stop()


def test_a_full_queue_is_told_and_nobody_waits_for_ever(results: Path) -> None:
    server = Server(results, "--max-rows", "1", "--max-waiting", "2", "--timeout", "2")
    try:
        with ThreadPoolExecutor(8) as pool:
            asked: dict[str, Any] = {"max_tokens": 480, "temperature": 9, "seed": 1}
            answers = list(pool.map(lambda _: server.chat(**asked), range(8)))
        statuses = {answer.status_code for answer in answers}
        assert statuses <= {200, 429, 503}
        full = [answer for answer in answers if answer.status_code == 429]
        assert full
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in full)
        assert server.chat(max_tokens=2).status_code == 200
    finally:
        server.stop()


def test_a_method_trained_again_is_not_put_into_the_old_base(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", "chatglm2-6b")
    server = Server(results, "--max-waiting", "4")
    try:
        assert server.chat(max_tokens=2).status_code == 200
        (results / "checkpoints/chatglm2-6b/ptuning/pytorch_model.bin").touch()
        for is_streamed in (False, True):
            answer = server.chat("chatglm2-6b/ptuning", stream=is_streamed)
            assert answer.status_code == 503
            assert "restart it" in answer.json()["error"]["message"]
        assert server.chat(max_tokens=2).status_code == 200
        answer = server.chat(n=5)
        assert answer.status_code == 400
        assert "queues 4 answers at most" in answer.json()["error"]["message"]
    finally:
        server.stop()


def test_full_models_take_turns_in_memory(results: Path) -> None:
    # Bases and full models have about 0.18 MB each: one of them fits.
    server = Server(results, "--max-memory", "0.3MB")
    try:
        for _ in range(2):
            for name in ("chatglm2-6b", "chatglm2-6b/full", "chatglm3-6b-base/full"):
                answer = server.chat(name, max_tokens=24)
                assert answer.json()["choices"][0]["message"]["content"] == expected(results, name)
    finally:
        server.stop()


def test_a_model_without_room_is_refused_with_a_sentence(results: Path) -> None:
    server = Server(results, "--max-memory", "0.01MB")
    try:
        answer = server.chat(max_tokens=2)
        assert answer.status_code == 503
        assert "--max-memory" in answer.json()["error"]["message"]
    finally:
        server.stop()


@pytest.mark.parametrize("bits", ["8", "4"])
def test_quantized_weights_answer_too(results: Path, bits: str) -> None:
    server = Server(results, "--quantization-bit", bits)
    try:
        for name in ("chatglm2-6b", "chatglm-6b/ptuning", "chatglm3-6b-base/lora"):
            answer = server.chat(name, max_tokens=8)
            assert answer.json()["usage"]["completion_tokens"] > 0
    finally:
        server.stop()


def test_sigterm_lets_running_answers_end(results: Path) -> None:
    server = Server(results)
    answers: list[Any] = []
    asked: dict[str, Any] = {"max_tokens": 400, "temperature": 5, "seed": 1, "n": 4}
    client = threading.Thread(target=lambda: answers.append(server.chat(**asked)))
    client.start()
    while server.load()["running"] == 0:
        time.sleep(0.01)
    assert server.stop() in (0, -signal.SIGTERM)
    client.join()
    assert answers[0].status_code == 200
    assert len(answers[0].json()["choices"]) == 4


def test_ctrl_c_ends_it_without_a_traceback(results: Path) -> None:
    server = Server(results)
    assert server.stop(signal.SIGINT) == 130
    assert "Traceback" not in server.log.read_text()


def test_after_a_kill_it_serves_again(results: Path) -> None:
    server = Server(results)
    server.stop(signal.SIGKILL)
    server.start()
    assert server.chat(max_tokens=2).status_code == 200
    server.stop()
