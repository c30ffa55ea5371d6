"""Reads and checks params.yaml, and gives each step of the workflow its settings.

params.yaml explains the values, `models` and `checks` restrict them, `reading` parses the file.
Does not know the files of a run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.errors import ParamsError
from glmtune.locations import ADGEN, OWN_DATA, SAMPLE, user_path
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.params.checks import SEED_SUFFIX, UNTUNED, find_mistakes
from glmtune.params.models import ABSENT, Launcher, ParamsFile, Section
from glmtune.params.reading import all_mistakes, read_yaml
from glmtune.params.sentences import show
from glmtune.params.yaml_rules import read_plain
from glmtune.synthetic.example_prompts import EXAMPLE_PROMPTS

# The keys of `dataset:` that say what the splits are made of.
SPLITS = ("train", "dev", "valid")
# The keys of `data:` that are flags of fetch_dataset.py for every kind of data set.
SUBSET_KEYS = ("on_bad_rows", "max_train_rows", "max_dev_rows", "max_leakage")
# The training settings that are flags of finetune_model.py; the others are in its settings file.
TRAINING_FLAGS = ("method", "lr", "max_steps", "batch_size", "seed")
# The keys of `training` that decide nothing of the result: other values rerun no training.
NOT_DECIDING = ("report_to", "launcher")
# Keys that an entry of `methods:` takes from the top level unless it has its own.
KEYS_FROM_TOP_LEVEL = {"ptuning": ("lr", "pre_seq_len")}


@dataclass(frozen=True)
class Run:
    """One cell of the comparison: a model tuned by one entry of `methods:` with one seed.

    `method` names its files: `entry`, the entry's name, and for each seed after the first
    a suffix, as in `lora.seed-43`.
    """

    model: str
    method: str
    entry: str
    seed: int
    is_trained: bool


@dataclass(frozen=True)
class _Source:
    """What one key of `dataset:` names."""

    key: str
    """As params.yaml nests it, for messages."""
    name: str
    """Of its file among the inputs of fetch_dataset."""
    value: str | float
    """A path, one of OWN_DATA, or a share to hold out."""
    flag: str
    share: float | None = ABSENT
    """Of the training rows, for a part that is mixed in."""

    @property
    def is_file(self) -> bool:
        return isinstance(self.value, str) and self.value not in OWN_DATA

    def flags(self, files: Mapping[str, str]) -> list[tuple[str, Any]]:
        """Its flags of `fetch_dataset.py`."""
        if not isinstance(self.value, str):
            return [(f"{self.flag}-share", self.value)]
        value = files[self.name] if self.is_file else self.value
        if self.share is ABSENT:
            return [(self.flag, value)]
        return [("mix", value), ("share", self.share)]


@dataclass(frozen=True)
class Params:
    """A checked params.yaml, complete and typed."""

    file: ParamsFile

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Params:
        """From values without mistakes (`find_mistakes`)."""
        return cls(ParamsFile.model_validate(values))

    @property
    def values(self) -> dict[str, Any]:
        """All values as plain data, with the keys that the file has."""
        return _as_data(self.file)

    @property
    def models(self) -> list[str]:
        """Names of the models, in the file's order."""
        return list(self.file.models)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, the untuned baseline first, then in the file's order.

        A method that is trained with several seeds has a name for each.
        """
        names = []
        for name in sorted(self.file.methods, key=self.trains):
            further = self.seeds[1:] if self.trains(name) else []
            names += [name, *(f"{name}{SEED_SUFFIX}{seed}" for seed in further)]
        return names

    @property
    def seeds(self) -> list[int]:
        """The training seeds, at least one."""
        return list(self.file.seeds) or [self.file.seed]

    @property
    def runs(self) -> list[Run]:
        """Every (model, method), in the order of the report."""
        return [
            Run(
                model,
                method,
                self.entry_of(method),
                self.seed_of(method),
                is_trained=self.trains(method),
            )
            for model in self.models
            for method in self.methods
        ]

    def family(self, model: str) -> str:
        """The family of a model, e.g. `chatglm2-6b`."""
        return self.file.models[model].family or model

    def is_miniature(self, model: str) -> bool:
        """Whether a model is trained here from scratch."""
        return self.file.models[model].source == "miniature"

    def entry_of(self, method: str) -> str:
        """The entry of `methods:`, e.g. `lora` of `lora.seed-43`."""
        return method.partition(SEED_SUFFIX)[0]

    def seed_of(self, method: str) -> int:
        """The seed that a method is trained with, e.g. 43 for `lora.seed-43`."""
        _, _, further = method.partition(SEED_SUFFIX)
        return int(further) if further else self.seeds[0]

    def tuning_method(self, method: str) -> str:
        """The tuning method of its entry: none, ptuning, lora or full."""
        return self.file.methods[self.entry_of(method)].method

    def trains(self, method: str) -> bool:
        """Whether its entry trains anything."""
        return self.tuning_method(method) != UNTUNED

    def dataset_flags(self, files: Mapping[str, str]) -> str:
        """The flags of `fetch_dataset.py`; `files` are paths for those of `dataset_files`."""
        dataset, data = self.file.dataset, self.file.data
        flags: list[tuple[str, Any]] = [("seed", self.file.seed)]
        if isinstance(dataset, str):
            flags = [(dataset, None), *self._flags_of_own(dataset), *flags]
        else:
            sources = list(self._sources())
            flags = [flag for each in sources for flag in each.flags(files)] + flags
            flags += [(key, value) for key, value in dataset if value and key not in SPLITS]
            flags += [] if self.takes_tools() else [("no-tools", None)]
            for name in dict.fromkeys(each.value for each in sources):
                flags += self._flags_of_own(name)
        subset = ((key, getattr(data, key)) for key in SUBSET_KEYS)
        flags += [(key, value) for key, value in subset if value is not None]
        return " ".join(_flag(name, value) for name, value in flags)

    def _flags_of_own(self, name: str | float) -> list[tuple[str, Any]]:
        """What `fetch_dataset.py` needs for one of OWN_DATA."""
        if name == SAMPLE:
            return list(self.file.sample)
        if name == ADGEN:
            return [("adgen-source", source) for source in self.file.data.adgen_sources]
        return []

    def _sources(self) -> Iterator[_Source]:
        """What `dataset:` names: files, names of the project's own, shares to hold out."""
        dataset = self.file.dataset
        if isinstance(dataset, str):
            return
        if isinstance(dataset.train, str):
            yield _Source("dataset.train", "train", dataset.train, "train")
        else:
            for place, part in enumerate(dataset.train):
                key, name = f"dataset.train.{place}.path", f"train_{place}"
                yield _Source(key, name, part.path, "train", part.share)
        yield _Source("dataset.dev", "dev", dataset.dev, "dev")
        if dataset.valid is not ABSENT:
            yield _Source("dataset.valid", "valid", dataset.valid, "valid")

    def dataset_files(self) -> dict[str, Path]:
        """The user's own files, e.g. `{"train": path, "dev": path}`; `{}` if there are none.

        Raises ParamsError for a file that is not there.
        """
        files = {}
        for source in self._sources():
            if not source.is_file:
                continue
            path = files[source.name] = user_path(str(source.value))
            if not path.is_file():
                raise ParamsError(
                    f"params.yaml: {source.key}: no such file {source.value!r} "
                    f"({path}); a relative path starts at the root of the repository"
                )
        return files

    @property
    def has_valid(self) -> bool:
        """Whether other rows than the dev rows choose the best step of a training."""
        return any(source.name == "valid" for source in self._sources())

    @property
    def examples(self) -> list[str]:
        """The prompts whose answers the report shows; none if it shows dev rows."""
        if self.file.examples != "auto":
            return list(self.file.examples)
        if isinstance(self.file.dataset, str):
            return EXAMPLE_PROMPTS[self.file.dataset]
        own = {each.value for each in self._sources() if each.share is ABSENT}
        named = {value for value in own if isinstance(value, str)}
        return EXAMPLE_PROMPTS.get(named.pop(), []) if len(named) == 1 else []

    def token_limits(self) -> dict[str, Any]:
        """The limits of prompts and answers, in tokens, and how overlong histories are cut."""
        keys = ("max_source_tokens", "max_target_tokens", "long_history")
        return {key: getattr(self.file, key) for key in keys}

    def model_settings(self, model: str) -> dict[str, Any]:
        """The settings that decide a model's weights and vocabulary."""
        entry, file = self.file.models[model], self.file
        settings = {**_as_data(entry), "family": self.family(model), "seed": file.seed}
        if entry.source in ("miniature", "random"):  # the latter for its vocabulary
            settings |= {"miniature": _as_data(file.miniature), "torch_threads": file.torch_threads}
        return settings

    def training_settings(self, method: str) -> dict[str, Any]:
        """The settings that decide a training, given its model and data."""
        entry, file = self.file.methods[self.entry_of(method)], self.file
        settings = {
            "seed": self.seed_of(method),
            "torch_threads": file.torch_threads,
            "quantization_bit": file.quantization_bit,
            **_as_data(file.training),
            **{key: getattr(file, key) for key in KEYS_FROM_TOP_LEVEL.get(entry.method, ())},
            **_as_data(entry),
        }
        return {key: value for key, value in settings.items() if key not in NOT_DECIDING}

    def trackers(self, method: str) -> list[str]:
        """The programs that show the losses of a method's trainings: `report_to`."""
        names: list[str] = self._own_or_default(method, "report_to")
        return list(names)

    def launcher(self, method: str) -> Launcher:
        """How many processes train with a method, and what is sharded across them."""
        launcher: Launcher = self._own_or_default(method, "launcher")
        return launcher

    def _own_or_default(self, method: str, key: str) -> Any:
        """A value of a method's entry, or that of `training`."""
        own = getattr(self.file.methods[self.entry_of(method)], key, ABSENT)
        return getattr(self.file.training, key) if own is ABSENT else own

    def training_flags(self, method: str) -> dict[str, Any]:
        """The training settings that are flags of `finetune_model.py`."""
        settings = self.training_settings(method)
        return {key: settings[key] for key in TRAINING_FLAGS}

    def other_training_settings(self, method: str) -> dict[str, Any]:
        """The training settings in the settings file of `finetune_model.py`."""
        settings = self.training_settings(method)
        return {key: value for key, value in settings.items() if key not in TRAINING_FLAGS}

    def template(self, model: str) -> str | None:
        """The name of a model's prompt template; None: the default of its family."""
        return self.file.models[model].template

    def takes_tools(self) -> bool:
        """Whether every model's template has a place for tools."""
        from glmtune.families.registry import (
            get_family,  # slow to import; only needed for the user's own data
        )

        return all(
            get_family(self.family(model)).template(self.template(model)).takes_tools
            for model in self.models
        )

    def template_flag(self, model: str) -> str:
        """The flag of `tokenize_dataset.py` for a model's template, if it names one."""
        template = self.template(model)
        return _flag("template", template) if template else ""

    def generation_settings(self, model: str) -> dict[str, Any]:
        """The settings that decide predictions, given weights and prompts."""
        protocol = PROTOCOLS[self.file.protocol]
        keys = ("seed", "torch_threads", "max_source_tokens", "quantization_bit")
        return {
            **{key: getattr(self.file, key) for key in keys},
            "long_history": protocol.long_history or self.file.long_history,
            **_as_data(self.file.generation),
            **(protocol.decoding or {}),
            "reference_tokens": protocol.reference_tokens,
            "template": self.template(model),
        }


