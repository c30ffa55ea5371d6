"""Any order of edits and commands of both engines ends like a fresh run."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from workspaces import Workspace, new_workspace

pytestmark = pytest.mark.slow

EDITS = [
    ("lr", 0.01),
    ("lr", 0.02),
    ("pre_seq_len", 3),
    ("generation.max_new_tokens", 9),
    ("methods.lora", ...),
    ("max_target_tokens", 60),
    ("examples", []),
]
COMMANDS = [
    ("snakemake", "results/report.md"),
    ("snakemake", "--cores", "2"),
    ("snakemake", "--until", "finetune_model"),
    ("snakemake", "--forcerun", "score_predictions"),
    ("snakemake", "-n"),
    ("snakemake", "--config", "lr=5e-3"),
    ("dvc", "repro"),
    ("dvc", "exp", "run", "-S", "lr=1e-2"),
    ("git", "commit", "-q", "-a", "-m", "state"),
]
ENDS = [("snakemake", "results/report.md"), ("dvc", "repro")]
# To look longer, for other sequences each time: MIXED_SEQUENCES=30 make test-slow
SEQUENCES = os.environ.get("MIXED_SEQUENCES")
anything = st.one_of(st.sampled_from(EDITS), st.sampled_from(COMMANDS))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two methods of one model: as little as shows everything."""
    workspace = new_workspace(tmp_path_factory.mktemp("start") / "project")
    workspace.edit("methods.full", ...)
    workspace.commit("two methods")
    workspace.snakemake("results/report.md")
    workspace.commit("first results")
    return workspace


# Each takes a minute: two, always the same ones, without a search for a smaller one.
@settings(
    max_examples=int(SEQUENCES or 2),
    deadline=None,
    derandomize=not SEQUENCES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(anything, min_size=3, max_size=6), st.sampled_from(ENDS))
def test_any_order_of_edits_and_commands_ends_like_a_fresh_run(
    start: Workspace, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple], end: tuple
) -> None:
    folder = tmp_path_factory.mktemp("mixed")
    workspace = start.copy_to(folder / "project")
    for step in steps:
        if step in EDITS:
            key, value = step
            if value is not ... or "lora" in workspace.params()["methods"]:
                workspace.edit(key, value)
        elif step[0] == "git":
            workspace.commit()
        else:
            workspace.run(*step)
    workspace.run(*end)
    fresh = new_workspace(folder / "fresh", in_git=False)
    shutil.copyfile(workspace.path / "params.yaml", fresh.path / "params.yaml")
    fresh.run("snakemake", "results/report.md")
    assert workspace.files() == fresh.files()
    shutil.rmtree(folder)
