"""A base model, with what was tuned on it, written in a form that other tools read.

    official       the published layout of its family; LoRA merged
    transformers   transformers' GlmForCausalLM and a fast tokenizer; LoRA merged
    thudm-prefix   a P-Tuning v2 checkpoint as THUDM's scripts write and read it

To add one: a function that writes into an empty folder, and a line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glmtune.checkpoints.adapters import load_adapter
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
    model_folder,
    open_tokenizer,
    read_location,
)
from glmtune.errors import ParamsError, WeightsError
from glmtune.export.merging import merge_adapter
from glmtune.export.transformers_format import glm_config, glm_state, write_fast_tokenizer
from glmtune.families.loading import detect_family
from glmtune.families.registry import get_family
from glmtune.families.vocabulary import read_vocabulary
from glmtune.files import atomic_path, read_json, write_json
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.chatglm2 import ChatGLM2ForConditionalGeneration

# Of the base model's config.json, beside the architecture: what official code names a model by.
NAMING_KEYS = ("_name_or_path", "architectures", "model_type", "torch_dtype")
# In every export: what it was made of, and its files. Only these may be replaced by another one.
RECORD = "export.json"


@dataclass(frozen=True)
class Parts:
    """What is exported."""

    model: Path
    """A prepared base model, or any model folder, official or ours."""
    adapter: Path | None = None
    """A PEFT folder with LoRA."""
    prefix: Path | None = None
    """A folder with a P-Tuning v2 prefix."""
    family: str | None = None
    """A key of FAMILIES; None: as the model's folder says."""
    dtype: str | None = None
    """float32, float16 or bfloat16; None: as the model's config.json says."""


def export_model(parts: Parts, format_name: str, out: Path) -> None:
    """Write `parts` into the folder `out`, whole or not at all; an earlier export is replaced.

    Raises ParamsError for a wrong format or an `out` with other files in it, WeightsError for parts
    that cannot be used or do not go together.
    """
    if format_name not in FORMATS:
        raise ParamsError(f"--format: found {format_name!r}; choose from {', '.join(FORMATS)}")
    _refuse_foreign(out, parts)
    _refuse_replaced(parts)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        FORMATS[format_name](parts, temporary)
        made_of = {name: str(value) for name, value in asdict(parts).items() if value is not None}
        files = sorted(path.name for path in temporary.iterdir())
        write_json(temporary / RECORD, {"format": format_name, "files": files, **made_of})


def _refuse_foreign(out: Path, parts: Parts) -> None:
    """ParamsError if replacing `out` would lose what no export wrote, or a part itself."""
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    foreign = sorted(found - _exported_files(out))
    if out.is_file() or foreign:
        what = f"holds {foreign[0]}, which no export wrote" if foreign else "is a file"
        raise ParamsError(
            f"--out {out}: {what}; expected a new folder, an empty one or an earlier export: "
            "choose another"
        )
    read = [part for part in (parts.model, parts.adapter, parts.prefix) if part is not None]
    if out.resolve() in [part.resolve() for part in (*read, model_folder(parts.model))]:
        raise ParamsError(f"--out {out}: is what is exported; expected another folder")


def _refuse_replaced(parts: Parts) -> None:
    """WeightsError for weights in results/ that are not those of their steps' manifests."""
    model = parts.model.resolve()
    prepared = _manifest(model.parent / f"{model.name}.json")
    if "files" in prepared:
        check_model(parts.model, prepared)
    for part in (parts.model, parts.adapter, parts.prefix):
        if part is not None:
            run = part.resolve()
            trainings = run.parent.parent.parent / "training"
            training = _manifest(trainings / run.parent.name / f"{run.name}.json")
            if "checkpoint" in training:
                check_checkpoint(part, training)


def _manifest(file: Path) -> dict[str, Any]:
    """A step's manifest; nothing where there is none, or another program's file of that name."""
    found = read_json(file) if file.is_file() else None
    return found if isinstance(found, dict) else {}


def _exported_files(folder: Path) -> set[str]:
    """The names of what an earlier export wrote into `folder`."""
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else None
    files = record.get("files") if isinstance(record, dict) else None
    return {*files, RECORD} if isinstance(files, list) else set()


def _official(parts: Parts, folder: Path) -> None:
    family = _family(parts)
    model = _merged_model(parts)
    save_model(model, folder)
    # The vocabulary of two families is the same, and the name of a folder may change.
    named = {"_name_or_path": family}
    write_json(folder / "config.json", _official_values(parts) | config_values(model) | named)
    copy_vocabulary(parts.model, folder)


