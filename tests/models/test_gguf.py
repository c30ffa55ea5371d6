"""GGUF exports, read back: names, shapes, values, vocabulary, template; and what llama.cpp says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from gguf import GGUFReader, TokenType, dequantize
from tiny_adapters import ALL_LINEARS, tuned_adapter
from tiny_folders import PROMPT, prompt_ids, write_base

from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prepared import ModelRef
from glmtune.checkpoints.saving import save_model
from glmtune.errors import ParamsError, ResourceError, WeightsError
from glmtune.export.exporting import export_model
from glmtune.export.gguf_file import QUANTIZED
from glmtune.families.byte_vocabulary import CHARACTER_OF
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.modeling.quantization import quantize_model

pytestmark = pytest.mark.numeric

FAMILY_NAMES = ["chatglm2-6b", "chatglm3-6b-base", "glm-4-9b"]
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attention.query_key_value",
    "attn_output": "self_attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
OUTSIDE = {
    "token_embd": "transformer.embedding.word_embeddings",
    "output_norm": "transformer.encoder.final_layernorm",
    "output": "transformer.output_layer",
}
# Half a step of the blocks of each type, of the largest number of a block.
STEPS = {"q8_0": 1 / 254, "q5_1": 1 / 31, "q5_0": 1 / 16, "q4_1": 1 / 15, "q4_0": 1 / 8}


def exported(model: ModelRef, folder: Path, dtype: str | None = "float32") -> GGUFReader:
    export_model(model, "gguf", folder, dtype=dtype)
    return GGUFReader(folder / "model.gguf")


def value(reader: GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def tensors(reader: GGUFReader) -> dict[str, np.ndarray]:
    return {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}


def official_name(name: str) -> str:
    """The official name of a tensor of the file, e.g. blk.0.ffn_up.weight."""
    parts = name.split(".")
    if parts[0] != "blk":
        return f"{OUTSIDE[parts[0]]}.{parts[1]}"
    return f"transformer.encoder.layers.{parts[1]}.{LAYER[parts[2]]}.{parts[3]}"


# --- weights and sizes -----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_file_has_every_weight_with_the_adapter_merged(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    adapter = tuned_adapter(tmp_path / "adapter", load_model(base), targets=ALL_LINEARS)
    model = ModelRef(base, adapter=adapter)
    found = tensors(exported(model, tmp_path / "out"))
    export_model(model, "official", tmp_path / "merged", dtype="float32")
    expected = load_model(tmp_path / "merged").state_dict()
    assert {official_name(name) for name in found} == expected.keys()
    for name, numbers in found.items():
        assert torch.equal(torch.from_numpy(numbers.copy()), expected[official_name(name)]), name


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_file_says_the_sizes_of_the_model(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    reader, config = exported(ModelRef(base), tmp_path / "out"), load_model(base).config
    sizes = {
        "block_count": config.num_layers,
        "context_length": config.seq_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.multi_query_group_num,
        "rope.dimension_count": config.kv_channels // 2,
        "rope.freq_base": 10000.0 * config.rope_ratio,
    }
    assert value(reader, "general.architecture") == "chatglm"
    assert {name: value(reader, f"chatglm.{name}") for name in sizes} == sizes
    epsilon = value(reader, "chatglm.attention.layer_norm_rms_epsilon")
    assert epsilon == pytest.approx(config.layernorm_epsilon)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("chatglm2-6b", {"freq_base": 10000.0, "scaling.type": "linear", "scaling.factor": 8.0}),
        ("chatglm3-6b-base", {"freq_base": 80000.0}),
    ],
)
def test_long_context_is_what_the_family_means_by_its_rope_ratio(
    tmp_path: Path, family: str, expected: dict[str, Any]
) -> None:
    base = write_base(tmp_path / "base", family, rope_ratio=8)
    reader = exported(ModelRef(base, family=family), tmp_path / "out")
    keys = [key for key in reader.fields if key.startswith("chatglm.rope.")]
    found = {key.removeprefix("chatglm.rope."): value(reader, key) for key in keys}
    assert {key: found[key] for key in found if key != "dimension_count"} == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrices_keep_the_type_of_the_base_and_vectors_are_float32(
    tmp_path: Path, dtype: str
) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b", torch_dtype=dtype)
    reader = exported(ModelRef(base), tmp_path / "out", dtype=None)
    short = {"float16": "F16", "bfloat16": "BF16"}[dtype]
    types = {t.tensor_type.name for t in reader.tensors if len(t.shape) == 2}
    vectors = {t.tensor_type.name for t in reader.tensors if len(t.shape) == 1}
    assert (types, vectors) == ({short}, {"F32"})
    expected = load_model(base, dtype=dtype).state_dict()
    for name, numbers in tensors(reader).items():
        assert np.array_equal(numbers, expected[official_name(name)].float().numpy()), name


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_matrices_are_close_to_the_weights(tmp_path: Path, kind: str) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    reader = exported(ModelRef(base), tmp_path / "out", dtype=kind)
    expected, quantized = load_model(base).state_dict(), 0
    for tensor, numbers in zip(reader.tensors, tensors(reader).values(), strict=True):
        weight = expected[official_name(tensor.name)].numpy()
        if len(tensor.shape) == 1:
            assert np.array_equal(numbers, weight)
        elif weight.shape[1] % 32:
            assert np.array_equal(numbers, weight.astype(np.float16))
        else:
            quantized += 1
            assert tensor.tensor_type.name == kind.upper()
            errors = np.abs(numbers - weight).reshape(-1, 32).max(axis=1)
            largest = np.abs(weight).reshape(-1, 32).max(axis=1)
            # The scales are rounded to float16.
            assert (errors <= (STEPS[kind] + 2e-3) * largest).all()
    assert quantized >= 2 + 3 * 2


# --- vocabulary ------------------------------------------------------------------------------


def join_best(parts: list[str], rank: Callable[[str, str], float | None]) -> None:
    """Join the neighbours of the lowest rank, the first of equals, until none has a rank."""
    while True:
        ranks = [(rank(a, b), i) for i, (a, b) in enumerate(pairwise(parts))]
        found = [(value, i) for value, i in ranks if value is not None]
        if not found:
            return
        _, place = min(found)
        parts[place : place + 2] = ["".join(parts[place : place + 2])]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_row_of_the_model_has_a_token(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    reader, tokenizer = exported(ModelRef(base), tmp_path / "out"), load_tokenizer(base)
    texts, kinds = (value(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    rows = load_model(base).get_output_embeddings().weight.shape[0]
    assert len(texts) == len(kinds) == rows == len(set(texts))
    for name, i in tokenizer.special_ids.items():
        assert (texts[i], kinds[i]) == (name, TokenType.CONTROL)
    assert set(kinds[tokenizer.vocab_size :]) <= {TokenType.UNUSED}
    ids = tokenizer.encode(PROMPT)
    assert value(reader, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    ends = [f"tokenizer.ggml.{end}_token_id" for end in ("eos", "eot", "eom")]
    found = {value(reader, end) for end in ends if end in reader.fields}
    assert found == set(tokenizer.stop_token_ids)
    assert kinds[ids[0]] == kinds[ids[1]] == TokenType.CONTROL


@pytest.mark.parametrize("family", ["chatglm2-6b", "chatglm3-6b-base"])
def test_joining_pieces_by_their_scores_gives_the_ids(tmp_path: Path, family: str) -> None:
    """As llama.cpp reads a vocabulary of the kind `llama`."""
    base = write_base(tmp_path / "base", family)
    reader, tokenizer = exported(ModelRef(base), tmp_path / "out"), load_tokenizer(base)
    assert value(reader, "tokenizer.ggml.model") == "llama"
    texts, scores = (value(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "scores"))
    ids = {text: i for i, text in enumerate(texts)}

    parts = list("▁" + PROMPT)
    join_best(parts, lambda a, b: -scores[ids[a + b]] if a + b in ids else None)
    assert [ids[part] for part in parts] == tokenizer.encode(PROMPT)[2:]


def test_joining_pieces_by_their_merges_gives_the_ids(tmp_path: Path) -> None:
    """As llama.cpp reads a vocabulary of the kind `gpt2`; the text is one word."""
    base = write_base(tmp_path / "base", "glm-4-9b")
    reader, tokenizer = exported(ModelRef(base), tmp_path / "out"), load_tokenizer(base)
    assert value(reader, "tokenizer.ggml.model") == "gpt2"
    assert value(reader, "tokenizer.ggml.pre") == "chatglm-bpe"
    ids = {text: i for i, text in enumerate(value(reader, "tokenizer.ggml.tokens"))}
    order = {merge: i for i, merge in enumerate(value(reader, "tokenizer.ggml.merges"))}
    parts = [CHARACTER_OF[byte] for byte in PROMPT.encode()]
    join_best(parts, lambda a, b: order.get(f"{a} {b}"))
    assert [ids[part] for part in parts] == tokenizer.encode(PROMPT)[2:]


PROMPTS = {
    "chatglm2-6b": "[gMASK]sop[Round 1]\n\n问：你好\n\n答：好\n\n[Round 2]\n\n问：白色\n\n答：",
    "chatglm3-6b-base": "[gMASK]sop<|user|>\n 你好<|assistant|>\n 好<|user|>\n 白色<|assistant|>",
    "glm-4-9b": "[gMASK]<sop><|user|>\n你好<|assistant|>\n好<|user|>\n白色<|assistant|>",
}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_template_writes_the_official_prompt(tmp_path: Path, family: str) -> None:
    texts = ("user", "你好"), ("assistant", "好"), ("user", "白色")
    messages = [{"role": role, "content": text} for role, text in texts]
    base = write_base(tmp_path / "base", family)
    template = value(exported(ModelRef(base), tmp_path / "out"), "tokenizer.chat_template")
    jinja = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    assert jinja.render(messages=messages, add_generation_prompt=True) == PROMPTS[family]
    # By this llama.cpp recognises ChatGLM3's template where it has no Jinja.
    assert ("[gMASK]sop" in template) == (family == "chatglm3-6b-base")


# --- llama.cpp -------------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed: pip install llama-cpp-python compiles it",
)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_llama_cpp_answers_as_ours(tmp_path: Path, family: str) -> None:
    from llama_cpp import Llama  # type: ignore[import-not-found]

    base = write_base(tmp_path / "base", family)
    adapter = tuned_adapter(tmp_path / "adapter", load_model(base), targets=ALL_LINEARS)
    exported(ModelRef(base, adapter=adapter), tmp_path / "out")
    theirs = Llama(str(tmp_path / "out" / "model.gguf"), n_ctx=128, verbose=False, seed=0)
    tokenizer, ids = load_tokenizer(base), prompt_ids(base)
    special = "[gMASK]<sop>" if family == "glm-4-9b" else "[gMASK]sop"
    text = (special + PROMPT).encode()
    assert theirs.tokenize(text, add_bos=False, special=True) == ids[0].tolist()
    ours: Any = load_model(base, adapter=adapter)
    stops = list(tokenizer.stop_token_ids)
    expected = ours.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=stops)
    found = []
    for token in theirs.generate(ids[0].tolist(), temp=0.0, repeat_penalty=1.0):
        found.append(token)
        if token in stops or len(found) == 20:
            break
    assert found == expected[0, ids.shape[1] :].tolist()


# --- what is refused -------------------------------------------------------------------------


def refusal(model: ModelRef, out: Path, dtype: str | None = None) -> str:
    with pytest.raises((ParamsError, WeightsError)) as caught:
        export_model(model, "gguf", out, dtype=dtype)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_llama_cpp_has_no_architecture_for_chatglm_6b(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm-6b")
    message = refusal(ModelRef(base), tmp_path / "out")
    assert message.startswith(f"{base}: llama.cpp has no architecture for ChatGLM-6B; expected ")


def test_a_prefix_does_not_go_into_a_gguf_file(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    message = refusal(ModelRef(base, prefix=tmp_path / "prefix"), tmp_path / "out")
    assert "a prefix adds keys and values and cannot be merged into the weights" in message


def test_official_quantized_weights_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    model = load_model(base, dtype="float16")
    quantize_model(model, 4)
    save_model(model, base)
    message = refusal(ModelRef(base), tmp_path / "out", dtype="q8_0")
    assert "quantized to 4 bits in a layout that llama.cpp cannot read" in message


def test_a_type_of_gguf_is_for_gguf_only(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    with pytest.raises(ParamsError, match="dtype: found q8_0; expected one of float32, float16"):
        export_model(ModelRef(base), "official", tmp_path / "out", dtype="q8_0")
    assert refusal(ModelRef(base), tmp_path / "out", dtype="q3_k") == (
        "--dtype: found 'q3_k'; expected one of float32, float16, bfloat16, q8_0, q5_1, q5_0, "
        "q4_1, q4_0"
    )


def test_without_the_package_one_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ResourceError, match=r"needs the package gguf, .*pip install -e '\.\[gguf\]'"
    ):
        export_model(ModelRef(base), "gguf", tmp_path / "out")


def test_every_family_is_exported_or_refused() -> None:
    assert set(FAMILY_NAMES) | {"chatglm-6b"} == set(FAMILIES)
