"""Scores use the displayed text: no vocabulary is penalized for what it cannot write."""

from __future__ import annotations

import json
import unicodedata
from random import Random
from typing import Any

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from glmtune.families.conversation import TRAINING_TIME
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.metrics.probe import judge, overlap, style_of
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.scorings import METRICS
from glmtune.metrics.summary import score_predictions
from glmtune.normal_form import normal_form
from glmtune.synthetic import grammar

WIDE = "，！？：；（）％．～"
NARROW = unicodedata.normalize("NFKC", WIDE)
NUMBERS = Random(5)
COPIES = [grammar.ad_copy(grammar.draw_item(NUMBERS), NUMBERS) for _ in range(30)]
# Everything a vocabulary might alter: widths, whitespace, letters, rare characters.
ODD = (
    "类型：Ｔ恤（纯棉），尺码！XL；好？……",
    "第一行，很美。\n第二行：\t更美！\n\n  完",
    "一格 两格  三格   一百格" + " " * 100 + "完，真的很好看",
    "型号Ｘ７ Plus，℃与㎡，①②③，鑫🙂❤️，未知的<UNK>在此",
    "零宽\u200b空格，不断\u00a0行，全角\u3000空格，真的很好看",
    "<n>换行<|tab|>制表<|blank_3|>空格，真的很好看",
)
TEXTS = [*COPIES, *ODD]
PUBLISHED = {
    "chatglm-6b": "chatglm_ice_text.model",
    "chatglm2-6b": "chatglm2_tokenizer.model",
    "chatglm3-6b-base": "chatglm2_tokenizer.model",
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small vocabulary of each family, with byte fallback for rare characters."""
    root = tmp_path_factory.mktemp("vocabularies")
    for name, family in FAMILIES.items():
        family.train_tokenizer(COPIES, root / name, vocab_size=400)
    return {name: load_tokenizer(root / name) for name in FAMILIES}


def narrowed(text: str) -> str:
    return text.translate(str.maketrans(WIDE, NARROW))


def read_through(tokenizer: Any, text: str) -> str:
    """The displayed answer of a model that answers `text` exactly."""
    return tokenizer.process_response(tokenizer.decode(tokenizer.encode(text, False)))


def answered_exactly(tokenizer: Any, references: list[str]) -> list[dict[str, Any]]:
    """Rows as generate_predictions writes them for a model that answers every reference."""
    rows = []
    for text in references:
        decoded = tokenizer.decode(tokenizer.encode(text, False)).strip()
        read = tokenizer.process_response(decoded)
        rows.append(
            {"labels": text, "predict": read, "decoded": decoded, "decoded_labels": decoded}
        )
    return rows


# --- the form itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("好，好！（纯棉）", "好,好!(纯棉)"),
        ("好,好!(纯棉)", "好,好!(纯棉)"),
        ("Ｔ恤１００％", "T恤100%"),
        (" 第一行\r\n\n第二行\t完\u3000", "第一行 第二行 完"),
        ("第一行<n>第二行<|tab|>完<|blank_12|>", "第一行 第二行 完"),
        ("一\u200b二\ufeff三\u2581四\x00\x07五", "一 二 三 四五"),
        ("……①㎡℃Ⅷ", "......1m2°CVIII"),
        ("10²、2½", "10²、2½"),
        ("", ""),
    ],
)
def test_a_text_has_one_form(text: str, form: str) -> None:
    assert normal_form(text) == form
    assert normal_form(form) == form


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("T恤", "t恤"),
        ("裙子", "裙 子"),
        ("裙子。", "裙子"),
        ("裙子，", "裙子。"),
        ("“裙子”", '"裙子"'),
        ("體", "体"),
        ("10²", "102"),
        ("2½", "21/2"),
        ("<UNK>", "UNK"),
        ("裙\ufffd", "裙"),
    ],
)
def test_visibly_different_texts_stay_different(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


# ChatGLM-6B reads these as tokens when a person types them (see its tokenizer), and the official
# process_response of every family replaces its placeholder of the training date.
READ_AS_SOMETHING_ELSE = ("[MASK]", "<sop>", "<eop>", "<unk>", "<pad>", TRAINING_TIME[0])


@given(
    text=st.text(
        st.characters(exclude_categories=["Cs", "Co", "Cn", "No"], exclude_characters="\ufffd\0")
    ).filter(lambda text: not any(name in text for name in READ_AS_SOMETHING_ELSE))
)
@pytest.mark.parametrize("family_name", FAMILIES)
def test_a_text_decoded_by_any_vocabulary_keeps_its_normal_form(
    tokenizers: dict[str, Any], family_name: str, text: str
) -> None:
    form = normal_form(text)
    assert normal_form(read_through(tokenizers[family_name], text)) == form
    assert normal_form(form) == form


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family_name", FAMILIES)
@pytest.mark.parametrize("shape", [str, narrowed], ids=["wide", "narrow"])
def test_a_reference_decoded_by_the_models_vocabulary_scores_99(
    tokenizers: dict[str, Any], family_name: str, shape: Any
) -> None:
    scores = score_predictions(
        answered_exactly(tokenizers[family_name], [shape(text) for text in TEXTS])
    )
    for name in ("bleu-4", "rouge-l"):
        assert min(value for row in scores.rows if (value := row[name]) is not None) >= 99


@pytest.mark.parametrize("family_name", PUBLISHED)
@pytest.mark.parametrize("shape", [str, narrowed], ids=["wide", "narrow"])
def test_so_does_an_adgen_reference_decoded_by_the_published_vocabulary(
    family_name: str, shape: Any
) -> None:
    vocabulary, adgen = SHARED / "tokenizers" / PUBLISHED[family_name], SHARED / "adgen"
    if not (vocabulary.is_file() and adgen.is_dir()):
        pytest.skip("the published vocabularies and ADGEN are not beside this checkout")
    with (adgen / "dev_first700.json").open(encoding="utf-8") as lines:
        references = [shape(json.loads(line)["summary"]) for line in lines][::7]
    tokenizer = load_tokenizer(vocabulary, family_name)
    scores = score_predictions(answered_exactly(tokenizer, references))
    for name in ("bleu-4", "rouge-l"):
        assert all((value := row[name]) is not None and value >= 99 for row in scores.rows)
    thudm = scores.summary["protocols"]["thudm"]
    assert min(thudm[name] for name in METRICS) >= 99


@pytest.mark.parametrize("shape", [str, narrowed], ids=["wide", "narrow"])
@pytest.mark.parametrize("other", [str, narrowed], ids=["wide", "narrow"])
def test_the_width_of_marks_changes_no_score_of_the_default_protocol(
    shape: Any, other: Any
) -> None:
    rows = [
        {"labels": shape(a), "predict": other(b), "decoded": other(b), "prompt": "类型#裙*颜色#白"}
        for a, b in zip(TEXTS, TEXTS[1:], strict=False)
    ]
    pairs = zip(rows, TEXTS, TEXTS[1:], strict=False)
    plain = [row | {"labels": a, "predict": b} for row, a, b in pairs]
    ours, theirs = score_predictions(rows), score_predictions(plain)
    assert ours.rows == theirs.rows
    statistics = set(ours.summary) - {"protocols"}
    assert {key: ours.summary[key] for key in statistics} == {
        key: theirs.summary[key] for key in statistics
    }


def test_each_protocol_scores_the_texts_that_its_public_code_gets() -> None:
    text, other = COPIES[:2]
    right = {"predict": text, "decoded": text, "labels": text, "decoded_labels": text}

    def charged(key: str) -> set[str]:
        """The protocols whose score falls if this text is another one."""
        best, worse = (
            score_predictions([row]).summary["protocols"] for row in (right, right | {key: other})
        )
        return {name for name in PROTOCOLS if worse[name]["bleu-4"] < best[name]["bleu-4"]}

    decode_both = {"thudm", "llamafactory", "finetune_demo", "mindformers"}
    read = {"glmtune", "ssbuild"}
    assert charged("predict") == read
    assert charged("decoded") == set(PROTOCOLS) - read
    assert charged("decoded_labels") == decode_both
    assert charged("labels") == set(PROTOCOLS) - decode_both


def test_a_reference_that_decodes_to_itself_needs_no_second_text() -> None:
    row = {"predict": COPIES[0], "decoded": COPIES[0], "labels": COPIES[1]}
    whole = score_predictions([row | {"decoded_labels": COPIES[1]}])
    assert score_predictions([row]) == whole


def test_texts_of_other_projects_files_are_not_altered() -> None:
    wide, narrow = COPIES[0], narrowed(COPIES[0])
    summary = score_predictions([{"labels": wide, "predict": narrow}]).summary
    assert wide != narrow
    assert summary["bleu-4"] == summary["protocols"]["thudm"]["bleu-4"] < 95
    ours = score_predictions([{"labels": wide, "predict": narrow, "decoded": narrow}]).summary
    assert ours["bleu-4"] == 100
    assert ours["protocols"]["thudm"] == summary["protocols"]["thudm"]


# --- statistics -----------------------------------------------------------------------------------


def test_attributes_are_found_in_either_width() -> None:
    row = {"labels": "裙", "prompt": "材质#（棉）*颜色#白", "predict": "(棉)的白裙"}
    assert score_predictions([row]).summary["attribute-recall"] == 50
    ours = row | {"decoded": row["predict"]}
    assert score_predictions([ours]).summary["attribute-recall"] == 100


def test_lengths_count_the_same_characters_on_both_sides() -> None:
    row = {"labels": "裙子……\n  美", "predict": "裙子...... 美"}
    row["decoded"] = row["predict"]
    assert score_predictions([row]).summary["length-ratio"] == 100


def test_answers_that_differ_only_in_width_are_the_same_answer() -> None:
    rows = [{"labels": "裙", "predict": p, "decoded": p} for p in ("裙，美", "裙,美")]
    assert score_predictions(rows).summary["distinct"] == 50


# --- the forgetting probe -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [str, narrowed], ids=["wide", "narrow"])
@pytest.mark.parametrize("trained", [str, narrowed], ids=["wide", "narrow"])
def test_an_ad_is_an_ad_in_either_width(shape: Any, trained: Any) -> None:
    advert = "裙子（白），真！美：哇；好"
    verdict = judge(shape(advert), "小。", style_of([trained(advert)]), "小。")
    assert verdict.imitates_training


def test_correct_answers_and_overlap_do_not_depend_on_width() -> None:
    style = style_of([])
    assert judge("等于:8!", "等于：8！", style).is_correct
    assert judge("等于：８", "等于:8", style).is_correct
    assert overlap("你好,（我）是", "你好，(我) 是") == pytest.approx(100)
