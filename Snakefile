"""glmtune: fine-tune the ChatGLM family, score it, compare it.

READS     params.yaml (every value is explained there); your own data and weights if it names them
PRODUCES  results/report.md, results/report.html   the comparison of all models and methods
          results/metrics.json                     its headline numbers, for `dvc metrics diff`
          results/checkpoints/{model}/{method}     prefix, adapter or full model

The steps, each `workflow/scripts/<step>.py`:

    fetch_dataset → tokenize_dataset ─┐
    prepare_model ────────────────────┴→ finetune_model → generate_predictions
                                            → score_predictions → render_report

Rules depend on small manifests (hashes, counts, parameters), not on folders of weights. The files
of code that a step runs are inputs of its rule. What took long is also kept in a store outside the
results (`workflow/scripts/glmtune/workspace/store.py`): nothing that was trained once is trained again.
"""

import os
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")

# This folder's own code, also in the copy of the workspace that DVC queues an experiment in.
sys.path.insert(0, str(Path(workflow.basedir, "workflow", "scripts")))
from glmtune.workspace import recording
from glmtune.workspace import folder as workspace
from glmtune.workspace.code_inputs import code_of
from glmtune.content_hashes import hash_files
from glmtune.errors import UserError
from glmtune.workspace.hangup import end_on_hangup
from glmtune.params.values import read_params
from glmtune.workspace.progress import show_progress
from glmtune.workspace.repository import check_queued
from glmtune.checkpoints.sources import fingerprint
from glmtune.workspace.step_settings import write_settings

HERE = Path.cwd()
REPORT = "results/report.md"

try:
    if workflow.is_main_process:
        workspace.check_folder(HERE, Path(workflow.basedir))
        check_queued(HERE)
        RUNNING = workspace.mark_as_running(HERE)  # held to the end of this process
        INPUTS = recording.inputs_of(HERE)
    PARAMS = read_params("params.yaml", overrides=config)
    FINGERPRINTS = {
        model: fingerprint(PARAMS["models"][model]) for model in PARAMS.models
    }
    USER_FILES = workspace.link_user_files(HERE, PARAMS.dataset_files())
    USER_DATA = list(hash_files(PARAMS.dataset_files().values()).values())
except UserError as error:
    raise WorkflowError(str(error)) from None

# Steps that use the GPU, where there is one, run one at a time (profiles/default).
GPU = int(shutil.which("nvidia-smi") is not None)
workspace.use_this_python()
if workflow.is_main_process:
    if not workflow.output_settings.verbose:
        show_progress(workflow)
    workspace.own_provenance(HERE)
    end_on_hangup()


def code(step):
    """The files of code that a step runs, relative to the workspace."""
    return [os.path.relpath(path, HERE) for path in code_of(f"{step}.py")]


def settings(values):
    """Write what a step gets from params.yaml to a file; its hash decides whether the step reruns."""
    return write_settings(HERE, values)


def each_run(pattern):
    """A path for every (model, method) of params.yaml."""
    return [pattern.format(model=run.model, method=run.method) for run in PARAMS.runs]


def each_tuning(pattern):
    """A path for every (model, method) that is trained."""
    return [
        pattern.format(model=run.model, method=run.method)
        for run in PARAMS.runs
        if PARAMS.trains(run.method)
    ]


def training_of(wildcards):
    """The manifest of the training that predictions need; nothing for the untuned model."""
    is_trained = PARAMS.trains(wildcards.method)
    return rules.finetune_model.output.manifest if is_trained else []


def is_complete(dag):
    """Whether this run was asked for everything, so that its end is a state worth recording."""
    return set(dag.targets or ["all"]) & {"all", REPORT} and not (
        dag.until or dag.omit_from
    )


wildcard_constraints:
    model="|".join(PARAMS.models),
    method="|".join(PARAMS.methods),


def record(by):
    """Let a function of `recording` record this workspace; its mistakes are Snakemake's."""
    try:
        by(HERE, INPUTS)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def record_left_over():
    """Make up for a run that was killed before it was recorded: now no step is left to run."""
    wanted = is_complete(workflow.dag_settings) and not config
    if wanted and workspace.is_alone(RUNNING):  # Snakemake's lock is gone by now
        record(recording.record_left_over)


if workflow.is_main_process:
    recording.when_nothing_ran(workflow, record_left_over)


