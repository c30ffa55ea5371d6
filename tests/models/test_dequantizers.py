"""Dequantizers: all give the same bits, and one that cannot run gives one message."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from glmtune.errors import ParamsError, ResourceError, run_script
from glmtune.modeling import dequantizer_triton, dequantizers
from glmtune.modeling.dequantizers import (
    OPENERS,
    VARIABLE,
    check_bits,
    choose_dequantizer,
    dequantize_with_torch,
)
from glmtune.modeling.precision import BITS
from glmtune.modeling.quantization import QuantizedLinear, dequantize, quantize
from glmtune.workspace.code_inputs import SCRIPTS

pytestmark = pytest.mark.numeric

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Shapes around the 1024 columns that one program of the kernel writes.
SHAPES = ((1, 2), (5, 1022), (3, 1024), (7, 2050))

# Triton's interpreter truncates to bfloat16 where a GPU rounds to nearest. So scales are powers of
# two there: every product is then exact in bfloat16.
IN_THE_INTERPRETER = """
import sys
import torch
from glmtune.modeling.quantization import quantize
from glmtune.modeling.dequantizers import dequantize_with_torch
from glmtune.modeling.dequantizer_triton import dequantize_with_triton

for shape in {shapes}:
    for bits in {bits}:
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        weight[0] = 0
        quantized, scales = quantize(weight, bits)
        powers = torch.exp2(-torch.arange(shape[0])).half()
        for dtype in {dtypes}:
            scale = powers if dtype == torch.bfloat16 else scales
            expected = dequantize_with_torch(quantized, scale, bits, dtype)
            found = dequantize_with_triton(quantized, scale, bits, dtype)
            print(shape, bits, dtype, torch.equal(found, expected))
