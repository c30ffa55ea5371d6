"""The golden data in tests/fixtures as the folders of the official layout that tests read.

`tools/golden_fixtures.py` keeps of every golden file what fits into a repository: weights in fp16,
where that is exact, once. The shards and the quantized checkpoints are made of them again here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

FIXTURES = Path(__file__).resolve().parent / "fixtures"
VERSIONS = ("v1", "v2", "v3")
BITS = (8, 4)
# Stored in fp16 as `model.safetensors` -> the fp32 file that the official code wrote.
WIDENED = {
    "checkpoint": "pytorch_model.bin",
    "ptuning_prefix_direct": "pytorch_model.bin",
    "ptuning_prefix_projection": "pytorch_model.bin",
    "lora_peft": "adapter_model.bin",
}
# The first family stores its tied embeddings under both names.
TIED = {"lm_head.weight": "transformer.word_embeddings.weight"}
PACKED_LINEARS = (
    *("query_key_value.weight", "dense.weight"),
    *("dense_h_to_4h.weight", "dense_4h_to_h.weight"),
)
DIGESTS = "quantized_digests.json"

State = dict[str, torch.Tensor]


def expand(target: Path, fixtures: Path = FIXTURES) -> Path:
    """Write the golden data of `fixtures` into `target` in the official layout."""
    shutil.copytree(fixtures, target, dirs_exist_ok=True)
    for version in VERSIONS:
        folder = target / version
        for part, name in WIDENED.items():
            small = folder / part / "model.safetensors"
            torch.save({n: t.float() for n, t in read_small(small).items()}, folder / part / name)
            small.unlink()
        state = read_small(fixtures / version / "checkpoint" / "model.safetensors")
        _write_shards(folder, state)
        digests = json.loads((folder / DIGESTS).read_text())
        for bits in BITS:
            _write_packed(folder, state, bits, digests[f"int{bits}"])
    return target


def read_small(file: Path) -> State:
    """A weights file of the fixtures, with the second name of tied weights."""
    state = load_file(file)
    names = {second: first for second, first in TIED.items() if first in state}
    return state | {second: state[first].clone() for second, first in names.items()}


def pack(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantized values and scales of an fp16 weight, by the official quantization.py.

    Written a second time, apart from glmtune.modeling.quantization, which is compared with it.
    """
    scale = (weight.abs().max(dim=1).values / (2 ** (bits - 1) - 1)).half()
    numbers = torch.round(weight / scale[:, None]).to(torch.int8)
    if bits == 4:
        bytes_ = numbers.to(torch.uint8)
        numbers = ((bytes_[:, ::2] << 4) | (bytes_[:, 1::2] & 0x0F)).view(torch.int8)
    return numbers, scale


def pack_state(state: State, bits: int) -> State:
    """The state dict of an official quantized checkpoint."""
    quantized = dict(state)
    for name in [name for name in state if name.endswith(PACKED_LINEARS)]:
        quantized[name], quantized[f"{name}_scale"] = pack(state[name], bits)
    return quantized


def digest(state: State) -> str:
    """The SHA-256 of all quantized numbers and scales."""
    running = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("weight_scale"):
            for tensor in (state[name.removesuffix("_scale")], state[name]):
                running.update(tensor.contiguous().numpy().tobytes())
    return running.hexdigest()


def _write_shards(folder: Path, state: State) -> None:
    shards = folder / "checkpoint_sharded"
    shutil.copy(folder / "checkpoint" / "config.json", shards)
    index = json.loads((shards / "pytorch_model.bin.index.json").read_text())
    weight_map: dict[str, str] = index["weight_map"]
    for file in set(weight_map.values()):
        names = [name for name, where in weight_map.items() if where == file and name in state]
        torch.save({name: state[name] for name in names}, shards / file)


def _write_packed(folder: Path, state: State, bits: int, expected: str) -> None:
    quantized = pack_state(state, bits)
    if digest(quantized) != expected:
        raise RuntimeError(f"{folder.name}: int{bits}: not the official bytes; torch rounds anew?")
    target = folder / f"checkpoint_int{bits}"
    target.mkdir()
    torch.save(quantized, target / "pytorch_model.bin")
    config: dict[str, Any] = json.loads((folder / "checkpoint" / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization_bit": bits}))
