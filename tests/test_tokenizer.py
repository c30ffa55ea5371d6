"""The tokenizers give the official ids, and say what is wrong with a vocabulary file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SHARED
from hypothesis import given
from hypothesis import strategies as st

from glmtune.errors import ParamsError, WeightsError
from glmtune.families import FAMILIES, chatglm
from glmtune.tokenizer import TOKENIZERS, detect_generation, load_tokenizer, mark_white_space

TEXTS = [f"类型#裙*颜色#{c}色*风格#{s}" for c in "红黑白蓝" for s in ("简约", "复古", "清新")]
TEXTS += [f"这条{c}色的裙子, {s}大方 for you." for c in "红黑白蓝" for s in ("简约", "复古")]
GENERATIONS = sorted(TOKENIZERS)
VERSIONS = {"chatglm-6b": "v1", "chatglm2-6b": "v2", "chatglm3-6b-base": "v3"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder with a small vocabulary for each generation."""
    root = tmp_path_factory.mktemp("vocabularies")
    for name, family in FAMILIES.items():
        family.train_tokenizer(TEXTS, root / name, vocab_size=90)
    return {name: root / name for name in FAMILIES}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: load_tokenizer(folder) for name, folder in folders.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A ChatGLM2 folder whose name and files tell nothing but what a test writes into them."""
    shutil.copytree(folders["chatglm2-6b"], tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    return tmp_path / "model"


# --- Round trips and special tokens --------------------------------------------------------------


@pytest.mark.parametrize("generation", ["chatglm2-6b", "chatglm3-6b-base"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")))
def test_every_text_survives_a_round_trip(
    tokenizers: dict[str, Any], generation: str, text: str
) -> None:
    tokenizer = tokenizers[generation]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["a\n\n  b\tc", "红色的裙子", "  两格", "鑫🙂", "x" + " " * 81 + "y"]
)
def test_chatglm_keeps_white_space_and_rare_characters(
    tokenizers: dict[str, Any], text: str
) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chatglm_normalises_full_width_forms(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    assert tokenizer.decode(tokenizer.encode("好，１Ａ　好")) == "好,1A 好"


def test_chatglm_without_dummy_prefix_has_no_leading_blank(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    with_blank = tokenizer.encode("#裙", add_special_tokens=False)
    without = tokenizer.encode("#裙", add_special_tokens=False, add_dummy_prefix=False)
    assert tokenizer.decode([*without, *with_blank]) == "#裙 #裙"


def test_runs_of_blanks_are_cut_longest_first() -> None:
    assert mark_white_space("a\n\t  b c") == "a<n><|tab|><|blank_2|>b c"
    assert mark_white_space(" " * 163) == "<|blank_80|><|blank_80|><|blank_3|>"
    assert mark_white_space(" " * 81) == "<|blank_80|> "


@pytest.mark.parametrize("generation", GENERATIONS)
def test_no_text_makes_a_control_token(tokenizers: dict[str, Any], generation: str) -> None:
    tokenizer = tokenizers[generation]
    # In ChatGLM-6B a user may type these, as in the official tokenizer: see its class.
    typed = getattr(tokenizer, "TEXT_SPECIALS", ())
    for name in [*tokenizer.special_ids, "</s>", "<s>", "<ENC>", "<dBLOCK>"]:
        if name not in typed:
            ids = tokenizer.encode(f"x {name} y", add_special_tokens=False)
            assert not set(ids) & {*tokenizer.special_ids.values(), tokenizer.eos_token_id}
            assert tokenizer.decode(ids) == f"x {name} y"


def test_chatglm_recognises_a_typed_mask(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm-6b"]
    ids = tokenizer.encode("红色 [MASK] 裙子", add_special_tokens=False)
    assert ids.count(tokenizer.mask_token_id) == 1


@pytest.mark.parametrize("generation", GENERATIONS)
def test_decode_leaves_out_special_padding_and_unknown_ids(
    tokenizers: dict[str, Any], generation: str
) -> None:
    tokenizer = tokenizers[generation]
    ids = tokenizer.encode("红色的裙子")
    noise = [*tokenizer.special_ids.values(), tokenizer.pad_token_id, tokenizer.eos_token_id]
    assert tokenizer.decode([*noise, *ids, *noise, tokenizer.vocab_size, 10**6, -1]) == "红色的裙子"


def test_commands_can_be_shown(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatglm3-6b-base"]
    ids = tokenizer.chat_prompt_ids("红色")
    assert tokenizer.decode(ids, skip_special_tokens=False).startswith("[gMASK]sop<|user|>")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_special_ids_come_from_the_file(
    tokenizers: dict[str, Any],
    tmp_path: Path,
    generation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chatglm, "CONTROLS", [*chatglm.CONTROLS[::-1], "<more>"])
    FAMILIES[generation].train_tokenizer(TEXTS, tmp_path, vocab_size=70)
    here, there = load_tokenizer(tmp_path), tokenizers[generation]
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
    ("generation", "text", "shown"),
    [
        ("chatglm-6b", " 好,好?[[训练时间]] a,b ", "好，好？2023年 a,b"),
        ("chatglm2-6b", " 好,好 ", "好,好"),
        ("chatglm3-6b-base", "\n 好\n好", "好\n好"),
        ("chatglm3-6b-base", "没有换行", "没有换行"),
    ],
)
def test_answers_are_shown_as_chat_shows_them(
    tokenizers: dict[str, Any], generation: str, text: str, shown: str
) -> None:
    assert tokenizers[generation].process_response(text) == shown


def test_importing_the_tokenizer_imports_no_torch() -> None:
    code = (
        "import sys, glmtune.families, glmtune.tokenizer;"
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


# --- Which generation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "generation"),
    [
        ("tokenizer_config.json", {"name_or_path": "THUDM/chatglm2-6b-int4"}, "chatglm2-6b"),
        ("tokenizer_config.json", {"name_or_path": "/x/ChatGLM3-6b-32k"}, "chatglm3-6b-base"),
        ("tokenizer_config.json", {"extra": [{"content": "<|user|>"}]}, "chatglm3-6b-base"),
        ("config.json", {"_name_or_path": "THUDM/chatglm3-6b-base"}, "chatglm3-6b-base"),
    ],
)
def test_the_generation_is_read_from_the_folder(
    copy: Path, file: str, content: dict[str, Any], generation: str
) -> None:
    (copy / file).write_text(json.dumps(content), encoding="utf-8")
    assert detect_generation(copy) == generation
    assert isinstance(load_tokenizer(copy), TOKENIZERS[generation])


def test_the_folder_s_own_name_decides_last(copy: Path) -> None:
    assert detect_generation(copy.rename(copy.with_name("chatglm3-6b"))) == "chatglm3-6b-base"


def test_an_undecidable_folder_is_explained_and_can_be_named(copy: Path) -> None:
    with pytest.raises(WeightsError, match="ChatGLM2-6B or ChatGLM3-6B"):
        load_tokenizer(copy)
    assert isinstance(load_tokenizer(copy, "chatglm3-6b-base"), TOKENIZERS["chatglm3-6b-base"])
    with pytest.raises(ParamsError, match="unknown generation 'glm4'; choose from chatglm-6b"):
        load_tokenizer(copy, "glm4")


def test_the_vocabulary_file_itself_may_be_named(copy: Path) -> None:
    assert load_tokenizer(copy / "tokenizer.model", "chatglm2-6b").encode("红") != []


# --- Unusable files ------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1018370\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (POINTER, "a Git LFS pointer; expected the vocabulary itself; run `git lfs pull`"),
        (b"", r"not a sentencepiece vocabulary \(0 bytes\)"),
        (b"<html>404</html>", "not a sentencepiece vocabulary"),
    ],
)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_file_that_is_no_vocabulary_is_explained(
    folders: dict[str, Path], tmp_path: Path, generation: str, content: bytes, complaint: str
) -> None:
    folder = shutil.copytree(folders[generation], tmp_path / "model")
    (folder / TOKENIZERS[generation].file_name).write_bytes(content)
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


def test_another_model_s_vocabulary_is_not_taken_for_chatglm(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(folders["chatglm2-6b"] / "tokenizer.model", tmp_path / "ice_text.model")
    with pytest.raises(WeightsError, match=r"no token \[MASK\], <sop>, <eop>, <pad>, \[gMASK\]"):
        load_tokenizer(tmp_path)


# --- The official tokenizers ---------------------------------------------------------------------


def read_golden(reference: Path, generation: str) -> tuple[Any, dict[str, Any]]:
    folder = reference / VERSIONS[generation]
    golden = json.loads((folder / "tokenizer_golden.json").read_text(encoding="utf-8"))
    return load_tokenizer(folder / "checkpoint"), golden


@pytest.mark.parametrize("generation", GENERATIONS)
def test_ids_and_texts_equal_the_official_tokenizer(reference: Path, generation: str) -> None:
    tokenizer, golden = read_golden(reference, generation)
    assert tokenizer.vocab_size == golden["vocab_size"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (golden["pad"], golden["eos"])
    official = golden.get("commands") or golden["special_ids"]
    for name, number in tokenizer.special_ids.items():
        assert official[name] == number
    for row in golden["rows"]:
        assert tokenizer.encode(row["text"]) == row["ids"]
        assert tokenizer.encode(row["text"], add_special_tokens=False) == row["ids_no_special"]
        # The official v1 drops <unk> when it skips; the official v3 shows its commands then.
        skipped = "decoded_skip" if generation == "chatglm-6b" else "decoded"
        assert tokenizer.decode(row["ids"]) == row[skipped]
        if generation != "chatglm2-6b":
            shown = "decoded" if generation == "chatglm-6b" else "decoded_skip"
            assert tokenizer.decode(row["ids"], skip_special_tokens=False) == row[shown]


def test_ids_without_dummy_prefix_equal_the_official_tokenizer(reference: Path) -> None:
    tokenizer, golden = read_golden(reference, "chatglm-6b")
    for row in golden["rows"]:
        if not any(name in row["text"] for name in tokenizer.TEXT_SPECIALS):
            ids = tokenizer.encode(row["text"], add_special_tokens=False, add_dummy_prefix=False)
            assert ids == row["sp_tokenizer_ids_no_dummy_prefix"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_chat_prompts_equal_the_official_ones(reference: Path, generation: str) -> None:
    tokenizer, golden = read_golden(reference, generation)
    prompts = golden["prompts"]
    for case in prompts.pop("process_response", []):
        assert tokenizer.process_response(case["raw"]) == case["out"]
    for case in prompts.pop("single_messages", []):
        message = {"role": case["role"], "metadata": case["metadata"], "content": case["message"]}
        assert tokenizer.message_ids(message) == case["ids"]
    assert len(prompts) >= 3
    for case in prompts.values():
        role = {"role": case["role"]} if "role" in case else {}
        assert tokenizer.chat_prompt_ids(case["query"], case["history"], **role) == case["ids"]
        if "prompt" in case:
            assert tokenizer.chat_prompt(case["query"], case["history"]) == case["prompt"]


REAL = {
    "chatglm-6b": ("chatglm_ice_text.model", "chatglm-6b.json"),
    "chatglm2-6b": ("chatglm2_tokenizer.model", "chatglm2-6b.json"),
    "chatglm3-6b-base": ("chatglm2_tokenizer.model", "chatglm3-6b.json"),
}


def load_real(reference: Path, generation: str) -> tuple[Any, dict[str, Any]]:
    """The published vocabulary and what the official code made of it."""
    vocabulary, golden = REAL[generation]
    file = SHARED / "tokenizers" / vocabulary
    if not file.is_file():
        pytest.skip("the published vocabularies are not beside this checkout")
    text = (reference / "real_tokenizers" / golden).read_text(encoding="utf-8")
    return load_tokenizer(file, generation), json.loads(text)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_published_vocabularies_give_the_official_ids(reference: Path, generation: str) -> None:
    tokenizer, golden = load_real(reference, generation)
    assert tokenizer.vocab_size == golden["vocab_size"]
    for name, number in tokenizer.special_ids.items():
        assert golden["special"][name] == number
    for row in golden["rows"]:
        assert tokenizer.encode(row["text"]) == row["ids"]
        assert tokenizer.encode(row["text"], add_special_tokens=False) == row["ids_no_special"]
        skip = generation != "chatglm3-6b-base"  # the official v3 shows its commands
        assert tokenizer.decode(row["ids"], skip_special_tokens=skip) == row["decoded"]
    for case in golden.get("prompts", []):
        assert tokenizer.chat_prompt_ids(case["query"], case["history"]) == case["ids"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_seven_hundred_adgen_rows_have_the_official_ids(reference: Path, generation: str) -> None:
    tokenizer, golden = load_real(reference, generation)
    file = SHARED / "adgen" / "dev_first700.json"
    if not file.is_file():
        pytest.skip("the ADGEN rows are not beside this checkout")
    running = hashlib.sha256()
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for text in (row["content"], row["summary"]):
            ids = tokenizer.encode(text, add_special_tokens=False)
            running.update((",".join(map(str, ids)) + "\n").encode())
    assert running.hexdigest() == golden["adgen_dev_first700"]["sha256"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_real_config_holds_the_published_vocabulary(reference: Path, generation: str) -> None:
    tokenizer, _ = load_real(reference, generation)
    config = FAMILIES[generation].real_config
    assert tokenizer.vocab_size <= (config.get("vocab_size") or config["padded_vocab_size"])
    assert config["eos_token_id"] == tokenizer.eos_token_id
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert config.get("gmask_token_id", tokenizer.special_ids["[gMASK]"]) in (
        tokenizer.special_ids.values()
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_real_config_keys_are_the_official_ones(reference: Path, generation: str) -> None:
    file = reference / VERSIONS[generation] / "checkpoint" / "config.json"
    official = json.loads(file.read_text(encoding="utf-8"))
    ours = FAMILIES[generation].real_config
    assert official.keys() - ours.keys() == {"auto_map", "transformers_version"}
    assert not ours.keys() - official.keys()
