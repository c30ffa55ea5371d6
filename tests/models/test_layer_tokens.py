"""Training computes neither padding nor, in the last layer, positions without a target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import PADS, checkpoint_activations, pad_left, prompt, tiny_config, tiny_model
from torch.nn.utils.rnn import pad_sequence

from glmtune.checkpoints.building import build_model
from glmtune.families.registry import FAMILIES
from glmtune.labels import IGNORED_LABEL
from glmtune.modeling.chatglm2 import RMSNorm
from glmtune.modeling.prefix import attach_prefix

pytestmark = pytest.mark.numeric

# Prompts with answers of different lengths, and the number of the prompt's own tokens.
PROMPTS = [prompt([5, 9, 33, 12]), prompt([17]), prompt([20, 21, 22])]
ROWS = [[*PROMPTS[0], 41, 8], [*PROMPTS[1], 30, 31, 32, 33], [*PROMPTS[2], 7]]
TARGETS = 2 + 4 + 1
FAMILY_NAMES = sorted(FAMILIES)


def batch_of(rows: list[int], side: str, pad: int) -> dict[str, torch.Tensor]:
    """These of ROWS as a batch whose targets are the answers."""
    chosen = [ROWS[row] for row in rows]
    if side == "left":
        ids, mask = pad_left(chosen, pad)
    else:
        given = [torch.tensor(row) for row in chosen]
        ids = pad_sequence(given, batch_first=True, padding_value=pad)
        mask = pad_sequence([torch.ones_like(row) for row in given], batch_first=True)
    labels = torch.full_like(ids, IGNORED_LABEL)
    for label, row, number in zip(labels, chosen, rows, strict=True):
        start = ids.shape[1] - len(row) if side == "left" else 0
        answer = slice(start + len(PROMPTS[number]), start + len(row))
        label[answer] = torch.tensor(row[len(PROMPTS[number]) :])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_and_gradients(model: Any, batches: list[Any], **options: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    losses = [model(**batch, num_items_in_batch=TARGETS, **options).loss for batch in batches]
    total = torch.stack(losses).sum()
    total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": total.detach(), **gradients}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("way", ["full", "prefix", "checkpointing"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_padded_batch_trains_like_its_rows(family: str, side: str, way: str, layers: int) -> None:
    model: Any = build_model(tiny_config(family) | {"num_layers": layers}, family, seed=1)
    if way == "prefix":
        model.requires_grad_(False)
        attach_prefix(model, pre_seq_len=3, dropout=0.0)
    if way == "checkpointing":
        checkpoint_activations(model)
    model.train()
    pad = PADS[family]
    # The logits of all positions of one row at a time: nothing is padded or left out.
    rows = [batch_of([row], side, pad) for row in range(len(ROWS))]
    expected = loss_and_gradients(model, rows, skip_logits=False, use_cache=False)
    found = loss_and_gradients(model, [batch_of([0, 1, 2], side, pad)])
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("options", [{"use_cache": True}, {"output_hidden_states": True}], ids=str)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_cache_and_hidden_states_keep_the_loss_and_are_whole(
    family: str, options: dict[str, bool]
) -> None:
    model = tiny_model(family).train()
    batch = batch_of([0, 1, 2], "right", PADS[family])
    expected = loss_and_gradients(model, [batch])
    found = loss_and_gradients(model, [batch], **options)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, msg=name)
    output = model(**batch, **options)
    whole = batch["input_ids"].shape
    if "use_cache" in options:
        assert output.past_key_values.get_seq_length() == whole[1]
    else:
        assert {states.shape[:2] for states in output.hidden_states} == {whole}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_target_after_padding_on_the_left_counts(family: str) -> None:
    """Then a place of padding predicts it, and is computed as it would be without labels."""
    model = tiny_model(family).train()
    batch = batch_of([0, 1, 2], "left", PADS[family])
    batch["labels"] = batch["input_ids"].where(batch["attention_mask"].bool(), IGNORED_LABEL)
    expected = loss_and_gradients(model, [batch], skip_logits=False, use_cache=False)
    found = loss_and_gradients(model, [batch])
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_batch_without_targets_has_no_loss_and_gradients_of_zero(family: str) -> None:
    """Of several processes, one may have no target; the others wait for each gradient of it."""
    model = tiny_model(family).train()
    batch = batch_of([0, 1, 2], "right", PADS[family])
    batch["labels"].fill_(IGNORED_LABEL)
    found = loss_and_gradients(model, [batch])
    assert found.keys() == {"loss", *dict(model.named_parameters())}
    assert all(not tensor.any() for tensor in found.values())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_batch_of_padding_alone_has_no_loss(family: str) -> None:
    model = tiny_model(family).train()
    batch = batch_of([0, 1, 2], "right", PADS[family])
    batch["labels"].fill_(IGNORED_LABEL)
    batch["attention_mask"].zero_()
    assert model(**batch).loss == 0


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_without_labels_a_row_does_not_depend_on_its_neighbors(family: str) -> None:
    """Also where padding would predict: nothing of another row stands in its place."""
    model = tiny_model(family)
    batch = batch_of([0, 1, 2], "left", PADS[family])
    del batch["labels"]
    with torch.no_grad():
        before = model(**batch, use_cache=False).logits[1:]
        batch["input_ids"][0, -1] += 1
        assert torch.equal(model(**batch, use_cache=False).logits[1:], before)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_layers_compute_neither_padding_nor_what_no_target_needs(family: str) -> None:
    model = tiny_model(family).train()
    computed: list[int] = []
    for layer in model.transformer.layers:
        layer.mlp.register_forward_hook(
            lambda _, __, output: computed.append(output.flatten(0, -2).shape[0])
        )
    model(**batch_of([0, 1, 2], "right", PADS[family]))
    assert computed == [sum(map(len, ROWS)), TARGETS]


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_the_norm_and_its_gradients_are_those_of_torch(frozen: bool) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(24, epsilon=1e-5)
    torch.nn.init.normal_(norm.weight.requires_grad_(not frozen))
    given = torch.randn(2, 24, 5)
    given[0, :, 1] = 0
    found = []
    for ours in (True, False):
        hidden = given.clone().requires_grad_()
        states = hidden.transpose(1, 2)
        if ours:
            output = norm(states)
        else:
            output = torch.nn.functional.rms_norm(states, (24,), norm.weight, norm.epsilon)
        norm.zero_grad()
        (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
        found.append([output, hidden.grad, norm.weight.grad])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)
