"""Steps of the workflow as tests run them."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow" / "scripts"


def run_step(name: str, *flags: object, folder: Path | None = None) -> subprocess.CompletedProcess:
    """Run a script as `python name.py flags` in `folder` would, without the seconds of imports."""
    words = [f"{name}.py", *map(str, flags)]
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.argv", words),
    ):
        try:
            runpy.run_path(str(SCRIPTS / words[0]), run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        else:
            code = 0
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
