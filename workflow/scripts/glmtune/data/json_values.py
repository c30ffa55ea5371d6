"""JSON as users write it: one object per line or over several lines, one array, or a wrapper.

Files are read in chunks, so their size does not matter. Invalid JSON is a mistake of its row if
later rows can still be separated (JSON Lines); otherwise it is an error of the whole file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from glmtune.data.rows import RowMistake, error_at, shorten
from glmtune.data.text import open_text, refuse_zero_bytes

# Small, since Python counts the lines before each mistake in the buffered text.
CHUNK_CHARACTERS = 1 << 16
# For one value: no model reads such a long row, and Python needs up to 25 times the memory.
LONGEST_VALUE = 1 << 22
# Concatenated files contain further byte order marks.
BLANK = " \t\n\ufeff"
_NO_BLANK = {BLANK: re.compile(r"[^ \t\n\ufeff]"), " \t": re.compile(r"[^ \t]")}
EXPECTED = "expected one complete object per row"


def json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) for JSON Lines or for the elements of one array.

    Rows that are not JSON are yielded as RowMistake. Raises DataError if the rest of the file
    cannot be separated into rows.
    """
    with open_text(path) as stream:
        cursor = JsonCursor(path, stream)
        cursor.skip(BLANK)
        yield from (
            _array_elements(cursor, is_file=True) if cursor.next() == "[" else _line_values(cursor)
        )


def values_below(path: Path, key: str) -> Iterator[tuple[int, Any]]:
    """The same for the elements of the array under `key` in the file's single object."""
    with open_text(path) as stream:
        cursor = JsonCursor(path, stream)
        for name in _key_names(cursor):
            if name == key:
                yield from _array_elements(cursor, is_file=False)
                return
            _first_element_only(cursor)


def outline(path: Path) -> dict[str, Any]:
    """The file's single object, of any length, with only the first element of each array.

    Raises RowMistake if it is not an object or if a value outside its arrays is too long.
    """
    with open_text(path) as stream:
        cursor = JsonCursor(path, stream)
        return {name: _first_element_only(cursor) for name in _key_names(cursor)}


def _key_names(cursor: JsonCursor) -> Iterator[str]:
    """Yield the name of each member of an object; the caller consumes its value."""
    cursor.skip(BLANK)
    if cursor.next() == "[":  # an array with this object only
        cursor.step(BLANK)
    found = cursor.next()
    cursor.step(BLANK)
    while found in ("{", ",") and cursor.next() != "}":
        name = cursor.value()
        cursor.skip(BLANK)
        if cursor.next() != ":":
            raise RowMistake(f"{cursor.quote()} after a key; {EXPECTED}; write ':' and its value")
        cursor.step(BLANK)
        yield name
        cursor.skip(BLANK)
        found = cursor.next()
        cursor.step(BLANK)


def _first_element_only(cursor: JsonCursor) -> Any:
    """Consume and return a value; of an array, return only the first element."""
    if cursor.next() != "[":
        return cursor.value()
    first: list[Any] = []
    for _, element in _array_elements(cursor, is_file=False):
        first = first or [element]
    return first


def _line_values(cursor: JsonCursor) -> Iterator[tuple[int, Any]]:
    while cursor.next():
        line = cursor.line()
        try:
            value = cursor.value()
            _require_line_end(cursor)
        except RowMistake as mistake:
            value = mistake
            cursor.skip_to_next_row()
        yield line, value
        cursor.skip(BLANK)


def _require_line_end(cursor: JsonCursor) -> None:
    cursor.skip(" \t")
    found = cursor.next()
    if found == "{":
        raise RowMistake(
            "two objects on one line; expected one row per line; break the line before '{'"
        )
    if found not in ("", "\n"):
        raise RowMistake(
            f"{cursor.quote()} after the object; expected the end of the line; remove it, "
            "or write the whole file as one array [ … ]"
        )


def _array_elements(cursor: JsonCursor, *, is_file: bool) -> Iterator[tuple[int, Any]]:
    """Yield the elements of an array that is the whole file or part of it."""
    row = 0
    if cursor.step(BLANK) != "]":
        while True:
            row, line = row + 1, cursor.line()
            yield line, _value_or_fail(cursor, row)
            cursor.skip(BLANK)
            found = cursor.next()
            if found not in (",", "]"):
                cursor.fail(
                    f"{cursor.quote()} after row {row} of the array; expected ',' or ']'; "
                    "if the file was cut off, fetch or save it again"
                )
            if cursor.step(BLANK) == "]" and found == ",":
                cursor.fail("a comma before the closing ']'; expected a row; remove the comma")
            if found == "]":
                break
    else:
        cursor.step(BLANK)
    if is_file and cursor.next():
        cursor.fail(f"{cursor.quote()} after the array; expected one array; remove the rest")


