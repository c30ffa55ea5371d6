"""Merge a file of presets/ into the default params.yaml, unless edits would be lost.

python tools/use_preset.py chatglm2-6b-24gb [--force]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.errors import ParamsError, run_script  # noqa: E402
from glmtune.files import atomic_path  # noqa: E402
from glmtune.params.presets import preset_names, preset_text  # noqa: E402


def use_preset(root: Path, name: str, *, force: bool = False) -> None:
    """Make params.yaml the default parameters with what presets/<name>.yaml changes.

    Raises ParamsError for an unknown name, and for edits that are nowhere else unless `force`.
    """
    text = preset_text(root, name)
    target = root / "params.yaml"
    if not force and target.exists():
        _check_kept(root, target.read_bytes(), name)
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_kept(root: Path, content: bytes, name: str) -> None:
    """Refuse to lose a params.yaml that is neither a preset nor the last commit's."""
    if content in [preset_text(root, preset).encode() for preset in preset_names(root)]:
        return
    shown = subprocess.run(
        ["git", "show", "HEAD:./params.yaml"], cwd=root, capture_output=True, check=False
    )
    if shown.returncode or shown.stdout != content:
        raise ParamsError(
            "params.yaml: found uncommitted edits; expected none, because a preset "
            "replaces the whole file; keep them with `git commit params.yaml`, or discard them "
            f"with `make preset NAME={name} FORCE=1`"
        )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="", help="a file of presets/, without .yaml")
    parser.add_argument("--force", action="store_true", help="discard the edits of params.yaml")
    flags = parser.parse_args()
    use_preset(ROOT, flags.name, force=flags.force)
    print(f"params.yaml now has the values of the preset {flags.name}")


if __name__ == "__main__":
    run_script(main)
