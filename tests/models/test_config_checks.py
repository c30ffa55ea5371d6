"""config.json is untrusted: which keys are read, dropped or refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_folders import logits, prompt_ids, write_base
from tiny_models import tiny_model

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.config import known_keys
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prepared import ModelRef
from glmtune.errors import WeightsError
from glmtune.export.exporting import export_model
from glmtune.families.registry import FAMILIES
from glmtune.files import read_json

FIRST, SECOND = "chatglm-6b", "chatglm2-6b"


@pytest.fixture(scope="module", params=[FIRST, SECOND])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / request.param, request.param)


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """The weights of a base model, beside a separate config.json."""
    for path in base.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(config | values))


def message_of(call: Callable[[], Any]) -> str | None:
    """The message of a refusal; None if nothing is refused."""
    try:
        call()
    except WeightsError as error:
        return str(error)
    return None


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message.removeprefix(f"{folder / 'config.json'}: ")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_layers", 0, "num_layers: found 0; expected a whole number from 1 to 1,000"),
        ("num_layers", 10**5, "num_layers: found 100000; expected a whole number from 1 to 1,000"),
        ("num_layers", True, "num_layers: found True; expected a whole number"),
        ("num_layers", "2", "num_layers: found '2'; expected a whole number"),
        ("hidden_size", 32.0, "hidden_size: found 32.0; expected a whole number"),
        ("layernorm_epsilon", "1e-5", "layernorm_epsilon: found '1e-5'; expected a number from"),
        ("layernorm_epsilon", 10**400, "layernorm_epsilon: found 1000"),
        ("layernorm_epsilon", float("nan"), "layernorm_epsilon: found nan; expected a number"),
        ("layernorm_epsilon", 0, "layernorm_epsilon: found 0; expected a number from 1e-12 to"),
        ("eos_token_id", "</s>", "eos_token_id: found '</s>'; expected a whole number"),
        ("eos_token_id", [[2]], "eos_token_id: found [[2]]; expected a whole number"),
        ("eos_token_id", [2, None], "eos_token_id: found [2, None]; expected a whole number"),
        ("pad_token_id", [3], "pad_token_id: found [3]; expected a whole number"),
        ("use_cache", "yes", "use_cache: found 'yes'; expected true or false"),
        ("tie_word_embeddings", 1, "tie_word_embeddings: found 1; expected true or false"),
        ("quantization_bit", 3, "quantization_bit: found 3; expected 0, 4 or 8"),
        ("quantization_bit", 4.0, "quantization_bit: found 4.0; expected 0, 4 or 8"),
        (
            "quantization_config",
            {"quant_method": "gptq"},
            "found weights quantized by GPTQ; expected",
        ),
        ("quantization_config", {"load_in_4bit": True}, "weights quantized by another program"),
        ("quantization_embeddings", True, "as in chatglm-6b-int4-qe; expected embeddings in full"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "found position scaling that no"),
        ("rope_theta", 1e6, "rope_theta: found 1000000.0; expected 10000, as in all published"),
        ("interleaved_qkv", True, "interleaved_qkv: found True; expected False"),
        ("num_attention_heads", 5, "num_attention_heads 5"),
    ],
)
def test_an_invalid_value_is_refused(folder: Path, key: str, value: Any, message: str) -> None:
    change(folder, **{key: value})
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("family_name", "key", "value", "message"),
    [
        (SECOND, "rmsnorm", False, "rmsnorm: found False; expected True, as in all published"),
        (SECOND, "original_rope", False, "original_rope: found False; expected True"),
        (SECOND, "hidden_dropout", 5, "hidden_dropout: found 5; expected a number from 0 to"),
        (SECOND, "rope_ratio", "16", "rope_ratio: found '16'; expected a number"),
        (SECOND, "rope_ratio", -1, "rope_ratio: found -1; expected a number"),
        (SECOND, "multi_query_group_num", 3, "heads that are a multiple of the groups"),
        (FIRST, "position_encoding_2d", False, "position_encoding_2d: found False; expected True"),
    ],
)
def test_a_value_of_only_one_architecture_is_checked(
    family_name: str, key: str, value: Any, message: str
) -> None:
    config = FAMILIES[family_name].real_config | {key: value}
    with pytest.raises(WeightsError) as caught:
        build_model(config, family_name, device="meta")
    assert message in str(caught.value)


# Each makes transformers act: load code from a hub, allocate memory, rename methods.
FOREIGN = {
    "attn_implementation": "owner/kernel",
    "_attn_implementation": "owner/kernel",
    "num_labels": 10**10,
    "id2label": {"0": 1, "x": []},
    "use_return_dict": False,
    "from_pretrained": "gone",
    "auto_map": {"AutoModel": "evil.Model"},
    "problem_type": 7,
    "\x1b[31mred": "x" * 1000,
}


@pytest.mark.numeric
def test_unknown_keys_are_dropped_and_reported_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = load_model(folder)
    capsys.readouterr()
    change(folder, **FOREIGN)
    model = load_model(folder)
    said = capsys.readouterr().err
    assert said.startswith(f"{folder / 'config.json'}: ignored keys: attn_implementation, ")
    assert "\x1b" not in said
    assert said.count("\n") == 1
    assert model.config.to_dict() == expected.config.to_dict()
    ids = prompt_ids(folder)
    assert torch.equal(logits(model, ids), logits(expected, ids))
    load_model(folder)
    assert capsys.readouterr().err == ""
    export_model(ModelRef(folder), "official", folder / "out")
    assert not FOREIGN.keys() & read_json(folder / "out" / "config.json").keys()


@pytest.mark.parametrize("content", ["[" * 10**5, '{"a":' * 10**5, "9" * 5000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_malformed_document_is_one_message(folder: Path, name: str, content: str) -> None:
    (folder / name).unlink()
    (folder / name).write_text(content)
    with pytest.raises(WeightsError, match=rf"{name}: (not a JSON document|found int)"):
        load_model(folder)


def test_several_end_tokens_are_kept(folder: Path) -> None:
    change(folder, eos_token_id=[2, 5])
    assert load_model(folder).config.eos_token_id == [2, 5]


def test_every_key_has_a_rule(base: Path) -> None:
    """Every value gives a message or a configuration, nothing else."""
    values = read_json(base / "config.json")
    model_class = type(build_model(values, device="meta"))
    odd = [None, True, 0, -1, 1.5, 10**30, float("inf"), "x", [], {}, [1], {"a": 1}]
    for key in known_keys(model_class):
        for value in odd:
            message = message_of(partial(build_model, values | {key: value}, device="meta"))
            assert message is None or key in message


def test_published_configs_and_saves_of_transformers_drop_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for family_name, family in FAMILIES.items():
        build_model(family.real_config, family_name, device="meta")
        model = tiny_model(family_name)
        model.save_pretrained(tmp_path / family_name)
        again = load_model(tmp_path / family_name)
        for key in known_keys(type(model)):
            assert getattr(again.config, key) == getattr(model.config, key)
    assert "not read" not in capsys.readouterr().err


@pytest.mark.slow
def test_no_config_gives_a_traceback(base: Path, folder: Path) -> None:
    """Two thousand random changes of values, keys and structure."""
    chance = random.Random(11)
    original = read_json(base / "config.json")
    odd: list[Any] = [None, True, 0, -1, 7, 2.5, 1e308, 10**40, "x", "\x1b]0;a\x07"]
    odd += [[], {}, [[]], {"a": {}}]
    for _ in range(2000):
        config = dict(original)
        for _ in range(chance.randint(1, 3)):
            config[chance.choice([*config, *FOREIGN])] = chance.choice(odd)
        (folder / "config.json").write_text(json.dumps(config))
        message = message_of(lambda: load_model(folder))
        assert message is None or len(message.splitlines()) == 1