"""


@pytest.fixture(autouse=True)
def _nothing_chosen_yet() -> Iterator[None]:
    choose_dequantizer.cache_clear()
    yield
    choose_dequantizer.cache_clear()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("at_once", [1, 3 * 64, 5 * 64 + 1])
def test_dequantizing_in_parts_equals_dequantizing_at_once(
    monkeypatch: pytest.MonkeyPatch, bits: int, at_once: int
) -> None:
    quantized, scale = quantize(
        torch.randn(7, 64, generator=torch.Generator().manual_seed(1)), bits
    )
    whole = dequantize_with_torch(quantized, scale, bits, torch.float32)
    monkeypatch.setattr(dequantizers, "VALUES_AT_ONCE", at_once)
    assert torch.equal(dequantize_with_torch(quantized, scale, bits, torch.float32), whole)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_gives_the_bits_of_pytorch_in_tritons_interpreter() -> None:
    code = IN_THE_INTERPRETER.format(shapes=SHAPES, bits=BITS, dtypes=DTYPES)
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(SHAPES) * len(BITS) * len(DTYPES), done.stderr.decode()
    assert [line for line in lines if not line.endswith("True")] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_the_kernel_gives_the_bits_of_pytorch_on_a_gpu(bits: int, dtype: torch.dtype) -> None:
    dequantizer = choose_dequantizer(CUDA, bits, dtype, "triton")
    for shape in (*SHAPES, (513, 4096)):
        quantized, scale = quantize(torch.randn(shape, device=CUDA), bits)
        expected = dequantize_with_torch(quantized, scale, bits, dtype)
        assert torch.equal(dequantizer(quantized, scale, bits, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_a_weight_is_rounded_to_fp16_in_every_type(bits: int, dtype: torch.dtype) -> None:
    quantized, scale = quantize(torch.randn(9, 64), bits)
    rounded = dequantize(quantized, scale, bits)
    assert rounded.dtype == torch.float16
    assert torch.equal(dequantize(quantized, scale, bits, dtype), rounded.to(dtype))


def test_pytorch_dequantizes_on_the_cpu() -> None:
    assert choose_dequantizer(CPU, 4, torch.float32) is dequantize_with_torch


def test_if_triton_fails_pytorch_dequantizes_and_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no C compiler\nset CC")

    monkeypatch.setitem(OPENERS, "triton", fail)
    for _ in range(2):
        assert choose_dequantizer(CUDA, 4, torch.float16) is dequantize_with_torch
    assert capsys.readouterr().out == (
        "quantized weights: dequantized by PyTorch, Triton is unavailable: RuntimeError: no C "
        "compiler\n"
    )


@pytest.mark.parametrize(
    ("capability", "dtype", "needed"),
    [((6, 1), torch.float16, "7.0"), ((7, 5), torch.bfloat16, "8.0")],
    ids=["Pascal", "bfloat16 on Turing"],
)
def test_triton_is_not_tried_on_a_gpu_too_old_for_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    capability: tuple[int, int],
    dtype: torch.dtype,
    needed: str,
) -> None:
    monkeypatch.setattr(dequantizer_triton, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dequantizer(CUDA, 4, dtype) is dequantize_with_torch
    found = ".".join(map(str, capability))
    expected = f"found compute capability {found}; expected {needed} or higher for {dtype}"
    assert expected in capsys.readouterr().out


def test_a_kernel_with_different_results_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unrounded(quantized, scale, bits, dtype):  # type: ignore[no-untyped-def]
        return (quantized * scale.to(dtype)[:, None]).to(dtype)

    monkeypatch.setitem(OPENERS, "triton", lambda *_: unrounded)
    assert choose_dequantizer(CPU, 8, torch.float16, "triton") is unrounded
    with pytest.raises(ResourceError, match="found results different from PyTorch's for 8-bit"):
        choose_dequantizer(CPU, 8, torch.float32, "triton")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ParamsError) as refused:
        choose_dequantizer(CPU, 4, torch.float16, "cuda")
    assert str(refused.value) == (
        "GLMTUNE_QUANTIZATION_KERNEL: found 'cuda'; expected auto or one of torch, triton, "
        "cpm_kernels"
    )


@pytest.mark.parametrize("wanted", ["triton", "cpm_kernels"])
def test_a_linear_uses_the_requested_dequantizer_or_exits_with_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wanted: str
) -> None:
    linear = QuantizedLinear(4, 2, bits=8, bias=False)
    monkeypatch.setenv(VARIABLE, wanted)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: linear(torch.ones(1, 4)))
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert f"{VARIABLE}={wanted}: found device cpu" in message
    assert message.count("\n") == 1


def refusal(bits: int = 8) -> str:
    with pytest.raises(ResourceError) as refused:
        choose_dequantizer(CUDA, bits, torch.float16, "cpm_kernels")
    return str(refused.value)


def test_cpm_kernels_is_refused_for_4_bits() -> None:
    assert "found device cuda, 4 bits; expected CUDA and 8" in refusal(bits=4)


def test_cpm_kernels_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cpm_kernels", None)
    assert "pip install -e '.[cpm-kernels]'" in refusal()


def test_a_failed_import_of_cpm_kernels_is_a_one_line_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpm_kernels.py").write_text("raise RuntimeError('no driver')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cpm_kernels", raising=False)
    assert refusal() == (
        "GLMTUNE_QUANTIZATION_KERNEL=cpm_kernels: RuntimeError: no driver; or unset the variable "
        "to use what works here, with the same results"
    )


def test_cpm_kernels_is_called_as_its_signature_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def gemm_scale_x(batch, n, m, mat, scale_x, out, stream):  # type: ignore[no-untyped-def]
        def array(address: int, kind: str) -> np.ndarray:
            size = np.dtype(kind).itemsize * batch * n * (1 if address == scale_x else m)
            return np.frombuffer((ctypes.c_char * size).from_address(address), kind)

        scale = array(scale_x, "f2").astype("f4").repeat(m)
        array(out, "f2")[:] = array(mat, "i4") * scale

    gemm = SimpleNamespace(gemm_scale_x=gemm_scale_x)
    for name in ("cpm_kernels", "cpm_kernels.kernels", "cpm_kernels.kernels.gemm"):
        monkeypatch.setitem(sys.modules, name, gemm)
    stream = SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    dequantizer = OPENERS["cpm_kernels"](CUDA, 8, torch.float16)
    for dtype in DTYPES:
        check_bits(dequantizer, CPU, 8, dtype)
