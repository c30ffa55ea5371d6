"""Pitfalls that users of ChatGLM models met elsewhere, one test each.

`ELSEWHERE` lists pitfalls that are tested in the file of their subject.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import PADS, SIZES, checkpoint_activations, pad_left, prompt, tiny_model
from tiny_training import settings_of

from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prepared import open_prepared
from glmtune.checkpoints.saving import save_model
from glmtune.checkpoints.tensors import read_weights
from glmtune.families.family import Example
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.families.tokenized import from_examples
from glmtune.families.tokenizers import ChatGLM2Tokenizer, ChatGLMTokenizer
from glmtune.labels import IGNORED_LABEL
from glmtune.modeling.causal_lm import visible_positions
from glmtune.modeling.chatglm import prompt_positions
from glmtune.modeling.prefix import attach_prefix
from glmtune.modeling.quantization import quantize_model
from glmtune.training.train import train
from glmtune.tuning.method import tuned_model
from glmtune.tuning.registry import METHODS

pytestmark = pytest.mark.numeric

FAMILY_NAMES = sorted(FAMILIES)
TUNINGS = sorted(name for name in METHODS if name != "none")
SETTINGS: dict[str, Any] = {
    "pre_seq_len": 3,
    "prefix_projection": False,
    "prefix_dropout": 0.0,
    "rank": 2,
    "alpha": 4,
    "dropout": 0.0,
    "target_modules": ["query_key_value"],
}
ROWS = [[*prompt([5, 9, 33]), 7, 8, SIZES["eos_token_id"]], [*prompt([20]), 6, 6, 6]]
IDS = torch.tensor([ROWS[0]])

ELSEWHERE = {
    "the special tokens of a ChatGLM-6B prompt come last, and <sop> is the first target": (
        "test_encoding.py::test_a_chatglm_row_is_prompt_gmask_sop_answer_eop"
    ),
    "those of a ChatGLM2-6B prompt come first": (
        "test_encoding.py::test_a_chatglm2_row_is_gmask_sop_round_one_answer_eos"
    ),
    "those of a ChatGLM3-6B prompt come first": (
        "test_encoding.py::test_a_chatglm3_row_is_a_user_and_an_assistant_message"
    ),
    "answers never end: the end token is a target": (
        "test_encoding.py::test_the_prompt_is_masked_and_the_answer_is_not"
    ),
    "answers never end: generation stops at the end token": (
        "test_models.py::test_generation_ends_with_the_end_token_of_the_config"
    ),
    "special tokens written by a user": "test_tokenizer.py::test_no_text_produces_a_control_token",
    "ids of padded vocabulary rows": (
        "test_tokenizer.py::test_decode_skips_special_padding_and_unknown_ids"
    ),
    "a vocabulary of the first release, shifted by 20000 ids": (
        "test_tokenizer.py::test_the_first_release_of_chatglm_is_refused"
    ),
    "a ChatGLM-6B prompt with causal attention": (
        "test_models.py::test_prompt_of_the_first_family_has_bidirectional_attention"
    ),
    "padding on the left": "test_models.py::test_a_padded_batch_equals_its_rows",
    "padding on the right": "test_models.py::test_padding_on_the_right_changes_nothing",
    "a batch of answers": "test_models.py::test_a_generated_batch_equals_its_rows",
    "<unk> shares its id with padding and gets no gradient": (
        "test_models.py::test_the_padding_id_is_trained_like_any_token"
    ),
    "a prefix in a left-padded batch": (
        "test_prefix.py::test_a_prefixed_batch_generates_the_same_as_single_rows"
    ),
    "a prefix in half precision": (
        "test_prefix.py::test_a_prefix_stays_in_full_precision_on_a_half_precision_base"
    ),
    "different weights that are tied": (
        "test_weights.py::test_output_layer_of_the_first_family_is_tied_if_equal"
    ),
    "a frozen base that is trained, too": "test_training.py::test_the_base_stays_unchanged",
    "trained weights in half precision": (
        "test_training.py::test_exactly_the_method_s_own_weights_are_trained"
    ),
    "a training that continues with a NaN loss": (
        "test_training_guards.py::test_a_non_finite_loss_stops_training_with_step_and_cause"
    ),
    "a resumed training that starts over": (
        "test_resuming.py::test_a_killed_training_ends_with_the_same_bits_as_an_uninterrupted_one"
    ),
}


@pytest.mark.parametrize("place", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_pitfall_tested_elsewhere_has_its_test_there(place: str) -> None:
    file, name = place.split("::")
    [path] = Path(__file__).parents[1].rglob(file)
    tree = ast.parse(path.read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# --- Attention masks and positions -------------------------------------------


def test_a_chatglm_prompt_attends_to_itself_and_never_to_padding() -> None:
    ids, mask = pad_left([[*prompt([7]), 9], [*prompt([5, 7]), 9]], pad=3)
    prompts = tiny_model("chatglm-6b").transformer._context_lengths(ids, 0)
    visible = visible_positions(mask, 5, 0, context_lengths=prompts, device=ids.device)
    assert visible is not None
    # Row: [pad] 7 [gMASK] <sop> 9; every token attends to the columns before <sop>.
    assert visible[0, 0, 1:].int().tolist() == [
        [0, 1, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 1, 1, 1, 1],
    ]
    assert visible[1, 0, 0].int().tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_batch_without_a_mask_has_no_padding(family_name: str) -> None:
    model = tiny_model(family_name)
    ids = torch.tensor([ROWS[0], [*ROWS[0][:-1], 6]])
    labels = ids.where(ids > 6, IGNORED_LABEL)
    ones = torch.ones_like(ids)
    with torch.no_grad():
        alone, masked = model(ids, labels=labels), model(ids, attention_mask=ones, labels=labels)
    assert torch.equal(alone.logits, masked.logits)
    assert torch.equal(alone.loss, masked.loss)


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_embeddings_instead_of_ids_are_refused_with_a_message(family_name: str) -> None:
    model = tiny_model(family_name)
    embeddings = model.get_input_embeddings()(IDS)
    with pytest.raises(ValueError, match="inputs_embeds: not supported; pass input_ids"):
        model(None, inputs_embeds=embeddings)


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_positions_after_a_prefix_and_after_padding_start_at_zero(family_name: str) -> None:
    model = tiny_model(family_name)
    torch.manual_seed(4)
    attach_prefix(model, pre_seq_len=3)
    ids, mask = pad_left(ROWS, PADS[family_name])
    rows = [torch.tensor([row]) for row in ROWS]
    with torch.no_grad():
        batch = model(ids, attention_mask=mask).logits
        for i, row in enumerate(rows):
            positions = torch.arange(row.shape[1])[None]
            if family_name == "chatglm-6b":
                positions = prompt_positions(row, None, model.config)
                assert positions[0, 0, 0] == 0
            expected = model(row, position_ids=positions).logits[0]
            shifted = model(row, position_ids=positions + 3).logits[0]
            torch.testing.assert_close(batch[i, -row.shape[1] :], expected, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(shifted, expected, atol=1e-4)


# --- Prompts and targets ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("vocabularies")
    for name, family in FAMILIES.items():
        family.train_tokenizer(["问：红色的裙子", "答：好的。"], folder / name, vocab_size=40)
    return {name: load_tokenizer(folder / name) for name in FAMILIES}


def test_rounds_count_from_zero_in_chatglm_and_from_one_in_chatglm2(
    vocabularies: dict[str, Any],
) -> None:
    first: ChatGLMTokenizer = vocabularies["chatglm-6b"]
    second: ChatGLM2Tokenizer = vocabularies["chatglm2-6b"]
    assert first.chat_prompt("红") == "红"
    assert second.chat_prompt("红") == "[Round 1]\n\n问：红\n\n答："
    history = [("白", "好")]
    assert first.chat_prompt("红", history) == (
        "[Round 0]\n问：白\n答：好\n[Round 1]\n问：红\n答："
    )
    assert second.chat_prompt("红", history) == (
        "[Round 1]\n\n问：白\n\n答：好\n\n[Round 2]\n\n问：红\n\n答："
    )


@pytest.mark.parametrize("family_name", ["chatglm-6b", "chatglm2-6b"])
def test_padding_is_never_a_target_even_inside_an_answer(
    vocabularies: dict[str, Any], family_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ChatGLM2-6B an unknown character has the padding id; main.py ignores both."""
    tokenizer = vocabularies[family_name]
    pad, (before, after) = tokenizer.pad_token_id, tokenizer.encode("红色", False)[-2:]

    def encode(text: str, add_special_tokens: bool = True) -> list[int]:
        return [before, pad, after]

    monkeypatch.setattr(tokenizer, "encode", encode)
    template = FAMILIES[family_name].template()
    limits = {"max_source_tokens": 32, "max_target_tokens": 32}
    example = template.encode_example(tokenizer, "红", "红", **limits)
    assert example.input_ids[-4:] == [before, pad, after, tokenizer.eos_token_id]
    assert example.labels[-4:] == [before, IGNORED_LABEL, after, tokenizer.eos_token_id]


