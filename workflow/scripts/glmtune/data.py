"""Data sets: users' files read strictly, and the normalised folder that all later steps read.

A row is {"content": prompt, "summary": answer}, as in ADGEN. Accepted are JSON Lines and a JSON
array, in UTF-8 with or without a byte order mark and with any line ends, and objects printed over
several lines. Every mistake is a DataError in one sentence: *file: line: found; expected; fix*.
Texts are never changed. Knows nothing about tokenizers or about where a file came from.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from glmtune.errors import DataError
from glmtune.files import sha256_of, write_json, write_jsonl

Row = dict[str, str]

MOST_LINES_NAMED = 5
LONGEST_QUOTE = 40


@dataclass(frozen=True)
class Columns:
    """The names of the two fields of a user's rows."""

    prompt: str = "content"
    response: str = "summary"


@dataclass(frozen=True)
class DataFormat:
    """One way a file holds rows; `read` turns a file into rows or raises DataError."""

    title: str
    read: Callable[[Path, Columns], list[Row]]


@dataclass(frozen=True)
class Split:
    """One normalised JSON Lines file of a data set; `file` is its name inside the folder."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """The manifest of a data set: decided by its content alone, so that it can be a DAG's edge."""

    source: dict[str, Any]
    train: Split
    dev: Split


# --- the normalised folder -----------------------------------------------------------------------


def write_dataset(
    folder: Path | str, train: list[Row], dev: list[Row], source: dict[str, Any]
) -> DataSet:
    """Write train.jsonl, dev.jsonl and, last of all, manifest.json into `folder`."""
    folder = Path(folder)
    manifest = DataSet(
        source, _write_split(folder, "train.jsonl", train), _write_split(folder, "dev.jsonl", dev)
    )
    write_json(folder / "manifest.json", asdict(manifest))
    return manifest


def _write_split(folder: Path, name: str, rows: list[Row]) -> Split:
    write_jsonl(folder / name, rows)
    return Split(name, len(rows), sha256_of(folder / name))


# --- users' files --------------------------------------------------------------------------------


def read_rows(
    path: Path | str, columns: Columns | None = None, data_format: str = "adgen"
) -> list[Row]:
    """The rows of a user's file as {"content", "summary"}; DataError for any mistake in it."""
    if data_format not in DATASETS:
        choices = ", ".join(sorted(DATASETS))
        raise DataError(f"unknown data format '{data_format}'; choose from {choices}")
    return DATASETS[data_format].read(Path(path), columns or Columns())


def read_adgen(path: Path, columns: Columns) -> list[Row]:
    """Read objects with a prompt and a response field, both non-empty strings."""
    rows: list[Row] = []
    mistakes: list[tuple[int, str]] = []
    for line, value in _json_values(path, _read_text(path)):
        mistake = _mistake_in(value, columns)
        if mistake is None:
            rows.append({"content": value[columns.prompt], "summary": value[columns.response]})
        else:
            mistakes.append((line, mistake))
    if mistakes:
        _fail(path, mistakes[0][0], mistakes[0][1] + _other_lines(mistakes[1:]))
    if not rows:
        raise DataError(
            f"{path}: no rows; expected at least one object with "
            f"'{columns.prompt}' and '{columns.response}'; check that the file was saved"
        )
    return rows


def _mistake_in(value: Any, columns: Columns) -> str | None:
    """What keeps one JSON value from being a row ("found; expected; fix"), or None."""
    wanted = f'expected {{"{columns.prompt}": text, "{columns.response}": text}}'
    if not isinstance(value, dict):
        return f"{_name(value)} instead of an object; {wanted}; write each row as an object"
    for column in (columns.prompt, columns.response):
        if column not in value:
            keys = ", ".join(value) or "none"
            return (
                f"no '{column}' (keys found: {_shorten(keys)}); {wanted}; add it, or name your "
                "columns with --prompt-column and --response-column"
            )
        text = value[column]
        if not isinstance(text, str):
            return f"'{column}' is {_name(text)}; expected text; put it in double quotes"
        if not text.strip():
            return f"'{column}' is empty; expected text; fill it in or remove the row"
        if any("\ud800" <= character <= "\udfff" for character in text):
            return (
                f"'{column}' holds half a character (a lone \\ud800-\\udfff escape); expected "
                "whole characters; repair the text or remove the row"
            )
    return None


def _name(value: Any) -> str:
    """A JSON value in words, for a message."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _other_lines(mistakes: list[tuple[int, str]]) -> str:
    if not mistakes:
        return ""
    lines = ", ".join(str(line) for line, _ in mistakes[:MOST_LINES_NAMED])
    more = ", …" if len(mistakes) > MOST_LINES_NAMED else ""
    return f" (and {len(mistakes)} more unusable rows: line {lines}{more})"


# --- from bytes to text --------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    """The text of a UTF-8 file, without its byte order mark and with newlines as line ends."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; expected a file; name the file inside it")
    if not path.exists():
        raise DataError(f"{path}: no such file; expected a data file; check the path")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _fail_encoding(path, raw, error.start)
    if "\0" in text:
        _fail_encoding(path, raw, raw.index(b"\0"))
    # JSON forbids raw line ends inside strings, so this cannot touch a row's text.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _fail_encoding(path: Path, raw: bytes, position: int) -> NoReturn:
    """Raise a DataError that names the encoding, if it can be told, and the conversion command."""
    line = raw[:position].count(b"\n") + 1
    encoding = _guess_encoding(raw)
    if encoding is None:
        _fail(
            path,
            line,
            f"byte 0x{raw[position]:02x} is not UTF-8 text; expected JSON in UTF-8; "
            "fetch a damaged file again, unpack or convert a packed one (zip, gzip, parquet)",
        )
    target = f"{path.stem}.utf8{path.suffix}"
    convert = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(target)}"
    _fail(path, line, f"the encoding looks like {encoding}; expected UTF-8; convert it: {convert}")


