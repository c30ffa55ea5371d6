"""JSON as users write it: one object a line, over several lines, in one array, or in a wrapper.

A file is read piece by piece, so that its size does not matter. What is not JSON is a mistake of
its row if the rows after it can still be told apart (JSON Lines), else an error of the file.
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

# Small, since Python counts the lines before each mistake in the text that is held.
CHUNK_CHARACTERS = 1 << 16
# Of one value: no model reads so long a row, and Python needs up to 25 times the memory for it.
LONGEST_VALUE = 1 << 22
# Files that were joined have a byte order mark inside, too.
BLANK = " \t\n\ufeff"
_NO_BLANK = {BLANK: re.compile(r"[^ \t\n\ufeff]"), " \t": re.compile(r"[^ \t]")}
EXPECTED = "expected one complete object a row"


def json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of JSON Lines, or of the elements of one array.

    A value that is a RowMistake stands for a row that is not JSON. DataError if the rest of the
    file cannot be told either.
    """
    with open_text(path) as stream:
        cursor = JsonCursor(path, stream)
        cursor.skip(BLANK)
        yield from (
            _array_elements(cursor, is_file=True) if cursor.next() == "[" else _line_values(cursor)
        )


def values_below(path: Path, key: str) -> Iterator[tuple[int, Any]]:
    """The same for the elements of the array below `key` of the file's one object."""
    with open_text(path) as stream:
        cursor = JsonCursor(path, stream)
        for name in _key_names(cursor):
            if name == key:
                yield from _array_elements(cursor, is_file=False)
                return
            _first_element_only(cursor)


def outline(path: Path) -> dict[str, Any]:
    """The file's one object, however long, with only the first element of each of its arrays.

    Raises RowMistake if it is not an object, or a value outside its arrays is too long.
    """
    with open_text(path) as stream:
        cursor = JsonCursor(path, stream)
        return {name: _first_element_only(cursor) for name in _key_names(cursor)}


def _key_names(cursor: JsonCursor) -> Iterator[str]:
    """Yield the name of each member of an object; the caller steps over its value."""
    cursor.skip(BLANK)
    if cursor.next() == "[":  # an array of nothing but this object
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
    """Step over a value; what it is, an array with its first element only."""
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
            "two objects on one line; expected one row a line; break the line before '{'"
        )
    if found not in ("", "\n"):
        raise RowMistake(
            f"{cursor.quote()} after the object; expected the end of the line; remove it, "
            "or write the whole file as one array [ … ]"
        )


def _array_elements(cursor: JsonCursor, *, is_file: bool) -> Iterator[tuple[int, Any]]:
    """Yield the elements of an array that is the whole file or a part of it."""
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
    """A value too long to be a row: it may be an object around all rows."""


class JsonCursor:
    """A position in a JSON text that is read as it is needed; knows its line."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        self.path, self.text, self.position = path, "", 0
        self._stream, self._at_end = stream, False
        self._line, self._counted = 1, 0
        self._decoder = json.JSONDecoder(object_pairs_hook=_object_without_repeats)

    def next(self) -> str:
        """The character at the position, "" at the end of the file."""
        if self.position == len(self.text):
            self._read_on()
        return self.text[self.position : self.position + 1]

    def skip(self, characters: str) -> None:
        """Go on to the first other character."""
        while self.next():
            other = _NO_BLANK[characters].search(self.text, self.position)
            self.position = other.start() if other else len(self.text)
            if other:
                return

    def step(self, characters: str) -> str:
        """Go one character on, and then over these; what stands there."""
        self.position += 1
        self.skip(characters)
        return self.next()

    def line(self) -> int:
        """The line of the position, from 1."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def value(self) -> Any:
        """Read one JSON value and step behind it; RowMistake, standing still, if there is none."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                # No token goes over a line break: with one behind it, more text cannot help.
                if self._at_end or self.text.find("\n", error.pos) >= 0:
                    raise RowMistake(_what_is_wrong(error)) from None
            except (ValueError, RecursionError) as error:
                raise RowMistake(
                    f"not usable JSON ({error}); expected a flat object; correct the row"
                ) from None
            else:
                if self._at_end or end < len(self.text):  # else a number might go on
                    self.position = end
                    return value
            if len(self.text) - self.position > LONGEST_VALUE:
                raise LongValue(
                    f"a value of more than {LONGEST_VALUE:,} characters; {EXPECTED}; look for a "
                    "bracket or brace that is not closed, or split the row"
                )
            self._read_on()

    def skip_to_next_row(self) -> None:
        """Go on to the next line that begins with a brace, the place where a row can begin."""
        while (found := self.text.find("\n{", self.position)) < 0 and not self._at_end:
            self.position = max(self.position, len(self.text) - 1)  # a line break may end the text
            self._read_on()
        self.position = found + 1 if found >= 0 else len(self.text)

    def quote(self) -> str:
        """What stands at the position, shortened, for a message."""
        return _quote_rest_of_line(self.text, self.position)

    def fail(self, what: str) -> NoReturn:
        """Raise DataError for the position."""
        raise error_at(self.path, self.line(), what)

    def _read_on(self) -> None:
        """Forget what is before the position, and read at least as much as is left."""
        self.line()
        self.text = self.text[self.position :]
        self.position = self._counted = 0
        more = self._stream.read(max(CHUNK_CHARACTERS, len(self.text)))
        refuse_zero_bytes(self.path, more)
        self._at_end = not more
        self.text += more


def _what_is_wrong(error: json.JSONDecodeError) -> str:
    """A mistake in the text of a row, with the likely cause and its cure."""
    found = error.doc[error.pos : error.pos + 1]
    reason = error.msg.removesuffix(" at").removesuffix(" starting")
    place = f"not JSON ({reason} at {_quote_rest_of_line(error.doc, error.pos)})"
    if not found or error.msg.startswith("Unterminated"):
        return f"{place}; {EXPECTED}; the file was cut off here: fetch or save it again"
    if found == "\n" and error.msg.startswith("Invalid control"):
        return (
            f"{place}; {EXPECTED}; a text is not closed on its line: look for a missing quote or a "
            "cut-off line, and write a line break inside a text as \\n"
        )
    if error.msg.startswith("Invalid control"):
        escape = json.dumps(found).strip('"')
        return f"{place}; {EXPECTED}; a control character inside a text is written as {escape}"
    if found in ("}", "]") and error.doc[: error.pos].rstrip().endswith(","):
        return f"{place}; {EXPECTED}; remove the comma before {found!r}"
    if found == "'":
        return f"{place}; {EXPECTED}; use double quotes, as json.dumps writes them"
    return (
        f"{place}; {EXPECTED}; look for a missing quote, comma or brace, and write quotes inside "
        'a text as \\"'
    )


def _quote_rest_of_line(text: str, position: int) -> str:
    rest = text[position : position + 1000].split("\n", 1)[0]
    return f"'{shorten(rest)}'" if rest else "the end of the line or file"


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dict; ValueError where a key repeats, since one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key '{repeated}' stands twice in one object")
    return found
