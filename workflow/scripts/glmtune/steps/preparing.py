"""Prepares a base model of any source; the manifest identifies its weights and vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from glmtune.checkpoints.other_models import refuse_other_models
from glmtune.checkpoints.sources import (
    LOCATION,
    hash_model,
    hub_snapshot,
    is_vocabulary,
    local_folder,
    model_files,
    model_folder,
    modelscope_folder,
    open_tokenizer,
    read_location,
)
from glmtune.errors import WeightsError
from glmtune.families.registry import get_family
from glmtune.files import read_json, write_json
from glmtune.locations import MODELSCOPE, kind_of_source
from glmtune.miniatures.corpus import write_vocabulary
from glmtune.miniatures.settings import ModelSettings
from glmtune.steps.inputs_outputs import Outputs
from glmtune.workspace.provenance import recorded_runtime


def prepare(*, settings: ModelSettings, outputs: Outputs) -> None:
    """Write model/, manifest.json and runtime.json into `outputs.out_dir`.

    Raises WeightsError for a folder without config, weights or vocabulary.
    """
    out_dir = outputs.out_dir
    folder = out_dir / "model"
    folder.mkdir(parents=True)
    kind = kind_of_source(settings.source)
    with recorded_runtime(out_dir / "runtime.json"):
        PREPARE[kind](settings, folder, outputs.resume_dir)
        _check_model(folder, settings.family)
        files = hash_model(folder)
    manifest = {"family": settings.family, "source": kind, "files": files}
    write_json(out_dir / "manifest.json", manifest | _random_identity(folder))


def _check_model(folder: Path, family: str) -> None:
    """Refuse a model of no family here, and more tokens than the model has embeddings."""
    tokens = open_tokenizer(folder, family).vocab_size
    source = model_folder(folder) / "config.json"
    config = read_location(folder).get("random") or read_json(source)
    refuse_other_models(config, str(source))
    embeddings = config.get("padded_vocab_size", config.get("vocab_size"))
    if isinstance(embeddings, int) and tokens > embeddings:
        raise WeightsError(
            f"{model_folder(folder)}: found a vocabulary of {tokens} tokens for a model with "
            f"{embeddings} embeddings; use the vocabulary that belongs to the model"
        )


def _random_identity(folder: Path) -> dict[str, Any]:
    """A random model has no weight files: its configuration and seed identify it."""
    location = read_location(folder)
    return {key: location[key] for key in ("random", "seed") if key in location}


def _prepare_miniature(settings: ModelSettings, folder: Path, resume_dir: Path) -> None:
    # Imported here: the other sources need no torch.
    from glmtune.miniatures.building import build_miniature

    build_miniature(settings, folder, resume_dir)


def _prepare_random(settings: ModelSettings, folder: Path, resume_dir: Path) -> None:
    write_vocabulary(settings, folder)
    config = {**get_family(settings.family).real_config, **(settings.config or {})}
    family = {"family": settings.family}
    write_json(folder / LOCATION, {"random": config, "seed": settings.seed} | family)


def _prepare_folder(settings: ModelSettings, folder: Path, resume_dir: Path) -> None:
    _check_complete(local_folder(settings.source))
    location = {"folder": settings.source, "family": settings.family}
    write_json(folder / LOCATION, location)


def _prepare_hub(settings: ModelSettings, folder: Path, resume_dir: Path) -> None:
    assert settings.revision is not None, "params.yaml was checked"
    _check_complete(hub_snapshot(settings.source, settings.revision))
    location = {"hub": settings.source, "revision": settings.revision}
    write_json(folder / LOCATION, location | {"family": settings.family})


def _prepare_modelscope(settings: ModelSettings, folder: Path, resume_dir: Path) -> None:
    # Imported here: the other sources need none of it.
    from glmtune.hubs.downloading import download_model, is_complete
    from glmtune.hubs.sites import SITES

    assert settings.revision is not None, "params.yaml was checked"
    name = settings.source.removeprefix(MODELSCOPE)
    weights = modelscope_folder(name, settings.revision)
    if not is_complete(weights):
        download_model(name, weights, {"modelscope": SITES["modelscope"]}, settings.revision)
    _check_complete(weights)
    location = {"modelscope": name, "revision": settings.revision}
    write_json(folder / LOCATION, location | {"family": settings.family})


def _check_complete(folder: Path) -> None:
    names = [path.name for path in model_files(folder)]
    needs = {
        "config.json": any(name == "config.json" for name in names),
        "weights (pytorch_model*.bin or model*.safetensors)": any(
            name.endswith((".bin", ".safetensors")) for name in names
        ),
        "a vocabulary (ice_text.model, tokenizer.model or tokenizer.json)": any(
            map(is_vocabulary, model_files(folder))
        ),
    }
    missing = [need for need, is_there in needs.items() if not is_there]
    if missing:
        raise WeightsError(
            f"{folder}: not a complete model folder; missing: {'; '.join(missing)}; download them, "
            "or copy a tuned model's vocabulary from its base model's folder"
        )


PREPARE: dict[str, Callable[[ModelSettings, Path, Path], None]] = {
    "miniature": _prepare_miniature,
    "random": _prepare_random,
    "folder": _prepare_folder,
    "hub": _prepare_hub,
    "modelscope": _prepare_modelscope,
}
