"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A folder that holds reference/; another machine may have it elsewhere.
SHARED = Path(os.environ.get("GLMTUNE_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The golden data of the official code; a clone elsewhere does not have it."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("golden data of the official code is not beside this checkout")
    return folder
