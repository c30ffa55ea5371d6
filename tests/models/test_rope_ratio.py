"""Long-context models: one key of config.json, `rope_ratio`, with two meanings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_folders import logits, prompt_ids, write_base
from transformers import AutoModelForCausalLM

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prepared import ModelRef, open_prepared, read_prepared_config
from glmtune.checkpoints.saving import save_model
from glmtune.errors import WeightsError
from glmtune.export.exporting import export_model
from glmtune.families.registry import FAMILIES
from glmtune.miniatures.settings import ModelSettings
from glmtune.modeling.chatglm2 import rotary_table
from glmtune.steps.inputs_outputs import Outputs
from glmtune.steps.preparing import prepare

pytestmark = pytest.mark.numeric

DIVIDES, MULTIPLIES = "chatglm2-6b", "chatglm3-6b-base"
BOTH = (DIVIDES, MULTIPLIES)
UNPUBLISHED = {"rope_ratio": 8, "seq_length": 256}
PUBLISHED = [
    *((16, 32768, DIVIDES), (50, 32768, MULTIPLIES), (500, 131072, MULTIPLIES)),
    *((500, 131072, "glm-4-9b"), (10_000, 1_048_576, "glm-4-9b")),
    (50, 8192, MULTIPLIES),  # shortened to fit one GPU; no ChatGLM2 has this ratio
]


def angles(family: str, ratio: float, positions: torch.Tensor, exponents: torch.Tensor) -> Any:
    """The angles of the published code: THUDM/chatglm2-6b-32k, THUDM/chatglm3-6b-128k."""
    if family == DIVIDES:
        return positions / ratio * 10000**-exponents
    return positions * (10000 * ratio) ** -exponents


@pytest.mark.parametrize(("ratio", "length", "family"), PUBLISHED)
def test_a_published_model_has_the_angles_of_its_own_code(
    ratio: float, length: int, family: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path, family, rope_ratio=ratio, seq_length=length)
    config: Any = load_model(base).config
    positions = torch.tensor([0, 1, 7, 2047, 20000])
    cos, sin = rotary_table(positions[None], config, torch.float32)
    rotated = config.kv_channels // 2
    expected = angles(
        family, ratio, positions[:, None].double(), torch.arange(0, rotated, 2) / rotated
    )
    torch.testing.assert_close(cos[0, 0].double(), expected.cos(), rtol=0, atol=2e-3)
    torch.testing.assert_close(sin[0, 0].double(), expected.sin(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("family", BOTH)
def test_the_family_decides_if_the_config_does_not(family: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", family, **UNPUBLISHED)
    with pytest.raises(WeightsError) as caught:
        load_model(base)
    message = str(caught.value)
    assert message.startswith(f"{base / 'config.json'}: rope_ratio 8: ChatGLM2-6B divides")
    assert "family='chatglm2-6b', family='chatglm3-6b-base' or family='glm-4-9b'" in message
    ids = prompt_ids(base)
    [other] = {*BOTH} - {family}
    right = logits(load_model(base, family=family), ids)
    assert (right - logits(load_model(base, family=other), ids)).abs().max() > 1e-3
    save_model(load_model(base, family=family), tmp_path / "again")
    assert torch.equal(logits(load_model(tmp_path / "again"), ids), right)
    with pytest.raises(WeightsError, match="expected the family of ChatGLM"):
        load_model(tmp_path / "again", family=other)


def test_a_published_model_is_not_taken_for_the_other_family() -> None:
    config = FAMILIES[DIVIDES].real_config | {"rope_ratio": 16, "seq_length": 32768}
    with pytest.raises(WeightsError, match="a model of ChatGLM2-6B; found family chatglm3-6b-base"):
        build_model(config, MULTIPLIES, device="meta")


@pytest.mark.parametrize("family", BOTH)
def test_a_prepared_model_is_opened_as_one_of_its_family(family: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / family, family, **UNPUBLISHED)
    done = tmp_path / "done"
    settings = ModelSettings(source=str(base), family=family, seed=1)
    prepare(settings=settings, outputs=Outputs(out_dir=done, resume_dir=tmp_path / "work"))
    ids = prompt_ids(base)
    expected = logits(load_model(base, family=family), ids)
    assert torch.equal(logits(open_prepared(ModelRef(done / "model")), ids), expected)
    # The memory estimate builds a model from this config without knowing the family.
    build_model(read_prepared_config(done / "model"), device="meta")


@pytest.mark.parametrize("family", BOTH)
def test_an_export_has_the_same_logits(family: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", family, **UNPUBLISHED)
    parts = ModelRef(base, family=family)
    ids = prompt_ids(base)
    ours = logits(load_model(base, family=family), ids)
    export_model(parts, "official", tmp_path / "official")
    assert torch.equal(logits(load_model(tmp_path / "official"), ids), ours)
    export_model(parts, "transformers", tmp_path / "transformers")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "transformers")
    assert (logits(theirs, ids) - ours).abs().max() < 1e-4
    with pytest.raises(WeightsError, match="rope_ratio 8"):
        export_model(ModelRef(base), "transformers", tmp_path / "unknown")
