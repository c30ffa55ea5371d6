"""The tokenizers give the official ids and explain invalid vocabulary files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from glmtune.errors import ParamsError, WeightsError
from glmtune.families import chatglm
from glmtune.families.loading import detect_family, load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.families.tokenizers import mark_white_space

TEXTS = [f"类型#裙*颜色#{c}色*风格#{s}" for c in "红黑白蓝" for s in ("简约", "复古", "清新")]
TEXTS += [f"这条{c}色的裙子, {s}大方 for you." for c in "红黑白蓝" for s in ("简约", "复古")]
FAMILY_NAMES = sorted(FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder with a small vocabulary for each family."""
    root = tmp_path_factory.mktemp("vocabularies")
    for name, family in FAMILIES.items():
        family.train_tokenizer(TEXTS, root / name, vocab_size=90)
    return {name: root / name for name in FAMILIES}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: load_tokenizer(folder) for name, folder in folders.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A ChatGLM2 folder whose name and files do not reveal the family unless a test adds it."""
    shutil.copytree(folders["chatglm2-6b"], tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    return tmp_path / "model"


# --- Round trips and special tokens --------------------------------------------------------------


@pytest.mark.parametrize("family_name", ["chatglm2-6b", "chatglm3-6b-base", "glm-4-9b"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")))
def test_every_text_survives_a_round_trip(
    tokenizers: dict[str, Any], family_name: str, text: str
) -> None:
    tokenizer = tokenizers[family_name]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["a\n\n  b\tc", "红色的裙子", "  两格", "鑫🙂", "x" + " " * 81 + "y"]
)
def test_chatglm_keeps_white_space_and_rare_characters(
    tokenizers: dict[str, Any], text: str
) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chatglm_normalizes_full_width_forms(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    assert tokenizer.decode(tokenizer.encode("好，１Ａ　好")) == "好,1A 好"


def test_chatglm_without_dummy_prefix_has_no_leading_blank(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    with_blank = tokenizer.encode("#裙", add_special_tokens=False)
    without = tokenizer.encode("#裙", add_special_tokens=False, add_dummy_prefix=False)
    assert tokenizer.decode([*without, *with_blank]) == "#裙 #裙"


def test_runs_of_spaces_are_split_longest_first() -> None:
    assert mark_white_space("a\n\t  b c") == "a<n><|tab|><|blank_2|>b c"
    assert mark_white_space(" " * 163) == "<|blank_80|><|blank_80|><|blank_3|>"
    assert mark_white_space(" " * 81) == "<|blank_80|> "


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_no_text_produces_a_control_token(tokenizers: dict[str, Any], family_name: str) -> None:
    tokenizer = tokenizers[family_name]
    # ChatGLM-6B lets users type these, like the official tokenizer: see its class.
    typed = getattr(tokenizer, "TEXT_SPECIALS", ())
    for name in [*tokenizer.special_ids, "</s>", "<s>", "<ENC>", "<dBLOCK>"]:
        if name not in typed:
            ids = tokenizer.encode(f"x {name} y", add_special_tokens=False)
            assert not set(ids) & {*tokenizer.special_ids.values(), tokenizer.eos_token_id}
            assert tokenizer.decode(ids) == f"x {name} y"


def test_chatglm_recognizes_a_typed_mask(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    ids = tokenizer.encode("红色 [MASK] 裙子", add_special_tokens=False)
    assert ids.count(tokenizer.mask_token_id) == 1


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_decode_skips_special_padding_and_unknown_ids(
    tokenizers: dict[str, Any], family_name: str
) -> None:
    tokenizer = tokenizers[family_name]
    ids = tokenizer.encode("红色的裙子")
    noise = [*tokenizer.special_ids.values(), tokenizer.pad_token_id, tokenizer.eos_token_id]
    assert tokenizer.decode([*noise, *ids, *noise, tokenizer.vocab_size, 10**6, -1]) == "红色的裙子"


def test_commands_can_be_shown(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    ids = tokenizer.chat_prompt_ids("红色")
    assert tokenizer.decode(ids, skip_special_tokens=False).startswith("[gMASK]sop<|user|>")


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_special_ids_come_from_the_file(
    tokenizers: dict[str, Any],
    tmp_path: Path,
    family_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chatglm, "CONTROLS", [*chatglm.CONTROLS[::-1], "<more>"])
    FAMILIES[family_name].train_tokenizer(TEXTS, tmp_path, vocab_size=70)
    here, there = load_tokenizer(tmp_path), tokenizers[family_name]
    assert here.special_ids["[gMASK]"] != there.special_ids["[gMASK]"]
    for tokenizer in (here, there):
        ids = tokenizer.special_ids
        assert len(set(ids.values())) == len(ids)
        assert max(ids.values()) < tokenizer.vocab_size


def test_chatglm3_stops_where_another_role_begins(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    assert tokenizer.special_ids["<|user|>"] in tokenizer.stop_token_ids
    assert tokenizers["chatglm2-6b"].stop_token_ids == (2,)


@pytest.mark.parametrize(
    ("family_name", "text", "shown"),
    [
        ("chatglm-6b", " 好,好?[[训练时间]] a,b ", "好，好？2023年 a,b"),
        ("chatglm2-6b", " 好,好 ", "好,好"),
        ("chatglm3-6b-base", "\n 好\n好", "好\n好"),
        ("chatglm3-6b-base", "没有换行", "没有换行"),
        ("glm-4-9b", "\n [[训练时间]]好\n好", "2023年好\n好"),
        ("glm-4-9b", 'clock\n{"at": 3}', 'clock\n{"at": 3}'),
    ],
)
def test_answers_are_displayed_as_in_chat(
    tokenizers: dict[str, Any], family_name: str, text: str, shown: str
) -> None:
    assert tokenizers[family_name].process_response(text) == shown


def test_importing_the_tokenizer_imports_no_torch() -> None:
    code = (
        "import sys, glmtune.families, glmtune.families.loading;"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "workflow" / "scripts")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "set()"


# --- Family detection ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "family_name"),
    [
        ("tokenizer_config.json", {"name_or_path": "THUDM/chatglm2-6b-int4"}, "chatglm2-6b"),
        ("tokenizer_config.json", {"name_or_path": "/x/ChatGLM3-6b-32k"}, "chatglm3-6b-base"),
        ("tokenizer_config.json", {"extra": [{"content": "<|user|>"}]}, "chatglm3-6b-base"),
        ("config.json", {"_name_or_path": "THUDM/chatglm3-6b-base"}, "chatglm3-6b-base"),
    ],
)
def test_the_family_is_read_from_the_folder(
    copy: Path, file: str, content: dict[str, Any], family_name: str
) -> None:
    (copy / file).write_text(json.dumps(content), encoding="utf-8")
    assert detect_family(copy) == family_name
    assert isinstance(load_tokenizer(copy), FAMILIES[family_name].tokenizer_class)


def test_the_name_of_the_folder_is_checked_last(copy: Path) -> None:
    assert detect_family(copy.rename(copy.with_name("chatglm3-6b"))) == "chatglm3-6b-base"


def test_an_undecidable_folder_is_explained_and_can_be_named(copy: Path) -> None:
    with pytest.raises(WeightsError, match="ChatGLM2-6B or ChatGLM3-6B"):
        load_tokenizer(copy)
    assert isinstance(
        load_tokenizer(copy, "chatglm3-6b-base"), FAMILIES["chatglm3-6b-base"].tokenizer_class
    )
    with pytest.raises(ParamsError, match="unknown family 'glm4'; choose from chatglm-6b"):
        load_tokenizer(copy, "glm4")


def test_the_vocabulary_file_itself_may_be_named(copy: Path) -> None:
    assert load_tokenizer(copy / "tokenizer.model", "chatglm2-6b").encode("红") != []


# --- Unusable files ------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1018370\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (POINTER, "a Git LFS pointer; expected the vocabulary itself; run `git lfs pull`"),
        (b"", "not a (sentencepiece )?vocabulary.* download it again"),
        (b"<html>404</html>", "not a (sentencepiece )?vocabulary.* download it again"),
    ],
)
@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_a_file_that_is_not_a_vocabulary_is_explained(
    folders: dict[str, Path], tmp_path: Path, family_name: str, content: bytes, complaint: str
) -> None:
    folder = shutil.copytree(folders[family_name], tmp_path / "model")
    (folder / FAMILIES[family_name].tokenizer_class.file_name).write_bytes(content)
    with pytest.raises(WeightsError, match=complaint):
        load_tokenizer(folder)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_cut_off_file_is_explained(copy: Path, kept: float) -> None:
    file = copy / "tokenizer.model"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match="the download was cut off"):
        load_tokenizer(copy, "chatglm2-6b")


def test_a_missing_vocabulary_is_explained(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(WeightsError, match=r"no vocabulary; expected ice_text\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(WeightsError, match=r"ice_text\.model: no such file"):
        load_tokenizer(copy, "chatglm-6b")


def test_a_broken_config_is_explained(copy: Path) -> None:
    (copy / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"tokenizer_config\.json: not a JSON document"):
        load_tokenizer(copy)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"num_image_tokens": 20000}),
        ("config.json", {"vocab_size": 150528}),
    ],
)
def test_the_first_release_of_chatglm_is_refused(
    folders: dict[str, Path], tmp_path: Path, file: str, content: dict[str, Any]
) -> None:
    folder = shutil.copytree(folders["chatglm-6b"], tmp_path / "model")
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(WeightsError, match="first release of ChatGLM-6B"):
        load_tokenizer(folder)


def test_another_models_vocabulary_is_not_mistaken_for_chatglm(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(folders["chatglm2-6b"] / "tokenizer.model", tmp_path / "ice_text.model")
    with pytest.raises(WeightsError, match=r"no token \[MASK\], <sop>, <eop>, <pad>, \[gMASK\]"):
        load_tokenizer(tmp_path)
