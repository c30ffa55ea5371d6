"""Exports a base model and its tuned weights in a format that other tools can read.

    official       the published layout of its family; LoRA merged
    transformers   transformers' GlmForCausalLM and a fast tokenizer; LoRA merged
    gguf           a file for llama.cpp and what is built on it; LoRA merged
    thudm-prefix   a P-Tuning v2 checkpoint in the format of THUDM's scripts

To add a format, write a function that fills an empty folder and list it in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.config import config_values, known_keys
from glmtune.checkpoints.config_checks import SPEED_KEYS
from glmtune.checkpoints.loading import read_model_config
from glmtune.checkpoints.prefix import read_prefix, write_prefix
from glmtune.checkpoints.prepared import ModelRef, open_prepared
from glmtune.checkpoints.saving import save_model, write_weights
from glmtune.checkpoints.sources import (
    check_checkpoint,
    check_model,
    copy_vocabulary,
    is_vocabulary,
    model_folder,
    open_tokenizer,
    read_location,
)
from glmtune.checkpoints.transformers_layout import glm_config, glm_state
from glmtune.devices import DTYPES
from glmtune.errors import ParamsError, WeightsError
from glmtune.export.fast_tokenizer import write_fast_tokenizer
from glmtune.export.gguf_file import QUANTIZED, require_gguf, write_gguf
from glmtune.export.merging import merge_adapter
from glmtune.families.byte_vocabulary import ranks_as_lines
from glmtune.families.loading import detect_family, vocabulary_file
from glmtune.families.registry import get_family
from glmtune.files import atomic_path, read_json, write_json
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.chatglm2 import ChatGLM2ForConditionalGeneration

# The keys of config.json, besides the architecture, by which official code identifies a model.
NAMING_KEYS = ("_name_or_path", "architectures", "model_type", "torch_dtype")
# The record of an export's sources and files. A later export may replace only these files.
RECORD = "export.json"


def export_model(model: ModelRef, format_name: str, out: Path, *, dtype: str | None = None) -> None:
    """Write `model` into the folder `out`, completely or not at all; replaces an earlier export.

    `dtype` is float32, float16 or bfloat16, for gguf also a type of QUANTIZED; None: as in the
    model's config.json.
    Raises ParamsError for an unknown format or an `out` with other files, WeightsError for a model,
    prefix or adapter that is unusable or does not match the others.
    """
    if format_name not in FORMATS:
        raise ParamsError(f"--format: found {format_name!r}; choose from {', '.join(FORMATS)}")
    _refuse_foreign_files(out, model)
    _refuse_replaced_weights(model)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        FORMATS[format_name](model, temporary, dtype)
        parts = {"model": model.folder, "adapter": model.adapter, "prefix": model.prefix}
        named = {**parts, "family": model.family, "dtype": dtype}
        made_of = {name: str(value) for name, value in named.items() if value is not None}
        files = sorted(path.name for path in temporary.iterdir())
        write_json(temporary / RECORD, {"format": format_name, "files": files, **made_of})


def _refuse_foreign_files(out: Path, model: ModelRef) -> None:
    """Raise ParamsError if replacing `out` would destroy other files or the model itself."""
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    foreign = sorted(found - _exported_files(out))
    if out.is_file() or foreign:
        what = f"contains {foreign[0]}, which no export wrote" if foreign else "is a file"
        raise ParamsError(
            f"--out {out}: {what}; expected a new or empty folder, or an earlier export; choose "
            "another"
        )
    read = [*_folders(model), model_folder(model.folder)]
    if out.resolve() in [folder.resolve() for folder in read]:
        raise ParamsError(f"--out {out}: is an input of the export; expected another folder")


def _refuse_replaced_weights(model: ModelRef) -> None:
    """Raise WeightsError for weights in results/ that differ from their step's manifest."""
    prepared = model.folder.resolve()
    preparation = _step_manifest(prepared.parent / f"{prepared.name}.json")
    if "files" in preparation:
        check_model(model.folder, preparation)
    for folder in _folders(model):
        run = folder.resolve()
        trainings = run.parent.parent.parent / "training"
        training = _step_manifest(trainings / run.parent.name / f"{run.name}.json")
        if "checkpoint" in training:
            check_checkpoint(folder, training)


def _folders(model: ModelRef) -> list[Path]:
    """The folders of the model and its tuned weights."""
    folders = (model.folder, model.adapter, model.prefix)
    return [folder for folder in folders if folder is not None]


def _step_manifest(file: Path) -> dict[str, Any]:
    """A step's manifest; {} if it is missing or belongs to another program."""
    found = read_json(file) if file.is_file() else None
    return found if isinstance(found, dict) else {}


def _exported_files(folder: Path) -> set[str]:
    """The names of the files that an earlier export wrote into `folder`."""
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else None
    files = record.get("files") if isinstance(record, dict) else None
    return {*files, RECORD} if isinstance(files, list) else set()


def _write_official(model: ModelRef, folder: Path, dtype: str | None) -> None:
    family = _family_with_vocabulary(model)
    merged = _merged_model(model, dtype)
    save_model(merged, folder)
    # Two families share a vocabulary, and a folder may be renamed.
    named = {"_name_or_path": family}
    write_json(folder / "config.json", _official_values(model) | config_values(merged) | named)
    copy_vocabulary(model.folder, folder)
    vocabulary = folder / get_family(family).tokenizer_class.file_name
    if not vocabulary.is_file():  # transformers' layout of GLM-4 has tokenizer.json only
        tokenizer: Any = open_tokenizer(model.folder, family)
        vocabulary.write_bytes(ranks_as_lines(tokenizer.ranks))


