"""A run of the workflow: opened by the Snakefile, begun before the first step, finished at the end.

Only the Snakefile calls it. All checks before the first step are here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from snakemake.exceptions import WorkflowError
from snakemake.io import strip_wildcard_constraints

from glmtune.checkpoints.sources import fingerprint
from glmtune.content_hashes import hash_files
from glmtune.errors import UserError
from glmtune.params.values import Params, each_settings, read_params
from glmtune.workspace import folder, fork_server, outputs, recording
from glmtune.workspace.code_inputs import code_of
from glmtune.workspace.gpus import visible_gpus
from glmtune.workspace.progress import show_progress
from glmtune.workspace.repository import check_queued
from glmtune.workspace.sighup import end_on_hangup
from glmtune.workspace.step_settings import write_settings
from glmtune.workspace.torchrun import require_sharding
from glmtune.workspace.trackers import require_trackers

REPORT = "results/report.md"

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What the rules need, and what happens before and after them."""

    workflow: Any
    """Snakemake's own object; it knows the requested targets once the Snakefile is read."""
    here: Path
    params: Params
    fingerprints: dict[str, dict[str, str]]
    """The fingerprints of each model's source: a change reruns its steps."""
    user_files: dict[str, str]
    """The user's own data, as links in the workspace."""
    user_data: list[str]
    """The hashes of these files."""
    overrides: Mapping[str, Any]
    """Values of `--config`, which override params.yaml."""
    inputs: Mapping[Path, bytes]
    """Parameters and code at the start of the run; empty in a job of a cluster."""
    gpus: int
    """How many GPUs jobs may use here."""

    @property
    def is_complete(self) -> bool:
        """Whether all results were requested, so that the final state is worth recording."""
        dag = self.workflow.dag_settings
        wanted = set(dag.targets or ["all"]) & {"all", REPORT}
        return bool(wanted) and not (dag.until or dag.omit_from)

    @property
    def gpus_per_job(self) -> int:
        """What a step that uses a GPU asks for: one, where there is any."""
        return min(1, self.gpus)

    def gpus_to_train(self, method: str) -> int:
        """What a training asks for: a GPU for each of its processes, where there are any."""
        return min(self.processes(method), self.gpus)

    def processes(self, method: str) -> int:
        """How many processes a training has on this machine; each needs a core."""
        wanted = self.params.launcher(method).processes
        return self.gpus or 1 if wanted == "all" else wanted

    @property
    def output_patterns(self) -> list[str]:
        """What the rules write, e.g. `results/models/{model}.json`, once the Snakefile is read."""
        paths = (str(path) for rule in self.workflow.rules for path in rule.output)
        return [strip_wildcard_constraints(path) for path in paths]

    def code(self, step: str) -> list[str]:
        """The files of code that a step runs, relative to the workspace."""
        return [os.path.relpath(path, self.here) for path in code_of(f"{step}.py")]

    def settings(self, values: Any) -> str:
        """Write what a step gets from params.yaml to a file; its hash decides whether it reruns."""
        return write_settings(self.here, values)

    def if_valid(self, path: str) -> dict[str, str]:
        """An output that is there only if other rows than the dev rows choose the best step."""
        return {"valid": path} if self.params.has_valid else {}

    def each_run(self, pattern: str) -> list[str]:
        """A path for every (model, method) of params.yaml."""
        return [pattern.format(model=run.model, method=run.method) for run in self.params.runs]

    def each_tuning(self, pattern: str) -> list[str]:
        """A path for every (model, method) that is trained."""
        tunings = (run for run in self.params.runs if run.is_trained)
        return [pattern.format(model=run.model, method=run.method) for run in tunings]

    def begin(self) -> None:
        """Before the first step: note that results will differ from dvc.lock; remove leftovers."""
        recording.mark_unrecorded(self.here, self.inputs)
        outputs.prune(self.here, self.output_patterns, self.params)
        outputs.make_folders(self.here, self.output_patterns)
        fork_server.start()

    def finish(self) -> None:
        """After the last step: say where the report is, and record a complete state in dvc.lock."""
        if not self.is_complete:
            return
        print(f"The report is {REPORT} (for a browser: results/report.html).")
        if self.overrides:
            print("not recorded: --config overrides params.yaml; set the values there instead")
        else:
            _with_workflow_errors(lambda: recording.record_in_dvc(self.here, self.inputs))

    def finish_without_steps(self, mark: TextIO) -> None:
        """Record an earlier run that was killed before it was recorded; no step is left to run."""
        wanted = self.is_complete and not self.overrides
        if wanted and folder.is_alone(mark):  # Snakemake's lock is gone by now
            _with_workflow_errors(lambda: recording.record_left_over(self.here, self.inputs))


def open_run(workflow: Any, overrides: Mapping[str, Any]) -> Run:
    """Check params.yaml and the folder, and mark the folder as in use until this process ends.

    Raises WorkflowError with a user's mistakes, which Snakemake shows without a traceback.
    """
    return _with_workflow_errors(lambda: _open_run(workflow, overrides))


def _open_run(workflow: Any, overrides: Mapping[str, Any]) -> Run:
    here = Path.cwd()
    is_main = workflow.is_main_process
    if is_main:
        folder.check_folder(here, Path(workflow.basedir))
        check_queued(here)
        mark = folder.acquire_run_lock(here)
    params = read_params("params.yaml", overrides=overrides)
    for method in filter(params.trains, params.methods):
        require_trackers(params.trackers(method))
        require_sharding(params.launcher(method).sharding)
    user_files = params.dataset_files()
    run = Run(
        workflow,
        here,
        params,
        fingerprints={
            name: fingerprint(model.source, model.tokenizer)
            for name, model in params.file.models.items()
        },
        user_files=folder.link_user_files(here, user_files),
        user_data=list(hash_files(user_files.values()).values()),
        overrides=overrides,
        inputs=recording.snapshot_inputs(here) if is_main else {},
        gpus=len(visible_gpus()),
    )
    folder.use_this_python()
    if is_main:
        _limit_gpu_jobs(workflow, run.gpus)
        if not workflow.output_settings.verbose:
            show_progress(workflow)
        folder.detach_metadata_from_cache(here)
        end_on_hangup()
        recording.when_nothing_ran(workflow, lambda: run.finish_without_steps(mark))
    for settings in each_settings(params):  # a full disk is reported here, not inside a rule
        write_settings(here, settings)
    return run


def _limit_gpu_jobs(workflow: Any, gpus: int) -> None:
    """Let as many jobs use a GPU at once as there are GPUs, unless `--resources gpu=N` says else.

    A machine without any sets no limit: its jobs use none, or run on a cluster.
    """
    if gpus and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", gpus)


def _with_workflow_errors(call: Callable[[], T]) -> T:
    """Call a function; a user's mistake becomes Snakemake's own kind of error."""
    try:
        return call()
    except UserError as error:
        raise WorkflowError(str(error)) from None
