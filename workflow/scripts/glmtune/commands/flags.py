"""Flags that several subcommands share: which model, and where and how it is computed."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from glmtune.errors import ParamsError
from glmtune.serving.catalog import Catalog, Served, find, read_folder, read_results
from glmtune.serving.ranges import COLDEST, HOTTEST, SEEDS, SMALLEST_TOP_P

if TYPE_CHECKING:
    from glmtune.devices import Device

RESULTS = Path("results")
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
DTYPES = ("float32", "float16", "bfloat16")


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring."""
    return argparse.ArgumentParser(
        prog=f"glmtune {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Which model: a name of the results, or a folder with a prefix or an adapter."""
    what = "a name such as chatglm2-6b/ptuning, or a model folder"
    parser.add_argument("model", nargs="?" if optional else None, help=what)
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: results")
    parser.add_argument("--prefix", type=Path, help="a P-Tuning v2 prefix for a model folder")
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter for a model folder")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Device and precision."""
    add = parser.add_argument_group("device and precision").add_argument
    add("--device", type=device, help="cpu, cuda or cuda:N; default: the GPU if there is one")
    add("--dtype", choices=DTYPES, help="default: 16 bits on a GPU, float32 on a CPU")
    add("--quantization-bit", type=int, choices=(8, 4), help="quantize the layers to 8 or 4 bits")
    add("--threads", type=whole(1), help="CPU threads; default: torch's")


def add_memory(parser: argparse.ArgumentParser) -> None:
    """How much memory the weights of several models may take."""
    limit = "for weights, e.g. 20GB; unloads the least recently used model; default: no limit"
    parser.add_argument("--max-memory", type=size, help=limit)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen."""
    add = parser.add_argument_group("sampling").add_argument
    add("--temperature", type=temperature, default=0.0, help="0 (default): greedy")
    top_p = number(SMALLEST_TOP_P, 1)
    add("--top-p", type=top_p, default=0.8, help="default: 0.8; only if not greedy")
    add("--seed", type=whole(0, SEEDS - 1), default=0, help="random seed; default: 0")
    add("--max-new-tokens", type=whole(1), default=512, help="default: 512")


def whole(least: int, most: int = 1 << 62) -> type[int]:
    """An argparse type: a whole number from `least` on."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            expected = f"{least} or more" if value < least else f"{most} or less"
            raise argparse.ArgumentTypeError(f"found {text[:30]}; expected {expected}")
        return value

    parse.__name__ = "whole number"
    return parse  # type: ignore[return-value]


def number(least: float, most: float) -> type[float]:
    """An argparse type: a number in a range."""

    def parse(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"found {value:g}; expected {least:g} to {most:g}")
        return value

    parse.__name__ = "number"
    return parse  # type: ignore[return-value]


def temperature(text: str) -> float:
    """An argparse type: a temperature; one too low to differ from 0 becomes 0."""
    value: float = number(0, HOTTEST)(text)
    return value if value >= COLDEST else 0.0


def device(text: str) -> str:
    """An argparse type: cpu, cuda or cuda:N; whether it is there, torch says later."""
    if not DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"found {text[:30]!r}; expected cpu, cuda or cuda:N")
    return text


def size(text: str) -> float:
    """An argparse type: "20GB" -> 2e10."""
    for unit, factor in UNITS.items():
        if text.upper().endswith(unit):
            try:
                value = float(text[: -len(unit)]) * factor
            except ValueError:
                break
            if 0 < value < float("inf"):
                return value
    raise argparse.ArgumentTypeError(f"found {text!r}; expected a size such as 500MB or 20GB")


def choose(flags: argparse.Namespace) -> tuple[Catalog, Served]:
    """All available models, and the one that the flags name."""
    has_part = flags.prefix is not None or flags.adapter is not None
    name = flags.model
    if name and not _is_of_results(name, flags.results) and Path(name).is_dir():
        catalog = read_folder(Path(name), flags.prefix, flags.adapter)
        return catalog, list(catalog.values())[-1]
    if has_part:
        raise ParamsError(
            f"--prefix, --adapter: found with {name or 'no model'}; expected the folder of a base "
            "model; for results give only a name, e.g. chatglm2-6b/ptuning"
        )
    catalog = read_results(flags.results)
    return catalog, next(iter(catalog.values())) if name is None else find(catalog, name)


def _is_of_results(name: str, results: Path) -> bool:
    """Whether a name begins with that of a base model; "", "/x", "./x" and "../x" do not."""
    base = name.partition("/")[0]
    return base not in ("", ".", "..") and (results / "models" / base).is_dir()


def device_of(flags: argparse.Namespace) -> Device:
    """The device and precision that the flags ask for; sets the number of CPU threads."""
    import torch

    from glmtune.devices import Device, choose_device, parse_device

    if flags.threads:
        torch.set_num_threads(flags.threads)
    usual = choose_device()
    device = str(parse_device(flags.device)) if flags.device else usual.name
    is_usual = device.partition(":")[0] == usual.name
    dtype = flags.dtype or (usual.dtype if is_usual else "float32")
    return Device(device, dtype, usual.reason if is_usual else "set by --device")
