"""What stands around the results: locks, leftovers, provenance, where a workspace belongs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from glmtune.errors import ParamsError, ResourceError
from glmtune.locations import kind_of_source, main_repository, store_folder
from glmtune.params.values import read_params
from glmtune.workspace import folder, outputs

ROOT = Path(__file__).resolve().parents[1]


# A run of the workflow, as far as its lock is concerned.
RUN = """
import sys
from pathlib import Path
from glmtune.workspace.folder import acquire_run_lock
mark = acquire_run_lock(Path("."))
lock = Path(".snakemake/locks/0.output.lock")
lock.parent.mkdir()
lock.touch()
print("running", flush=True)
input()
"""


def output_patterns() -> list[str]:
    """The patterns of the Snakefile's outputs."""
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    sections = re.findall(r"^    output:\n((?: {8}.*\n)+)", text, re.M)
    return [
        path for section in sections for path in re.findall(r'"((?:data|results)/.*?)"', section)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in tmp_path that has taken the lock and goes on until its input ends."""
    run = subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow" / "scripts")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with run:
        assert run.stdout is not None
        assert run.stdout.readline() == "running\n"
        yield run
        run.kill()


def is_locked(folder: Path) -> bool:
    return (folder / ".snakemake/locks/0.output.lock").exists()


def test_a_file_that_moved_keeps_its_link_and_another_file_does_not(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    for file in (first, second):
        file.write_text(file.name)
    for file in (first, first, second):
        links = folder.link_user_files(tmp_path, {"train": file})
        assert links == {"train": ".glmtune/data/train"}
        assert (tmp_path / links["train"]).read_text() == file.name


def test_the_lock_of_a_killed_run_is_cleared(
    tmp_path: Path, run: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run.kill()
    run.wait()
    folder.acquire_run_lock(tmp_path).close()
    assert not is_locked(tmp_path)
    assert "removing the stale lock of a killed run" in capsys.readouterr().err


def test_the_lock_of_a_living_run_stays(tmp_path: Path, run: subprocess.Popen[str]) -> None:
    folder.clear_stale_lock(tmp_path)
    folder.acquire_run_lock(tmp_path).close()  # this one ends, refused by the lock
    folder.clear_stale_lock(tmp_path)
    assert is_locked(tmp_path)


def test_a_run_is_alone_while_no_other_one_lives(
    tmp_path: Path, run: subprocess.Popen[str]
) -> None:
    with folder.acquire_run_lock(tmp_path) as running:
        assert not folder.is_alone(running)
        run.kill()
        run.wait()
        assert folder.is_alone(running)


def test_a_killed_run_that_nobody_has_looked_after_is_dead(
    tmp_path: Path, run: subprocess.Popen[str]
) -> None:
    """In a container without an init, a killed process stays a zombie for ever."""
    run.kill()
    os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)
    folder.clear_stale_lock(tmp_path)
    assert not is_locked(tmp_path)


def test_a_training_that_outlives_its_killed_run_keeps_no_lock(tmp_path: Path) -> None:
    with folder.acquire_run_lock(tmp_path):
        orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir()
    lock.touch()
    folder.clear_stale_lock(tmp_path)
    orphan.communicate()
    assert not is_locked(tmp_path)


def test_the_lock_of_another_machine_or_of_nobody_known_stays(
    tmp_path: Path, run: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.kill()
    run.wait()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(folder.socket, "gethostname", lambda: "another")
        folder.clear_stale_lock(tmp_path)
    assert is_locked(tmp_path)
    (tmp_path / folder.RUNNING).unlink()
    folder.clear_stale_lock(tmp_path)
    assert is_locked(tmp_path)


def test_a_folder_that_may_not_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / ".snakemake").touch()  # even root cannot make a folder of it
    with pytest.raises(ResourceError, match=r"running: cannot be written .* make the folder"):
        folder.acquire_run_lock(tmp_path)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_linked_provenance_becomes_a_private_copy(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    cached = tmp_path / "cached"
    cached.write_text("{}")
    record = tmp_path / ".snakemake/metadata/abc"
    record.parent.mkdir(parents=True)
    link(cached, record)
    folder.detach_metadata_from_cache(tmp_path)
    assert record.read_text() == "{}"
    record.write_text("rewritten in place")
    assert cached.read_text() == "{}"
    assert [path.name for path in record.parent.iterdir()] == ["abc"]


def test_prune_removes_what_params_no_longer_name_and_nothing_else(
    tmp_path: Path, preset_file: Callable[[str], Path]
) -> None:
    params = read_params(preset_file("smoke"))
    kept = [
        "results/predictions/chatglm-6b/lora.jsonl",
        "results/scores/chatglm-6b/lora.rows.jsonl",
        "results/checkpoints/chatglm-6b/full/model.safetensors",
        "results/models/chatglm-6b.json",
        "results/report.md",
        "data/tokenized/chatglm-6b/manifest.json",
        "results/curves/chatglm2-6b/ptuning.csv",
        "results/runtime/prepare_model/chatglm2-6b.json",
        "results/runtime/generate_predictions/chatglm-6b/none.json",
        "results/figures/loss.svg",
        "results/predictions/.gitignore",
        "results/notes/other.txt",
        "data/my/train.json",
    ]
    gone = [
        "results/curves/chatglm2-6b/lora-2.csv",
        "results/scores/chatglm-6b/qlora.json",
        "results/scores/chatglm-6b/qlora.rows.jsonl",
        "results/runtime/prepare_model/other.json",
        "results/runtime/generate_predictions/chatglm-6b/qlora.json",
        "results/predictions/chatglm-6b/qlora.jsonl",
        "results/predictions/other/lora.jsonl",
        "results/checkpoints/chatglm-6b/qlora/adapter.safetensors",
        "results/models/other.json",
        "results/models/other/config.json",
        "data/tokenized/other/manifest.json",
        "data/tokenized/chatglm-6b/dev.bin",  # as an earlier version called its file
    ]
    metadata = tmp_path / ".snakemake/metadata"
    metadata.mkdir(parents=True)
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        (metadata / urlsafe_b64encode(name.encode()).decode()).write_text("{}")
    outputs.prune(tmp_path, output_patterns(), params)
    assert [name for name in kept + gone if (tmp_path / name).exists()] == kept
    assert len(list(metadata.iterdir())) == len(kept)


def test_prune_removes_what_a_killed_step_had_half_written(
    tmp_path: Path, preset_file: Callable[[str], Path]
) -> None:
    params = read_params(preset_file("smoke"))
    half = [
        "results/checkpoints/chatglm2-6b/.lora.abcdefgh/lora/weights",
        "results/.report.md.abcdefgh/report.md",
        "data/dataset/.card.json.abcdefgh/card.json",
    ]
    for name in half:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("half")
    outputs.prune(tmp_path, output_patterns(), params)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(tmp_path.rglob(".*")) == []


@pytest.mark.parametrize("place", ["", ".dvc/tmp/exps/tmp1", ".dvc/tmp/exps/standalone/tmp1"])
def test_a_queued_experiment_belongs_to_the_repository_that_queued_it(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLMTUNE_STORE", raising=False)
    assert main_repository(tmp_path / place) == tmp_path.resolve()
    assert store_folder(tmp_path / place) == tmp_path.resolve() / ".glmtune/store"


def test_the_store_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMTUNE_STORE", "/elsewhere")
    assert store_folder(tmp_path) == Path("/elsewhere")


def test_owner_slash_name_is_a_hub_id_unless_it_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind_of_source("weights/chatglm2-6b") == "hub"
    (tmp_path / "weights/chatglm2-6b").mkdir(parents=True)
    assert kind_of_source("weights/chatglm2-6b") == "folder"
    assert kind_of_source("./weights/chatglm2-6b") == "folder"


def test_a_run_in_another_folder_is_told_where_the_project_is(tmp_path: Path) -> None:
    """As `snakemake -s /the/project/Snakefile` would begin one; nothing is left there."""
    with pytest.raises(ParamsError, match=f"`cd {ROOT}`, or `snakemake --directory {ROOT}`"):
        folder.check_folder(tmp_path, ROOT)
    folder.check_folder(ROOT, ROOT)


def test_every_folder_that_dvc_records_is_there_before_the_first_step(tmp_path: Path) -> None:
    outputs.make_folders(tmp_path, output_patterns())
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["workflow"]
    recorded = [Path(name) for entry in stage["outs"] for name in entry]
    folders = {path for path in recorded if not path.suffix and path.parts[0] != ".snakemake"}
    made = {path for path in folders if (tmp_path / path).is_dir()}
    # Written by steps that always run.
    assert folders - made == {Path("data/dataset"), Path("results/figures")}
