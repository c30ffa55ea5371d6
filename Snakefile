"""glmtune: fine-tune the ChatGLM family, score it, compare it.

READS     params.yaml (every value is explained there); your own data and weights if it names them
PRODUCES  results/report.md, results/report.html   the comparison of all models and methods
          results/metrics.json                     its main scores, for `dvc metrics diff`
          results/checkpoints/{model}/{method}     prefix, adapter or full model

The steps, each `workflow/scripts/<step>.py`:

    fetch_dataset → tokenize_dataset ─┐
    prepare_model ────────────────────┴→ finetune_model → generate_predictions
                                            → score_predictions → render_report

Rules depend on small manifests (hashes, counts, parameters), not on folders of weights, which are
parameters. The code files that a step runs are inputs of its rule. Slow results are also kept in a
store outside results/ (`workflow/scripts/glmtune/workspace/store.py`), so that nothing is trained
twice.
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

# This folder's own code, also in the copy of the workspace that DVC queues an experiment in.
sys.path.insert(0, str(Path(workflow.basedir, "workflow", "scripts")))
from glmtune.workspace.opening import REPORT, open_run

RUN = open_run(workflow, config)
PARAMS = RUN.params


localrules:
    all,


rule all:
    input:
        REPORT,


onstart:
    RUN.begin()


onsuccess:
    RUN.finish()


wildcard_constraints:
    model="|".join(PARAMS.models),
    method="|".join(PARAMS.methods),


rule fetch_dataset:
    input:
        **RUN.user_files,
        code=RUN.code("fetch_dataset"),
    output:
        **RUN.if_valid("data/dataset/valid.jsonl"),
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
        # Snakemake expands {…} in a plain text.
        flags=lambda w: PARAMS.dataset_flags(RUN.user_files),
        contents=RUN.user_data,
        out_dir=subpath(output.manifest, parent=True),
    message:
        "Check the data set and write it as JSON Lines."
    shell:
        "python workflow/scripts/fetch_dataset.py"
        " {params.flags}"
        " --out-dir {params.out_dir}"
        " 2>&1 | tee {log}"


rule prepare_model:
    input:
        code=RUN.code("prepare_model"),
    output:
        model=directory("results/models/{model}"),
        manifest="results/models/{model}.json",
        runtime="results/runtime/prepare_model/{model}.json",
    log:
        "logs/prepare_model/{model}.log",
    benchmark:
        "benchmarks/prepare_model/{model}.tsv"
    resources:
        gpu=lambda w: RUN.gpus_per_job if PARAMS.is_miniature(w.model) else 0,
    params:
        settings=lambda w: RUN.settings(PARAMS.model_settings(w.model)),
        fingerprint=lambda w: RUN.fingerprints[w.model],
    message:
        "Prepare the base model {wildcards.model}."
    shell:
        "python workflow/scripts/prepare_model.py"
        " --settings .glmtune/settings/{params.settings}.json"
        " --model {output.model}"
        " --manifest {output.manifest}"
        " --runtime {output.runtime}"
        " 2>&1 | tee {log}"


rule tokenize_dataset:
    input:
        code=RUN.code("tokenize_dataset"),
        data=rules.fetch_dataset.output.manifest,
        model=rules.prepare_model.output.manifest,
    output:
        **RUN.if_valid("data/tokenized/{model}/valid.safetensors"),
        train="data/tokenized/{model}/train.safetensors",
        dev="data/tokenized/{model}/dev.safetensors",
        manifest="data/tokenized/{model}/manifest.json",
    log:
        "logs/tokenize_dataset/{model}.log",
    benchmark:
        "benchmarks/tokenize_dataset/{model}.tsv"
    params:
        **PARAMS.token_limits(),
        data=subpath(input.data, parent=True),
        model=subpath(input.model, strip_suffix=".json"),
        out_dir=subpath(output.manifest, parent=True),
        family=lambda w: PARAMS.family(w.model),
        template=lambda w: PARAMS.template_flag(w.model),
    message:
        "Tokenize the data set for {wildcards.model}."
    shell:
        "python workflow/scripts/tokenize_dataset.py"
        " --data {params.data}"
        " --model {params.model}"
        " --model-manifest {input.model}"
        " --family {params.family}"
        " {params.template}"
        " --workers {threads}"
        " --max-source-tokens {params.max_source_tokens}"
        " --max-target-tokens {params.max_target_tokens}"
        " --long-history {params.long_history}"
        " --out-dir {params.out_dir}"
        " 2>&1 | tee {log}"


rule finetune_model:
    input:
        code=RUN.code("finetune_model"),
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
    threads: lambda w: RUN.processes(w.method)
    resources:
        gpu=lambda w: RUN.gpus_to_train(w.method),
        # Not parameters: they change no result, so other values rerun nothing.
        processes=lambda w: PARAMS.launcher(w.method).processes,
        sharding=lambda w: PARAMS.launcher(w.method).sharding,
        report_to=lambda w: " ".join(PARAMS.trackers(w.method)),
        # For several machines, set by the profile of a cluster.
        nodes=1,
        starter="",
    params:
        model=subpath(input.model, strip_suffix=".json"),
        data=subpath(input.data, parent=True),
        flags=lambda w: PARAMS.training_flags(w.method),
        settings=lambda w: RUN.settings(PARAMS.other_training_settings(w.method)),
    message:
        "Fine-tune {wildcards.model} with {wildcards.method}."
    shell:
        "python workflow/scripts/finetune_model.py"
        " --model {params.model}"
        " --model-manifest {input.model}"
        " --data {params.data}"
        " --method {params.flags[method]}"
        " --lr {params.flags[lr]}"
        " --max-steps {params.flags[max_steps]}"
        " --batch-size {params.flags[batch_size]}"
        " --seed {params.flags[seed]}"
        " --settings .glmtune/settings/{params.settings}.json"
        " --processes {resources.processes} --sharding {resources.sharding}"
        " --nodes {resources.nodes} --starter '{resources.starter}'"
        " --report-to {resources.report_to}"
        " --checkpoint {output.checkpoint}"
        " --manifest {output.manifest}"
        " --curve {output.curve}"
        " --runtime {output.runtime}"
        " 2>&1 | tee {log}"


def training_of(wildcards):
    """The manifest of the training that predictions need; nothing for the untuned model."""
    is_trained = PARAMS.trains(wildcards.method)
    return rules.finetune_model.output.manifest if is_trained else []


rule generate_predictions:
    input:
        code=RUN.code("generate_predictions"),
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
        gpu=RUN.gpus_per_job,
    params:
        model=subpath(input.model, strip_suffix=".json"),
        method=lambda w: PARAMS.tuning_method(w.method),
        checkpoint=rules.finetune_model.output.checkpoint,
        settings=lambda w: RUN.settings(PARAMS.generation_settings(w.model)),
        examples=lambda w: RUN.settings(PARAMS.examples),
    message:
        "Generate with {wildcards.model}, {wildcards.method}: dev rows, examples, general questions."
    shell:
        "python workflow/scripts/generate_predictions.py"
        " --model {params.model}"
        " --model-manifest {input.model}"
        " --method {params.method}"
        " --checkpoint {params.checkpoint}"
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
        code=RUN.code("score_predictions"),
        predictions=rules.generate_predictions.output.predictions,
    output:
        metrics="results/scores/{model}/{method}.json",
        rows="results/scores/{model}/{method}.rows.jsonl",
    log:
        "logs/score_predictions/{model}/{method}.log",
    benchmark:
        "benchmarks/score_predictions/{model}/{method}.tsv"
    params:
        protocol=PARAMS.file.protocol,
    message:
        "Score {wildcards.model}, {wildcards.method}: Chinese ROUGE and BLEU-4."
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
        code=RUN.code("render_report"),
        dataset=rules.fetch_dataset.output,
        tokenized=expand(rules.tokenize_dataset.output.manifest, model=PARAMS.models),
        models=expand(rules.prepare_model.output.manifest, model=PARAMS.models),
        scores=RUN.each_run(rules.score_predictions.output.metrics),
        rows=RUN.each_run(rules.score_predictions.output.rows),
        predictions=RUN.each_run(rules.generate_predictions.output.predictions),
        examples=RUN.each_run(rules.generate_predictions.output.examples),
        probes=RUN.each_run(rules.generate_predictions.output.probe),
        trainings=RUN.each_tuning(rules.finetune_model.output.manifest),
        curves=RUN.each_tuning(rules.finetune_model.output.curve),
        runtimes=RUN.each_tuning(rules.finetune_model.output.runtime)
        + RUN.each_run(rules.generate_predictions.output.runtime),
    output:
        report=REPORT,
        html=report("results/report.html", category="Report"),
        card="results/data_card.md",
        metrics="results/metrics.json",
        losses="results/plots/loss.csv",
        score_table="results/plots/scores.csv",
        figures=directory("results/figures"),
    log:
        "logs/render_report.log",
    benchmark:
        "benchmarks/render_report.tsv"
    params:
        values=lambda w: RUN.settings(PARAMS.values),
        runs=lambda w: RUN.settings([vars(run) for run in PARAMS.runs]),
        out_dir=subpath(output.report, parent=True),
    message:
        "Render the comparison report."
    shell:
        "python workflow/scripts/render_report.py"
        " --runs .glmtune/settings/{params.runs}.json"
        " --params .glmtune/settings/{params.values}.json"
        " --data-dir data"
        " --results-dir results"
        " --out-dir {params.out_dir}"
        " 2>&1 | tee {log}"
