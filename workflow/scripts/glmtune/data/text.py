"""Decodes text: UTF-8 only, with or without a byte order mark; explains other encodings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from glmtune.data.rows import error_at
from glmtune.errors import DataError

# At least this share of a Chinese text's non-ASCII characters is among the 6,763 of GB2312.
USUAL_SHARE = 0.8
# The number of characters from which the encoding is guessed.
SAMPLE = 1 << 18


def check_is_file(path: Path) -> None:
    """Raise DataError for a folder or a missing file."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; expected a file; name the file inside it")
    if not path.exists():
        raise DataError(f"{path}: no such file; expected a data file; check the path")


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file as text that is decoded while reading; `newline` as for `open`.

    Encoding errors raise DataError, also during reading, with the line and a fix.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as stream:
            yield stream
    except UnicodeDecodeError:
        raise _encoding_error(path) from None


def refuse_zero_bytes(path: Path, text: str) -> None:
    """Raise DataError for text that only looks like UTF-8: UTF-16 or binary data."""
    if "\0" in text:
        raise _encoding_error(path)


def _encoding_error(path: Path) -> DataError:
    """Return an error with the detected encoding, if any, and the command to convert it."""
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
            "fetch a damaged file again; unpack or convert a compressed one (zip, gzip, xlsx)",
        )
    target = f"{path.stem}.utf8{path.suffix}"
    convert = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(target)}"
    name = "GB18030 (GBK)" if encoding == "GB18030" else encoding
    found = f"the encoding looks like {name}; expected UTF-8; convert it: {convert}"
    return error_at(path, line, found)


def _guess_encoding(raw: bytes) -> str | None:
    """Guess UTF-16 or GB18030 (a superset of GBK) for bytes that are not UTF-8, else None."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16" if _decode_or_empty(raw, "UTF-16") else None
    if b"\0" in raw[:2]:  # JSON and table headers begin with ASCII characters
        encoding = "UTF-16BE" if raw[0] == 0 else "UTF-16LE"
        return encoding if _decode_or_empty(raw, encoding) else None
    # Damaged UTF-8 often decodes as GB18030, into nonsense; as UTF-8, most of it is still valid.
    as_utf8 = raw[:SAMPLE].decode("utf-8", "replace")
    right = sum("\u2e80" <= character < "\ufffd" for character in as_utf8)
    if as_utf8.count("\ufffd") <= right:
        return None
    # So does Big5, into characters nobody uses: a conversion would destroy the text.
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
