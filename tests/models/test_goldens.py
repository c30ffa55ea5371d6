"""The architectures compute the same as the official code, on every machine.

Compared with the golden data in tests/fixtures, and with the full set if it is beside the checkout.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SHARED
from golden_comparisons import COMPARISONS, VERSIONS
from golden_files import FIXTURES
from golden_training import step
from tiny_models import GOLDEN_FAMILIES, TOLERANCE, golden_error, golden_tensors

from glmtune.checkpoints.loading import load_model
from glmtune.families.loading import load_tokenizer

pytestmark = pytest.mark.numeric

TOOL = ROOT / "tools" / "golden_fixtures.py"
CASES = [(kind, v) for kind, comparison in COMPARISONS.items() for v in comparison.tolerance]


@pytest.fixture(autouse=True, scope="module")
def forget_steps() -> Iterator[None]:
    """Training steps are computed once for several comparisons; free their memory afterwards."""
    yield
    step.cache_clear()


@pytest.mark.parametrize(("kind", "version"), CASES)
def test_every_golden_value_is_matched(goldens: Path, kind: str, version: str) -> None:
    comparison = COMPARISONS[kind]
    assert comparison.measure(goldens, version) <= comparison.tolerance[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_slightly_wrong_architecture_misses_the_golden_logits(
    committed_reference: Path, tmp_path: Path, version: str
) -> None:
    checkpoint = shutil.copytree(committed_reference / version / "checkpoint", tmp_path / "base")
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["layernorm_epsilon"] == 1e-5
    (checkpoint / "config.json").write_text(json.dumps(config | {"layernorm_epsilon": 1e-4}))
    model = load_model(checkpoint, family=GOLDEN_FAMILIES[version])
    tensors = golden_tensors(committed_reference, version, "logits_base")
    assert golden_error(model, version, tensors, "batch3") > TOLERANCE[version]


def test_every_input_of_the_official_logits_is_compared(full_reference: Path) -> None:
    from golden_comparisons import inputs

    expected = {"zh", "en", "batch3", "chat1", "long300"}
    for version in VERSIONS:
        assert expected <= set(inputs(golden_tensors(full_reference, version, "logits_base")))


# --- The committed part ----------------------------------------------------------------------


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("golden_fixtures", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_goldens_match_the_reference(full_reference: Path) -> None:
    command = [sys.executable, str(TOOL), "--reference", str(full_reference), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_edited_golden_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool()
    files = {path: (FIXTURES / path).read_bytes() for path in tool.stored()}
    assert tool.check(files) == 0
    files["v1/train_step.json"] += b" "
    assert tool.check(files) == 1
    assert capsys.readouterr().err == (
        "tests/fixtures/v1/train_step.json: not what the reference gives\n"
    )


def test_the_committed_goldens_stay_small() -> None:
    assert sum(path.stat().st_size for path in FIXTURES.rglob("*")) < 4_000_000


def test_the_committed_goldens_contain_no_row_of_the_data_set(committed_reference: Path) -> None:
    files = sorted((SHARED / "adgen").glob("*.json"))
    if not files:
        pytest.skip("rows of the data set are not beside this checkout")
    rows = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    prompts = {row["content"][:16] for row in rows}
    # Readable content: texts, and the models' ids decoded with the vocabulary.
    seen = [file.read_text("utf-8") for file in FIXTURES.rglob("*.json")]
    for version in VERSIONS:
        tokenizer = load_tokenizer(committed_reference / version / "checkpoint")
        generated = json.loads((FIXTURES / version / "generate_golden.json").read_text())
        seen += [tokenizer.decode(row) for row in generated["base"]["zh"]["input_ids"]]
    sentences = {part for row in rows for part in row["summary"].split("，") if len(part) > 11}
    assert not [text for text in prompts | sentences for page in seen if text in page]