def _write_transformers(model: ModelRef, folder: Path, dtype: str | None) -> None:
    family = _family_with_vocabulary(model)
    _refuse_chatglm_6b(model, family, "transformers")
    _refuse_quantized_model(model, "transformers")
    tokenizer: Any = open_tokenizer(model.folder, family)
    vocabulary = vocabulary_file(model_folder(model.folder), family)
    write_fast_tokenizer(vocabulary, tokenizer, folder)
    merged = _merged_model(model, dtype)
    config: Any = merged.config
    write_weights(folder, glm_state(merged.state_dict(), config))
    stored = config_values(merged)["torch_dtype"]
    write_json(folder / "config.json", glm_config(config, tokenizer.stop_token_ids, stored))


def _write_gguf(model: ModelRef, folder: Path, dtype: str | None) -> None:
    require_gguf()
    family = _family_with_vocabulary(model)
    _refuse_chatglm_6b(model, family, "llama.cpp")
    _refuse_quantized_model(model, "llama.cpp")
    types = (*DTYPES, *QUANTIZED)
    if dtype not in (None, *types):
        raise ParamsError(f"--dtype: found {dtype!r}; expected one of {', '.join(types)}")
    tokenizer: Any = open_tokenizer(model.folder, family)
    merged = _merged_model(model, None if dtype in QUANTIZED else dtype)
    kind = dtype or config_values(merged)["torch_dtype"]
    vocabulary = vocabulary_file(model_folder(model.folder), family)
    write_gguf(merged, tokenizer, vocabulary, folder / "model.gguf", kind)


def _write_thudm_prefix(model: ModelRef, folder: Path, _: str | None) -> None:
    if model.adapter is not None:
        raise ParamsError(
            f"--adapter {model.adapter}: a prefix checkpoint cannot contain an adapter; export it "
            "with --format official"
        )
    # Without --prefix: a checkpoint that contains the complete model and the prefix.
    source = model.prefix or model_folder(model.folder)
    encoder = read_prefix(_model_without_weights(model).prefix_shape(), source)
    write_prefix(encoder, folder)
    values = _official_values(model)
    sizes = {"pre_seq_len": encoder.pre_seq_len, "prefix_projection": encoder.projection}
    write_json(folder / "config.json", values | sizes)


# Each function writes a model into an empty folder in the given precision.
FORMATS: dict[str, Callable[[ModelRef, Path, str | None], None]] = {
    "official": _write_official,
    "transformers": _write_transformers,
    "gguf": _write_gguf,
    "thudm-prefix": _write_thudm_prefix,
}


def _merged_model(model: ModelRef, dtype: str | None) -> ChatGLMCausalLM:
    """The model with its adapter merged; refuses a prefix, whether separate or in the weights."""
    if model.prefix is not None:
        raise _unmergeable_prefix(f"--prefix {model.prefix}")
    config = _base_config(model)
    stored = config.get("torch_dtype") or config.get("dtype") or "float32"
    opened: Any = open_prepared(model, dtype=dtype or stored)
    if opened.transformer.prefix_encoder is not None:
        raise _unmergeable_prefix(f"{model.folder}: its P-Tuning v2 prefix")
    if model.adapter is not None:
        opened = merge_adapter(opened, source=str(model.adapter))
    return opened


def _unmergeable_prefix(what: str) -> WeightsError:
    return WeightsError(
        f"{what}: a prefix adds keys and values and cannot be merged into the weights; "
        "export it with --format thudm-prefix and load it together with its base model"
    )


def _refuse_chatglm_6b(model: ModelRef, family: str, reader: str) -> None:
    if not isinstance(_model_without_weights(model), ChatGLM2ForConditionalGeneration):
        raise WeightsError(
            f"{model.folder}: {reader} has no architecture for {get_family(family).title}; "
            "expected ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B; use --format official"
        )


def _refuse_quantized_model(model: ModelRef, reader: str) -> None:
    bits = _base_config(model).get("quantization_bit")
    if bits:
        raise WeightsError(
            f"{model.folder}: its weights are quantized to {bits} bits in a layout that "
            f"{reader} cannot read; expected the model in half or full precision"
        )


def _family_with_vocabulary(model: ModelRef) -> str:
    """The family of a model whose folder must contain the vocabulary."""
    _model_without_weights(model)  # fails if the folder is not a model of this family
    folder = model_folder(model.folder)
    if not any(map(is_vocabulary, folder.iterdir())):
        raise WeightsError(
            f"{folder}: a model without a vocabulary; copy ice_text.model (ChatGLM-6B) or "
            "tokenizer.model (ChatGLM2-6B, ChatGLM3-6B, GLM-4-9B) and tokenizer_config.json from "
            "its base model's folder into it"
        )
    return model.family or detect_family(folder)


def _base_config(model: ModelRef) -> dict[str, Any]:
    """The values of the base model's config.json."""
    location = read_location(model.folder)
    return dict(location.get("random") or read_model_config(model_folder(model.folder)))


def _official_values(model: ModelRef) -> dict[str, Any]:
    """The base model's config.json, limited to keys of the architecture or of published models."""
    read = {*known_keys(type(_model_without_weights(model))), *SPEED_KEYS, *NAMING_KEYS}
    return {name: value for name, value in _base_config(model).items() if name in read}


def _model_without_weights(model: ModelRef) -> ChatGLMCausalLM:
    """The model without its weights: its architecture and sizes."""
    source = f"{model.folder}: config.json"
    family = model.family or read_location(model.folder).get("family")
    return build_model(_base_config(model), family, device="meta", source=source)
