"""The protocols: plain data shared by the parameters, the scores and the report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glmtune.errors import ParamsError
from glmtune.metrics.protocols import DEFAULT_PROTOCOL, PROTOCOLS, get_protocol
from glmtune.metrics.scorings import SCORINGS

ROOT = Path(__file__).resolve().parents[1]


def test_every_protocol_names_a_scoring_and_every_scoring_is_used() -> None:
    assert {protocol.scoring for protocol in PROTOCOLS.values()} == set(SCORINGS)


def test_the_default_overrides_no_setting_of_the_user() -> None:
    default = get_protocol(DEFAULT_PROTOCOL)
    assert (default.decoding, default.long_history) == (None, None)
    assert (default.reference_tokens, default.first_rows) == (None, None)


def test_the_official_protocol_differs_from_the_default_in_decoding_alone() -> None:
    official = get_protocol("thudm")
    assert official.scoring == get_protocol(DEFAULT_PROTOCOL).scoring
    assert official.decoding == {"do_sample": True, "top_p": 0.7, "temperature": 0.95}
    assert (official.reference_tokens, official.long_history) == (64, "official")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_decoding_overrides_keys_of_family_only(name: str) -> None:
    assert set(PROTOCOLS[name].decoding or {}) <= {"do_sample", "top_p", "temperature"}


def test_an_unknown_protocol_is_reported_with_the_choices() -> None:
    with pytest.raises(ParamsError, match="'bleu'; choose from glmtune, thudm, .*, paddle$"):
        get_protocol("bleu")


@pytest.mark.parametrize("name", [*PROTOCOLS, *(p.title for p in PROTOCOLS.values())])
def test_the_page_on_metrics_names_every_protocol(name: str) -> None:
    assert name in (ROOT / "docs/metrics.md").read_text("utf-8")


def test_parameters_can_be_checked_without_the_scoring_packages() -> None:
    code = "import sys, glmtune.metrics.protocols as _; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "workflow/scripts",
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name for name in done.stdout.split() if "metrics" in name}
    assert loaded == {"glmtune.metrics", "glmtune.metrics.protocols"}
