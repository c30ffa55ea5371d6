"""Ids, texts and prompts equal the official tokenizers', published vocabularies included."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED

from glmtune.errors import WeightsError
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.families.vocabulary import published_vocabulary

# Those of which there is golden data.
VERSIONS = {"chatglm-6b": "v1", "chatglm2-6b": "v2", "chatglm3-6b-base": "v3"}
FAMILY_NAMES = sorted(VERSIONS)


def read_golden(reference: Path, family: str) -> tuple[Any, dict[str, Any]]:
    folder = reference / VERSIONS[family]
    golden = json.loads((folder / "tokenizer_golden.json").read_text(encoding="utf-8"))
    return load_tokenizer(folder / "checkpoint"), golden


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_ids_and_texts_equal_the_official_tokenizer(reference: Path, family: str) -> None:
    tokenizer, golden = read_golden(reference, family)
    assert tokenizer.vocab_size == golden["vocab_size"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (golden["pad"], golden["eos"])
    official = golden.get("commands") or golden["special_ids"]
    for name, number in tokenizer.special_ids.items():
        assert official[name] == number
    for row in golden["rows"]:
        assert tokenizer.encode(row["text"]) == row["ids"]
        assert tokenizer.encode(row["text"], add_special_tokens=False) == row["ids_no_special"]
        # The official v1 drops <unk> when it skips; the official v3 shows its commands then.
        skipped = "decoded_skip" if family == "chatglm-6b" else "decoded"
        assert tokenizer.decode(row["ids"]) == row[skipped]
        if family != "chatglm2-6b":
            shown = "decoded" if family == "chatglm-6b" else "decoded_skip"
            assert tokenizer.decode(row["ids"], skip_special_tokens=False) == row[shown]


def test_ids_without_dummy_prefix_equal_the_official_tokenizer(reference: Path) -> None:
    tokenizer, golden = read_golden(reference, "chatglm-6b")
    for row in golden["rows"]:
        if not any(name in row["text"] for name in tokenizer.TEXT_SPECIALS):
            ids = tokenizer.encode(row["text"], add_special_tokens=False, add_dummy_prefix=False)
            assert ids == row["sp_tokenizer_ids_no_dummy_prefix"]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_chat_prompts_equal_the_official_ones(reference: Path, family: str) -> None:
    tokenizer, golden = read_golden(reference, family)
    prompts = golden["prompts"]
    for case in prompts.pop("process_response", []):
        assert tokenizer.process_response(case["raw"]) == case["out"]
    for case in prompts.pop("single_messages", []):
        message = {"role": case["role"], "metadata": case["metadata"], "content": case["message"]}
        assert tokenizer.message_ids(message) == case["ids"]
    assert {"history0", "history1", "history2"} <= prompts.keys()
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


def load_real(reference: Path, family: str) -> tuple[Any, dict[str, Any]]:
    """The published vocabulary and what the official code made of it."""
    vocabulary, golden = REAL[family]
    file = SHARED / "tokenizers" / vocabulary
    if not file.is_file():
        pytest.skip("the published vocabularies are not beside this checkout")
    text = (reference / "real_tokenizers" / golden).read_text(encoding="utf-8")
    return load_tokenizer(file, family), json.loads(text)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_published_vocabularies_give_the_official_ids(reference: Path, family: str) -> None:
    tokenizer, golden = load_real(reference, family)
    assert tokenizer.vocab_size == golden["vocab_size"] == golden["len"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (golden["pad"], golden["eos"])
    assert len(golden["rows"]) == 60
    for name, number in tokenizer.special_ids.items():
        assert golden["special"][name] == number
    for row in golden["rows"]:
        assert tokenizer.encode(row["text"]) == row["ids"]
        assert tokenizer.encode(row["text"], add_special_tokens=False) == row["ids_no_special"]
        skip = family != "chatglm3-6b-base"  # the official v3 shows its commands
        assert tokenizer.decode(row["ids"], skip_special_tokens=skip) == row["decoded"]
    for case in golden.get("prompts", []):
        assert tokenizer.chat_prompt_ids(case["query"], case["history"]) == case["ids"]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_seven_hundred_adgen_rows_have_the_official_ids(reference: Path, family: str) -> None:
    tokenizer, golden = load_real(reference, family)
    file = SHARED / "adgen" / "dev_first700.json"
    if not file.is_file():
        pytest.skip("the ADGEN rows are not beside this checkout")
    running, tokens = hashlib.sha256(), 0
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for text in (row["content"], row["summary"]):
            ids = tokenizer.encode(text, add_special_tokens=False)
            tokens += len(ids)
            running.update((",".join(map(str, ids)) + "\n").encode())
    official = golden["adgen_dev_first700"]
    assert (tokens, running.hexdigest()) == (official["tokens"], official["sha256"])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_no_text_makes_a_published_control_token(reference: Path, family: str) -> None:
    """But for the five that ChatGLM-6B lets a user type, as the official tokenizer does."""
    tokenizer, golden = load_real(reference, family)
    typed = getattr(tokenizer, "TEXT_SPECIALS", ())
    for name in {*golden["special"], *tokenizer.special_ids, "</s>", "<s>"} - {"<n>", *typed}:
        ids = tokenizer.encode(f"问{name}答", add_special_tokens=False)
        assert not set(ids) & {*tokenizer.special_ids.values(), tokenizer.eos_token_id}
        assert tokenizer.decode(ids, skip_special_tokens=False) == f"问{name}答"
    for name in typed:
        ids = tokenizer.encode(f"问{name}答", add_special_tokens=False)
        assert ids.count(tokenizer.special_ids[name]) == 1


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_published_vocabulary_is_recognised(reference: Path, family: str) -> None:
    load_real(reference, family)
    title = FAMILIES[family].title.removesuffix("-Base")
    assert title in str(published_vocabulary(SHARED / "tokenizers" / REAL[family][0])).split(", ")
    own = reference / VERSIONS[family] / "checkpoint" / FAMILIES[family].tokenizer_class.file_name
    assert published_vocabulary(own) is None


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_pointer_to_a_published_vocabulary_is_explained(
    reference: Path, family: str, tmp_path: Path
) -> None:
    load_real(reference, family)
    name = FAMILIES[family].tokenizer_class.file_name
    shutil.copyfile(SHARED / "tokenizers" / f"lfs_pointer_{name}", tmp_path / name)
    with pytest.raises(WeightsError, match="a Git LFS pointer; .* run `git lfs pull`"):
        load_tokenizer(tmp_path, family)


# The second number is the end of a piece: what is before it can be read as a smaller vocabulary.
@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("kept", [100_000, 947_077, 818_307])
def test_a_published_vocabulary_that_was_cut_off_is_refused(
    reference: Path, family: str, kept: int, tmp_path: Path
) -> None:
    load_real(reference, family)
    content = (SHARED / "tokenizers" / REAL[family][0]).read_bytes()
    (tmp_path / "cut.model").write_bytes(content[:kept])
    with pytest.raises(WeightsError, match=r"cut\.model: .* download it again"):
        load_tokenizer(tmp_path / "cut.model", family)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_real_config_holds_the_published_vocabulary(reference: Path, family: str) -> None:
    tokenizer, _ = load_real(reference, family)
    config = FAMILIES[family].real_config
    assert tokenizer.vocab_size <= (config.get("vocab_size") or config["padded_vocab_size"])
    assert config["eos_token_id"] == tokenizer.eos_token_id
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert config.get("gmask_token_id", tokenizer.special_ids["[gMASK]"]) in (
        tokenizer.special_ids.values()
    )


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_real_config_keys_are_the_official_ones(reference: Path, family: str) -> None:
    file = reference / VERSIONS[family] / "checkpoint" / "config.json"
    official = json.loads(file.read_text(encoding="utf-8"))
    ours = FAMILIES[family].real_config
    assert official.keys() - ours.keys() == {"auto_map", "transformers_version"}
    assert not ours.keys() - official.keys()
