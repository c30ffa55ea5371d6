"""The answers of one model and method: dev rows, examples, general questions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from glmtune.checkpoints.prepared import open_prepared
from glmtune.checkpoints.sources import check_checkpoint, open_tokenizer, unchanged
from glmtune.devices import Device, choose_device, total_memory
from glmtune.families.conversation import Row, shown_answer
from glmtune.families.encoding import encode_prompts
from glmtune.families.family import Template
from glmtune.families.registry import get_family
from glmtune.families.tokenizers import Tokenizer
from glmtune.files import read_json, read_jsonl, write_json, write_jsonl
from glmtune.generation.answer_log import AnswerLog
from glmtune.generation.batches import NEAR_TIE, generate_groups
from glmtune.generation.memory import auto_batch_size
from glmtune.generation.settings import PredictionSettings
from glmtune.modeling.packing import pack_linears
from glmtune.seeding import seed_everything
from glmtune.steps.inputs_outputs import ModelFiles, Outputs
from glmtune.synthetic.general_qa import probe_rows
from glmtune.tuning.method import tuned_model
from glmtune.tuning.registry import get_method
from glmtune.workspace.provenance import recorded_runtime

BATCH_SIZE = "batch_size.json"  # beside the answers: what `auto` chose


def predict(
    *,
    model: ModelFiles,
    dev: Path,
    examples: Sequence[str],
    settings: PredictionSettings,
    outputs: Outputs,
) -> None:
    """Write predictions.jsonl, examples.jsonl, probe.jsonl and runtime.json to `outputs.out_dir`.

    `settings` are those of `Params.generation_settings`. Answers are kept in `outputs.resume_dir`
    as they come: a killed run resumes with the groups that are missing.
    Raises WeightsError for weights that are not those of the manifests.
    """
    base = read_json(model.manifest)
    if model.checkpoint is not None and model.training_manifest is not None:
        check_checkpoint(model.checkpoint, read_json(model.training_manifest))
    template = get_family(base["family"]).template(settings.template)
    tokenizer = open_tokenizer(model.folder, base["family"])
    device = choose_device()
    print(f"device {device.name}, dtype {device.dtype}: {device.reason}")
    asked = _questions(read_jsonl(dev), examples, template.written_call)
    prompts = _prompts(template, tokenizer, asked, settings)
    with (
        recorded_runtime(outputs.out_dir / "runtime.json") as figures,
        unchanged(model.folder, base),
    ):
        seed_everything(settings.seed, settings.torch_threads)
        opened = partial(_open_model, model, device, settings.quantization_bit)
        answers = _answers(opened, tokenizer, prompts, settings, device, outputs.resume_dir)
        figures |= {"device": device.name, "dtype": device.dtype, "rows": len(prompts)}
        figures |= {
            "batch_size": _chosen_batch_size(settings, outputs.resume_dir),
            "near_ties": _report_near_ties(answers),
        }
    limit = settings.reference_tokens or sys.maxsize
    decode_reference = partial(_decode_reference, template, tokenizer, limit)
    left = iter(answers)
    for name, part in asked.items():
        lines = [
            _prediction_line(row, next(left), decode_reference, template.written_call)
            for row in part
        ]
        write_jsonl(outputs.out_dir / f"{name}.jsonl", lines)


def _prompts(
    template: Template,
    tokenizer: Tokenizer,
    asked: Mapping[str, Sequence[Row]],
    settings: PredictionSettings,
) -> list[list[int]]:
    """The token ids of all prompts, in order; prints how many histories were shortened."""
    rows = [row for part in asked.values() for row in part]
    prompts = encode_prompts(
        template,
        tokenizer,
        rows,
        max_source_tokens=settings.max_source_tokens,
        long_history=settings.long_history,
    )
    if shortened := sum(prompt.is_shortened for prompt in prompts):
        print(
            f"dropped the oldest turns of {shortened} of {len(prompts)} prompts "
            f"(raise max_source_tokens, now {settings.max_source_tokens})"
        )
    return [prompt.ids for prompt in prompts]


def _open_model(model: ModelFiles, device: Device, quantization_bit: int | None) -> PreTrainedModel:
    """The prepared model with its tuned weights, ready to answer and nothing else."""
    tuned = tuned_model(get_method(model.method), model.folder, model.checkpoint)
    opened = open_prepared(
        tuned, dtype=device.dtype, device=device.name, quantization_bit=quantization_bit
    )
    pack_linears(opened)
    return opened


def _answers(
    open_model: Callable[[], PreTrainedModel],
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: PredictionSettings,
    device: Device,
    resume_dir: Path,
) -> list[dict[str, Any]]:
    """An answer to each prompt: those that an earlier run logged, and the missing ones."""
    with AnswerLog(resume_dir / "answers.jsonl") as log:
        if len(log.answers) < len(prompts):
            model = open_model()
            size = _chosen_batch_size(settings, resume_dir)
            if size is None:
                limit = settings.max_new_tokens
                size = auto_batch_size(model, prompts, limit, total_memory(device))
                write_json(resume_dir / BATCH_SIZE, {"batch_size": size})
            print(f"generating up to {size} rows at once")
            fixed = replace(settings, batch_size=size)
            groups = generate_groups(model, tokenizer, prompts, fixed, answered=log.answers)
            for group in groups:
                log.append(group)
        return [log.answers[number] for number in range(len(prompts))]


def _chosen_batch_size(settings: PredictionSettings, resume_dir: Path) -> int | None:
    """As set; for `auto` what the first run chose, kept when it is resumed; else None.

    The batch size changes the last bits of half precision: a machine with other memory must not
    change it half-way.
    """
    if settings.batch_size != "auto":
        return settings.batch_size
    file = resume_dir / BATCH_SIZE
    return int(read_json(file)["batch_size"]) if file.is_file() else None


def _report_near_ties(answers: Sequence[Mapping[str, Any]]) -> int:
    """Print and return how many answers another batch size could change in float32."""
    count = sum(answer["near_tie"] for answer in answers)
    if count:
        print(
            f"{count} of {len(answers)} answers had two best tokens whose logits differ by less "
            f"than {NEAR_TIE}: another batch size or CPU may change these answers"
        )
    return count


def _questions(
    dev: Sequence[Row], examples: Sequence[str], written_call: Callable[[str], str]
) -> dict[str, list[Row]]:
    """All prompts, by the file that their answers go to."""
    references = {row["content"]: shown_answer(row, written_call) for row in reversed(dev)}
    return {
        "predictions": list(dev),
        "examples": [{"content": e, "summary": references.get(e)} for e in examples],
        "probe": list(probe_rows()),
    }


def _prediction_line(
    row: Row,
    answer: Mapping[str, Any],
    decode_reference: Callable[[str], str],
    written_call: Callable[[str], str],
) -> dict[str, Any]:
    """A line of a predictions file; docs/formats.md describes its keys."""
    label = row["summary"] and shown_answer(row, written_call)
    shown = {key: value for key, value in answer.items() if key != "near_tie"}
    line = {"prompt": row["content"], "labels": label, **shown}
    if label is not None and (decoded := decode_reference(label)) != label:
        line["decoded_labels"] = decoded
    return line | {"history": row["history"]} if "history" in row else line


def _decode_reference(template: Template, tokenizer: Tokenizer, limit: int, label: str) -> str:
    """The reference as official evaluations read it: encoded, cut to `limit` tokens, decoded."""
    ids = template.encode_reference(tokenizer, label, max_target_tokens=limit)
    return tokenizer.decode(ids).strip()
