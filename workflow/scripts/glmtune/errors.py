"""What goes wrong because of a user's input, and how a script says so.

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
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake that the user can mend; its text is the whole explanation."""


class ParamsError(UserError):
    """A wrong parameter or flag."""


class DataError(UserError):
    """An unusable data set or predictions file."""


class WeightsError(UserError):
    """An unusable model folder, prefix, adapter or tokenizer file."""


class ResourceError(UserError):
    """Not enough disk, memory or GPU."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; turn a user's mistake into one message and exit code 2."""
    try:
        main()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        message = _explain_os_error(error)
        if message is None:
            raise
        _fail(message)


def _explain_os_error(error: OSError) -> str | None:
    """A sentence for the operating system's refusals that a user can mend, else None."""
    path = error.filename or "the output folder"
    if error.errno == errno.ENOSPC:
        return f"{path}: no space left on the disk; free some space and run the command again"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{path}: not permitted ({error.strerror}); check the owner and mode of the folder"
    return None


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
