"""Errors caused by a user's input, and how a script reports them.

    UserError                anything a user can cause: one clear message, exit code 2, no traceback
    ├── ParamsError          params.yaml or a script's flags
    ├── DataError            a data set or predictions file
    ├── WeightsError         a model folder, prefix, adapter or tokenizer file
    └── ResourceError        disk, memory, GPU

Everything else is a bug and keeps its traceback.

The form of a message is *file: key or line: what was found; what was expected; how to fix it*.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import TracebackType
from typing import Any, cast

EXIT_USER_ERROR = 2
# As shells count the signal SIGPIPE.
EXIT_PIPE_CLOSED = 141
# Escaped Unicode categories: control characters, invisible marks (also of direction), lone
# surrogates, line and paragraph separators.
ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Joiners in emoji and in Indic and Persian words: they are part of the text and harmless.
JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"

# How tqdm moves from a bar to the one above it.
BAR_ABOVE = "\x1b[A"


class UserError(Exception):
    """An error that the user can fix; its text is the whole explanation.

    Text from untrusted files is escaped in it, so that a terminal can show it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""Escape what would control a terminal or change the text direction; line breaks stay.

    Example: "\x1b[31m" -> "\\x1b[31m"
    """
    if text.isprintable():  # almost all texts are
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ESCAPED and character not in f"\n{JOINERS}"
        else character
        for character in text
    )


def shown_name(name: str, longest: int = 100) -> str:
    """An untrusted name on one line, truncated if it is long."""
    shown = printable(name[:longest]).replace("\n", "\\n")
    return f"{shown}…" if len(name) > longest else shown


class ParamsError(UserError):
    """A wrong parameter or flag."""


class DataError(UserError):
    """An unusable data set or predictions file."""


class WeightsError(UserError):
    """An unusable model folder, prefix, adapter or tokenizer file."""


class ResourceError(UserError):
    """Not enough disk, memory or GPU."""


class _Escaped:
    """An output stream that escapes untrusted text, so that it cannot control the terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        r"""Write `text` escaped, except for the \r around progress bars and their moves up."""
        if text and not text.replace(BAR_ABOVE, ""):
            return int(self._stream.write(text))
        bar = text.strip("\r")
        start, _, end = text.partition(bar) if bar else (text, "", "")
        self._stream.write(f"{start}{printable(bar.expandtabs())}{end}")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line escaped."""
        for line in lines:
            self.write(line)


@contextmanager
def _escaped_streams() -> Iterator[None]:
    """Escape everything printed meanwhile: notes, warnings, the output of libraries."""
    out, err = (cast(io.TextIOBase, _Escaped(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


def _show_bug(kind: type[BaseException], bug: BaseException, place: TracebackType | None) -> None:
    """Print a traceback, escaped because its message may quote untrusted text."""
    print(printable("".join(traceback.format_exception(kind, bug, place))), end="", file=sys.stderr)


def first_line(error: Exception) -> str:
    """The first line of a library's message, or the kind of error where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; turn errors that a user can fix into one message and exit code 2.

    The message is the last line of the log: earlier output is not held back. Untrusted text in the
    output is escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    sys.excepthook = _show_bug
    try:
        with _escaped_streams():
            main()
    except BrokenPipeError:  # whoever reads the output has enough, e.g. `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_PIPE_CLOSED)
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else explain(error)
        if message is None:
            raise
        print(f"error: {printable(message)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def explain(error: Exception) -> str | None:
    """A sentence for a failure of the machine that a user can fix; None for a bug."""
    path = getattr(error, "filename", None) or "the output folder"
    if _is_full_disk(error):
        return f"{path}: no space left on the disk; free some space and run the command again"
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        return f"{path}: access denied ({error}); check the owner and permissions of the folder"
    if isinstance(error, NotADirectoryError):
        return f"{path}: part of this path is a file; expected a folder; choose another path"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return (
            "out of memory (RAM); in params.yaml, lower training.batch_size and "
            "generation.batch_size, or run fewer jobs at once (--cores 1)"
        )
    if is_full_gpu(error):
        return (
            "out of GPU memory; in params.yaml, lower training.batch_size (and raise "
            "gradient_accumulation_steps by the same factor), set training.gradient_checkpointing "
            "to true, set quantization_bit to 8 or 4, or lower generation.batch_size"
        )
    return None


def is_full_gpu(error: BaseException) -> bool:
    """Return whether a GPU ran out of memory, by name and text: most steps do not import torch."""
    texts = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    is_named = type(error).__name__ == "OutOfMemoryError"
    return is_named or any(text in str(error) for text in texts)


def _is_full_disk(error: BaseException) -> bool:
    """Return whether the disk is full, however a library reports it."""
    texts = ("No space left on device", "inline_container")  # safetensors; a truncated torch.save
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(text in str(error) for text in texts)
