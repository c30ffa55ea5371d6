"""GLM-4: equal to transformers' own GlmForCausalLM, from folders of either layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from tiny_adapters import ALL_LINEARS, tuned_adapter
from tiny_folders import PROMPT, logits, prompt_ids, write_base
from transformers import AutoModelForCausalLM, GlmConfig, GlmForCausalLM

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.other_models import refuse_other_models
from glmtune.checkpoints.prepared import ModelRef
from glmtune.errors import WeightsError
from glmtune.export.exporting import export_model
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.files import read_json, write_json
from glmtune.miniatures.settings import ModelSettings
from glmtune.steps.inputs_outputs import Outputs
from glmtune.steps.preparing import prepare

pytestmark = pytest.mark.numeric

FAMILY = "glm-4-9b"
# What tells the published models apart: GLM-4-9B-Chat, GLM-4-9B-Chat-1M.
MODELS = {
    "chat": {"multi_query_group_num": 2, "rope_ratio": 500, "seq_length": 131072},
    "chat-1m": {"multi_query_group_num": 4, "rope_ratio": 10_000, "seq_length": 1_048_576},
}


@pytest.fixture(params=MODELS)
def official(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny model in the official layout, with the values of a published one."""
    return write_base(tmp_path / "official", FAMILY, **MODELS[request.param])


@pytest.fixture
def hf(official: Path, tmp_path: Path) -> Path:
    """The same model in transformers' layout, written by transformers itself."""
    folder = tmp_path / "model-hf"
    export_model(ModelRef(official), "transformers", tmp_path / "export")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    theirs.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "export" / name, folder / name)
    return folder


def test_logits_ids_and_gradients_equal_those_of_transformers(official: Path, hf: Path) -> None:
    ours: Any = load_model(official)
    theirs: Any = AutoModelForCausalLM.from_pretrained(hf)
    assert type(theirs).__name__ == "GlmForCausalLM"
    ids = prompt_ids(official)
    assert float((logits(ours, ids) - logits(theirs, ids)).abs().max()) <= 1e-5
    options: Any = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))
    far = torch.arange(ids.shape[1])[None] + 100_000  # positions tell the rotary bases apart
    with torch.no_grad():
        found, expected = (model(ids, position_ids=far).logits for model in (ours, theirs))
    assert float((found - expected).abs().max()) <= 1e-4
    for model in (ours, theirs):
        model(ids, labels=ids).loss.backward()
    layer, other = ours.transformer.layers[1], theirs.model.layers[1]
    parts = [getattr(other.self_attn, f"{letter}_proj").weight.grad for letter in "qkv"]
    for gradient, its in (
        (layer.self_attention.query_key_value.weight.grad, torch.cat(parts)),
        (layer.mlp.dense_h_to_4h.weight.grad, other.mlp.gate_up_proj.weight.grad),
        (ours.get_input_embeddings().weight.grad, theirs.get_input_embeddings().weight.grad),
    ):
        torch.testing.assert_close(gradient, its, rtol=1e-4, atol=1e-6)


def test_a_folder_of_transformers_own_layout_gives_the_same_model(official: Path, hf: Path) -> None:
    ours, read = load_model(official), load_model(hf)
    assert ours.state_dict().keys() == read.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    for name in (*MODELS["chat"], "layernorm_epsilon", "eos_token_id", "ffn_hidden_size"):
        assert getattr(read.config, name) == getattr(ours.config, name), name
    assert not read.config.interpolates_positions
    assert load_tokenizer(hf).encode(PROMPT) == load_tokenizer(official).encode(PROMPT)


@pytest.mark.parametrize("bits", [8, 4])
def test_it_is_quantized_as_the_official_one(official: Path, hf: Path, bits: int) -> None:
    ours, read = (load_model(folder, quantization_bit=bits) for folder in (official, hf))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