def each_settings(params: Params) -> Iterator[Any]:
    """The content of every step's settings file (`workspace.step_settings`)."""
    yield params.values
    yield [vars(run) for run in params.runs]
    yield params.examples
    for model in params.models:
        yield params.model_settings(model)
        yield params.generation_settings(model)
    yield from map(params.other_training_settings, filter(params.trains, params.methods))


def read_params(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read and check params.yaml; `overrides` are Snakemake's `--config` values.

    Raises ParamsError with every mistake, one per line.
    """
    values = read_yaml(Path(path))
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: found {show(values)}; expected `key: value` lines")
    values = _merge(values, overrides or {})
    mistakes = list(find_mistakes(values))
    if mistakes:
        raise all_mistakes(path, mistakes)
    return Params.of(values)


def _merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = read_plain(value) if isinstance(value, str) else value
    return merged


def _as_data(section: Section) -> dict[str, Any]:
    """A section as plain data, with the keys that the file has."""
    return section.model_dump(exclude_unset=True)


def _flag(name: str, value: Any) -> str:
    """A flag of a script, e.g. ("max_train_rows", 100) -> "--max-train-rows 100"."""
    flag = f"--{name.replace('_', '-')}"
    return flag if value is None else f"{flag} {shlex.quote(str(value))}"
