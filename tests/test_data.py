"""Users' files: accepted content, and the message for each mistake."""

from __future__ import annotations

import csv
import json
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glmtune.data import json_values
from glmtune.data.formats import Columns
from glmtune.data.json_values import CHUNK_CHARACTERS
from glmtune.data.reading import ReadOptions, check_file
from glmtune.errors import DataError

ROWS = [
    {"content": "类型#裙*颜色#白色", "summary": "一条“好”裙。\n第二行"},
    {"content": "b", "summary": "c"},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
GOOD = '{"content": "裙", "summary": "好"}'


def save(folder: Path, content: str | bytes, name: str = "mine.json") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_rows(
    path: Path, columns: Columns | None = None, data_format: str | None = None
) -> list[dict[str, Any]]:
    return list(check_file(path, ReadOptions(columns or Columns(), data_format)))


def message_of(path: Path, columns: Columns | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path, columns)
    return str(caught.value)


ACCEPTED = {
    "JSON Lines": "\n".join(LINES) + "\n",
    "no final newline": "\n".join(LINES),
    "CRLF": "\r\n".join(LINES) + "\r\n",
    "old Mac line ends": "\r".join(LINES),
    "byte order mark": "\ufeff" + "\n".join(LINES),
    "blank lines": "\n\n" + "\n \n".join(LINES) + "\n\n",
    "array on one line": json.dumps(ROWS, ensure_ascii=False),
    "array over many lines": json.dumps(ROWS, ensure_ascii=False, indent=4) + "\n",
    "array with BOM and CRLF": "\ufeff" + json.dumps(ROWS, indent=1).replace("\n", "\r\n"),
    "objects over several lines": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "escaped characters": "\n".join(json.dumps(row) for row in ROWS),
    "wrapper": json.dumps({"version": 1, "data": ROWS, "more": {"data": []}}, ensure_ascii=False),
    "wrapper over many lines": json.dumps({"tags": ["a"], "rows": ROWS}, indent=2),
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_every_common_way_to_write_json_gives_the_same_text(text: str, tmp_path: Path) -> None:
    assert read_rows(save(tmp_path, text)) == ROWS


def test_rows_do_not_depend_on_where_chunks_of_the_file_end(tmp_path: Path) -> None:
    """Chunks have CHUNK_CHARACTERS; each file has a chunk end at another position of a row."""
    row = json.dumps({"content": 'a\\"裙', "n": 12.5, "summary": "😀"}, indent=0)
    expected = {"content": 'a\\"裙', "summary": "😀"}
    for before in range(CHUNK_CHARACTERS - len(row) - 2, CHUNK_CHARACTERS):
        blank = " " * before
        for text in (f"{blank}{row}\n{row}", f"{blank}[{row},{row}]"):
            assert read_rows(save(tmp_path, text)) == [expected, expected]


def test_concatenated_files_with_byte_order_marks_are_read(tmp_path: Path) -> None:
    mark = "\ufeff"
    assert read_rows(save(tmp_path, f"{mark}{LINES[0]}\n{mark}{LINES[1]}\n")) == ROWS
    assert read_rows(save(tmp_path, f"[{LINES[0]},\n{mark}{LINES[1]}]")) == ROWS


def test_a_row_too_long_for_any_model_is_a_mistake_and_never_fully_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "LONGEST_VALUE", 200_000)
    monkeypatch.setattr(json_values, "CHUNK_CHARACTERS", 4096)
    for long in ("[]," * 1_000_000, '"' + "a" * 3_000_000 + '",'):
        path = save(tmp_path, f'{LINES[0]}\n{{"content": [{long}0]}}\n{LINES[1]}\n')
        message = message_of(path)
        assert "line 2: a value of more than 200,000 characters; expected one" in message
        tracemalloc.start()
        assert list(check_file(path, ReadOptions(skip_bad_rows=True))) == ROWS
        assert tracemalloc.get_traced_memory()[1] < 60 * 200_000
        tracemalloc.stop()
    assert "row 2 of the array: a value of" in message_of(save(tmp_path, f"[{GOOD},[{long}0]]"))


def test_a_wrapper_may_be_longer_than_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "LONGEST_VALUE", 200_000)
    monkeypatch.setattr(json_values, "CHUNK_CHARACTERS", 4096)
    rows = [{"content": f"{n}" * 30, "summary": "b"} for n in range(9_000)]
    around = {"version": 1, "tags": ["x"], "data": rows, "more": {"data": []}}
    for indent in (None, 0):
        assert read_rows(save(tmp_path, json.dumps(around, indent=indent))) == rows
    several = json.dumps({"train": rows, "dev": rows})
    assert "several lists of rows (train, dev)" in message_of(save(tmp_path, several))


