"""The section on what was run: times, machines, data, models, settings, parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from glmtune.durations import format_seconds
from glmtune.report.blocks import Block, Cell, Code, Folded, Head, Heading, Prose, Row, Table
from glmtune.report.contents import Report, Run
from glmtune.report.markdown import code, name, plain, yaml_text
from glmtune.report.tables import METHOD, MODEL, NOTHING, percent_of
from glmtune.report.words import Text, Words, join

ARITHMETIC = ("cpu_capability", "blas", "torch_threads", "kernel_variables")
PROCESSES = ("processes", "machines", "sharding")
ENVIRONMENT = (
    *("hardware", *PROCESSES, *ARITHMETIC),
    *("device", "dtype", "versions", "git_commit"),
)


def what_was_run(report: Report) -> list[Block]:
    """Show everything needed to reproduce the runs."""
    return [
        Heading(2, Words("What was run", "运行记录"), "runs"),
        Prose(
            Words(
                "Results are reused as long as nothing that affects them changes; the times, "
                "machine "
                "and versions are those of the run that computed them. Tokens exclude padding; MFU "
                "is the share of the GPU's peak throughput, where that is known. Of several "
                "processes, memory is that of the one with the most.",
                "只要影响结果的因素没有变，就直接复用已有结果；用时、机器和版本取自当初的计算。"
                "token 数不含填充；MFU 是实际算力占显卡峰值算力的比例，峰值未知时不显示。"
                "多进程训练时，内存取各进程中最大的。",
            )
        ),
        _runtime_table(report),
        Heading(3, Words("Reproduce", "复现"), "reproduce"),
        *_how_to_reproduce(report),
        Heading(3, Words("Environment", "环境"), "environment"),
        Prose(
            Words(
                "The same seed gives the same numbers on the same type of CPU. Other types sum "
                "products in a different order; training amplifies this, so scores shift slightly.",
                "同一种子在同类 CPU 上结果相同。其他类型的 CPU 求和顺序不同，训练会放大这种差异，"
                "得分会略有变化。",
            )
        ),
        *_distinct_environments(report),
        Heading(3, Words("Data and models", "数据和模型"), "inputs"),
        Folded(Words("Hashes of all files", "全部文件的哈希"), [_input_hashes(report)]),
        Heading(3, Words("Settings of each training", "每次训练的设置"), "settings"),
        *_training_settings(report),
        Heading(3, Words("Parameters", "参数"), "parameters"),
        Folded(
            Words("All values of `params.yaml`", "`params.yaml` 的全部取值"),
            [Code(yaml_text(dict(report.params.values)), "yaml")],
        ),
    ]


def _how_to_reproduce(report: Report) -> list[Block]:
    commits = report.commits
    commands = ["snakemake --cores 1 results/report.md"]
    if len(commits) == 1 and commits[0].isalnum():  # not "…+dirty", which no clone has
        commands.insert(0, f"git checkout {commits[0]}")
    return [
        Prose(
            Words(
                "In a clone of the project with its environment active (`make env`) and the "
                "parameters below in `params.yaml`:",
                "克隆本项目并激活环境（`make env`），把下面的参数写入 `params.yaml`，然后执行：",
            )
        ),
        Code("\n".join(commands), "bash"),
    ]


def _runtime_table(report: Report) -> Table:
    rows = [_runtime_row(run, step) for run in report.runs for step in run.runtimes]
    header: list[Text] = [
        MODEL,
        METHOD,
        Words("Step", "步骤"),
        Words("Time", "用时"),
        "Tokens/s",
        "MFU",
        Words("Peak memory (estimated)", "峰值内存（预估）"),
    ]
    return Table(Words("Time and memory", "用时和内存"), header, rows, text_columns=3, named=2)


def _runtime_row(run: Run, step: str) -> Row:
    facts = run.runtimes[step]
    shows: dict[str, Callable[[float], str]] = {
        "seconds": format_seconds,
        "tokens_per_second": "{:,.0f}".format,
        "mfu": percent_of,
    }
    values = [(facts.get(key), show) for key, show in shows.items()]
    cells: list[Text | Cell] = [
        run.model,
        run.method,
        step,
        *(Cell(NOTHING if value is None else show(value), value) for value, show in values),
        Cell(_peak_memory(facts), facts.get("peak_memory_mib")),
    ]
    return Row(cells, run.model, run.entry)


def _peak_memory(facts: Mapping[str, Any]) -> str:
    """Example: "812 MiB (790)"."""
    peak, estimate = (facts.get(f"{kind}_memory_mib") for kind in ("peak", "estimated"))
    if peak is None:
        return NOTHING
    return f"{peak:,.0f} MiB" + ("" if estimate is None else f" ({estimate:,.0f})")


def _distinct_environments(report: Report) -> list[Block]:
    """List each distinct environment with the steps that ran in it."""
    groups: dict[str, list[str]] = {}
    for run in report.runs:
        for step, facts in run.runtimes.items():
            environment = {key: facts[key] for key in ENVIRONMENT if facts.get(key) is not None}
            groups.setdefault(yaml_text(environment), []).append(f"{run.name} {step}")
    if len(groups) == 1:
        (shown,) = groups
        return [Prose(Words("All steps:", "所有步骤：")), Code(shown, "yaml")]
    blocks: list[Block] = []
    for shown, steps in groups.items():
        named = join(steps, ", ", "、")
        blocks += [Prose(Words(f"{named.en}:", f"{named.zh}：")), Code(shown, "yaml")]
    return blocks


def _input_hashes(report: Report) -> Table:
    kind = plain(report.dataset["source"]["kind"])
    data = Words(f"data ({kind})", f"数据（{kind}）")
    rows = []
    for part in filter(report.dataset.get, ("train", "dev", "valid")):
        facts = report.dataset[part]
        file = Words(f"{part}, {facts['rows']:,} rows", f"{part}，{facts['rows']:,} 行")
        rows.append(Row([data, file, f"`{facts['sha256']}`"]))
    for model, manifest in report.models.items():
        owner = f"{model} ({plain(manifest['source'])}, {manifest['family']})"
        for file_name, digest in manifest.get("files", {}).items():
            rows.append(Row([owner, name(file_name), f"`{digest}`"], model))
    header: list[Text | Head] = [Words("Source", "来源"), Words("File", "文件"), "SHA-256"]
    return Table(Words("Input files", "输入文件"), header, rows, text_columns=3)


def _training_settings(report: Report) -> list[Block]:
    trained = [run for run in report.runs if run.is_trained]
    if not trained:
        return [Prose(Words("No run was trained.", "没有训练任何模型。"))]
    lines = (
        f"- {run.name}: {code(json.dumps(run.training['settings'], ensure_ascii=False))}"
        for run in trained
    )
    summary = Words(f"{len(trained)} trainings", f"{len(trained)} 次训练")
    return [Folded(summary, [Prose("\n".join(lines))])]
