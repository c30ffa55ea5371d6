"""The pages that list the keys of params.yaml, in English and Chinese."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from glmtune.params.models import METHODS, ParamsFile, Training

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from params_reference import HEADERS, descriptions, page, page_file, sections  # noqa: E402


def test_every_key_has_a_description_in_chinese() -> None:
    chinese = descriptions("zh")
    assert chinese.keys() == descriptions("en").keys()
    assert [key for key, text in chinese.items() if not re.search("[\u4e00-\u9fff]", text)] == []


def test_every_section_of_the_file_is_on_the_page() -> None:
    listed = sections()
    assert {key.path for key in listed["training"]} == {
        f"training.{name}" for name in Training.model_fields
    }
    assert {f"methods.{name}" for name in METHODS} <= listed.keys()
    top = {key.path.split(".")[0] for keys in listed.values() for key in keys}
    assert top == set(ParamsFile.model_fields)


@pytest.mark.parametrize("language", HEADERS)
def test_the_page_is_what_the_tool_writes(language: str) -> None:
    assert page_file(language).read_text(encoding="utf-8") == page(language)


def test_a_row_has_range_default_and_description() -> None:
    row = "| `lr` | number, > 0, ≤ 1 | `2e-2` | Peak learning rate of `ptuning`. |"
    assert row in page("en").splitlines()
    assert "| `quantization_bit` | `null`、`8`、`4` | `null` |" in page("zh")
