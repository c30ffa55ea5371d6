"""Exports: official folders, transformers' own model and tokenizer, THUDM's prefix checkpoints."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from steps import run_step
from tiny_adapters import ALL_LINEARS, tuned_adapter
from tiny_folders import logits, prompt_ids, write_base
from transformers import AutoModelForCausalLM

from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prefix import save_prefix
from glmtune.checkpoints.prepared import ModelRef
from glmtune.checkpoints.saving import save_model, write_weights
from glmtune.checkpoints.sources import LOCATION
from glmtune.errors import ParamsError, WeightsError
from glmtune.export.exporting import FORMATS, export_model
from glmtune.families.loading import detect_family
from glmtune.families.registry import FAMILIES
from glmtune.files import hash_folder, read_json, write_json
from glmtune.modeling.prefix import attach_prefix
from glmtune.modeling.quantization import quantize_model

pytestmark = pytest.mark.numeric

FAMILY_NAMES = sorted(FAMILIES)


def write_adapter(folder: Path, base: Path) -> Path:
    return tuned_adapter(folder, load_model(base), targets=ALL_LINEARS)


def write_prefix(folder: Path, base: Path, projection: bool = False) -> Path:
    model = load_model(base)
    torch.manual_seed(2)
    attach_prefix(model, pre_seq_len=4, projection=projection)
    save_prefix(model, folder)
    return folder


def refusal(parts: ModelRef, format_name: str, out: Path) -> str:
    with pytest.raises((ParamsError, WeightsError)) as caught:
        export_model(parts, format_name, out)
    assert "\n" not in str(caught.value)
    assert not out.exists() or out.is_file() or any(out.iterdir())
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return str(caught.value)


# --- official --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_an_official_export_is_the_model_and_says_what_it_is(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / f"my-{family}", family)
    export_model(ModelRef(base), "official", tmp_path / "out")
    ids = prompt_ids(base)
    assert torch.equal(logits(load_model(tmp_path / "out"), ids), logits(load_model(base), ids))
    assert detect_family(tmp_path / "out") == family
    assert torch.equal(prompt_ids(tmp_path / "out"), ids)
    config = read_json(tmp_path / "out" / "config.json")
    official = {k: v for k, v in read_json(base / "config.json").items() if k != "auto_map"}
    ours = ("_name_or_path", "architectures")
    assert {k: v for k, v in config.items() if k in official and k not in ours} == {
        k: v for k, v in official.items() if k not in ours
    }
    assert "auto_map" not in config


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_an_official_export_has_the_adapter_merged(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    adapter = write_adapter(tmp_path / "adapter", base)
    export_model(ModelRef(base, adapter=adapter), "official", tmp_path / "out")
    ids = prompt_ids(base)
    merged, plain = (load_model(tmp_path / name) for name in ("out", "base"))
    torch.testing.assert_close(logits(merged, ids), logits(load_model(base, adapter=adapter), ids))
    assert not torch.allclose(logits(merged, ids), logits(plain, ids), atol=0.1)
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_a_family_that_only_the_folder_s_name_told_is_written_down(tmp_path: Path) -> None:
    base = write_base(tmp_path / "chatglm3-mine", "chatglm3-6b-base", _name_or_path="x")
    write_json(base / "tokenizer_config.json", {})
    export_model(ModelRef(base), "official", tmp_path / "out")
    assert detect_family(tmp_path / "out") == "chatglm3-6b-base"


def test_a_prepared_folder_that_points_elsewhere_is_exported(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    write_json(tmp_path / "prepared" / LOCATION, {"folder": str(base)})
    export_model(ModelRef(tmp_path / "prepared"), "official", tmp_path / "out")
    ids = prompt_ids(base)
    assert torch.equal(logits(load_model(tmp_path / "out"), ids), logits(load_model(base), ids))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_keep_the_type_of_the_base_unless_another_is_asked_for(
    tmp_path: Path, dtype: str
) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b", torch_dtype=dtype)
    adapter = write_adapter(tmp_path / "adapter", base)
    export_model(ModelRef(base, adapter=adapter), "official", tmp_path / "kept")
    full = ModelRef(base, adapter=adapter)
    export_model(full, "official", tmp_path / "full", dtype="float32")
    for name, expected in {"kept": dtype, "full": "float32"}.items():
        state = load_file(tmp_path / name / "model.safetensors")
        assert {tensor.dtype for tensor in state.values()} == {getattr(torch, expected)}
        assert read_json(tmp_path / name / "config.json")["torch_dtype"] == expected


def test_quantized_weights_are_exported_as_they_are(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    model = load_model(base, dtype="float16")
    quantize_model(model, 4)
    save_model(model, base)
    export_model(ModelRef(base), "official", tmp_path / "out")
    assert read_json(tmp_path / "out" / "config.json")["quantization_bit"] == 4
    ids = prompt_ids(base)
    assert torch.equal(logits(load_model(tmp_path / "out"), ids), logits(load_model(base), ids))
    adapter = tuned_adapter(tmp_path / "adapter", load_model(base))
    message = refusal(ModelRef(base, adapter=adapter), "official", tmp_path / "merged")
    assert message.startswith(f"{adapter}: ")
    assert "quantized to 4 bits" in message
    message = refusal(ModelRef(base), "transformers", tmp_path / "glm")
    assert "quantized to 4 bits in a layout that transformers cannot read" in message


@pytest.mark.parametrize("format_name", ["official", "transformers"])
def test_large_weights_become_shards_with_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_name: str
) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    monkeypatch.setattr(write_weights, "__kwdefaults__", {"shard_bytes": 60_000})
    out = tmp_path / "out"
    export_model(ModelRef(base), format_name, out)
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


# --- prefixes --------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [False, True], ids=["direct", "projection"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_prefix_export_is_what_thudm_s_scripts_read(
    tmp_path: Path, family: str, projection: bool
) -> None:
    base = write_base(tmp_path / "base", family)
    prefix = write_prefix(tmp_path / "prefix", base, projection)
    export_model(ModelRef(base, prefix=prefix), "thudm-prefix", tmp_path / "out")
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
    export_model(ModelRef(base), "thudm-prefix", tmp_path / "out")
    exported = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    assert exported
    assert all("prefix_encoder" in name for name in exported)
    for format_name in ("official", "transformers"):
        message = refusal(ModelRef(base), format_name, tmp_path / "merged")
        assert message.startswith(f"{base}: its P-Tuning v2 prefix: ")
        assert "cannot be merged" in message


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["official", "transformers"])
def test_a_prefix_cannot_be_merged(tmp_path: Path, format_name: str) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    parts = ModelRef(base, prefix=tmp_path / "prefix")
    message = refusal(parts, format_name, tmp_path / "out")
    assert "cannot be merged into the weights; export it with --format thudm-prefix" in message


def test_parts_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    other = write_base(tmp_path / "other", "chatglm-6b")
    prefix, adapter = write_prefix(tmp_path / "p", other), write_adapter(tmp_path / "a", other)
    out = tmp_path / "out"
    assert "was the prefix tuned on" in refusal(ModelRef(base, prefix=prefix), "thudm-prefix", out)
    assert "do not fit" in refusal(ModelRef(base, adapter=adapter), "official", out)
    both = ModelRef(base, adapter=adapter, prefix=prefix)
    assert "cannot contain an adapter" in refusal(both, "thudm-prefix", out)
    assert "found no prefix" in refusal(ModelRef(base), "thudm-prefix", out)
    wrong = ModelRef(base, family="chatglm-6b")
    assert "a model of another family" in refusal(wrong, "official", out)
    assert "found a PEFT adapter; expected a model" in refusal(ModelRef(adapter), "official", out)
    assert "a P-Tuning v2 prefix; expected a model" in refusal(ModelRef(prefix), "official", out)


def test_an_adapter_that_was_never_trained_is_named_by_its_folder(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    adapter = tuned_adapter(tmp_path / "adapter", load_model(base), scale=0.0)
    message = refusal(ModelRef(base, adapter=adapter), "official", tmp_path / "out")
    assert message.startswith(f"{adapter}: has no effect")


def test_a_model_without_its_vocabulary_says_what_to_copy(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    (base / "tokenizer.model").unlink()
    message = refusal(ModelRef(base), "official", tmp_path / "out")
    assert "a model without a vocabulary; copy ice_text.model (ChatGLM-6B) or " in message
    assert "from its base model's folder into it" in message


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", "is a file"),
        ("mine.txt", "contains mine.txt, which no export wrote"),
        ("export.json", "contains export.json, which no export wrote"),
    ],
)
def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path, name: str, found: str) -> None:
    out = tmp_path / "out"
    target = out / name
    target.parent.mkdir(exist_ok=True)
    target.write_text("[]")
    message = refusal(ModelRef(tmp_path), "official", out)
    assert message == (
        f"--out {out}: {found}; expected a new or empty folder, or an earlier export; "
        "choose another"
    )
    assert target.read_text() == "[]"


def test_an_earlier_export_is_replaced_unless_something_was_added(tmp_path: Path) -> None:
    base, out = write_base(tmp_path / "base", "chatglm2-6b"), tmp_path / "out"
    export_model(ModelRef(base), "transformers", out)
    export_model(ModelRef(base), "official", out)
    assert not (out / "tokenizer.json").exists()
    assert read_json(out / "export.json") == {
        "format": "official",
        "model": str(base),
        "files": ["config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"],
    }
    assert "is an input of the export" in refusal(ModelRef(out), "official", out)
    (out / "notes.md").write_text("mine")
    assert "contains notes.md, which no export wrote" in refusal(ModelRef(base), "official", out)


def test_an_unknown_format_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal(ModelRef(tmp_path), "onnx", tmp_path / "out")
    assert message == f"--format: found 'onnx'; choose from {', '.join(FORMATS)}"


# --- the script ------------------------------------------------------------------------------


def run(*flags: object) -> subprocess.CompletedProcess[str]:
    return run_step("export_model", *flags)


def test_the_script_exports_and_explains_a_mistake(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "chatglm2-6b")
    before = hash_folder(base)
    flags = ("--model", base, "--format", "transformers", "--out", tmp_path / "out")
    done = run(*flags)
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'out'}\n"), done.stderr
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert sorted(modes) == [
        *("config.json", "export.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    assert len(set(modes.values())) == 1  # readable by whoever may read the rest
    again = run(*flags[:-1], base)
    assert again.returncode == 2
    assert again.stderr.startswith("error: --out ")
    assert "Traceback" not in again.stderr
    assert hash_folder(base) == before


def test_parts_that_are_not_those_of_their_manifests_are_refused(tmp_path: Path) -> None:
    results = tmp_path / "results"
    base = write_base(results / "models" / "own", "chatglm2-6b")
    write_json(results / "models" / "own.json", {"files": hash_folder(base)})
    adapter = write_adapter(results / "checkpoints" / "own" / "lora", base)
    training = results / "training" / "own" / "lora.json"
    write_json(training, {"checkpoint": hash_folder(adapter)})
    export_model(ModelRef(base, adapter=adapter), "official", tmp_path / "whole")

    write_json(training, {"checkpoint": hash_folder(adapter) | {"adapter_config.json": "0" * 64}})
    message = refusal(ModelRef(base, adapter=adapter), "official", tmp_path / "out")
    assert "adapter_config.json: found SHA-256" in message
    save_model(load_model(base).half(), base)
    message = refusal(ModelRef(base), "official", tmp_path / "out")
    assert "found SHA-256" in message
    assert "restore it, or run `snakemake` again" in message
