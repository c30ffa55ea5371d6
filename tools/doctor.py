"""Check what a run of this folder needs, and say how to fix what is missing.

python tools/doctor.py        exit code 1 if something would stop a run
"""

from __future__ import annotations

import configparser
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

import doctor_models  # noqa: E402
from doctor_models import GIB  # noqa: E402
from findings import Finding  # noqa: E402

from glmtune.errors import UserError  # noqa: E402
from glmtune.locations import store_folder  # noqa: E402
from glmtune.params.values import Params, read_params  # noqa: E402
from glmtune.workspace.folder import clear_stale_lock, is_in_use  # noqa: E402
from glmtune.workspace.repository import INITIALISE, is_in_git, is_shallow  # noqa: E402

MAIN_PACKAGES = ("torch", "transformers", "peft", "snakemake", "dvc", "sentencepiece")


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
            f"found an NVIDIA driver, but torch {torch.__version__} cannot use it",
            "install the CUDA build of this torch version for the driver",
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
    models, methods = len(params.models), len(params.methods)
    yield Finding(
        f"params.yaml: {models} model{'s' * (models != 1)}, {methods} method{'s' * (methods != 1)}"
    )
    yield from doctor_models.weights(params)
    yield from doctor_models.memory(params)
    yield from doctor_models.disk(params, store_folder(ROOT))
    yield from _extras(params)


def _extras(params: Params) -> Iterator[Finding]:
    """Optional packages that this params.yaml needs."""
    files = params.dataset_files().values()
    if any(file.suffix == ".parquet" for file in files) and not _installed("pyarrow"):
        yield Finding(
            "the data set is Parquet, but pyarrow is not installed",
            ".venv/bin/python -m pip install -e '.[parquet]'",
            stops=True,
        )


def _installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def git_and_dvc() -> Iterator[Finding]:
    """What experiments need: a whole repository with a commit, and a cache type that is safe."""
    yield from _repository()
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


def _repository() -> Iterator[Finding]:
    head = ["git", "rev-parse", "--verify", "HEAD"]
    if not shutil.which("git"):
        yield Finding("git is not installed", "install it: DVC and `dvc exp run` need it")
    elif not is_in_git(ROOT):
        yield Finding(
            "no git repository here (a downloaded archive has none); DVC needs one",
            f"{INITIALISE}, then dvc commit -f",
        )
    elif subprocess.run(head, cwd=ROOT, capture_output=True, check=False).returncode:
        yield Finding("no git commit here", "`dvc exp run` needs one: git add -A && git commit")
    elif is_shallow(ROOT):
        yield Finding(
            "a shallow clone: DVC would silently lose queued experiments",
            "git fetch --unshallow",
        )


def fonts() -> Iterator[Finding]:
    """A font for the Chinese texts of results/report.html, where fontconfig knows the fonts."""
    if not shutil.which("fc-list"):
        return
    found = subprocess.run(["fc-list", ":lang=zh"], capture_output=True, text=True, check=False)
    count = len(found.stdout.splitlines())
    fix = "" if count else "to read the report on this machine install one, e.g. fonts-noto-cjk"
    yield Finding(f"{count} Chinese fonts" if count else "no Chinese font", fix)


def locks() -> Iterator[Finding]:
    """Whether a run is going on here, or has left a lock that nothing on this machine holds."""
    folder = ROOT / ".snakemake" / "locks"
    clear_stale_lock(ROOT)  # which says so
    if not any(folder.glob("*.lock")):
        yield Finding("no lock in this folder")
    elif is_in_use(ROOT):
        yield Finding("a run is going on in this folder", "wait for its end to start another one")
    else:
        yield Finding(
            "this folder is locked by a run that is not known here, perhaps on another machine",
            "wait for it; if none runs anywhere: snakemake --unlock",
            stops=True,
        )


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
