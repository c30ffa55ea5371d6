"""The architectures on tiny models, with and without cache, padding and training.

tests/models/test_goldens.py compares their results with the official code's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import PADS, SIZES, checkpoint_activations, pad_left, prompt, tiny_model

from glmtune.families.registry import FAMILIES
from glmtune.modeling.chatglm import ChatGLMConfig, prompt_positions
from glmtune.modeling.target_loss import ROWS_AT_ONCE, mean_target_loss

pytestmark = pytest.mark.numeric

ROWS = [prompt([5, 9, 33, 12, 41, 8]), prompt([17]), prompt([20, 21, 22])]
FAMILY_NAMES = sorted(FAMILIES)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_padded_batch_equals_its_rows(family: str) -> None:
    model = tiny_model(family)
    ids, mask = pad_left(ROWS, PADS[family])
    with torch.no_grad():
        batch = model(ids, attention_mask=mask).logits
        for i, row in enumerate(ROWS):
            close(batch[i, -len(row) :], model(torch.tensor([row])).logits[0])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_padding_on_the_right_changes_nothing(family: str) -> None:
    model = tiny_model(family)
    row = torch.tensor([ROWS[0]])
    padded = torch.nn.functional.pad(row, (0, 4), value=PADS[family])
    with torch.no_grad():
        alone = model(row).logits
        masked = model(padded, attention_mask=(torch.arange(padded.shape[1]) < row.shape[1])[None])
    close(masked.logits[:, : row.shape[1]], alone)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_generation_with_and_without_cache_is_equal(family: str) -> None:
    model = tiny_model(family)
    ids, mask = pad_left(ROWS, PADS[family])
    outputs = [
        model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=8,
            do_sample=False,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for use_cache in (True, False)
    ]
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    close(torch.stack(outputs[0].logits), torch.stack(outputs[1].logits))


@pytest.mark.parametrize(
    "options",
    [{"do_sample": False}, {"do_sample": False, "num_beams": 3}, {"do_sample": True, "top_k": 1}],
    ids=["greedy", "beams", "sampling"],
)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_generated_batch_equals_its_rows(family: str, options: dict[str, Any]) -> None:
    model = tiny_model(family)
    ids, mask = pad_left(ROWS, PADS[family])
    options = {**options, "max_new_tokens": 6, "min_new_tokens": 6}
    batch = model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    for i, row in enumerate(ROWS):
        alone = model.generate(torch.tensor([row]), **options)[0, len(row) :]
        assert batch[i].tolist() == alone.tolist()


def test_positions_of_the_first_family_are_two_rows() -> None:
    ids, mask = pad_left([prompt([7, 8]) + [9, 10], prompt([7]) + [9, 10]], pad=3)
    positions = prompt_positions(ids, mask, ChatGLMConfig(**SIZES))
    assert positions.tolist() == [
        [[0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3]],
        [[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 2, 3]],
    ]


def test_first_family_names_the_tokens_a_row_lacks() -> None:
    model = tiny_model("chatglm-6b")
    with pytest.raises(ValueError, match=r"needs \[gMASK\] or \[MASK\], and <sop>"):
        model(torch.tensor([[5, 6, 7]]))


def test_prompt_of_the_first_family_has_bidirectional_attention() -> None:
    first, second = (torch.tensor([prompt(text)]) for text in ([5, 6, 7], [5, 6, 8]))
    for family in FAMILY_NAMES:
        model = tiny_model(family)
        with torch.no_grad():
            changed = not torch.equal(model(first).logits[0, 0], model(second).logits[0, 0])
        assert changed == (family == "chatglm-6b")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_an_answer_does_not_see_later_tokens(family: str) -> None:
    model = tiny_model(family)
    first, second = (torch.tensor([[*ROWS[2], 5, 6, last]]) for last in (7, 8))
    with torch.no_grad():
        close(model(first).logits[:, :-1], model(second).logits[:, :-1])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_training_loss_is_the_mean_over_target_tokens(family: str) -> None:
    model = tiny_model(family)
    ids = torch.tensor([[*ROWS[2], 5, 6, 7, SIZES["eos_token_id"]], [*ROWS[2], 8, 9, 1, 1]])
    labels = ids.clone()
    labels[:, : len(ROWS[2])] = -100
    labels[1, -2:] = -100
    output = model(ids, labels=labels)
    by_hand = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    close(output.loss, by_hand)
    trained = model.train()(ids, labels=labels)
    close(trained.loss, by_hand)
    assert trained.logits is None  # not computed: they would take most of a training step's memory
    accumulated = model(ids, labels=labels, num_items_in_batch=torch.tensor(12)).loss
    close(accumulated, by_hand * 6 / 12)


def test_the_loss_without_any_target_is_zero() -> None:
    head, no_targets = torch.nn.Linear(9, 5, bias=False), torch.zeros(0, dtype=torch.long)
    loss = mean_target_loss(torch.zeros(0, 9), head, no_targets, None)
    assert loss.item() == 0.0


@pytest.mark.parametrize("trained", [True, False])
def test_the_chunked_loss_has_the_same_gradients(trained: bool) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 40, bias=False).requires_grad_(trained)
    targets = torch.randint(0, 40, (2 * ROWS_AT_ONCE + 3,))
    found = []
    for loss_of in (
        lambda states: mean_target_loss(states, head, targets, 700),
        lambda states: (
            torch.nn.functional.cross_entropy(head(states), targets) * len(targets) / 700
        ),
    ):
        states = torch.linspace(-1, 1, len(targets) * 8).reshape(-1, 8).requires_grad_()
        head.zero_grad()
        loss = loss_of(states)
        (3 * loss).backward()
        found.append((loss.detach(), states.grad, head.weight.grad))
    for ours, whole in zip(*found, strict=True):
        assert (ours is None) == (whole is None)
        if ours is not None:
            torch.testing.assert_close(ours, whole)


def test_half_precision_hardly_rounds_the_gradient_of_the_head() -> None:
    """The entry of each target, about -1, is its largest part."""
    torch.manual_seed(0)
    head, states = torch.nn.Linear(16, 60000, bias=False), torch.randn(32, 16).bfloat16()
    targets = torch.randint(0, 60000, (32,))
    with torch.no_grad():
        head.weight *= 0.1
    loss = torch.nn.functional.cross_entropy(head(states.float()), targets)
    (expected,) = torch.autograd.grad(loss, head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mean_target_loss(states, head, targets, None)
    (found,) = torch.autograd.grad(loss, head.weight)
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_a_head_with_an_adapter_is_not_bypassed() -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    head, states, targets = Doubled(8, 5, bias=False), torch.randn(3, 8), torch.tensor([0, 1, 2])
    expected = torch.nn.functional.cross_entropy(head(states), targets)
    torch.testing.assert_close(mean_target_loss(states, head, targets, None), expected)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_only_the_requested_logits_are_computed(family: str) -> None:
    model = tiny_model(family)
    ids = torch.tensor([ROWS[0]])
    with torch.no_grad():
        close(model(ids, logits_to_keep=1).logits, model(ids).logits[:, -1:])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_padding_id_is_trained_like_any_token(family: str) -> None:
    model = tiny_model(family)
    pad = PADS[family]
    ids = torch.tensor([[pad, *ROWS[2], pad, 6]])
    model(ids, labels=ids).loss.backward()
    assert float(model.get_input_embeddings().weight.grad[pad].abs().sum()) > 0


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_training_keeps_no_cache(family: str) -> None:
    model = tiny_model(family)
    ids = torch.tensor([ROWS[0]])
    assert model(ids).past_key_values.get_seq_length() == ids.shape[1]
    assert model.train()(ids, labels=ids).past_key_values is None


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_mask_of_another_length_is_refused(family: str) -> None:
    model = tiny_model(family)
    ids = torch.tensor([ROWS[0]])
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\)"):
        model(ids, attention_mask=torch.tensor([[0, 1, 1]]))


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_trainer_of_transformers_lowers_the_loss(tmp_path: Path, family: str) -> None:
    from transformers import Trainer, TrainingArguments

    model = tiny_model(family)
    ids = [*ROWS[2], 5, 6, 7, SIZES["eos_token_id"]]
    row = {"input_ids": ids, "labels": [-100] * len(ROWS[2]) + ids[len(ROWS[2]) :]}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,
        learning_rate=1e-2,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    checkpoint_activations(model)
    trainer = Trainer(model=model, args=arguments, train_dataset=[row] * 8)
    with torch.no_grad():
        untrained = float(model(torch.tensor([ids]), labels=torch.tensor([row["labels"]])).loss)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(untrained, rel=1e-3)
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_mixed_precision_stays_near_full_precision(family: str) -> None:
    from glmtune.modeling.prefix import attach_prefix

    model = tiny_model(family)
    attach_prefix(model, pre_seq_len=3)
    ids, mask = pad_left(ROWS, PADS[family])
    full = model(ids, attention_mask=mask, labels=ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(ids, attention_mask=mask, labels=ids, use_cache=True)
    mixed.loss.backward()
    assert float((mixed.logits - full.logits).detach()[mask.bool()].abs().max()) < 0.2
    assert mixed.past_key_values.layers[0].keys.dtype == torch.bfloat16
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_generation_ends_with_the_end_token_of_the_config(family: str) -> None:
    model = tiny_model(family)
    assert model.generation_config.eos_token_id == model.config.eos_token_id
    assert model.generation_config.pad_token_id == PADS[family]


def test_second_architecture_agrees_with_transformers_glm() -> None:
    from transformers import GlmConfig, GlmForCausalLM

    model = tiny_model("chatglm2-6b")
    config = model.config
    glm = GlmForCausalLM(
        GlmConfig(
            vocab_size=config.padded_vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.multi_query_group_num,
            head_dim=config.kv_channels,
            attention_bias=config.add_qkv_bias,
            rms_norm_eps=config.layernorm_epsilon,
            pad_token_id=0,
            eos_token_id=2,
        )
    ).eval()
    glm.load_state_dict(as_glm(model), strict=True)
    ids = torch.tensor([ROWS[0]])
    with torch.no_grad():
        close(model(ids).logits, glm(ids).logits)


def as_glm(model: Any) -> dict[str, torch.Tensor]:
    """The state dict of a ChatGLM2 under the names of transformers' GlmForCausalLM."""
    heads = model.transformer.layers[0].self_attention.widths
    parts = ("q_proj", "k_proj", "v_proj")
    names = {
        "transformer.embedding.word_embeddings": "model.embed_tokens",
        "transformer.encoder.final_layernorm": "model.norm",
        "transformer.output_layer": "lm_head",
        "transformer.encoder.": "model.",
        "self_attention.dense": "self_attn.o_proj",
        "self_attention": "self_attn",
        "dense_h_to_4h": "gate_up_proj",
        "dense_4h_to_h": "down_proj",
    }
    state = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if "query_key_value" in name:
            for part, rows in zip(parts, tensor.split(heads), strict=True):
                state[name.replace("query_key_value", part)] = rows
        else:
            state[name] = tensor
    return state
