"""Copy a file of presets/ over params.yaml, unless edits would be lost.

python tools/use_preset.py chatglm2-6b-24gb [--force]
"""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.errors import ParamsError, run_script, shown_name  # noqa: E402
from glmtune.files import atomic_path  # noqa: E402


def use_preset(root: Path, name: str, *, force: bool = False) -> None:
    """Make params.yaml a copy of presets/<name>.yaml.

    Raises ParamsError for an unknown name, and for edits that are nowhere else unless `force`.
    """
    presets = {path.stem: path for path in sorted((root / "presets").glob("*.yaml"))}
    if name not in presets:
        raise ParamsError(_unknown(name, list(presets)))
    target = root / "params.yaml"
    if not force and target.exists():
        content = target.read_bytes()
        if content not in [path.read_bytes() for path in presets.values()]:
            _check_committed(root, content, name)
    with atomic_path(target) as temporary:
        temporary.write_bytes(presets[name].read_bytes())


def _unknown(name: str, presets: list[str]) -> str:
    found = f"found no preset {shown_name(name)!r}" if name else "found no NAME"
    near = difflib.get_close_matches(name, presets, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; e.g. make preset NAME={presets[0]}"
    return f"presets/: {found}; expected one of {', '.join(presets)}{hint}"


def _check_committed(root: Path, content: bytes, name: str) -> None:
    """Refuse to lose a params.yaml that differs from the last commit's."""
    shown = subprocess.run(
        ["git", "show", "HEAD:./params.yaml"], cwd=root, capture_output=True, check=False
    )
    if shown.returncode or shown.stdout != content:
        raise ParamsError(
            "params.yaml: found edits that are in no commit; expected none, because a preset "
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
    print(f"params.yaml is now a copy of presets/{flags.name}.yaml")


if __name__ == "__main__":
    run_script(main)