def _value_or_fail(cursor: JsonCursor, row: int) -> Any:
    try:
        return cursor.value()
    except RowMistake as mistake:
        cursor.fail(f"row {row} of the array: {mistake}")


class LongValue(RowMistake):
    """A value too long for a row; it may be a wrapper around all rows."""


class JsonCursor:
    """A position in a JSON text that is read on demand; tracks its line."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        self.path, self.text, self.position = path, "", 0
        self._stream, self._at_end = stream, False
        self._line, self._counted = 1, 0
        self._decoder = json.JSONDecoder(object_pairs_hook=_object_without_repeats)

    def next(self) -> str:
        """The character at the position; "" at the end of the file."""
        if self.position == len(self.text):
            self._read_on()
        return self.text[self.position : self.position + 1]

    def skip(self, characters: str) -> None:
        """Skip these characters."""
        while self.next():
            other = _NO_BLANK[characters].search(self.text, self.position)
            self.position = other.start() if other else len(self.text)
            if other:
                return

    def step(self, characters: str) -> str:
        """Advance one character, skip these, and return the next one."""
        self.position += 1
        self.skip(characters)
        return self.next()

    def line(self) -> int:
        """The line of the position, from 1."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def value(self) -> Any:
        """Read one JSON value; on RowMistake the position is unchanged."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                # No token spans a line break: if one follows, more text cannot help.
                if self._at_end or self.text.find("\n", error.pos) >= 0:
                    raise RowMistake(_what_is_wrong(error)) from None
            except (ValueError, RecursionError) as error:
                raise RowMistake(
                    f"not usable JSON ({error}); expected a flat object; correct the row"
                ) from None
            else:
                if self._at_end or end < len(self.text):  # else a number may continue
                    self.position = end
                    return value
            if len(self.text) - self.position > LONGEST_VALUE:
                raise LongValue(
                    f"a value of more than {LONGEST_VALUE:,} characters; {EXPECTED}; look for an "
                    "unclosed bracket or brace, or split the row"
                )
            self._read_on()

    def skip_to_next_row(self) -> None:
        """Skip to the next line that begins with a brace, where a row can begin."""
        while (found := self.text.find("\n{", self.position)) < 0 and not self._at_end:
            self.position = max(
                self.position, len(self.text) - 1
            )  # the text may end with a line break
            self._read_on()
        self.position = found + 1 if found >= 0 else len(self.text)

    def quote(self) -> str:
        """The text at the position, shortened for a message."""
        return _quote_rest_of_line(self.text, self.position)

    def fail(self, what: str) -> NoReturn:
        """Raise DataError at the position."""
        raise error_at(self.path, self.line(), what)

    def _read_on(self) -> None:
        """Discard text before the position and read at least as much as remains."""
        self.line()
        self.text = self.text[self.position :]
        self.position = self._counted = 0
        more = self._stream.read(max(CHUNK_CHARACTERS, len(self.text)))
        refuse_zero_bytes(self.path, more)
        self._at_end = not more
        self.text += more


def _what_is_wrong(error: json.JSONDecodeError) -> str:
    """Describe a syntax error in a row with its likely cause and fix."""
    found = error.doc[error.pos : error.pos + 1]
    reason = error.msg.removesuffix(" at").removesuffix(" starting")
    place = f"not JSON ({reason} at {_quote_rest_of_line(error.doc, error.pos)})"
    if not found or error.msg.startswith("Unterminated"):
        return f"{place}; {EXPECTED}; the file was cut off here: fetch or save it again"
    if found == "\n" and error.msg.startswith("Invalid control"):
        return (
            f"{place}; {EXPECTED}; a string is not closed on its line: look for a missing quote or "
            "a cut-off line, and write a line break inside a string as \\n"
        )
    if error.msg.startswith("Invalid control"):
        escape = json.dumps(found).strip('"')
        return f"{place}; {EXPECTED}; write a control character inside a string as {escape}"
    if error.msg.startswith("Illegal trailing comma"):  # Python 3.13, which points at the comma
        found = error.doc[error.pos + 1 :].lstrip()[:1]
        return f"{place}; {EXPECTED}; remove the comma before {found!r}"
    if found in ("}", "]") and error.doc[: error.pos].rstrip().endswith(","):
        return f"{place}; {EXPECTED}; remove the comma before {found!r}"
    if found == "'":
        return f"{place}; {EXPECTED}; use double quotes, as json.dumps writes them"
    return (
        f"{place}; {EXPECTED}; look for a missing quote, comma or brace, and write quotes inside "
        'a string as \\"'
    )


def _quote_rest_of_line(text: str, position: int) -> str:
    rest = text[position : position + 1000].split("\n", 1)[0]
    return f"'{shorten(rest)}'" if rest else "the end of the line or file"


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dict; ValueError for a duplicate key, since one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"duplicate key '{repeated}' in one object")
    return found
