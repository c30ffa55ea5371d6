"""From bytes to text: UTF-8 only, with or without a byte order mark; anything else is explained."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from glmtune.data.rows import error_at
from glmtune.errors import DataError

# So many of the other characters of a Chinese text are among the 6,763 of GB2312, at the least.
USUAL_SHARE = 0.8
# The encoding is guessed from so much.
SAMPLE = 1 << 18


def check_is_file(path: Path) -> None:
    """Raise DataError for a folder and for a missing file."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; expected a file; name the file inside it")
    if not path.exists():
        raise DataError(f"{path}: no such file; expected a data file; check the path")


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file as text that is decoded as it is read; `newline` as for `open`.

    Raises DataError, also while it is read, with the line and what to do about the encoding.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as stream:
            yield stream
    except UnicodeDecodeError:
        raise _encoding_error(path) from None


def refuse_zero_bytes(path: Path, text: str) -> None:
    """Raise DataError for text that only looks like UTF-8: UTF-16, or no text at all."""
    if "\0" in text:
        raise _encoding_error(path)


def _encoding_error(path: Path) -> DataError:
    """An error that names the encoding, if it can be told, and the command that converts it."""
    raw = path.read_bytes()
    try:
        raw.decode("utf-8")
        position = raw.index(b"\0")
    except UnicodeDecodeError as error:
        position = error.start
    line = raw[:position].count(b"\n") + 1
    encoding = _guess_encoding(raw)
    if encoding is None:
        return error_at(
            path,
            line,
            f"byte 0x{raw[position]:02x} is not UTF-8 text; expected text in UTF-8; "
            "fetch a damaged file again, unpack or convert a packed one (zip, gzip, xlsx)",
        )
    target = f"{path.stem}.utf8{path.suffix}"
    convert = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(target)}"
    found = f"the encoding looks like {encoding}; expected UTF-8; convert it: {convert}"
    return error_at(path, line, found)


def _guess_encoding(raw: bytes) -> str | None:
    """UTF-16 or GB18030 (GBK is a part of it) for bytes that are not UTF-8; None if neither."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16" if _decode_or_empty(raw, "UTF-16") else None
    if b"\0" in raw[:2]:  # JSON and a table's header begin with ASCII characters
        encoding = "UTF-16BE" if raw[0] == 0 else "UTF-16LE"
        return encoding if _decode_or_empty(raw, encoding) else None
    # Damaged UTF-8 often decodes as GB18030, into nonsense: there most characters are still right.
    as_utf8 = raw[:SAMPLE].decode("utf-8", "replace")
    right = sum("\u2e80" <= character < "\ufffd" for character in as_utf8)
    if as_utf8.count("\ufffd") <= right:
        return None
    # So does Big5, into characters that nobody writes: converting it would destroy the text.
    others = [c for c in _decode_or_empty(raw, "GB18030")[:SAMPLE] if not c.isascii()]
    usual = sum(bool(c.encode("gb2312", "ignore")) for c in others)
    return "GB18030" if others and usual >= USUAL_SHARE * len(others) else None


def _decode_or_empty(raw: bytes, encoding: str) -> str:
    """The text, or "" for bytes that cannot be JSON or a table in this encoding."""
    try:
        text = raw.decode(encoding).lstrip("\ufeff \r\n\t")
    except UnicodeDecodeError:
        return ""
    return text if text[:1].isalnum() or text.startswith(("{", "[", '"')) else ""
