"""What the models of a params.yaml need here: their weights, memory and disk.

Miniatures are built by the workflow itself and fit everywhere; they are not looked at.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from findings import Finding  # noqa: E402

from glmtune.checkpoints.sources import (  # noqa: E402
    hub_snapshot,
    is_vocabulary,
    modelscope_folder,
)
from glmtune.checkpoints.weight_files import check_is_content, weight_files  # noqa: E402
from glmtune.errors import UserError, WeightsError  # noqa: E402
from glmtune.families.registry import get_family  # noqa: E402
from glmtune.locations import MODELSCOPE, kind_of_source, user_path  # noqa: E402
from glmtune.params.models import Model  # noqa: E402
from glmtune.params.values import Params  # noqa: E402
from glmtune.workspace.gpus import visible_gpus  # noqa: E402

GIB, GB = 1024**3, 1e9
# Of the published models; a miniature has a million, which no disk notices.
REAL_PARAMETERS = dict.fromkeys(("chatglm-6b", "chatglm2-6b", "chatglm3-6b-base"), 6.2e9)
REAL_PARAMETERS |= {"glm-4-9b": 9.4e9}
# A hub's fp16 files; a checkpoint of full fine-tuning in fp32, in the store and once more in DVC's
# cache; what a training saves to resume from: weights and two moments, in fp32, and for a moment
# twice, because a checkpoint stays until the next one has been read back.
BYTES_DOWNLOADED, BYTES_OF_FULL, BYTES_TO_RESUME = 2, 2 * 4, 2 * 3 * 4
# An adapter or prefix with its optimiser, predictions and scores: well below this.
BYTES_OF_A_RUN = 0.5 * GIB


def real_models(params: Params) -> list[str]:
    """The models that are not miniatures."""
    return [name for name in params.models if _kind(params, name) != "miniature"]


def _kind(params: Params, model: str) -> str:
    return kind_of_source(params.file.models[model].source)


def weights(params: Params) -> Iterator[Finding]:
    """Whether each model's files are here, whole, or have to be downloaded."""
    for model in real_models(params):
        entry, kind = params.file.models[model], _kind(params, model)
        if kind == "folder":
            yield _complete(model, user_path(entry.source))
        elif kind != "random":
            folder = cached(entry)
            missing = _to_be_downloaded(model, entry, params.family(model))
            yield _complete(model, folder) if folder else missing


def _to_be_downloaded(model: str, entry: Model, family: str) -> Finding:
    size = BYTES_DOWNLOADED * REAL_PARAMETERS[family] / GB
    return Finding(
        f"{model}: {entry.source} is not on this machine yet",
        f"the first run downloads about {size:.0f} GB; without a network, download it elsewhere "
        "and set source to that folder",
    )


def cached(entry: Model) -> Path | None:
    """The folder of a published model, if it has been downloaded."""
    if kind_of_source(entry.source) == "modelscope":
        folder = modelscope_folder(entry.source.removeprefix(MODELSCOPE), entry.revision)
        return None if _complete("", folder).stops else folder
    try:
        return hub_snapshot(entry.source, entry.revision, local_only=True)
    except WeightsError:
        return None


def _complete(model: str, folder: Path) -> Finding:
    """A model's folder: config.json, all weights, a vocabulary, and none of them a pointer."""
    try:
        files = weight_files(folder)
        for file in files:
            check_is_content(file)
    except (UserError, OSError) as error:
        return Finding(f"{model}: incomplete weights", str(error), stops=True)
    needs = {
        "config.json": (folder / "config.json").is_file(),
        "vocabulary (ice_text.model, tokenizer.model or tokenizer.json)": any(
            map(is_vocabulary, folder.iterdir())
        ),
    }
    missing = [need for need, is_there in needs.items() if not is_there]
    if missing:
        fix = "download it into the same folder"
        return Finding(f"{model}: no {' and no '.join(missing)} in {folder}", fix, stops=True)
    size = sum(file.stat().st_size for file in files)
    return Finding(f"{model}: {size / GB:.1f} GB of weights in {folder}")