def _guess_encoding(raw: bytes) -> str | None:
    """UTF-16 or GB18030 (GBK is a part of it) for bytes that are not UTF-8; None if neither."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _if_decodes(raw, "UTF-16")
    if b"\0" in raw[:2]:  # JSON starts with an ASCII character
        return _if_decodes(raw, "UTF-16BE" if raw[0] == 0 else "UTF-16LE")
    # Damaged UTF-8 often decodes as GB18030, into nonsense: there most characters are still right.
    as_utf8 = raw.decode("utf-8", "replace")
    right = sum("\u2e80" <= character < "\ufffd" for character in as_utf8)
    return _if_decodes(raw, "GB18030") if as_utf8.count("\ufffd") > right else None


def _if_decodes(raw: bytes, encoding: str) -> str | None:
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return None
    return encoding if text.lstrip("\ufeff \r\n\t").startswith(("{", "[")) else None


# --- from text to JSON values --------------------------------------------------------------------


def _json_values(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of JSON Lines, or of the elements of one JSON array."""
    if text.startswith("version https://git-lfs"):
        _fail(path, 1, "a git-LFS pointer; expected the data itself; run 'git lfs pull' there")
    cursor = _Cursor(path, text)
    cursor.skip(" \t\n")
    in_array = cursor.next() == "["
    if in_array:
        cursor.position += 1
        cursor.skip(" \t\n")
        if cursor.next() == "]":
            return
    while cursor.next():
        yield cursor.value()
        if in_array and _array_ends(cursor):
            return
        if not in_array:
            _require_line_end(cursor)
        cursor.skip(" \t\n")


def _array_ends(cursor: _Cursor) -> bool:
    """Step over what follows an element: a comma (False) or the final bracket (True)."""
    cursor.skip(" \t\n")
    found = cursor.next()
    if found not in (",", "]"):
        cursor.fail(
            f"{cursor.quote()} after an element of the array; expected ',' or ']'; "
            "if the file was cut off, fetch or save it again"
        )
    cursor.position += 1
    cursor.skip(" \t\n")
    if found == "]" and cursor.next():
        cursor.fail(f"{cursor.quote()} after the array; expected one array; remove the rest")
    return found == "]"


def _require_line_end(cursor: _Cursor) -> None:
    cursor.skip(" \t")
    found = cursor.next()
    if found == "{":
        cursor.fail("two objects on one line; expected one row a line; break the line before '{'")
    if found not in ("", "\n"):
        cursor.fail(
            f"{cursor.quote()} after the object; expected the end of the line; remove it, "
            "or write the whole file as one array [ … ]"
        )


class _Cursor:
    """A position in a JSON text that knows its line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text, self.position = path, text, 0
        self._line, self._counted = 1, 0
        self._decoder = json.JSONDecoder(object_pairs_hook=_object_without_repeats)

    def next(self) -> str:
        """The character at the position, "" at the end of the text."""
        return self.text[self.position : self.position + 1]

    def skip(self, characters: str) -> None:
        while self.position < len(self.text) and self.text[self.position] in characters:
            self.position += 1

    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def value(self) -> tuple[int, Any]:
        """Read one JSON value and step behind it: (its first line, the value)."""
        try:
            value, end = self._decoder.raw_decode(self.text, self.position)
        except json.JSONDecodeError as error:
            self.fail(
                f"not JSON ({error.msg} at line {error.lineno} column {error.colno}): "
                f"{self.quote()}; expected one complete object a row; look for a missing quote, "
                "comma or brace, or a cut-off line"
            )
        except (ValueError, RecursionError) as error:
            self.fail(f"not usable JSON ({error}); expected a flat object; correct the row")
        line = self.line()
        self.position = end
        return line, value

    def quote(self) -> str:
        """What stands at the position, shortened, for a message."""
        rest = self.text[self.position :].split("\n", 1)[0]
        return f"'{_shorten(rest)}'" if rest else "the end of the line or file"

    def fail(self, what: str) -> NoReturn:
        _fail(self.path, self.line(), what)


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dict; ValueError where a key repeats, since one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{repeated}' stands twice in one object")
    return found


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "…"


def _fail(path: Path, line: int, what: str) -> NoReturn:
    raise DataError(f"{path}: line {line}: {what}")


# `data_format` by name: where further formats are added.
DATASETS: dict[str, DataFormat] = {
    "adgen": DataFormat("objects with a prompt and a response (ADGEN)", read_adgen),
}
