"""Notes on single trainings: unusual learning rates or losses, and early stopping."""

from __future__ import annotations

from dataclasses import dataclass

from glmtune.report.contents import Report, Run, finite
from glmtune.report.figures import measured_loss
from glmtune.report.markdown import plain
from glmtune.report.words import Words


@dataclass(frozen=True)
class Band:
    """Training losses on ADGEN by one tuning method."""

    published: str
    low: float
    high: float

    @property
    def published_zh(self) -> str:
        """Example: "3.22 to 3.44" -> "3.22 到 3.44"."""
        return self.published.replace("to", "到")


# ChatGLM-6B and ChatGLM2-6B: THUDM's ptuning/README.md and logs published by users, widened by
# about 0.3 because steps, batches and limits differ.
BANDS = {
    "full": Band("3.00", 2.7, 3.4),
    "lora": Band("3.22 to 3.44", 2.9, 3.8),
    "ptuning": Band("3.45 to 3.95", 3.1, 4.2),
}


def training_notes(report: Report) -> list[Words]:
    """One line per note on a training."""
    notes = []
    measured = measured_loss(report)
    for run in report.runs:
        written = [Words(plain(note), plain(note)) for note in run.training.get("notes", ())]
        for note in (*written, *_early_end_notes(run, measured)):
            notes.append(Words(f"- {run.name}: {note.en}.", f"- {run.name}：{note.zh}。"))
    if any(_chose_by_loss(run) for run in report.runs):
        notes.append(_what_chose(report))
    return notes + _loss_notes(report)


def _chose_by_loss(run: Run) -> bool:
    """Whether measured losses decided which step's weights are kept."""
    settings = run.training.get("settings", {})
    return bool(settings.get("keep_best") or settings.get("early_stopping_patience"))


def _what_chose(report: Report) -> Words:
    """Say which rows chose the step: scores on rows that did are too good on average."""
    if report.has_valid:
        rows = report.dataset["valid"]["rows"]
        return Words(
            f"- The kept step was chosen on {rows:,} valid rows, which are not scored.",
            f"- 保留哪一步由 {rows:,} 行 valid 数据决定，它们不参与评分。",
        )
    return Words(
        "- **The choice of the step saw the scored rows**, so the scores are slightly too good: "
        "`dataset.valid` names other rows for it.",
        "- **选择保留哪一步时看过评分的行**，得分会略微偏高：用 `dataset.valid` 另外指定这些行。",
    )


def _early_end_notes(run: Run, measured: Words) -> list[Words]:
    """Say where a training ended, unless it kept the weights of its last planned step."""
    if not run.is_trained:
        return []
    steps, planned = run.training["steps"], run.training["settings"].get("max_steps")
    best = run.training["best_step"]
    notes = []
    if planned is not None and steps < planned:
        notes.append(
            Words(
                f"stopped after {steps} of {planned} steps: the {measured.en} stopped falling",
                f"计划 {planned} 步，第 {steps} 步停止：{measured.zh}不再下降",
            )
        )
    if best is not None and best != steps:
        notes.append(
            Words(
                f"kept the weights of step {best}, which has the lowest {measured.en}",
                f"保留{measured.zh}最低的第 {best} 步的权重",
            )
        )
    return notes


def _loss_notes(report: Report) -> list[Words]:
    """One line per run with an unusual loss, for 6B models on ADGEN only.

    Random weights are skipped: their loss is always outside the published range.
    """
    if report.dataset["source"]["kind"] != "adgen":
        return []
    return [
        note for run in report.runs if report.is_full_size(run.model) for note in _loss_note(run)
    ]


def _loss_note(run: Run) -> list[Words]:
    loss, band = finite(run.training.get("train_loss")), BANDS.get(run.tuning)
    if loss is None or band is None or band.low <= loss <= band.high:
        return []
    return [
        Words(
            f"- {run.name}: train loss {loss:.2f} is outside {band.low} to {band.high}; published "
            f"runs of {run.tuning} on ADGEN ended at {band.published}.",
            f"- {run.name}：训练损失 {loss:.2f} 不在 {band.low} 到 {band.high} 之间；"
            f"公开的 {run.tuning} 训练在 ADGEN 上的最终损失为 {band.published_zh}。",
        )
    ]