def memory(params: Params) -> Iterator[Finding]:
    """The expected peak of each training against the free memory."""
    tuned = [name for name in params.file.methods if params.trains(name)]
    models = real_models(params)
    if not models or not tuned:
        return
    try:  # takes seconds, which only real models are worth
        from glmtune.devices import choose_device
        from glmtune.tuning.memory_estimate import free_memory
    except ImportError:
        return  # the check of packages has said so

    device = choose_device()
    for model in models:
        for method in tuned:
            yield from _memory_of(params, model, method, device, free_memory(device))


def _memory_of(
    params: Params, model: str, method: str, device: Any, free: float
) -> Iterator[Finding]:
    from glmtune.tuning.memory_estimate import BatchShape, advice, estimate_memory
    from glmtune.tuning.registry import get_method
    from glmtune.tuning.settings import settings_class

    config, values = config_of(params, model), params.training_settings(method)
    values["quantization_bit"] = values["quantization_bit"] or config.get("quantization_bit")
    settings = settings_class(values)(**values)
    length = params.file.max_source_tokens + params.file.max_target_tokens
    launcher = params.launcher(method)
    count = _processes(launcher.processes)
    rows = settings.rows_of_process(count)
    batch = BatchShape(rows, length, params.file.max_target_tokens)
    try:
        need = estimate_memory(config, get_method(settings.method), settings, batch, device)
        sharding = launcher.sharding if count > 1 else "none"
        need = need.of_process(count, sharding)
    except UserError as error:
        yield Finding(f"{model}, {method}: cannot be trained", str(error), stops=True)
        return
    where = "RAM" if device.name == "cpu" else "GPU memory"
    if device.name == "cpu":
        free /= count
    each = f" for each of {count} processes" if count > 1 else ""
    what = f"{model}, {method}: up to about {need}; {free / GB:.0f} GB of {where} are free{each}"
    fits_never = need.fixed > free
    fix = advice(settings, sharding, batch_helps=not fits_never) if need.total > free else ""
    yield Finding(what, fix, stops=fits_never)


def _processes(wanted: int | str) -> int:
    """The number of processes on this machine; `all` is one for each GPU."""
    return int(wanted) if wanted != "all" else len(visible_gpus()) or 1


def config_of(params: Params, model: str) -> dict[str, Any]:
    """The values of a model's config.json, or of the published one where it is not here."""
    from glmtune.checkpoints.loading import read_model_config

    entry, published = params.file.models[model], get_family(params.family(model)).real_config
    kind = _kind(params, model)
    folder = user_path(entry.source) if kind in ("folder", "random") else cached(entry)
    if kind == "random" or folder is None or not (folder / "config.json").is_file():
        return {**published, **(entry.config or {})}
    try:
        return read_model_config(folder)
    except WeightsError:
        return dict(published)


def disk(params: Params, store: Path) -> Iterator[Finding]:
    """Free space against a generous estimate of what this params.yaml writes."""
    needed = 0.0
    full = [method for method in params.methods if params.tuning_method(method) == "full"]
    for model in real_models(params):
        is_published = _kind(params, model) not in ("folder", "random")
        is_missing = is_published and not cached(params.file.models[model])
        needed += len(params.methods) * BYTES_OF_A_RUN
        parameters = REAL_PARAMETERS[params.family(model)]
        needed += is_missing * BYTES_DOWNLOADED * parameters
        needed += len(full) * BYTES_OF_FULL * parameters
        needed += bool(full) * BYTES_TO_RESUME * parameters
    free = shutil.disk_usage(next(p for p in (store, *store.parents) if p.exists())).free
    needed = max(needed, GIB)
    fix = f"free some (make clean-store), or set GLMTUNE_STORE to a larger disk (now {store})"
    yield Finding(
        f"disk: {free / GIB:.0f} GiB free, up to about {needed / GIB:.0f} GiB needed",
        fix if free < needed else "",
    )
