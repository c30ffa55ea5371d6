"""Rotations by position: written for speed, with the values and gradients of the plain formula."""

from __future__ import annotations

import pytest
import torch

from glmtune.modeling import chatglm, chatglm2

pytestmark = pytest.mark.numeric
ROWS, HEADS, LENGTH, DIM = 2, 3, 5, 16


def plain_pairs(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """ChatGLM2: dims 0 and 1, 2 and 3, … of the first half."""
    half = DIM // 2
    even, odd = states[..., :half:2], states[..., 1:half:2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned, states[..., half:]), dim=-1)


def plain_halves(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """ChatGLM-6B: in each half, dim i and i + d / 4."""
    low, high = states.unflatten(-1, (2, 2, -1)).unbind(-2)
    return torch.stack((low * cos - high * sin, high * cos + low * sin), dim=-2).flatten(-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", ["part of a fused projection", "contiguous"])
@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
def test_rotations_and_gradients_are_those_of_the_formula(
    family: str, layout: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    shape = (ROWS, 1, LENGTH, 2, DIM // 4) if family == "chatglm" else (ROWS, 1, LENGTH, DIM // 4)
    angles = torch.rand(shape) * 6
    table = angles.cos().to(dtype), angles.sin().to(dtype)
    states = torch.randn(ROWS, LENGTH, HEADS, 3 * DIM).to(dtype).transpose(1, 2)[..., :DIM]
    if layout == "contiguous":
        states = states.contiguous()
    rotate = chatglm.rotate if family == "chatglm" else chatglm2.rotate
    plain = plain_halves if family == "chatglm" else plain_pairs
    found = []
    for ours in (True, False):
        given = states.clone().requires_grad_()
        output = rotate(given, table) if ours else plain(given, *table)
        weights = torch.linspace(-1, 1, output.numel()).view(output.shape).to(dtype)
        # Once with a gradient like the output, once with one that is a single number, expanded.
        gradients = (
            torch.autograd.grad(loss, given, retain_graph=True)[0]
            for loss in ((output * weights).sum(), output.sum())
        )
        found.append([output, *gradients])
    for mine, other in zip(*found, strict=True):
        tolerance = 3e-2 if dtype is torch.bfloat16 else 1e-5
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        assert torch.equal(rotate(states, table), found[0][0])