onstart:
    recording.mark_unrecorded(HERE, INPUTS)
    workspace.prune(HERE, PARAMS)
    workspace.make_folders(HERE)


onsuccess:
    if is_complete(workflow.dag_settings):
        print(
            f"The report is {REPORT}; results/report.html is the same for a browser."
        )
        if config:
            print("not recorded: params.yaml does not have the values of --config")
        else:
            record(recording.record_in_dvc)


localrules:
    all,


rule all:
    input:
        REPORT,


rule fetch_dataset:
    input:
        **USER_FILES,
        code=code("fetch_dataset"),
    output:
        train="data/dataset/train.jsonl",
        dev="data/dataset/dev.jsonl",
        card="data/dataset/card.json",
        left_out="data/dataset/left_out.jsonl",
        manifest="data/dataset/manifest.json",
    log:
        "logs/fetch_dataset.log",
    benchmark:
        "benchmarks/fetch_dataset.tsv"
    params:
        flags=lambda w: PARAMS.dataset_flags(),  # Snakemake expands {…} in a plain text
        contents=USER_DATA,
    message:
        "Write the data set as JSON Lines: the sample, ADGEN, or the user's files checked."
    shell:
        "python workflow/scripts/fetch_dataset.py"
        " {params.flags}"
        + "".join(f" --{name} {{input.{name}:q}}" for name in USER_FILES)
        + " --out-dir data/dataset"
        " 2>&1 | tee {log}"


rule prepare_model:
    input:
        code=code("prepare_model"),
    output:
        model=directory("results/models/{model}"),
        manifest="results/models/{model}.json",
        runtime="results/runtime/prepare_model/{model}.json",
    log:
        "logs/prepare_model/{model}.log",
    benchmark:
        "benchmarks/prepare_model/{model}.tsv"
    params:
        settings=lambda w: settings(PARAMS.model_settings(w.model)),
        fingerprint=lambda w: FINGERPRINTS[w.model],
    message:
        "Make the base model {wildcards.model} ready."
    shell:
        "python workflow/scripts/prepare_model.py"
        " --settings .glmtune/settings/{params.settings}.json"
        " --model {output.model}"
        " --manifest {output.manifest}"
        " --runtime {output.runtime}"
        " 2>&1 | tee {log}"


rule tokenize_dataset:
    input:
        code=code("tokenize_dataset"),
        data=rules.fetch_dataset.output.manifest,
        model=rules.prepare_model.output.manifest,
    output:
        train="data/tokenized/{model}/train.safetensors",
        dev="data/tokenized/{model}/dev.safetensors",
        manifest="data/tokenized/{model}/manifest.json",
    log:
        "logs/tokenize_dataset/{model}.log",
    benchmark:
        "benchmarks/tokenize_dataset/{model}.tsv"
    params:
        **PARAMS.token_limits(),
        family=lambda w: PARAMS.family(w.model),
        template=lambda w: PARAMS.template_flag(w.model),
    message:
        "Encode the data set with the vocabulary and prompts of {wildcards.model}."
    shell:
        "python workflow/scripts/tokenize_dataset.py"
        " --data data/dataset"
        " --model results/models/{wildcards.model}"
        " --model-manifest {input.model}"
        " --family {params.family}"
        " {params.template}"
        " --workers {threads}"
        " --max-source-tokens {params.max_source_tokens}"
        " --max-target-tokens {params.max_target_tokens}"
        " --long-history {params.long_history}"
        " --out-dir data/tokenized/{wildcards.model}"
        " 2>&1 | tee {log}"


rule finetune_model:
    input:
        code=code("finetune_model"),
        model=rules.prepare_model.output.manifest,
        data=rules.tokenize_dataset.output.manifest,
    output:
        checkpoint=directory("results/checkpoints/{model}/{method}"),
        manifest="results/training/{model}/{method}.json",
        curve="results/curves/{model}/{method}.csv",
        runtime="results/runtime/finetune_model/{model}/{method}.json",
    log:
        "logs/finetune_model/{model}/{method}.log",
    benchmark:
        "benchmarks/finetune_model/{model}/{method}.tsv"
    resources:
        gpu=GPU,
    params:
        settings=lambda w: settings(PARAMS.training_settings(w.method)),
    message:
        "Tune {wildcards.model} with {wildcards.method}."
    shell:
        "python workflow/scripts/finetune_model.py"
        " --model results/models/{wildcards.model}"
        " --model-manifest {input.model}"
        " --data data/tokenized/{wildcards.model}"
        " --settings .glmtune/settings/{params.settings}.json"
        " --checkpoint {output.checkpoint}"
        " --manifest {output.manifest}"
        " --curve {output.curve}"
        " --runtime {output.runtime}"
        " 2>&1 | tee {log}"


