"""Users' tables: CSV and Parquet."""

from __future__ import annotations

import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from test_data import LINES, ROWS, message_of, read_rows, save

from glmtune.data.reading import check_file
from glmtune.errors import UserError


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["no mark", "byte order mark"])
def test_a_table_is_read_with_the_delimiter_of_its_header(
    delimiter: str, start: str, tmp_path: Path
) -> None:
    cells = (("summary", "n", "content"), ('"一,条;“好”\t裙\n第""二""行"', "1", "裙"))
    text = start + "\r\n".join(delimiter.join(row) for row in cells)
    assert read_rows(save(tmp_path, text, "mine.csv")) == [
        {"content": "裙", "summary": '一,条;“好”\t裙\n第"二"行'}
    ]


TABLE_MISTAKES = {
    "content,summary\na,b\n\na,b,c\n": (4, "3 cells; expected 2", "double quotes"),
    'content,summary\n"a\na",b\na\n': (4, "1 cells; expected 2", "double quotes"),
    'content,summary\na,b\n"a,b\n': (3, "not CSV (unexpected end of data)", "cut-off file"),
    'content,summary\n"a"b,c\n': (2, "not CSV", "lone quote"),
    "a,a\n1,2\n": (1, "duplicate column name (a, a)", "rename one"),
    "content,summary\na,b\na,\n": (3, "'summary' is empty", "fill it in"),
    "类型#裙,好\n类型#裤,好\n": (
        2,
        "not a row of a known format (keys found: 类型#裙, 好)",
        "name",
    ),
    "prompt,response,history\na,b,c\n": (2, "'history' is text that is not JSON", "json.dumps"),
}


@pytest.mark.parametrize("text", TABLE_MISTAKES)
def test_a_mistake_in_a_table_is_named_with_its_line(text: str, tmp_path: Path) -> None:
    line, found, fix = TABLE_MISTAKES[text]
    path = save(tmp_path, text, "mine.csv")
    message = message_of(path)
    assert message.startswith(f"{path}: line {line}: ")
    assert found in message
    assert "; expected " in message
    assert fix in message


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    for text in ("", "\n", "content,summary\n"):
        assert "no rows; expected" in message_of(save(tmp_path, text, "mine.csv"))


def test_json_lines_are_read_with_any_file_name(tmp_path: Path) -> None:
    assert read_rows(save(tmp_path, "\n".join(LINES), "mine.csv")) == ROWS


def test_a_cell_can_hold_a_long_text(tmp_path: Path) -> None:
    text = "很长" * 100_000
    path = save(tmp_path, f"content,summary\na,{text}\n", "mine.csv")
    assert read_rows(path) == [{"content": "a", "summary": text}]


def test_parquet_is_read_and_its_mistakes_name_the_row(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'parquet'")
    parquet = pytest.importorskip("pyarrow.parquet")
    turns = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    path = tmp_path / "mine.parquet"
    for rows, expected in (
        ([{"prompt": "问", "answer": "答"}], {"content": "问", "summary": "答"}),
        ([{"conversations": turns, "tools": None}], {"content": "问", "summary": "答"}),
    ):
        parquet.write_table(arrow.Table.from_pylist(rows), path)
        assert read_rows(path) == [expected]
    parquet.write_table(arrow.Table.from_pylist([*ROWS, {"content": "a"}]), path)
    assert message_of(path).startswith(f"{path}: row 3: 'summary' is null; expected text")
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path}: row 1: not readable as Parquet" in message_of(path)


def test_parquet_that_unpacks_to_far_more_than_its_size_is_refused_cheaply(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'parquet'")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "mine.parquet"

    def write(values: Any, prompt: str = "a") -> None:
        rows = {"content": arrow.array([prompt] * len(values)), "summary": values}
        parquet.write_table(arrow.table(rows), path, compression="zstd")

    repeated = arrow.DictionaryArray.from_arrays([0] * 100_000, ["b"])
    write(repeated)
    assert "100,000 rows in " in message_of(path)
    assert "remove the repeated rows" in message_of(path)
    write(arrow.array(["b" * 100_000_000]))
    assert re.search(r"column 'summary' unpacks from [\d,]+ to 100,[\d,]+ bytes", message_of(path))
    # One text shared by all rows, a thousand times the file size: read a few rows at a time.
    write(arrow.DictionaryArray.from_arrays([0] * 500, ["b" * 1_000_000]))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    assert len(check_file(path)) == 500
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'glmtune\[parquet\]'"):
        read_rows(save(tmp_path, b"PAR1", "mine.bin"))
