"""Look at what a run of this folder needs, and say what to do about what is missing.

python tools/doctor.py        exit code 1 if something would stop a run
"""

from __future__ import annotations

import configparser
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune import workspace  # noqa: E402
from glmtune.errors import UserError  # noqa: E402
from glmtune.locations import kind_of_source, store_folder  # noqa: E402
from glmtune.params import Params, read_params  # noqa: E402

GIB = 1024**3
# Of the published models; a miniature has a million, which no disk notices.
REAL_PARAMETERS = 6.2e9
# A hub's fp16 files; a checkpoint of full fine-tuning in fp32, in the store and once more in DVC's
# cache; what a training saves to resume from: weights and two moments, in fp32, and for a moment
# twice, because a checkpoint stays until the next one has been read back.
BYTES_DOWNLOADED, BYTES_OF_FULL, BYTES_TO_RESUME = 2, 2 * 4, 2 * 3 * 4
# An adapter or prefix with its optimiser, predictions and scores: well below this.
BYTES_OF_A_RUN = 0.5 * GIB
MAIN_PACKAGES = ("torch", "transformers", "peft", "snakemake", "dvc", "sentencepiece")


@dataclass(frozen=True)
class Finding:
    """What was seen; `fix` says what to do when it is not as it should be."""

    what: str
    fix: str = ""
    stops: bool = False

    def __str__(self) -> str:
        sign = "✗" if self.stops else "!" if self.fix else "✓"
        return f"{sign} {self.what}" + (f"\n    → {self.fix}" if self.fix else "")


def python() -> Iterator[Finding]:
    """The version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    too_old = sys.version_info < (3, 11)
    yield Finding(f"Python {version}", "install 3.11 or newer" if too_old else "", too_old)


def packages() -> Iterator[Finding]:
    """The packages that decide numbers, against the versions the project is tested with."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    tested = dict(line.split("==") for line in lock.splitlines() if "==" in line)
    for name in MAIN_PACKAGES:
        try:
            found = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            yield Finding(f"{name} is not installed", "make env", stops=True)
            continue
        other = f"tested with {tested[name]}; `make env` installs it"
        yield Finding(f"{name} {found}", "" if found == tested[name] else other)


def gpu() -> Iterator[Finding]:
    """The card, and whether torch can use it."""
    try:
        import torch
    except ImportError:
        return  # `packages` has said so

    if torch.cuda.is_available():
        free, total = (size / GIB for size in torch.cuda.mem_get_info())
        card = torch.cuda.get_device_name()
        yield Finding(f"{card}: {free:.1f} of {total:.1f} GiB free, torch {torch.__version__}")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            f"an NVIDIA driver, but torch {torch.__version__} cannot use it",
            "install the CUDA build of this torch version that fits the driver",
        )
    else:
        yield Finding("no GPU: the CPU is used, which is enough for the miniatures")


def parameters() -> Iterator[Finding]:
    """Mistakes in params.yaml, and files it names that are not there."""
    try:
        params = read_params(ROOT / "params.yaml")
        params.dataset_files()
    except UserError as error:
        yield Finding(
            "params.yaml cannot be used", str(error).replace("\n", "\n      "), stops=True
        )
        return
    yield Finding(f"params.yaml: {len(params.models)} models, {len(params.methods)} methods")
    yield from _disk(params)
    yield from _extras(params)


def _disk(params: Params) -> Iterator[Finding]:
    """Free space against a generous estimate of what this params.yaml writes."""
    needed = len(params.runs) * BYTES_OF_A_RUN
    for model in params.models:
        kind = kind_of_source(params["models"][model]["source"])
        if kind == "miniature":
            needed -= len(params.methods) * BYTES_OF_A_RUN
            continue
        full = [method for method in params.methods if params.tuning_method(method) == "full"]
        needed += (kind == "hub") * BYTES_DOWNLOADED * REAL_PARAMETERS
        needed += len(full) * BYTES_OF_FULL * REAL_PARAMETERS
        needed += bool(full) * BYTES_TO_RESUME * REAL_PARAMETERS
    store = store_folder(ROOT)
    free = shutil.disk_usage(next(p for p in (store, *store.parents) if p.exists())).free
    needed = max(needed, GIB)
    fix = f"free some, or set GLMTUNE_STORE to a larger disk (now {store})"
    yield Finding(
        f"disk: {free / GIB:.0f} GiB free, up to about {needed / GIB:.0f} GiB needed",
        fix if free < needed else "",
    )


def _extras(params: Params) -> Iterator[Finding]:
    """Optional packages that this params.yaml needs."""
    files = params.dataset_files().values()
    if any(file.suffix == ".parquet" for file in files) and not _installed("pyarrow"):
        yield Finding(
            "Parquet data, and no pyarrow to read it",
            ".venv/bin/python -m pip install -e '.[parquet]'",
            stops=True,
        )


def _installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def git_and_dvc() -> Iterator[Finding]:
    """What experiments need: a repository with a commit, and a cache type that is safe."""
    head = subprocess.run(
        ["git", "rev-parse", "--verify", "HEAD"], cwd=ROOT, capture_output=True, check=False
    )
    if head.returncode:
        yield Finding("no git commit here", "`dvc exp run` needs one: git init, add, commit")
    config = configparser.ConfigParser()
    config.read([ROOT / ".dvc" / "config", ROOT / ".dvc" / "config.local"])
    types = config.get("cache", "type", fallback='"reflink,copy"').strip('"')
    linked = {"hardlink", "symlink"} & set(types.split(","))
    yield Finding(
        f"DVC cache type {types}",
        "links make results read-only and shared with the cache: "
        "dvc config --local cache.type reflink,copy && dvc checkout --relink"
        if linked
        else "",
    )


def fonts() -> Iterator[Finding]:
    """A font for the Chinese texts of results/report.html, where fontconfig knows the fonts."""
    if not shutil.which("fc-list"):
        return
    found = subprocess.run(["fc-list", ":lang=zh"], capture_output=True, text=True, check=False)
    count = len(found.stdout.splitlines())
    fix = "" if count else "to read the report on this machine install one, e.g. fonts-noto-cjk"
    yield Finding(f"{count} fonts with Chinese" if count else "no font with Chinese", fix)


def locks() -> Iterator[Finding]:
    """A lock that a killed run left behind."""
    folder = ROOT / ".snakemake" / "locks"
    workspace.clear_stale_lock(ROOT)  # which says so
    if any(folder.glob("*.lock")):
        yield Finding(
            "this folder is locked, by a running snakemake or one of another machine",
            "wait for it; if none runs anywhere: snakemake --unlock",
            stops=True,
        )
    else:
        yield Finding("no lock in this folder")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    gpu,
    parameters,
    git_and_dvc,
    fonts,
    locks,
)


def main() -> int:
    """Print every finding; 1 if one of them would stop a run."""
    findings = [finding for check in CHECKS for finding in check()]
    print("\n".join(map(str, findings)))
    return int(any(finding.stops for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
