"""The registries of the code that needs torch match params.yaml, the report and the recipes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest

from glmtune.export.exporting import FORMATS as EXPORTS
from glmtune.families.registry import FAMILIES
from glmtune.params import models as params
from glmtune.report.training_notes import BANDS
from glmtune.tuning.registry import METHODS
from glmtune.tuning.settings import SETTINGS

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.mark.parametrize(
    "registry", [FAMILIES, METHODS, EXPORTS], ids=["families", "methods", "exports"]
)
def test_every_entry_of_a_registry_is_in_the_recipes(registry: Iterable[str]) -> None:
    recipes = RECIPES.read_text(encoding="utf-8")
    assert [entry for entry in registry if f"`{entry}`" not in recipes] == []


def test_params_yaml_accepts_exactly_the_families_and_methods_of_the_code() -> None:
    assert get_args(params.Model.model_fields["family"].annotation) == tuple(FAMILIES)
    assert set(params.METHODS) == set(METHODS)
    assert set(SETTINGS) == set(METHODS) - {"none"}


def test_every_tuning_method_has_published_losses() -> None:
    assert set(BANDS) == set(METHODS) - {"none"}
    assert all(band.low < band.high for band in BANDS.values())