def _transformers(parts: Parts, folder: Path) -> None:
    family = _family(parts)
    if not isinstance(_skeleton(parts), ChatGLM2ForConditionalGeneration):
        raise WeightsError(
            f"{parts.model}: transformers has no architecture for {get_family(family).title}; "
            "expected ChatGLM2-6B or ChatGLM3-6B; use --format official"
        )
    _refuse_quantized(parts)
    tokenizer: Any = open_tokenizer(parts.model, family)
    processor = read_vocabulary(model_folder(parts.model) / tokenizer.file_name)
    write_fast_tokenizer(processor, tokenizer, folder)
    model = _merged_model(parts)
    config: Any = model.config
    write_weights(folder, glm_state(model.state_dict(), config))
    dtype = config_values(model)["torch_dtype"]
    write_json(folder / "config.json", glm_config(config, tokenizer.stop_token_ids, dtype))


def _thudm_prefix(parts: Parts, folder: Path) -> None:
    if parts.adapter is not None:
        raise ParamsError(
            f"--adapter {parts.adapter}: a prefix checkpoint has no place for an adapter; export "
            "it with --format official"
        )
    # Without --prefix: a checkpoint that holds the complete model and the prefix.
    source = parts.prefix or model_folder(parts.model)
    encoder = read_prefix(_skeleton(parts).prefix_shape(), source)
    write_prefix(encoder, folder)
    values = _official_values(parts)
    sizes = {"pre_seq_len": encoder.pre_seq_len, "prefix_projection": encoder.projection}
    write_json(folder / "config.json", values | sizes)


FORMATS: dict[str, Callable[[Parts, Path], None]] = {
    "official": _official,
    "transformers": _transformers,
    "thudm-prefix": _thudm_prefix,
}


def _merged_model(parts: Parts) -> ChatGLMCausalLM:
    """The model with the adapter merged in; refuses a prefix, given or inside its weights."""
    if parts.prefix is not None:
        raise _unmergeable(f"--prefix {parts.prefix}")
    config = _base_config(parts)
    stored = config.get("torch_dtype") or config.get("dtype") or "float32"
    base = ModelRef(parts.model, family=parts.family)
    model: Any = open_prepared(base, dtype=parts.dtype or stored)
    if model.transformer.prefix_encoder is not None:
        raise _unmergeable(f"{parts.model}: its P-Tuning v2 prefix")
    if parts.adapter is not None:
        load_adapter(model, parts.adapter)
        model = merge_adapter(model, source=str(parts.adapter))
    return model


def _unmergeable(what: str) -> WeightsError:
    return WeightsError(
        f"{what}: a prefix is keys and values beside the weights and cannot be merged into them; "
        "export it with --format thudm-prefix, and give it to the reader beside its base model"
    )


def _refuse_quantized(parts: Parts) -> None:
    bits = _base_config(parts).get("quantization_bit")
    if bits:
        raise WeightsError(
            f"{parts.model}: its weights are quantized to {bits} bits, a layout that transformers "
            "does not read; expected the model in half or full precision"
        )


def _family(parts: Parts) -> str:
    """The family, of which the folder must have the vocabulary."""
    _skeleton(parts)  # says so if the folder is no model, or one of another family
    folder = model_folder(parts.model)
    if not any(folder.glob("*.model")):
        raise WeightsError(
            f"{folder}: a model without a vocabulary; copy ice_text.model (ChatGLM-6B) or "
            "tokenizer.model (ChatGLM2-6B, ChatGLM3-6B) and tokenizer_config.json from its base "
            "model's folder into it"
        )
    return parts.family or detect_family(folder)


def _base_config(parts: Parts) -> dict[str, Any]:
    """The values of the base model's config.json."""
    location = read_location(parts.model)
    return dict(location.get("random") or read_model_config(model_folder(parts.model)))


def _official_values(parts: Parts) -> dict[str, Any]:
    """Those of the base model's config.json that are the architecture's or a published model's."""
    read = {*known_keys(type(_skeleton(parts))), *SPEED_KEYS, *NAMING_KEYS}
    return {name: value for name, value in _base_config(parts).items() if name in read}


def _skeleton(parts: Parts) -> ChatGLMCausalLM:
    """The model without its weights: its architecture and sizes."""
    source = f"{parts.model}: config.json"
    family = parts.family or read_location(parts.model).get("family")
    return build_model(_base_config(parts), family, device="meta", source=source)
