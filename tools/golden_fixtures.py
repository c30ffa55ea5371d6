"""Write tests/fixtures: what of the official code's golden data fits into this repository.

    python tools/golden_fixtures.py --reference DIR            write the files
    python tools/golden_fixtures.py --reference DIR --check    fail if they differ
    python tools/golden_fixtures.py [--reference DIR] --table  largest differences of this project

DIR has v1/, v2/, v3/ and metrics/ as the official code wrote them; without it, --table compares
with tests/fixtures. The same DIR gives the same bytes. Nothing of the data set gets into the
files: texts of its rows are left out, and the token ids of the models are renumbered, with a
permutation that only the full data tell, so that the vocabulary does not make rows readable.
tests/fixtures/README.md describes the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("tools", "tests", "workflow/scripts")]

import golden_files  # noqa: E402 (of tests/)
from golden_texts import (  # noqa: E402
    reduce_metrics,
    reduce_preprocess,
    reduce_tokenizer,
    to_json,
)

COLUMN_STEP = 16  # every sixteenth word of the vocabulary
LAST_STATES = 8  # positions of hidden states
DEQUANTISED_ROWS = 8
LOGITS = (
    *("logits_base", "logits_base_input_ids_only", "logits_fp16_cpu", "logits_lora"),
    *("logits_prefix_direct", "logits_prefix_projection", "quant_int8", "quant_int4"),
)
AS_THEY_ARE = (
    *("checkpoint/tokenizer_config.json", "checkpoint/ice_text.model"),
    *("checkpoint/tokenizer.model", "checkpoint/config.json", "lora_peft/adapter_config.json"),
    *("ptuning_prefix_direct/past_key_values.safetensors", "ptuning_prefix_direct/info.json"),
    "ptuning_prefix_projection/past_key_values.safetensors",
    *("ptuning_prefix_projection/info.json", "train_step.json"),
    "checkpoint_sharded/pytorch_model.bin.index.json",
)

Files = dict[str, bytes]
State = dict[str, torch.Tensor]


def main() -> int:
    """Write, check or compare; 1 if files differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print_table(arguments.reference)
        return 0
    if arguments.reference is None:
        parser.error("--reference: expected the folder of the golden data")
    files = reduced(arguments.reference)
    return check(files) if arguments.check else write(files)


def reduced(reference: Path) -> Files:
    """`{path below tests/fixtures: content}`."""
    files = {f"metrics/{name}": data for name, data in reduce_metrics(reference / "metrics")}
    for version in golden_files.VERSIONS:
        for name, data in reduce_version(reference / version).items():
            files[f"{version}/{name}"] = data
    return files


def write(files: Files) -> int:
    """Write the files and remove what is no longer among them."""
    for path in stored():
        if path not in files:
            (golden_files.FIXTURES / path).unlink()
    for path, data in files.items():
        target = golden_files.FIXTURES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    print(f"{len(files)} files, {sum(map(len, files.values())):,} bytes")
    return 0


def check(files: Files) -> int:
    """Name the files that are not what DIR gives."""
    found = {path: (golden_files.FIXTURES / path).read_bytes() for path in stored()}
    different = sorted(p for p in files.keys() | found.keys() if files.get(p) != found.get(p))
    for path in different:
        print(f"tests/fixtures/{path}: not what the reference gives", file=sys.stderr)
    return 1 if different else 0


