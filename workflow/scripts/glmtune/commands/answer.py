"""Answers a file of prompts; after a kill, the same command resumes.

Reads   prompts: a text file, one per line, or JSON Lines with "prompt" (or "content") and maybe
        "history", as messages or (question, answer) pairs; references are not needed
Writes  JSON Lines in the order of the prompts: "prompt", "predict", "finished"

    glmtune answer chatglm2-6b/ptuning prompts.txt --out answers.jsonl
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmtune.commands.flags import add_model, add_place, add_sampling, choose, parser, whole
from glmtune.errors import DataError, ParamsError

if TYPE_CHECKING:
    import argparse

    from glmtune.serving.catalog import Served


def main(arguments: Sequence[str]) -> None:
    """Answer what has no answer yet, then write the file."""
    flags = parser("answer", __doc__)
    add_model(flags)
    flags.add_argument("prompts", type=Path, help="a text file or JSON Lines")
    flags.add_argument("--out", type=Path, required=True, help="the file to write")
    flags.add_argument("--batch-size", type=whole(1), default=32, help="rows at once; default: 32")
    add_sampling(flags)
    add_place(flags)
    given = flags.parse_args(arguments)
    _refuse_places(given)
    _, served = choose(given)
    rows = read_prompts(given.prompts)
    prompts = encoded(served, rows, given.prompts)
    answers = _answers(given, served, prompts)
    from glmtune.files import write_jsonl

    texts = (
        {"prompt": row["prompt"], "predict": answer["predict"], "finished": answer["finished"]}
        for row, answer in zip(rows, answers, strict=True)
    )
    write_jsonl(given.out, texts)
    print(f"wrote {given.out}: {len(answers)} answers")


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Rows with "prompt" and maybe "history"; DataError names the file and the line."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a file of prompts") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: found no prompts; expected one per line")
    if not numbered[0][1].lstrip().startswith("{"):
        return [{"prompt": line} for _, line in numbered]
    return [_read_row(line, f"{path}: line {number}") for number, line in numbered]


def _read_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON; expected one JSON object per line") from None
    prompt = row.get("prompt", row.get("content")) if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise DataError(f"{where}: found no text in 'prompt' (or 'content'); add one")
    return {"prompt": prompt, "history": row.get("history") or []}


def encoded(served: Served, rows: Sequence[dict[str, Any]], path: Path) -> list[list[int]]:
    """The token ids of each prompt."""
    from glmtune.checkpoints.sources import open_tokenizer
    from glmtune.data.messages import messages_of_history
    from glmtune.data.rows import RowMistake, text_of
    from glmtune.serving.prompts import chat_prompt

    tokenizer = open_tokenizer(served.folder, served.family)
    prompts = []
    for number, row in enumerate(rows, 1):
        try:
            history = messages_of_history(row.get("history", []), "'history'")
            question = {"role": "user", "content": text_of(row["prompt"], "'prompt'")}
            prompts.append(chat_prompt(tokenizer, served.family, [*history, question]))
        except (RowMistake, DataError) as mistake:
            raise DataError(f"{path}: row {number}: {mistake}") from None
    return prompts


def _answers(
    flags: argparse.Namespace, served: Served, prompts: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """An answer to each prompt: those that an earlier run logged, and the missing ones."""
    from glmtune.generation.answer_log import AnswerLog

    log_path = flags.out.parent / f".{flags.out.name}.{_key(flags, served, prompts)}.answers"
    with AnswerLog(log_path) as log:
        if len(log.answers) < len(prompts):
            for group in _groups(flags, served, prompts, log.answers):
                log.append(group)
        answers = [log.answers[number] for number in range(len(prompts))]
    log_path.unlink()
    return answers


def _groups(
    flags: argparse.Namespace, served: Served, prompts: Sequence[Sequence[int]], answered: Any
) -> Any:
    """The answers that are missing, group by group."""
    from glmtune.checkpoints.prepared import ModelRef, open_prepared
    from glmtune.checkpoints.sources import open_tokenizer
    from glmtune.commands.flags import device_of
    from glmtune.generation.batches import generate_groups
    from glmtune.generation.settings import GenerationSettings

    device = device_of(flags)
    model = open_prepared(
        ModelRef(served.folder, served.prefix, served.adapter, served.family),
        dtype=device.dtype,
        device=device.name,
        quantization_bit=flags.quantization_bit,
    )
    settings = GenerationSettings(
        seed=flags.seed,
        do_sample=flags.temperature > 0,
        top_p=flags.top_p,
        temperature=flags.temperature,
        max_new_tokens=flags.max_new_tokens,
        batch_size=flags.batch_size,
    )
    tokenizer = open_tokenizer(served.folder, served.family)
    yield from generate_groups(model, tokenizer, prompts, settings, answered=answered)


def _key(flags: argparse.Namespace, served: Served, prompts: Sequence[Sequence[int]]) -> str:
    """A hash of all that decides the answers: a run resumes only with the same one."""
    kept = ("temperature", "top_p", "seed", "max_new_tokens", "batch_size", "quantization_bit")
    settings = {name: getattr(flags, name) for name in (*kept, "device", "dtype")}
    folders = [str(path) for path in (served.folder, served.prefix, served.adapter)]
    decisive = [settings, folders, served.stamp, [list(ids) for ids in prompts]]
    parts = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def _refuse_places(flags: argparse.Namespace) -> None:
    """Raise ParamsError for an --out that is a folder or the prompts."""
    if flags.out.is_dir():
        raise ParamsError(f"--out {flags.out}: found a folder; expected a file to write")
    if flags.out.exists() and flags.prompts.exists() and flags.out.samefile(flags.prompts):
        raise ParamsError(
            f"--out {flags.out}: the file of prompts itself; expected another name, as it would be "
            "overwritten"
        )