def test_a_duplicate_key_among_many_is_found_quickly(tmp_path: Path) -> None:
    keys = ", ".join(f'"{n}": 0' for n in [*range(100_000), 99_999])
    assert "duplicate key '99999'" in message_of(save(tmp_path, f"{{{keys}}}"))


def test_line_separators_inside_a_text_are_text(tmp_path: Path) -> None:
    row = {"content": "a\u2028b", "summary": "c\x85d\u3000 e "}
    assert read_rows(save(tmp_path, json.dumps(row, ensure_ascii=False))) == [row]


def test_other_columns_are_dropped_and_named_columns_are_used(tmp_path: Path) -> None:
    path = save(tmp_path, '{"prompt": "问", "response": "答", "history": [], "score": NaN}')
    assert read_rows(path, Columns("prompt", "response")) == [{"content": "问", "summary": "答"}]


# content of the file -> (line, what the message must say was found, and the fix)
MISTAKES = {
    f"{GOOD}{GOOD}": (1, "two objects on one line", "break the line"),
    f"{GOOD}\n{GOOD} {GOOD}": (2, "two objects on one line", "break the line"),
    f"{GOOD},\n{GOOD}": (1, "',' after the object", "one array"),
    f'{GOOD}\n\n["a", "b"]': (3, "an array instead of an object", "as an object"),
    f"[{GOOD},\n[{GOOD}]]": (2, "an array instead of an object", "as an object"),
    f'{GOOD}\n"text"': (2, "text instead of an object", "as an object"),
    f"{GOOD}\nnull": (2, "null instead of an object", "as an object"),
    f'{GOOD}\n{{"content": "裙"}}': (2, "no 'summary' (keys found: content)", "--response-column"),
    '{"data": []}': (1, "not a row of a known format (keys found: data)", "--prompt-column"),
    '{"data": {"rows": [1]}}': (
        1,
        "not a row of a known format (keys found: data)",
        "write the rows",
    ),
    f'{{"train": [{GOOD}], "dev": [{GOOD}]}}': (
        1,
        "several lists of rows (train, dev)",
        "separate file",
    ),
    f'{{"a": 1,\n"b": [{GOOD},\n{{"content": "x"}}]}}': (3, "no 'summary'", "--response-column"),
    "{}": (1, "not a row of a known format (keys found: none)", "--prompt-column"),
    f'{GOOD}\n{{"content": "", "summary": "好"}}': (2, "'content' is empty", "fill it in"),
    f'{GOOD}\n{{"content": "裙", "summary": " \\n"}}': (2, "'summary' is empty", "fill it in"),
    '{"content": "裙", "summary": 3}': (1, "'summary' is a number", "double quotes"),
    '{"content": null, "summary": "好"}': (1, "'content' is null", "fill it in or remove the row"),
    '{"content": ["裙"], "summary": "好"}': (1, "'content' is an array", "as text with json.dumps"),
    '{"content": "裙", "summary": {"a": 1}}': (1, "'summary' is an object", "with json.dumps"),
    '{"content": {"0": "伞", "1": "帽"}, "summary": {"0": "好", "1": "行"}}': (
        1,
        "a table stored by columns",
        "orient='records', lines=True",
    ),
    '{"columns": ["content"], "index": [0], "data": [["伞"]]}': (1, "a table stored", "orient="),
    '{"content": "裙", "summary": true}': (1, "'summary' is a boolean", "double quotes"),
    '{"content": "裙", "summary": "\\ud83d"}': (1, "half a character", "repair the text"),
    '{"content": "裙", "content": "裤", "summary": "好"}': (
        1,
        "duplicate key 'content'",
        "correct",
    ),
    f'{GOOD}\n{{"content": "裙", "summ': (2, "at '\"summ'", "cut off here: fetch or save it again"),
    f'{GOOD}\n{{"content": "裙", "summ\n': (2, "not JSON", "cut-off line"),
    f'{GOOD}\n{{"content": "a "b" c", "summary": "好"}}': (
        2,
        "at 'b\" c",
        'inside a string as \\"',
    ),
    '{"content": "裙\t", "summary": "好"}': (
        1,
        "Invalid control character",
        "inside a string as \\t",
    ),
    '{"content": "裙\n裙", "summary": "好"}': (
        1,
        "Invalid control character",
        "inside a string as \\n",
    ),
    "{'content': '裙', 'summary': '好'}": (1, "at ''content'", "use double quotes"),
    f"{GOOD}\n<html>": (2, "not JSON", "missing quote"),
    f"[{GOOD},\n{GOOD}": (
        2,
        "the end of the line or file after row 2 of the array",
        "fetch or save",
    ),
    f'[{GOOD}, {{"content": a}}]': (1, "row 2 of the array: not JSON", "missing quote"),
    f'[{GOOD},\n{{"content": "a", "su': (2, "at '\"su'", "cut off here"),
    f"[{GOOD}\n{GOOD}]": (2, "after row 1 of the array", "expected ',' or ']'"),
    f"[{GOOD}]\n{GOOD}": (2, "after the array", "remove the rest"),
    f"[{GOOD},]": (1, "a comma before the closing ']'", "remove the comma"),
    f"{GOOD[:-1]},}}\n": (1, "not JSON", "remove the comma before '}'"),
    "[" * 100_000: (1, "not usable JSON", "flat object"),
    "version https://git-lfs.github.com/spec/v1\noid x": (1, "a git-LFS pointer", "git lfs pull"),
}


