"""The normalized folder: manifest, card, subsets, skipped rows, and dev rows in train."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_data import GOOD, LINES, ROWS, save

from glmtune.data.held_out import hold_out
from glmtune.data.leakage import count_repeated
from glmtune.data.mixtures import Mixture, Part
from glmtune.data.origins import Opener, Request, from_parts
from glmtune.data.reading import ReadOptions, check_file
from glmtune.data.splits import DataSet, Subset, write_dataset
from glmtune.errors import DataError
from glmtune.files import hash_folder, read_json, read_jsonl, sha256_of

OTHERS = [{"content": f"问{i}", "summary": f"答{i}"} for i in range(40)]
TURN = {"role": "system", "content": "简短。"}
SKIP = ReadOptions(skip_bad_rows=True)


def test_a_written_data_set_describes_itself_by_content_only(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_dataset(folder, ROWS, ROWS[:1], {"kind": "files"})
    manifest = read_json(tmp_path / "a" / "manifest.json")
    assert manifest == {
        "source": {"kind": "files"},
        "train": {
            "file": "train.jsonl",
            "rows": 2,
            "sha256": sha256_of(tmp_path / "a/train.jsonl"),
        },
        "dev": {"file": "dev.jsonl", "rows": 1, "sha256": sha256_of(tmp_path / "a/dev.jsonl")},
    }
    assert read_jsonl(tmp_path / "a" / "train.jsonl") == ROWS
    assert hash_folder(tmp_path / "a") == hash_folder(tmp_path / "b")


# --- rows that are not examples -------------------------------------------------------------------

ANSWERED = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        ({"messages": ANSWERED, "label": False}, "marked as a bad answer (label: false)"),
        ({"prompt": "q", "completion": "a", "label": False}, "marked as a bad answer"),
        ({"instruction": "q", "output": "a", "kto_tag": False}, "marked as a bad answer"),
        ({"messages": ANSWERED, "deleted": True}, "marked as deleted"),
        ({"messages": ANSWERED, "split": "test"}, "marked as test (split) and left out of train"),
    ],
)
def test_rows_marked_as_unsuitable_are_left_out_and_counted(
    marked: dict, reason: str, tmp_path: Path
) -> None:
    unmarked = {"label": True, "kto_tag": True, "deleted": False, "split": "train"}
    wanted = {key: unmarked.get(key, value) for key, value in marked.items()}
    path = save(tmp_path, json.dumps([marked, wanted, marked], indent=1))
    file = check_file(path, ReadOptions(split="train"))
    assert [row["content"] for row in file] == ["q"]
    entry = write_dataset(tmp_path / "out", file, OTHERS, {}).manifest["train"]
    ((note, count),) = entry["notes"].items()
    assert (note.startswith(reason), count, entry["rows"]) == (True, 2, 1)
    assert len(read_jsonl(tmp_path / "out" / "left_out.jsonl")) == 2
    with pytest.raises(DataError, match="no rows; 1 rows: marked as"):
        check_file(save(tmp_path, json.dumps(marked)), ReadOptions(split="train"))


def test_one_file_with_a_split_column_becomes_two_splits(tmp_path: Path) -> None:
    rows = [{**row, "split": split} for row, split in zip(OTHERS, ("train", "test"), strict=False)]
    path = save(tmp_path, json.dumps(rows))
    origin = from_parts(Request([path], path), Opener(), tmp_path / "out")
    assert (list(origin.train), list(origin.dev)) == ([OTHERS[0]], [OTHERS[1]])


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"chosen": "b", "rejected": "c"}, "a preference pair ('chosen'); expected one answer"),
        ({"rejected_response": "c"}, "a preference pair ('rejected_response')"),
        ({"images": ["a.png"]}, "not only text ('images'); expected text"),
        ({"audio": {"path": "a.wav"}}, "not only text ('audio')"),
    ],
)
def test_rows_for_another_kind_of_training_are_refused(
    more: dict, found: str, tmp_path: Path
) -> None:
    path = save(tmp_path, json.dumps([{**OTHERS[0], **dict.fromkeys(more)}, {**OTHERS[1], **more}]))
    with pytest.raises(DataError) as caught:
        check_file(path)
    assert f"row 2: {found}" in str(caught.value)
    assert list(check_file(path, SKIP)) == OTHERS[:1]


# --- skipped rows --------------------------------------------------------------------------------


def test_skipped_rows_are_counted_and_the_first_lines_named(tmp_path: Path) -> None:
    bad = ['{"content": "a"}', '{"content": "a "b"", "summary": "c"}', "null", f"{GOOD}{GOOD}"]
    bad += ['{"content": "", "summary": "c"}', '{\n"content": 3,\n"summary": "c"}', '{"content": "']
    text = "".join(f"{GOOD}\n{line}\n" for line in bad)
    file = check_file(save(tmp_path, text), SKIP)
    assert len(list(file)) == len(file) == len(bad)
    manifest = write_dataset(tmp_path / "out", file, OTHERS, {}).manifest
    assert manifest["train"]["rows"] == len(bad)
    first = {"unit": "line", "first": [2, 4, 6, 8, 10]}
    assert manifest["train"]["skipped"] == {"rows": len(bad), **first}
    assert "skipped" not in manifest["dev"]
    listed = read_jsonl(tmp_path / "out" / "left_out.jsonl")
    assert [row["line"] for row in listed] == [2, 4, 6, 8, 10, 12, 16]
    assert listed[0] == {
        "split": "train",
        "line": 2,
        "reason": 'no \'summary\' (keys found: content); expected {"content": text, "summary": '
        "text}; add it, or name your columns with --prompt-column and --response-column "
        "(params.yaml: dataset.prompt_column and response_column)",
    }


def test_a_broken_row_over_several_lines_affects_no_other(tmp_path: Path) -> None:
    rows = [json.dumps(row, ensure_ascii=False, indent=2) for row in OTHERS[:3]]
    rows[1] = rows[1].replace('"问1"', '"问"1"')
    file = check_file(save(tmp_path, "\n".join(rows)), SKIP)
    assert list(file) == [OTHERS[0], OTHERS[2]]
    assert file.skipped.numbers("line") == [5]


@pytest.mark.parametrize("around", [lambda rows: rows, lambda rows: {"data": rows}])
def test_rows_that_share_a_line_are_numbered_as_rows(around: Callable, tmp_path: Path) -> None:
    rows = [*OTHERS[:3], {"content": "a", "summary": None}, *OTHERS[3:6], {"content": ""}]
    path = save(tmp_path, json.dumps(around(rows)))
    with pytest.raises(DataError, match=r"mine.json: row 4: 'summary' is null.*1 more .*: row 8\)"):
        check_file(path)
    out = tmp_path / "out"
    manifest = write_dataset(out, check_file(path, SKIP), OTHERS[9:], {}).manifest
    assert manifest["train"]["skipped"] == {"rows": 2, "unit": "row", "first": [4, 8]}
    assert [row["row"] for row in read_jsonl(out / "left_out.jsonl")] == [4, 8]
    train, name = check_file(path, SKIP), tmp_path / "dev.json"
    name.write_text(json.dumps([OTHERS[20], OTHERS[4], OTHERS[21]]))
    with pytest.raises(DataError, match=r"dev.json: row 2: 1 of 3 rows .*row 2 = row 6"):
        write_dataset(out, train, check_file(name), {}, max_leakage=0.1)


def test_rows_of_another_format_are_skipped_too(tmp_path: Path) -> None:
    file = check_file(save(tmp_path, '{"no": 1}\n' + GOOD + '\n{"src": "a", "tgt": "b"}\n'), SKIP)
    assert (len(file), file.skipped.numbers("line")) == (1, [1, 3])


def test_a_file_without_usable_rows_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"line 1: not a row of a known .* \(and 1 more .*: line 2\)"
    ):
        check_file(save(tmp_path, '{"a": 1}\n[]\n'), SKIP)


def test_a_file_whose_rows_cannot_be_separated_is_never_read_in_part(tmp_path: Path) -> None:
    """In a cut-off array or another encoding, an unknown number of rows is missing."""
    for content in (f"[{GOOD},\n{GOOD}", GOOD.encode() + b"\n\xff"):
        with pytest.raises(DataError):
            check_file(save(tmp_path, content), SKIP)


# --- subsets -------------------------------------------------------------------------------------


def subset_of(folder: Path, **limits: int) -> tuple[DataSet, list[dict]]:
    made = write_dataset(folder, OTHERS, OTHERS, {}, subset=Subset(**limits))
    return made, read_jsonl(folder / "train.jsonl")


def test_a_subset_is_drawn_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    made, rows = subset_of(tmp_path / "a", train=10, seed=1)
    assert len(rows) == 10
    places = [OTHERS.index(row) for row in rows]
    assert places == sorted(set(places))
    assert made.manifest["train"]["chosen_from"] == {"rows": 40, "seed": 1}
    assert "chosen_from" not in made.manifest["dev"]
    assert subset_of(tmp_path / "b", train=10, seed=1)[1] == rows
    assert subset_of(tmp_path / "c", train=10, seed=2)[1] != rows


def test_a_limit_above_the_size_changes_nothing(tmp_path: Path) -> None:
    made, rows = subset_of(tmp_path, train=40, dev=99)
    assert rows == OTHERS
    assert "chosen_from" not in str(made.manifest)


def test_a_subset_is_drawn_from_the_usable_rows(tmp_path: Path) -> None:
    text = "".join(f'{json.dumps(row)}\n{{"content": ""}}\n' for row in OTHERS)
    file = check_file(save(tmp_path, text), SKIP)
    made = write_dataset(tmp_path / "out", OTHERS, file, {}, subset=Subset(dev=7))
    assert made.manifest["dev"]["rows"] == 7
    assert made.manifest["dev"]["chosen_from"]["rows"] == 40
    assert all(row["summary"] for row in read_jsonl(tmp_path / "out/dev.jsonl"))


# --- leakage -------------------------------------------------------------------------------------


def test_rows_of_dev_in_train_are_counted(tmp_path: Path) -> None:
    train: list[dict[str, Any]] = [*OTHERS, {"content": "h", "summary": "s", "history": [TURN]}]
    dev = [
        OTHERS[3],
        OTHERS[3],
        {"content": "问1", "summary": "新"},
        {"content": "新", "summary": "答1"},
        {"content": "h", "summary": "s"},  # the same question in another conversation
        {"content": "新", "summary": "新"},
    ]
    card = write_dataset(tmp_path, train, dev, {}).card
    assert card["leakage"] == {"pairs": 2, "prompts": 3, "answers": 4}


def test_too_much_of_dev_in_train_is_refused_with_the_lines(tmp_path: Path) -> None:
    train = save(tmp_path, "\n\n" + "\n".join(LINES), "train.json")
    dev = save(tmp_path, f"{GOOD}\n{LINES[1]}\n{LINES[0]}\n", "dev.json")
    files = check_file(train), check_file(dev)
    with pytest.raises(DataError) as caught:
        write_dataset(tmp_path / "out", *files, {}, max_leakage=0.5)
    message = str(caught.value)
    assert message.startswith(
        f"{dev}: line 2: 2 of 3 rows (67%) also appear in {train} "
        "(line 2 = line 4, line 3 = line 3)"
    )
    assert "expected at most 50%" in message
    assert "raise --max-leakage (params.yaml: data.max_leakage)" in message
    assert not (tmp_path / "out").exists()
    write_dataset(tmp_path / "out", *files, {}, max_leakage=0.7)


def test_a_refusal_leaves_the_earlier_data_set_intact(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(out, OTHERS, ROWS, {})
    before = hash_folder(tmp_path)
    with pytest.raises(DataError):
        write_dataset(out, OTHERS, OTHERS, {}, max_leakage=0.99)
    assert hash_folder(tmp_path) == before


# --- card ----------------------------------------------------------------------------------------


def test_the_card_describes_the_rows(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "四个字的"}
    train: list[dict[str, Any]] = [
        {"content": "类型#裙*颜色#白色*颜色#黑色", "summary": "好"},
        {"content": "类型#裤*风格#简约", "summary": "<UNK>的BRAND"},
        {"content": "类型#裤*风格#简约", "summary": "另一条BRAND裤"},
        {"content": "类型#裤*风格#简约", "summary": "另一条BRAND裤"},
        {"content": "再来", "summary": "好", "history": [asked, {**asked, "role": "assistant"}]},
        {"content": "再来", "summary": "好", "history": [{**asked, "role": "system"}]},
    ]
    card = write_dataset(tmp_path, train, OTHERS, {}, licence="自有").card
    assert read_json(tmp_path / "card.json") == card
    assert list(card["splits"]["train"].pop("attributes").items()) == [
        ("类型", 4),
        ("风格", 3),
        ("颜色", 1),
    ]
    assert card["splits"]["train"] == {
        "rows": 6,
        "prompt_characters": {"min": 6, "mean": 62 / 6, "median": 10, "p95": 16, "max": 16},
        "answer_characters": {"min": 1, "mean": 32 / 6, "median": 1, "p95": 11, "max": 11},
        "multi_turn_rows": 1,
        "repeated_rows": 1,
        "repeated_prompts": 2,
        "unk_answers": 1,
        "brand_answers": 3,
    }
    assert card["splits"]["dev"]["attributes"] == {}
    assert card["licence"] == "自有"


@pytest.mark.parametrize("others", [OTHERS, []], ids=["few", "all"])
def test_odd_prompts_do_not_count_as_attributes(tmp_path: Path, others: list[dict]) -> None:
    rows = [*others, {"content": "C#和Java", "summary": "语言"}]
    assert write_dataset(tmp_path, rows, OTHERS, {}).card["splits"]["train"]["attributes"] == {}


def test_at_most_twenty_attributes_are_listed_most_frequent_first(tmp_path: Path) -> None:
    rows = [
        {"content": "*".join(f"键{k}#值" for k in range(n + 1)), "summary": "a"} for n in range(30)
    ]
    attributes = write_dataset(tmp_path, rows, OTHERS, {}).card["splits"]["train"]["attributes"]
    assert list(attributes.items()) == [(f"键{k}", 30 - k) for k in range(20)]
    text = (tmp_path / "card.json").read_text(encoding="utf-8")
    assert text.index('"键9"') < text.index('"键10"')


def test_repeats_are_the_rows_after_the_first() -> None:
    assert count_repeated([7, 8, 7, 7, 9]) == 2


# --- mixtures ------------------------------------------------------------------------------------

GENERAL = [{"content": f"常识{i}", "summary": f"常{i}"} for i in range(6)]


def mixed(share: float, parts: list[dict] = GENERAL) -> Mixture:
    return Mixture([Part(parts, share, {"kind": "general"}), Part(OTHERS)])


def general_in(rows: list[dict]) -> Counter[str]:
    return Counter(row["content"] for row in rows if row in GENERAL)


def test_a_share_is_of_the_whole_and_displaces_no_own_row(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, mixed(0.2), ROWS, {}, subset=Subset(seed=1))
    rows = read_jsonl(tmp_path / "train.jsonl")
    assert rows[:40] == OTHERS
    assert len(rows) == made.manifest["train"]["rows"] == 50
    assert sum(general_in(rows).values()) == 10
    assert made.manifest["train"]["parts"] == [
        {"rows": 40, "chosen_from": {"rows": 40, "seed": 1}},
        {
            "kind": "general",
            "share": 0.2,
            "rows": 10,
            "chosen_from": {"rows": 6, "seed": 1},
        },
    ]


def test_a_part_that_is_too_short_is_repeated_evenly(tmp_path: Path) -> None:
    write_dataset(tmp_path, mixed(0.2), ROWS, {})
    assert set(general_in(read_jsonl(tmp_path / "train.jsonl")).values()) == {1, 2}


def test_a_part_is_drawn_by_the_seed(tmp_path: Path) -> None:
    drawn = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_dataset(tmp_path / folder, mixed(0.07), ROWS, {}, subset=Subset(seed=seed))
        drawn.append(general_in(read_jsonl(tmp_path / folder / "train.jsonl")))
    assert drawn[0] == drawn[1] != drawn[2]
    assert sum(drawn[0].values()) == 3


def test_a_limit_of_rows_keeps_the_shares(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, mixed(0.25), ROWS, {}, subset=Subset(train=20, seed=1))
    assert [part["rows"] for part in made.manifest["train"]["parts"]] == [15, 5]
    rows = read_jsonl(tmp_path / "train.jsonl")
    places = [OTHERS.index(row) for row in rows[:15]]
    assert places == sorted(set(places)) != list(range(15))


def test_a_share_of_nothing_is_the_unmixed_data_set(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", mixed(0), ROWS, {})
    write_dataset(tmp_path / "b", OTHERS, ROWS, {})
    assert sha256_of(tmp_path / "a/train.jsonl") == sha256_of(tmp_path / "b/train.jsonl")


def test_leakage_is_found_in_every_part_and_named_by_its_file_and_line(tmp_path: Path) -> None:
    own = save(tmp_path, "\n".join(json.dumps(row) for row in OTHERS[:4]), "own.json")
    more = save(tmp_path, "\n\n" + "\n".join(LINES), "more.json")
    dev = save(tmp_path, f"{GOOD}\n{LINES[1]}\n", "dev.json")
    train = Mixture([Part(check_file(own)), Part(check_file(more), 0.4)])
    with pytest.raises(DataError) as caught:
        write_dataset(tmp_path / "out", train, check_file(dev), {}, max_leakage=0.1)
    assert str(caught.value).startswith(
        f"{dev}: line 2: 1 of 2 rows (50%) also appear in {more} (line 2 = line 4)"
    )


def test_dev_rows_in_valid_are_refused_too(tmp_path: Path) -> None:
    """Else the choice of a step would see the scored rows all the same."""
    dev = check_file(save(tmp_path, LINES[1], "dev.json"))
    valid = check_file(save(tmp_path, f"{GOOD}\n{LINES[1]}", "valid.json"))
    with pytest.raises(DataError, match=r"dev.json: line 1: 1 of 1 rows .* in .*valid.json"):
        write_dataset(tmp_path / "out", OTHERS, dev, {}, valid=valid, max_leakage=0.05)


def test_rows_skipped_in_a_part_are_counted_there_and_listed_once(tmp_path: Path) -> None:
    more = check_file(save(tmp_path, f"{GOOD}\n{{}}\n", "more.json"), SKIP)
    train = Mixture([Part(OTHERS), Part(more, 0.2)])
    made = write_dataset(tmp_path / "out", train, ROWS, {})
    _, part = made.manifest["train"]["parts"]
    assert part["skipped"] == {"rows": 1, "unit": "line", "first": [2]}
    assert part["rows"] == 10
    (listed,) = read_jsonl(tmp_path / "out" / "left_out.jsonl")
    assert (listed["file"], listed["line"]) == ("more.json", 2)


# --- held-out rows -------------------------------------------------------------------------------


def held_out(rows: list[dict], seed: int = 1, **shares: float) -> dict[str, list[dict]]:
    sides = hold_out([rows[:25], rows[25:]], shares, seed)
    return {name: [row for side in each for row in side] for name, each in sides.items()}


def test_a_share_of_the_rows_is_held_out_and_no_row_is_lost() -> None:
    sides = held_out(OTHERS, dev=0.25, valid=0.1)
    assert {name: len(rows) for name, rows in sides.items()} == {"dev": 10, "valid": 4, "train": 26}
    assert sorted(row["content"] for rows in sides.values() for row in rows) == sorted(
        row["content"] for row in OTHERS
    )


@pytest.mark.parametrize("seed", range(8))
def test_all_rows_of_one_prompt_are_on_one_side_however_it_is_written(seed: int) -> None:
    rows = [
        {"content": prompt.format(i), "summary": f"答{i}"}
        for i in range(20)
        for prompt in ("问，{}", "问,{}", " 问，{}\u200b")
    ]
    sides = held_out(rows, seed, dev=0.3)
    assert len(sides["dev"]) == 18
    numbers = {name: {row["summary"] for row in each} for name, each in sides.items()}
    assert not numbers["dev"] & numbers["train"]


def test_the_turns_before_a_prompt_belong_to_it() -> None:
    rows = [
        {"content": "再来", "summary": "a", "history": [{**TURN, "content": f"{i}"}]}
        for i in range(9)
    ]
    assert len(held_out(rows, dev=0.34)["dev"]) == 3


def test_the_seed_decides_and_more_rows_move_few_prompts() -> None:
    first, again, other = (held_out(OTHERS, seed, dev=0.25)["dev"] for seed in (1, 1, 2))
    assert first == again != other
    more = [*OTHERS, *({"content": f"新{i}", "summary": "答"} for i in range(4))]
    assert len([row for row in first if row not in held_out(more, dev=0.25)["dev"]]) <= 2


@pytest.mark.parametrize("prompts", [1, 2])
def test_too_few_prompts_for_a_share_are_refused(prompts: int) -> None:
    rows = [{"content": f"问{i % prompts}", "summary": f"{i}"} for i in range(30)]
    with pytest.raises(DataError) as caught:
        held_out(rows, dev=0.1)
    assert str(caught.value).startswith(
        f"--dev-share (params.yaml: dataset.dev): found 0.1 of 30 rows with {prompts} different "
        "prompts; expected a prompt for each side"
    )