def stored() -> list[str]:
    """The files of golden data below tests/fixtures."""
    folder = golden_files.FIXTURES
    folders = [folder / name for name in ("metrics", *golden_files.VERSIONS)]
    paths = (path for each in folders for path in each.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def print_table(reference: Path | None) -> None:
    """What each golden is compared by, and the largest difference in each family."""
    from golden_comparisons import table

    with tempfile.TemporaryDirectory() as folder:
        print(table(reference or golden_files.expand(Path(folder))))


# --- One family ------------------------------------------------------------------------------


def reduce_version(folder: Path) -> Files:
    """The files of v1, v2 or v3."""
    files = {name: (folder / name).read_bytes() for name in AS_THEY_ARE if (folder / name).exists()}
    config = json.loads(files["checkpoint/config.json"])
    renumber = Renumbering(folder, config)
    for part, name in golden_files.WIDENED.items():
        state = torch.load(folder / part / name, weights_only=True)
        files[f"{part}/model.safetensors"] = to_bytes(narrow(renumber.weights(state)))
    files |= reduce_packed(folder)
    for name in LOGITS:
        if (folder / f"{name}.safetensors").exists():
            tensors = load_file(folder / f"{name}.safetensors")
            files[f"{name}.safetensors"] = to_bytes(reduce_logits(tensors, renumber))
    tensors = load_file(folder / "hidden_states_en.safetensors")
    files["hidden_states_en.safetensors"] = to_bytes(reduce_states(tensors, renumber))
    tensors = load_file(folder / "train_step.safetensors")
    files["train_step.safetensors"] = to_bytes(reduce_step(tensors, renumber))
    for name, reduce in JSON_FILES.items():
        files[name] = to_json(reduce(json.loads((folder / name).read_text("utf-8")), renumber))
    return files


class Renumbering:
    """Other numbers for the tokens of one family's model; special tokens keep theirs."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.size = config.get("padded_vocab_size") or config["vocab_size"]
        kept = {number for key, number in config.items() if key.endswith("_token_id")}
        # Seeded by bytes that the fixtures do not hold.
        secret = hashlib.sha256((folder / "checkpoint" / "pytorch_model.bin").read_bytes())
        movable = [number for number in range(self.size) if number not in kept]
        shuffled = list(movable)
        random.Random(secret.hexdigest()).shuffle(shuffled)
        self.new = torch.arange(self.size)
        self.new[movable] = torch.tensor(shuffled)
        self.old = self.new.argsort()  # new number -> old number

    def ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids or labels; negative ones are no tokens."""
        return torch.where(ids >= 0, self.new[ids.clamp(min=0)], ids)

    def listed(self, value: Any) -> Any:
        """Token ids in lists of any depth."""
        if isinstance(value, list):
            return [self.listed(item) for item in value]
        return int(self.new[value])

    def weights(self, state: State) -> State:
        """The rows of embeddings and output layer in their new order."""
        return {
            name: tensor[self.old] if tensor.shape[0] == self.size else tensor
            for name, tensor in state.items()
        }


def narrow(state: State) -> State:
    """In fp16, which must lose nothing, and without the second name of tied weights."""
    small = {}
    for name, tensor in state.items():
        if name in golden_files.TIED:
            assert torch.equal(tensor, state[golden_files.TIED[name]])
        elif "inv_freq" not in name:  # computed, and ignored by every loader
            small[name] = tensor.half()
            assert torch.equal(small[name].to(tensor.dtype), tensor), name
    return small


def reduce_packed(folder: Path) -> Files:
    """Digests of the official bytes, which the fixtures' weights must give again."""
    digests = {}
    state = torch.load(folder / "checkpoint" / "pytorch_model.bin", weights_only=True)
    for bits in golden_files.BITS:
        file = folder / f"checkpoint_int{bits}" / "pytorch_model.bin"
        digests[f"int{bits}"] = golden_files.digest(torch.load(file, weights_only=True))
        half = {name: tensor.half() for name, tensor in state.items()}
        assert golden_files.digest(golden_files.pack_state(half, bits)) == digests[f"int{bits}"]
    return {golden_files.DIGESTS: to_json(digests)}


def reduce_logits(tensors: State, renumber: Renumbering) -> State:
    """The last four positions of each row, and every sixteenth column."""
    columns = torch.arange(0, renumber.size, COLUMN_STEP)
    small = {"columns": columns}
    for name, tensor in tensors.items():
        if name.endswith("input_ids"):
            small[name] = renumber.ids(tensor)
        elif "logits" in name:
            name = name if "logits_" in name else f"{name}_last4"
            small[name] = tensor[:, -4:, renumber.old[columns]]
        elif name.startswith("dequant."):
            small[name] = tensor[:DEQUANTISED_ROWS]
        else:
            small[name] = tensor
    return small


def reduce_states(tensors: State, renumber: Renumbering) -> State:
    """The last positions of the hidden states."""
    return {
        name: renumber.ids(tensor)
        if name == "input_ids"
        else tensor[:, -LAST_STATES:]
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


def reduce_step(tensors: State, renumber: Renumbering) -> State:
    """The batch, and gradients of the prefix and of the first layer's adapter."""
    small = {}
    for name, tensor in tensors.items():
        if name in ("batch.input_ids", "batch.labels"):
            small[name] = renumber.ids(tensor)
        elif "lora.grad." not in name or ".layers.0." in name:
            small[name] = tensor
    return small


def reduce_generated(golden: dict[str, Any], renumber: Renumbering) -> dict[str, Any]:
    """Prompts and greedy answers as renumbered ids."""
    for cases in golden.values():
        for case in cases.values():
            for key in ("input_ids", "new_ids"):
                case[key] = renumber.listed(case[key])
    return golden


JSON_FILES: dict[str, Callable[[dict[str, Any], Renumbering], dict[str, Any]]] = {
    "generate_golden.json": reduce_generated,
    "tokenizer_golden.json": lambda golden, _: reduce_tokenizer(golden),
    "preprocess_golden.json": lambda golden, _: reduce_preprocess(golden),
    "summary.json": lambda golden, _: {key: golden[key] for key in ("versions", "seed")},
}


def to_bytes(state: State) -> bytes:
    """A safetensors file; names in order, so that the bytes repeat."""
    return save({name: state[name].contiguous().clone() for name in sorted(state)})


if __name__ == "__main__":
    sys.exit(main())
