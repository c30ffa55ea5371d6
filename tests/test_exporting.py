"""Exports: official folders, transformers' own model and tokenizer, THUDM's prefix checkpoints."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import ALL_LINEARS, tuned_adapter
from tiny_models import golden_difference, golden_tensors
from transformers import AutoModelForCausalLM, AutoTokenizer

from glmtune.checkpoint import write_weights
from glmtune.code_inputs import SCRIPTS
from glmtune.errors import ParamsError, WeightsError
from glmtune.exporting import FORMATS, Parts, export_model
from glmtune.families import FAMILIES
from glmtune.files import hash_folder, read_json, write_json
from glmtune.prefix import attach_prefix, save_prefix
from glmtune.quantization import quantize_model
from glmtune.sources import LOCATION
from glmtune.tokenizer import detect_generation, load_tokenizer
from glmtune.transformers_format import write_fast_tokenizer
from glmtune.vocabulary import read_vocabulary, train_pieces
from glmtune.weights import build_model, load_model, save_model

GENERATIONS = sorted(FAMILIES)
GLM_GENERATIONS = ["chatglm2-6b", "chatglm3-6b-base"]
SENTENCES = [
    "颜色是白色，风格是简约的裙子。",
    "a simple white dress, 100% cotton",
    "问：你好？\n\n答：好",
]
PROMPT = "颜色是白色的裙子"


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def write_base(folder: Path, generation: str, **config: Any) -> Path:
    """A model folder as users have it: weights, config.json and vocabulary."""
    family = FAMILIES[generation]
    family.train_tokenizer(SENTENCES, folder, vocab_size=60)
    tokenizer = load_tokenizer(folder, generation)
    values = family.miniature_config(tokenizer, hidden_size=32, num_layers=2, num_heads=4)
    model = build_model(values | config, generation, seed=1)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith(".bias"):  # else 1 and 0: a swap would not show
            parameter.data.add_(torch.randn_like(parameter) / 5)
    save_model(model, folder)
    write_json(folder / "config.json", {**values, **config, "auto_map": {"AutoModel": "x.Y"}})
    return folder


def prompt_ids(folder: Path) -> torch.Tensor:
    return torch.tensor([load_tokenizer(folder).encode(PROMPT)])


def write_adapter(folder: Path, base: Path) -> Path:
    return tuned_adapter(folder, load_model(base), targets=ALL_LINEARS)


def write_prefix(folder: Path, base: Path, projection: bool = False) -> Path:
    model = load_model(base)
    torch.manual_seed(2)
    attach_prefix(model, pre_seq_len=4, projection=projection)
    save_prefix(model, folder)
    return folder


def refusal(parts: Parts, format_name: str, out: Path) -> str:
    with pytest.raises((ParamsError, WeightsError)) as caught:
        export_model(parts, format_name, out)
    assert "\n" not in str(caught.value)
    assert not out.exists() or out.is_file() or any(out.iterdir())
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return str(caught.value)


# --- official --------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_official_export_is_the_model_and_says_what_it_is(
    tmp_path: Path, generation: str
) -> None:
    base = write_base(tmp_path / f"my-{generation}", generation)
    export_model(Parts(base), "official", tmp_path / "out")
    ids = prompt_ids(base)
    assert torch.equal(logits(load_model(tmp_path / "out"), ids), logits(load_model(base), ids))
    assert detect_generation(tmp_path / "out") == generation
    assert torch.equal(prompt_ids(tmp_path / "out"), ids)
    config = read_json(tmp_path / "out" / "config.json")
    official = {k: v for k, v in read_json(base / "config.json").items() if k != "auto_map"}
    ours = ("_name_or_path", "architectures")
    assert {k: v for k, v in config.items() if k in official and k not in ours} == {
        k: v for k, v in official.items() if k not in ours
    }
    assert "auto_map" not in config


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_official_export_has_the_adapter_merged(tmp_path: Path, generation: str) -> None:
    base = write_base(tmp_path / "base", generation)
    adapter = write_adapter(tmp_path / "adapter", base)
    export_model(Parts(base, adapter=adapter), "official", tmp_path / "out")
    ids = prompt_ids(base)
    merged, plain = (load_model(tmp_path / name) for name in ("out", "base"))
    torch.testing.assert_close(logits(merged, ids), logits(load_model(base, adapter=adapter), ids))
    assert not torch.allclose(logits(merged, ids), logits(plain, ids), atol=0.1)
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_a_generation_that_only_the_folder_s_name_told_is_written_down(tmp_path: Path) -> None:
    base = write_base(tmp_path / "chatglm3-mine", "chatglm3-6b-base", _name_or_path="x")
    write_json(base / "tokenizer_config.json", {})
    export_model(Parts(base), "official", tmp_path / "out")
    assert detect_generation(tmp_path / "out") == "chatglm3-6b-base"


def test_a_prepared_folder_that_points_elsewhere_is_exported(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    write_json(tmp_path / "prepared" / LOCATION, {"folder": str(base)})
    export_model(Parts(tmp_path / "prepared"), "official", tmp_path / "out")
    ids = prompt_ids(base)
    assert torch.equal(logits(load_model(tmp_path / "out"), ids), logits(load_model(base), ids))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_keep_the_type_of_the_base_unless_another_is_asked_for(
    tmp_path: Path, dtype: str
) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b", torch_dtype=dtype)
    adapter = write_adapter(tmp_path / "adapter", base)
    export_model(Parts(base, adapter=adapter), "official", tmp_path / "kept")
    export_model(Parts(base, adapter=adapter, dtype="float32"), "official", tmp_path / "full")
    for name, expected in {"kept": dtype, "full": "float32"}.items():
        state = load_file(tmp_path / name / "model.safetensors")
        assert {tensor.dtype for tensor in state.values()} == {getattr(torch, expected)}
        assert read_json(tmp_path / name / "config.json")["torch_dtype"] == expected


def test_packed_weights_are_exported_as_they_are(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    model = load_model(base, dtype="float16")
    quantize_model(model, 4)
    save_model(model, base)
    export_model(Parts(base), "official", tmp_path / "out")
    assert read_json(tmp_path / "out" / "config.json")["quantization_bit"] == 4
    ids = prompt_ids(base)
    assert torch.equal(logits(load_model(tmp_path / "out"), ids), logits(load_model(base), ids))
    adapter = tuned_adapter(tmp_path / "adapter", load_model(base))
    message = refusal(Parts(base, adapter=adapter), "official", tmp_path / "merged")
    assert message.startswith(f"{adapter}: ")
    assert "packed in 4 bits" in message
    message = refusal(Parts(base), "transformers", tmp_path / "glm")
    assert "packed in 4 bits, a layout that transformers does not read" in message


@pytest.mark.parametrize("format_name", ["official", "transformers"])
def test_large_weights_become_shards_with_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_name: str
) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    monkeypatch.setattr(write_weights, "__kwdefaults__", {"shard_bytes": 60_000})
    out = tmp_path / "out"
    export_model(Parts(base), format_name, out)
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    index = read_json(out / "model.safetensors.index.json")
    states = {path.name: load_file(path) for path in shards}
    assert index["weight_map"] == {key: name for name, s in states.items() for key in s}
    total = sum(tensor.nbytes for state in states.values() for tensor in state.values())
    assert index["metadata"]["total_size"] == total
    assert all(sum(t.nbytes for t in s.values()) <= 60_000 or len(s) == 1 for s in states.values())
    ids = prompt_ids(base)
    load = load_model if format_name == "official" else AutoModelForCausalLM.from_pretrained
    torch.testing.assert_close(logits(load(out), ids), logits(load_model(base), ids))


def test_saving_again_leaves_no_shards_of_before(tmp_path: Path) -> None:
    model = load_model(write_base(tmp_path, "chatglm2-6b"))
    write_weights(tmp_path, model.state_dict(), shard_bytes=60_000)
    assert not (tmp_path / "model.safetensors").exists()
    with torch.no_grad():
        model.transformer.output_layer.weight.mul_(2)
    save_model(model, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    ids = prompt_ids(tmp_path)
    assert torch.equal(logits(load_model(tmp_path), ids), logits(model, ids))


# --- transformers ----------------------------------------------------------------------------


@pytest.mark.parametrize("generation", GLM_GENERATIONS)
def test_transformers_own_model_answers_as_ours(tmp_path: Path, generation: str) -> None:
    base = write_base(tmp_path / "base", generation, rope_ratio=50, seq_length=256)
    adapter = write_adapter(tmp_path / "adapter", base)
    export_model(Parts(base, adapter=adapter), "transformers", tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert type(theirs).__name__ == "GlmForCausalLM"
    ours = load_model(base, adapter=adapter)
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
    parts = Parts(reference / version / "checkpoint", dtype="float32")
    export_model(parts, "transformers", tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tensors = golden_tensors(reference, version, "logits_base")
    assert golden_difference(theirs, version, tensors, "batch3") < 1e-4


def texts() -> list[str]:
    """Ordinary texts, awkward ones, and random strings of awkward characters."""
    awkward = ["", " ", "  a  b   ", "\n\n a\t b\r\n", "▁▁x", "\x00", "\ufeffx", " " * 50, "1" * 40]
    mixed = [
        "你好，world！ 123",
        "😀👨\u200d👩\u200d👧é ñ 한국어 \u3000",
        "[gMASK]sop<|user|></s><unk><0x41><s>",
    ]
    alphabet = "ab 1\n\t，。的是白裙颜色😀ñ▁<>|s_/=\u3000"
    drawn = random.Random(0)
    strings = ["".join(drawn.choices(alphabet, k=drawn.randint(1, 40))) for _ in range(500)]
    return [*SENTENCES, *awkward, *mixed, *strings]


@pytest.mark.parametrize("generation", GLM_GENERATIONS)
def test_the_exported_tokenizer_gives_the_same_ids_and_texts(
    tmp_path: Path, generation: str
) -> None:
    base = write_base(tmp_path / "base", generation)
    export_model(Parts(base), "transformers", tmp_path / "out")
    check_tokenizer(tmp_path / "out", load_tokenizer(base), texts())


@pytest.mark.parametrize("generation", GLM_GENERATIONS)
def test_the_published_vocabulary_gives_the_same_ids_and_texts(
    samples: Path, tmp_path: Path, generation: str
) -> None:
    vocabulary = samples.parent / "tokenizers" / "chatglm2_tokenizer.model"
    ours = load_tokenizer(vocabulary, generation)
    write_fast_tokenizer(read_vocabulary(vocabulary), ours, tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "glm"})
    rows = (samples.parent / "adgen" / "dev_first700.json").read_text(encoding="utf-8").split("\n")
    check_tokenizer(tmp_path, ours, [*texts(), *filter(None, rows)])


def check_tokenizer(folder: Path, ours: Any, sentences: list[str]) -> None:
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for text in sentences:
        ids = ours.encode(text)
        assert theirs(text)["input_ids"] == ids, text
        plain = ours.encode(text, add_special_tokens=False)
        assert theirs.encode(text, add_special_tokens=False) == plain
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids), text
    for name, i in ours.special_ids.items():
        assert theirs.convert_tokens_to_ids(name) == i
    assert (theirs.pad_token_id, theirs.eos_token_id) == (ours.pad_token_id, ours.eos_token_id)
    assert len(theirs) == ours.vocab_size
    batch = theirs(["a", "a b c"], padding=True)
    assert batch["input_ids"][0][0] == ours.pad_token_id
    assert set(batch) == {"input_ids", "attention_mask"}


def test_a_vocabulary_that_would_give_other_ids_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    content = train_pieces(SENTENCES, vocab_size=60, model_type="unigram")
    (base / "tokenizer.model").write_bytes(content)
    message = refusal(Parts(base), "transformers", tmp_path / "out")
    assert "tokenizer.model: as a tokenizer.json this vocabulary gives other ids" in message
    assert message.endswith("use --format official")


def test_the_first_generation_has_no_model_in_transformers(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm-6b")
    message = refusal(Parts(base), "transformers", tmp_path / "out")
    assert message == (
        f"{base}: transformers has no architecture for ChatGLM-6B; expected ChatGLM2-6B or "
        "ChatGLM3-6B; use --format official"
    )


# --- prefixes --------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [False, True], ids=["direct", "projection"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_prefix_export_is_what_thudm_s_scripts_read(
    tmp_path: Path, generation: str, projection: bool
) -> None:
    base = write_base(tmp_path / "base", generation)
    prefix = write_prefix(tmp_path / "prefix", base, projection)
    export_model(Parts(base, prefix=prefix), "thudm-prefix", tmp_path / "out")
    config = read_json(tmp_path / "out" / "config.json")
    assert (config["pre_seq_len"], config["prefix_projection"]) == (4, projection)
    assert config["num_layers"] == 2
    state = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    # As their evaluation and web demo pick them.
    start = "transformer.prefix_encoder."
    picked = {name[len(start) :]: t for name, t in state.items() if name.startswith(start)}
    model = load_model(base, prefix=prefix)
    model.transformer.prefix_encoder.load_state_dict(picked)
    ids = prompt_ids(base)
    again = load_model(base, prefix=tmp_path / "out")
    assert torch.equal(logits(again, ids), logits(model, ids))


def test_a_prefix_inside_a_complete_checkpoint_is_exported(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    model = load_model(base, prefix=write_prefix(tmp_path / "prefix", base))
    (base / "model.safetensors").unlink()
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    export_model(Parts(base), "thudm-prefix", tmp_path / "out")
    exported = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    assert exported
    assert all("prefix_encoder" in name for name in exported)
    for format_name in ("official", "transformers"):
        message = refusal(Parts(base), format_name, tmp_path / "merged")
        assert message.startswith(f"{base}: its P-Tuning v2 prefix: ")
        assert "cannot be merged" in message


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["official", "transformers"])
def test_a_prefix_cannot_be_merged(tmp_path: Path, format_name: str) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    parts = Parts(base, prefix=tmp_path / "prefix")
    message = refusal(parts, format_name, tmp_path / "out")
    assert "cannot be merged into them; export it with --format thudm-prefix" in message


def test_parts_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    other = write_base(tmp_path / "other", "chatglm-6b")
    prefix, adapter = write_prefix(tmp_path / "p", other), write_adapter(tmp_path / "a", other)
    out = tmp_path / "out"
    assert "was the prefix tuned on" in refusal(Parts(base, prefix=prefix), "thudm-prefix", out)
    assert "do not fit" in refusal(Parts(base, adapter=adapter), "official", out)
    both = Parts(base, adapter=adapter, prefix=prefix)
    assert "has no place for an adapter" in refusal(both, "thudm-prefix", out)
    assert "no prefix in it" in refusal(Parts(base), "thudm-prefix", out)
    wrong = Parts(base, generation="chatglm-6b")
    assert "a model of another generation" in refusal(wrong, "official", out)
    assert "a PEFT adapter, not a model" in refusal(Parts(adapter), "official", out)
    assert "a P-Tuning v2 prefix, not a model" in refusal(Parts(prefix), "official", out)


def test_an_adapter_that_was_never_trained_is_named_by_its_folder(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    adapter = tuned_adapter(tmp_path / "adapter", load_model(base), scale=0.0)
    message = refusal(Parts(base, adapter=adapter), "official", tmp_path / "out")
    assert message.startswith(f"{adapter}: has no effect")


def test_a_model_without_its_vocabulary_says_what_to_copy(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    (base / "tokenizer.model").unlink()
    message = refusal(Parts(base), "official", tmp_path / "out")
    assert "a model without a vocabulary; copy ice_text.model (ChatGLM-6B) or " in message
    assert "from its base model's folder into it" in message


@pytest.mark.parametrize("is_file", [True, False])
def test_a_folder_with_something_in_it_is_not_written_to(tmp_path: Path, is_file: bool) -> None:
    out = tmp_path / "out"
    target = out if is_file else out / "mine.txt"
    target.parent.mkdir(exist_ok=True)
    target.write_text("mine")
    message = refusal(Parts(tmp_path), "official", out)
    assert message == f"--out {out}: not an empty folder; expected a new one: choose another"
    assert target.read_text() == "mine"


def test_an_unknown_format_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal(Parts(tmp_path), "gguf", tmp_path / "out")
    assert message == f"--format: found 'gguf'; choose from {', '.join(FORMATS)}"


# --- the script ------------------------------------------------------------------------------


def run(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "export_model.py", *flags]
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


def test_the_script_exports_and_explains_a_mistake(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    before = hash_folder(base)
    flags = ("--model", base, "--format", "transformers", "--out", tmp_path / "out")
    done = run(*flags)
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'out'}\n"), done.stderr
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert sorted(modes) == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert len(set(modes.values())) == 1  # readable by whoever may read the rest
    again = run(*flags)
    assert again.returncode == 2
    assert again.stderr.startswith("error: --out ")
    assert "Traceback" not in again.stderr
    assert hash_folder(base) == before