@pytest.mark.parametrize("text", MISTAKES, ids=[text[:40] for text in MISTAKES])
def test_a_mistake_is_named_with_file_line_and_fix(text: str, tmp_path: Path) -> None:
    line, found, fix = MISTAKES[text]
    path = save(tmp_path, text)
    message = message_of(path)
    assert message.startswith(f"{path}: line {line}: ")
    assert found in message
    assert "; expected " in message
    assert fix in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "\n", "\ufeff", " \r\n", "[]", "[ ]\n"])
def test_a_file_without_rows_is_refused(text: str, tmp_path: Path) -> None:
    assert "no rows; expected at least one" in message_of(save(tmp_path, text))


def test_a_message_counts_the_other_unusable_rows(tmp_path: Path) -> None:
    message = message_of(save(tmp_path, f"{GOOD}\n{{}}\n{GOOD}\n[]\n{{}}\n"))
    assert ": line 2: " in message
    assert message.endswith("(and 2 more unusable rows: line 4, 5)")


def test_a_missing_file_and_a_folder_have_different_messages(tmp_path: Path) -> None:
    assert "no such file" in message_of(tmp_path / "nothing.json")
    assert "a folder; expected a file" in message_of(tmp_path)


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("gbk", "GB18030 (GBK)"),
        ("gb18030", "GB18030 (GBK)"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
    ],
)
def test_another_encoding_is_named_with_the_command_that_converts_it(
    codec: str, name: str, tmp_path: Path
) -> None:
    message = message_of(save(tmp_path, "\n".join(LINES).encode(codec)))
    encoding = name.split()[0]
    expected = f"looks like {name}; expected UTF-8; convert it: iconv -f {encoding} -t UTF-8 "
    assert expected in message


def test_damaged_utf8_is_not_mistaken_for_gbk(tmp_path: Path) -> None:
    """Chinese UTF-8 decodes as GB18030 too, into nonsense: a conversion would hide the damage."""
    message = message_of(save(tmp_path, "\n".join(LINES).encode()[:-3] + "好".encode()[:2]))
    assert ": line 2: byte 0xe5 is not UTF-8 text" in message
    assert "iconv" not in message


