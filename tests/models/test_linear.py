"""Products by oneDNN are those of torch's own linear layers, with the same gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from glmtune.modeling import linear
from glmtune.modeling.linear import Linear, add_product, product

pytestmark = pytest.mark.numeric
IN, OUT = 96, 160  # with 150 rows or more above FEWEST_MULTIPLICATIONS

close = torch.testing.assert_close


@pytest.fixture(params=["oneDNN", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels that compute; large products must have been oneDNN's."""
    name: str = request.param
    if name == "oneDNN" and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(linear, "_suits_onednn", lambda: name == "oneDNN")
    return name


@pytest.mark.parametrize("shape", [(1,), (200,), (3, 70), (2, 1, 90), (0,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_outputs_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], bias: bool, trained: bool, kernels: str
) -> None:
    torch.manual_seed(0)
    ours = Linear(IN, OUT, bias=bias).requires_grad_(trained)
    theirs = nn.Linear(IN, OUT, bias=bias).requires_grad_(trained)
    theirs.load_state_dict(ours.state_dict())
    states = torch.randn(*shape, IN)
    found = []
    for layer in (ours, theirs):
        own = states.clone().requires_grad_()
        output = layer(own)
        output.backward(torch.ones_like(output).cumsum(-1) / OUT)
        found.append([output, own.grad, *(p.grad for p in layer.parameters())])
    for mine, other in zip(*found, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            close(mine, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "states",
    [
        torch.randn(200, 2 * IN)[:, :IN],
        torch.randn(50, 4, IN).transpose(0, 1),
        torch.randn(4, 1, IN).expand(4, 50, IN),
    ],
    ids=["columns of a wider matrix", "transposed", "expanded"],
)
def test_strides_do_not_matter(states: torch.Tensor, kernels: str) -> None:
    weight = torch.randn(OUT, IN)
    close(product(states, weight), F.linear(states, weight), rtol=1e-5, atol=1e-4)
    turned = torch.randn(IN, OUT).T
    close(product(states, turned), F.linear(states, turned), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("processor", "expected"), [("GenuineIntel", False), ("AuthenticAMD", True)]
)
def test_intels_own_processors_keep_mkl(
    processor: str, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nvendor_id : {processor}\ncpu family : 6\n")
    monkeypatch.setattr(linear, "Path", lambda _: cpuinfo)
    for package in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(package, "is_available", lambda: True)
    assert linear._suits_onednn.__wrapped__() is expected


@pytest.mark.parametrize("rows", [30, 300])
def test_a_product_is_added_in_place(rows: int, kernels: str) -> None:
    total, left, right = torch.randn(OUT, IN), torch.randn(rows, OUT).T, torch.randn(rows, IN)
    expected = total + left @ right
    add_product(total, left, right)
    close(total, expected, rtol=1e-5, atol=1e-4)


def test_large_products_are_computed_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(arguments[0].shape)
        return F.linear(*arguments)

    monkeypatch.setattr(linear, "_onednn", counted)
    monkeypatch.setattr(linear, "_suits_onednn", lambda: True)
    layer = Linear(IN, OUT)
    layer(torch.randn(200, IN, requires_grad=True)).sum().backward()
    assert calls == [(200, IN), (200, OUT), (OUT, 200)]  # output, gradients of states and weight
    layer(torch.randn(2, IN))
    layer.to(torch.bfloat16)(torch.randn(200, IN, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(200, IN)).dtype is torch.bfloat16
    assert len(calls) == 3
