"""params.yaml: what is refused, in which words, and what each step is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from glmtune.errors import ParamsError
from glmtune.params import Params, find_mistakes, read_params

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]


@pytest.fixture
def values() -> dict[str, Any]:
    return dict(read_params(ROOT / "presets/smoke.yaml").values)


def mistakes_with(values: dict[str, Any], key: str, value: Any) -> list[str]:
    section = values
    *sections, last = key.split(".")
    for name in sections:
        section[name] = dict(section[name])
        section = section[name]
    section[last] = value
    return list(find_mistakes(values))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_is_valid(path: Path) -> None:
    assert read_params(path).runs


@pytest.mark.parametrize("text", ["1e-2", "0.01", "1E-2", ".01", "1.0e-2"])
def test_a_number_may_be_written_in_any_way(tmp_path: Path, text: str) -> None:
    smoke = (ROOT / "presets/smoke.yaml").read_text(encoding="utf-8")
    file = tmp_path / "params.yaml"
    file.write_text(smoke.replace("\nlr: 2e-2", f"\nlr: {text}"), encoding="utf-8")
    assert read_params(file)["lr"] == 0.01


def test_a_number_on_the_command_line_is_a_number() -> None:
    assert read_params(ROOT / "params.yaml", overrides={"lr": "1e-2"})["lr"] == 0.01


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", "fast", 'lr: found "fast"; expected a number'),
        ("lr", 0, "lr: found 0; expected more than 0"),
        ("pre_seq_len", 1.5, "pre_seq_len: found 1.5; expected a whole number"),
        ("pre_seq_len", 0, "pre_seq_len: found 0; expected at least 1"),
        ("dataset", "adgenn", 'dataset: found "adgenn"; expected one of "sample"'),
        ("quantization_bit", 3, "quantization_bit: found 3; expected one of null, 8, 4"),
        ("generation.top_p", 1.2, "generation.top_p: found 1.2; expected at most 1"),
        ("generation.do_sample", 1, "generation.do_sample: found 1; expected true or false"),
        ("models", {}, "models: found {}; expected at least one entry"),
        (
            "models.glm4",
            {"source": "miniature"},
            'models: unknown "glm4"; known: chatglm-6b, chatglm2-6b, chatglm3-6b-base; '
            "or give the entry a `generation:`",
        ),
        (
            "methods.qlora",
            {},
            'methods.qlora: unknown method "qlora"; known: none, ptuning, lora, full; '
            "or give the entry a `method:`",
        ),
        ("methods.full", {}, "methods.full: missing key 'lr'"),
        ("methods.none", {"lr": 1}, "methods.none: unknown key 'lr'; known keys: method"),
        (
            "models.chatglm-6b",
            {"source": "miniature", "config": {}},
            "models.chatglm-6b.config: only for source random; found miniature",
        ),
        (
            "miniature.hidden_size",
            40,
            "miniature.hidden_size: found 40; expected a multiple of 8 x num_heads = 16 "
            "(rotary positions need heads of a multiple of 8)",
        ),
    ],
)
def test_a_mistake_is_one_line_with_key_finding_and_choice(
    values: dict[str, Any], key: str, value: Any, message: str
) -> None:
    assert mistakes_with(values, key, value) == [message]


def test_an_unknown_key_is_answered_with_the_nearest(values: dict[str, Any]) -> None:
    (mistake,) = mistakes_with(values, "lrr", 1)
    assert mistake.startswith("unknown key 'lrr'; known keys: dataset, ")
    assert mistake.endswith("Did you mean 'lr'?")


def test_all_mistakes_are_reported_together(tmp_path: Path, values: dict[str, Any]) -> None:
    file = tmp_path / "params.yaml"
    values |= {"lr": "fast", "seed": -1}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        read_params(file)
    assert str(caught.value).splitlines() == [
        f'{file}: lr: found "fast"; expected a number',
        f"{file}: seed: found -1; expected at least 0",
    ]


def test_packed_weights_and_full_fine_tuning_exclude_each_other(values: dict[str, Any]) -> None:
    (mistake,) = mistakes_with(values, "quantization_bit", 4)
    assert "methods.full trains every weight" in mistake


def test_a_hub_id_needs_a_pinned_commit(values: dict[str, Any]) -> None:
    entry = {"source": "someone/chatglm2-6b"}
    (mistake,) = mistakes_with(values, "models.chatglm2-6b", entry)
    assert mistake.startswith("models.chatglm2-6b.revision: missing; a hub id needs the 40 digits")
    assert mistakes_with(values, "models.chatglm2-6b", entry | {"revision": "a" * 40}) == []


def test_the_top_level_knobs_belong_to_ptuning(values: dict[str, Any]) -> None:
    values["lr"], values["pre_seq_len"] = 0.5, 7
    params = Params(values)
    ptuning = params.training_settings("ptuning")
    assert (ptuning["lr"], ptuning["pre_seq_len"]) == (0.5, 7)
    for method in ("lora", "full"):
        settings = params.training_settings(method)
        assert settings["lr"] != 0.5
        assert "pre_seq_len" not in settings


def test_an_entry_of_methods_overrides_the_shared_training(values: dict[str, Any]) -> None:
    values["methods"] = {"long": {**values["methods"]["ptuning"], "method": "ptuning", "lr": 0.3}}
    values["methods"]["long"]["max_steps"] = 99
    settings = Params(values).training_settings("long")
    assert (settings["method"], settings["lr"], settings["max_steps"]) == ("ptuning", 0.3, 99)


def test_decoding_decides_no_training(values: dict[str, Any]) -> None:
    params = Params(values)
    decoding = set(values["generation"]) - set(values["training"])
    assert not decoding & set(params.training_settings("lora"))


def test_the_untuned_run_comes_first(values: dict[str, Any]) -> None:
    values["methods"] = {"lora": values["methods"]["lora"], "none": {}}
    assert Params(values).methods == ["none", "lora"]


def test_every_key_of_the_default_file_is_explained() -> None:
    """Each key has a comment above it, or above the keys it stands with."""
    explained, lines = False, (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line.strip():
            explained = False
        elif line.lstrip().startswith("#"):
            explained = True
        else:
            assert explained, f"no comment above {line!r}"