rule generate_predictions:
    input:
        code=code("generate_predictions"),
        model=rules.prepare_model.output.manifest,
        training=training_of,
        dev=rules.fetch_dataset.output.dev,
    output:
        predictions="results/predictions/{model}/{method}.jsonl",
        examples="results/examples/{model}/{method}.jsonl",
        probe="results/probe/{model}/{method}.jsonl",
        runtime="results/runtime/generate_predictions/{model}/{method}.json",
    log:
        "logs/generate_predictions/{model}/{method}.log",
    benchmark:
        "benchmarks/generate_predictions/{model}/{method}.tsv"
    resources:
        gpu=GPU,
    params:
        method=lambda w: PARAMS.tuning_method(w.method),
        settings=lambda w: settings(PARAMS.generation_settings(w.model)),
        examples=lambda w: settings(PARAMS["examples"]),
    message:
        "Let {wildcards.model}, tuned by {wildcards.method}, answer dev rows, examples and general questions."
    shell:
        "python workflow/scripts/generate_predictions.py"
        " --model results/models/{wildcards.model}"
        " --model-manifest {input.model}"
        " --method {params.method}"
        " --checkpoint results/checkpoints/{wildcards.model}/{wildcards.method}"
        " --training-manifest {input.training}"
        " --dev {input.dev}"
        " --examples .glmtune/settings/{params.examples}.json"
        " --settings .glmtune/settings/{params.settings}.json"
        " --predictions {output.predictions}"
        " --example-answers {output.examples}"
        " --probe {output.probe}"
        " --runtime {output.runtime}"
        " 2>&1 | tee {log}"


rule score_predictions:
    input:
        code=code("score_predictions"),
        predictions=rules.generate_predictions.output.predictions,
    output:
        metrics="results/scores/{model}/{method}.json",
        rows="results/scores/{model}/{method}.rows.jsonl",
    log:
        "logs/score_predictions/{model}/{method}.log",
    benchmark:
        "benchmarks/score_predictions/{model}/{method}.tsv"
    params:
        protocol=PARAMS["protocol"],
    message:
        "Score the predictions of {wildcards.model}, {wildcards.method}: Chinese ROUGE and BLEU-4."
    shell:
        "python workflow/scripts/score_predictions.py"
        " --predictions {input.predictions}"
        " --protocol {params.protocol}"
        " --workers {threads}"
        " --metrics {output.metrics}"
        " --rows {output.rows}"
        " --quiet"
        " 2>&1 | tee {log}"


rule render_report:
    input:
        code=code("render_report"),
        dataset=rules.fetch_dataset.output,
        tokenized=expand(rules.tokenize_dataset.output.manifest, model=PARAMS.models),
        models=expand(rules.prepare_model.output.manifest, model=PARAMS.models),
        scores=each_run(rules.score_predictions.output.metrics),
        rows=each_run(rules.score_predictions.output.rows),
        predictions=each_run(rules.generate_predictions.output.predictions),
        examples=each_run(rules.generate_predictions.output.examples),
        probes=each_run(rules.generate_predictions.output.probe),
        trainings=each_tuning(rules.finetune_model.output.manifest),
        curves=each_tuning(rules.finetune_model.output.curve),
        runtimes=each_tuning(rules.finetune_model.output.runtime)
        + each_run(rules.generate_predictions.output.runtime),
    output:
        report=report(REPORT, category="Report"),
        html="results/report.html",
        card="results/data_card.md",
        metrics="results/metrics.json",
        losses="results/plots/loss.csv",
        picture="results/plots/loss.svg",
    log:
        "logs/render_report.log",
    benchmark:
        "benchmarks/render_report.tsv"
    params:
        values=lambda w: settings(PARAMS.values),
        runs=lambda w: settings([vars(run) for run in PARAMS.runs]),
    message:
        "Compare all models and methods."
    shell:
        "python workflow/scripts/render_report.py"
        " --runs .glmtune/settings/{params.runs}.json"
        " --params .glmtune/settings/{params.values}.json"
        " --data-dir data"
        " --results-dir results"
        " --out-dir results"
        " 2>&1 | tee {log}"
