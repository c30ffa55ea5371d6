"""How fast training and generation are, against the way the official scripts do it.

    python tools/bench.py --out results/benchmarks.json        about twelve minutes
    python tools/bench.py --quick --out FILE                   a tiny model: shows that it runs
    python tools/bench.py --out FILE --cases all               every family and method

All ways use the same model (ChatGLM2's architecture, hidden size 512, 8 layers, the published
vocabulary's size, random weights) and the same rows, whose lengths are spread like AdvertiseGen's.
They take turns in one run, because times of different runs cannot be compared, on one thread, as
params.yaml's torch_threads: with more, a neighbour on the machine stops both. `bench_training`,
`bench_generation` and `bench_equality` say what is compared. What generates runs on a GPU where
there is one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

import torch  # noqa: E402
from bench_cases import MID, QUICK  # noqa: E402
from bench_equality import measure_equality  # noqa: E402
from bench_generation import GENERATION_CASES, measure_generation  # noqa: E402
from bench_training import TRAINING_CASES, measure_training  # noqa: E402

from glmtune.devices import choose_device  # noqa: E402
from glmtune.files import write_json  # noqa: E402
from glmtune.workspace.provenance import describe_arithmetic, describe_hardware  # noqa: E402


def main() -> None:
    """Measure and print; write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where the figures go (JSON)")
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument(
        "--cases", choices=("main", "all"), default="main", help="families and methods"
    )
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    sizes = QUICK if flags.quick else MID
    most = None if flags.cases == "all" or flags.quick else 1
    figures: dict[str, Any] = {
        "machine": {"hardware": describe_hardware(), **describe_arithmetic()},
        "torch": torch.__version__,
        "model": sizes.config,
    }
    if "generation" in flags.only:
        figures["generation"] = measure_generation(sizes, choose_device(), GENERATION_CASES[:most])
    if "training" in flags.only:
        figures["training"] = measure_training(sizes, flags.threads, TRAINING_CASES[:most])
    if "equality" in flags.only:
        figures["equality"] = measure_equality(choose_device())
        print(f"equality: {figures['equality']}")
    write_json(flags.out, figures)
    for name in sorted(set(flags.only) - {"equality"}):
        for case, found in figures[name]["cases"].items():
            print(
                f"{name}, {case}: {found['ours']:.1f} tokens/s, the official way "
                f"{found['official']:.1f}: {found['ratio']:.1f} times as fast "
                f"({found['lowest']:.1f} to {found['highest']:.1f}); its matrix products alone "
                f"take {found['products']:.0%} of the time"
            )
    print(f"measured on {figures['machine']['hardware']}, {flags.threads} thread(s)")


PARTS = ("training", "generation", "equality")


if __name__ == "__main__":
    main()