# --- Training --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "quantized"),
    [(name, False) for name in TUNINGS]
    + [(name, True) for name in TUNINGS if not METHODS[name].trains_base],
)
@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_gradient_checkpointing_leaves_no_weight_without_gradient(
    family_name: str, method: str, quantized: bool
) -> None:
    """Known as "element 0 of tensors does not require grad": frozen embeddings, frozen layers."""
    base = tiny_model(family_name)
    if quantized:
        quantize_model(base, 4)
    model = METHODS[method].prepare(base, settings_of(method, **SETTINGS))
    # LoRA's B starts at zero, so A gets no gradient through it.
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    checkpoint_activations(model)
    model.train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert [name for name, grad in trained.items() if grad is None or not grad.any()] == []


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_input_embeddings_can_require_gradients(family_name: str) -> None:
    model = tiny_model(family_name)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.enable_input_require_grads()  # PEFT does so before training on quantized weights
    assert model.get_input_embeddings()(IDS).requires_grad
    assert model(IDS, labels=IDS).loss.requires_grad


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_loaded_base_stays_frozen_under_a_method(family_name: str, tmp_path: Path) -> None:
    """Freezing in a model's constructor is lost when weights are loaded into it."""
    save_model(tiny_model(family_name), tmp_path)
    for method in ("ptuning", "lora"):
        model = METHODS[method].prepare(load_model(tmp_path), settings_of(method, **SETTINGS))
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert trained
        assert all("lora_" in name or "prefix_encoder" in name for name in trained)


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_trained_adapter_has_an_effect_after_saving(family_name: str, tmp_path: Path) -> None:
    """lora_B starts at zero: if it is still zero, or is not loaded, the base answers."""
    base, checkpoint = tmp_path / "base", tmp_path / "checkpoint"
    save_model(tiny_model(family_name), base)
    model = METHODS["lora"].prepare(load_model(base), settings_of("lora", **SETTINGS))
    rows = from_examples([Example(row, row) for row in ROWS])
    changes = SETTINGS | {
        **{"seed": 1, "lr": 1e-2, "max_steps": 2, "batch_size": 2, "lr_scheduler": "constant"},
        **{
            "gradient_accumulation_steps": 1,
            "warmup_ratio": 0.0,
            "weight_decay": 0.0,
            "optimizer": "adamw",
        },
        **{"max_grad_norm": 1.0, "gradient_checkpointing": True, "logging_steps": 1},
        "save_steps": 10,
    }
    settings = settings_of("lora", **changes)
    train(model.train(), rows, None, settings, pad_token_id=3, work=tmp_path / "work")
    checkpoint.mkdir()
    METHODS["lora"].save(model, checkpoint, base)
    saved = dict(read_weights(checkpoint))
    assert all(bool(tensor.any()) for name, tensor in saved.items() if "lora_B" in name)
    where: dict[str, Any] = {"dtype": "float32", "device": "cpu", "quantization_bit": None}
    restored = open_prepared(tuned_model(METHODS["lora"], base, checkpoint), **where)
    with torch.no_grad():
        found = restored(IDS).logits
        assert not torch.allclose(found, load_model(base)(IDS).logits, atol=1e-4)
        torch.testing.assert_close(found, model.eval()(IDS).logits)


@pytest.mark.parametrize("method", ["ptuning", "lora"])
@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_checkpoint_holds_only_the_method_s_own_weights(
    family_name: str, method: str, tmp_path: Path
) -> None:
    """A 7 MB file is a complete P-Tuning v2 checkpoint; the base is never copied into it."""
    base, checkpoint = tmp_path / "base", tmp_path / "checkpoint"
    save_model(tiny_model(family_name), base)
    model = METHODS[method].prepare(load_model(base), settings_of(method, **SETTINGS))
    checkpoint.mkdir()
    METHODS[method].save(model, checkpoint, base)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert sum(tensor.numel() for _, tensor in read_weights(checkpoint)) == sum(trained)


def test_a_full_checkpoint_holds_every_weight(tmp_path: Path) -> None:
    model = METHODS["full"].prepare(tiny_model("chatglm2-6b"), settings_of("full", **SETTINGS))
    save_model(model, tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert json.loads((tmp_path / "config.json").read_text())["padded_vocab_size"] == 80