def test_big5_is_not_mistaken_for_gbk(tmp_path: Path) -> None:
    """It decodes as GB18030, into characters nobody uses."""
    text = '{"content": "這件衣服的顏色很漂亮", "summary": "適合日常穿著"}'
    message = message_of(save(tmp_path, text.encode("big5")))
    assert "is not UTF-8 text" in message
    assert "GB18030" not in message


def test_a_table_in_another_encoding_is_named_too(tmp_path: Path) -> None:
    table = "content,summary\n颜色是白色的裙子,好看的裙子\n"
    for codec, name in (("gbk", "GB18030"), ("utf-16", "UTF-16")):
        message = message_of(save(tmp_path, table.encode(codec), "mine.csv"))
        assert f"looks like {name}" in message
        assert f"expected UTF-8; convert it: iconv -f {name} " in message


def test_a_compressed_file_and_a_zero_byte_are_not_text(tmp_path: Path) -> None:
    assert "byte 0x8b is not UTF-8 text" in message_of(save(tmp_path, b"\x1f\x8b\x08\x00\xff\xfe"))
    assert "byte 0x00 is not UTF-8 text" in message_of(save(tmp_path, GOOD + "\n\0"))


KEYS = "content summary prompt response instruction input output messages conversations role from"
KEYS += " value history system tools parameters observation name metadata data"
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["", "a", "user", "gpt"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4))
def test_texts_come_back_unchanged_or_are_refused(
    rows: list[tuple[str, str]], tmp_path: Path
) -> None:
    written = [{"content": content, "summary": summary} for content, summary in rows]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in written)
    path = save(tmp_path, lines.encode("utf-8"))
    if all(text.strip() for row in written for text in row.values()):
        assert read_rows(path) == written
    else:
        assert "is empty" in message_of(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4),
    ends=st.sampled_from(["\n", "\r\n"]),
)
def test_cells_of_a_table_come_back_unchanged_or_are_refused(
    rows: list[tuple[str, str]], ends: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        table = csv.writer(stream, lineterminator=ends, quoting=csv.QUOTE_ALL)
        table.writerows([("content", "summary"), *rows])
    texts = [text for row in rows for text in row]
    if any("\0" in text for text in texts):
        assert "byte 0x00 is not UTF-8 text" in message_of(path)
    elif all(text.strip() for text in texts):
        assert [(row["content"], row["summary"]) for row in read_rows(path)] == rows
    else:
        assert "is empty" in message_of(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.text(alphabet='{}[]":, \n\r\\ucontesmary裙0', max_size=80).map(str.encode),
    )
)
def test_no_file_causes_a_traceback(content: bytes, tmp_path: Path) -> None:
    for name in ("mine.json", "mine.csv"):
        with suppress(DataError):
            assert read_rows(save(tmp_path, content, name))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON_VALUES)
def test_no_value_causes_a_traceback(value: Any, tmp_path: Path) -> None:
    """Values with the keys of the formats and arbitrary content."""
    with suppress(DataError):
        assert read_rows(save(tmp_path, json.dumps(value)))


# Files found in public repositories -> the number of rows, or the message.
FOUND: dict[str, int | str] = {
    "BobCN2017_surrogate_escapes.json": 9,
    "Saikumo_single_pretty_object.json": 1,
    "gongfuchang_train_equals_dev.json": 25,
    "wangxian_5rows_no_final_newline.json": 5,
    "caixiaomao_demo_one_newline.json": "no rows",
    "congruiIT_two_objects_one_line.json": "line 1: two objects on one line",
}


@pytest.mark.parametrize("name", FOUND)
def test_files_found_in_public_repositories_are_read_or_explained(name: str) -> None:
    path = SHARED / "samples" / "bad_inputs" / name
    if not path.is_file():
        pytest.skip("the collection of found files is not beside this checkout")
    expected = FOUND[name]
    if isinstance(expected, int):
        assert len(read_rows(path)) == expected
    else:
        assert expected in message_of(path)