@pytest.mark.parametrize("format_name", ["official", "transformers"])
def test_an_export_is_read_back(hf: Path, tmp_path: Path, format_name: str) -> None:
    adapter = tuned_adapter(tmp_path / "adapter", load_model(hf), targets=ALL_LINEARS)
    tuned = load_model(hf, adapter=adapter)
    export_model(ModelRef(hf, adapter=adapter), format_name, tmp_path / "out")
    ids = prompt_ids(hf)
    again = load_model(tmp_path / "out")
    assert float((logits(again, ids) - logits(tuned, ids)).abs().max()) < 1e-4
    assert load_tokenizer(tmp_path / "out").encode(PROMPT) == ids[0].tolist()
    has_model = (tmp_path / "out" / "tokenizer.model").is_file()
    assert has_model == (format_name == "official")


def test_prepare_takes_either_layout(hf: Path, tmp_path: Path) -> None:
    settings = ModelSettings(source=str(hf), family=FAMILY, seed=1)
    outputs = Outputs(out_dir=tmp_path / "out", resume_dir=tmp_path / "resume")
    prepare(settings=settings, outputs=outputs)
    assert "tokenizer.json" in read_json(tmp_path / "out" / "manifest.json")["files"]


def test_weights_without_all_three_of_a_layer_are_named(hf: Path) -> None:
    state = load_file(hf / "model.safetensors")
    del state["model.layers.1.self_attn.k_proj.weight"]
    save_file(state, hf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        load_model(hf)
    assert "1 missing: transformer.encoder.layers.1.self_attention.query_key_value.weight" in str(
        caught.value
    )
    assert "layers.1.self_attn.q_proj.weight" in str(caught.value)


# --- The published models ------------------------------------------------------------------------


def test_the_published_sizes_are_those_of_transformers() -> None:
    model = build_model(FAMILIES[FAMILY].real_config, FAMILY, device="meta")
    with torch.device("meta"):
        theirs = GlmForCausalLM(GlmConfig())  # the defaults are those of glm-4-9b-chat
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == count == 9_399_951_360
    assert model.config.eos_token_id == theirs.config.eos_token_id == [151329, 151336, 151338]


EDGE = {"model_type": "glm", "partial_rotary_factor": 1.0, "vocab_size": 59264}
OTHERS = [
    ({"model_type": "glm4", "hidden_size": 4096}, "GLM-4-0414 or GLM-Z1"),
    (EDGE, "GLM-Edge"),
    ({"model_type": "glm", "rope_parameters": {"partial_rotary_factor": 1.0}}, "GLM-Edge"),
    ({"model_type": "chatglm", "vision_config": {}, "padded_vocab_size": 151552}, "GLM-4V-9B"),
    ({"model_type": "glm4_moe"}, "GLM-4.5"),
    ({"model_type": "glm4v"}, "GLM-4.1V"),
]


@pytest.mark.parametrize(("values", "name"), OTHERS)
def test_another_glm_is_refused_by_name(
    official: Path, tmp_path: Path, values: dict[str, Any], name: str
) -> None:
    write_json(official / "config.json", values)
    with pytest.raises(WeightsError) as caught:
        load_model(official)
    assert str(caught.value).startswith(f"{official / 'config.json'}: found ")
    assert name in str(caught.value)
    assert str(caught.value).endswith("; use one of these")
    settings = ModelSettings(source=str(official), family=FAMILY, seed=1)
    outputs = Outputs(out_dir=tmp_path / "out", resume_dir=ROOT)
    with pytest.raises(WeightsError, match=name):
        prepare(settings=settings, outputs=outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_is_taken_for_another_glm(family: str) -> None:
    refuse_other_models(FAMILIES[family].real_config, "config.json")
    refuse_other_models(json.loads(GlmConfig().to_json_string()), "config.json")


@pytest.mark.parametrize(
    "rotary", [{"rope_type": "yarn", "factor": 4}, {"rope_theta": 1e300}, {"rope_theta": "5e6"}]
)
def test_other_rotary_positions_are_refused(hf: Path, rotary: dict[str, Any]) -> None:
    values = read_json(hf / "config.json")
    write_json(hf / "config.json", values | {"rope_parameters": rotary})
    with pytest.raises(WeightsError, match="rope_parameters: found .*rope_t.*; expected rope_type"):
        load_model(hf)
