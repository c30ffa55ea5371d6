"""Exports to transformers: its own model has our logits, its own tokenizer our ids."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import ALL_LINEARS, tuned_adapter
from tiny_folders import SENTENCES, logits, prompt_ids, write_base
from tiny_models import TOLERANCE, golden_error, golden_tensors
from transformers import AutoModelForCausalLM, AutoTokenizer

from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prepared import ModelRef
from glmtune.errors import WeightsError
from glmtune.export.exporting import export_model
from glmtune.export.fast_tokenizer import write_fast_tokenizer
from glmtune.families.loading import load_tokenizer
from glmtune.families.vocabulary import train_pieces
from glmtune.files import write_json

pytestmark = pytest.mark.numeric

FAMILY_NAMES = ["chatglm2-6b", "chatglm3-6b-base", "glm-4-9b"]


def refusal(parts: ModelRef, out: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        export_model(parts, "transformers", out)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_transformers_own_model_answers_as_ours(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    adapter = tuned_adapter(tmp_path / "adapter", load_model(base), targets=ALL_LINEARS)
    export_model(ModelRef(base, adapter=adapter), "transformers", tmp_path / "out")
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert type(theirs).__name__ == "GlmForCausalLM"
    ours: Any = load_model(base, adapter=adapter)
    ids = prompt_ids(base)
    assert (logits(theirs, ids) - logits(ours, ids)).abs().max() < 1e-4
    options = {"max_new_tokens": 20, "do_sample": False}
    stops = list(load_tokenizer(base).stop_token_ids)
    expected = ours.generate(ids, eos_token_id=stops, **options)
    assert torch.equal(theirs.generate(ids, **options), expected)
    assert theirs.generation_config.eos_token_id == stops


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_transformers_own_model_has_the_official_logits(
    reference: Path, tmp_path: Path, version: str
) -> None:
    model = ModelRef(reference / version / "checkpoint")
    export_model(model, "transformers", tmp_path / "out", dtype="float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tensors = golden_tensors(reference, version, "logits_base")
    assert golden_error(theirs, version, tensors, "batch3") <= TOLERANCE[version]


def texts() -> list[str]:
    """Ordinary texts, awkward ones, and random strings of awkward characters."""
    awkward = ["", " ", "  a  b   ", "\n\n a\t b\r\n", "▁▁x", "\x00", "\ufeffx", " " * 50, "1" * 40]
    mixed = [
        "你好，world！ 123",
        "😀👨\u200d👩\u200d👧é ñ 한국어 \u3000",
        "people of philosophy sop eop, <UNK>, BRAND, <0x41>, <| user |>",
    ]
    alphabet = "ab 1\n\t，。的是白裙颜色😀ñ▁<>|t_/=\u3000"
    drawn = random.Random(0)
    strings = ["".join(drawn.choices(alphabet, k=drawn.randint(1, 40))) for _ in range(500)]
    return [*SENTENCES, *awkward, *mixed, *strings]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_exported_tokenizer_gives_the_same_ids_and_texts(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    export_model(ModelRef(base), "transformers", tmp_path / "out")
    check_tokenizer(tmp_path / "out", load_tokenizer(base), texts())


@pytest.mark.parametrize("family", ["chatglm2-6b", "chatglm3-6b-base"])
def test_the_published_vocabulary_gives_the_same_ids_and_texts(
    samples: Path, tmp_path: Path, family: str
) -> None:
    vocabulary = samples.parent / "tokenizers" / "chatglm2_tokenizer.model"
    ours: Any = load_tokenizer(vocabulary, family)
    write_fast_tokenizer(vocabulary, ours, tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "glm"})
    rows = (samples.parent / "adgen" / "dev_first700.json").read_text(encoding="utf-8").split("\n")
    check_tokenizer(tmp_path, ours, [*texts(), *filter(None, rows)])


def check_tokenizer(folder: Path, ours: Any, sentences: list[str]) -> None:
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    as_text = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    commands = "[MASK][gMASK] sop eop <sop> <eop> <|user|>x<|system|> </s><unk><s><0x41>"
    assert as_text(commands)["input_ids"] == ours.encode(commands)
    assert theirs(commands)["input_ids"] != ours.encode(commands)
    for text in sentences:
        ids = ours.encode(text)
        assert theirs(text)["input_ids"] == ids, text
        assert as_text(text)["input_ids"] == ids, text
        plain = ours.encode(text, add_special_tokens=False)
        assert theirs.encode(text, add_special_tokens=False) == plain
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids), text
    for name, i in ours.special_ids.items():
        assert theirs.convert_tokens_to_ids({"sop": "<sop>", "eop": "<eop>"}.get(name, name)) == i
    assert (theirs.pad_token_id, theirs.eos_token_id) == (ours.pad_token_id, ours.eos_token_id)
    assert len(theirs) == ours.vocab_size
    batch = theirs(["a", "a b c"], padding=True)
    assert batch["input_ids"][0][0] == ours.pad_token_id
    assert set(batch) == {"input_ids", "attention_mask"}


def conversations(with_roles: bool) -> list[list[dict[str, Any]]]:
    """Random conversations that end with a question, `with_roles` those of ChatGLM3 too."""
    drawn = random.Random(0)
    pieces = list("ab 1\n\t，。的是白裙颜色😀ñ▁<>|_/=\u3000{}%'\"&")

    def message(role: str, **more: Any) -> dict[str, Any]:
        return {
            "role": role,
            "content": "".join(drawn.choices(pieces, k=drawn.randint(0, 12))),
        } | more

    found = []
    for number in range(200):
        tools = {"tools": [{"name": "天气 <a> & 'b'", "parameters": [1, 2.5, None, True]}]}
        start = message("system", **(tools if with_roles and number % 4 == 0 else {}))
        messages = [start] if number % 2 == 0 else []
        for _ in range(number % 3):
            said_to = {"metadata": "get_weather"} if with_roles and number % 5 == 0 else {}
            messages += [message("user"), message("assistant", **said_to)]
            messages += [message("observation")] if said_to else []
        found.append([*messages, message("user")])
    return found


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_chat_template_gives_the_ids_of_the_official_prompts(
    tmp_path: Path, family: str
) -> None:
    base = write_base(tmp_path / "base", family)
    export_model(ModelRef(base), "transformers", tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = load_tokenizer(base)
    for messages in conversations(with_roles=hasattr(ours, "message_ids")):
        if family == "glm-4-9b":  # as one text, a line break at its start would join the one before
            messages = [said | {"content": said["content"].lstrip()} for said in messages]
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == ours.chat_prompt_ids(messages[-1]["content"], messages[:-1]), messages


def test_a_conversation_without_a_place_in_rounds_is_refused_by_the_template(
    tmp_path: Path,
) -> None:
    export_model(
        ModelRef(write_base(tmp_path / "base", "chatglm2-6b")), "transformers", tmp_path / "o"
    )
    theirs = AutoTokenizer.from_pretrained(tmp_path / "o")
    question = {"role": "user", "content": "a"}
    for messages in ([question, question], [{"role": "observation", "content": "a"}]):
        with pytest.raises(Exception, match="Questions .* take turns"):
            theirs.apply_chat_template(messages)


def test_a_vocabulary_that_would_give_other_ids_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    content = train_pieces(SENTENCES, vocab_size=60, model_type="unigram")
    (base / "tokenizer.model").write_bytes(content)
    message = refusal(ModelRef(base), tmp_path / "out")
    assert "tokenizer.model: as a tokenizer.json this vocabulary gives different ids" in message
    assert message.endswith("use --format official")


def test_the_first_family_has_no_model_in_transformers(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm-6b")
    message = refusal(ModelRef(base), tmp_path / "out")
    assert message == (
        f"{base}: transformers has no architecture for ChatGLM-6B; expected ChatGLM2-6B, "
        "ChatGLM3-6B or GLM-4-9B; use --format official"
    )
