"""A step's settings in a file named by their content: other settings have another file.

A command line cannot hold them. They may contain any text, and Snakemake takes `{word}` in a
parameter for a wildcard; they may be long, and Linux limits one argument to 128 KiB.
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from glmtune.errors import ParamsError, ResourceError
from glmtune.files import sha256_of_bytes, write_text

Settings = TypeVar("Settings")
# In the workspace; the commands in the Snakefile have the same path.
FOLDER = Path(".glmtune/settings")


def write_settings(workspace: Path, values: Any) -> str:
    """Write a step's settings to `.glmtune/settings/<hash>.json` and return the hash.

    Raises ResourceError where nothing can be written.
    """
    text = json.dumps(values, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    name = sha256_of_bytes(text.encode())
    path = workspace / FOLDER / f"{name}.json"
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be written ({error.strerror}); free some space on the disk, or make "
            "the folder writable"
        ) from None
    return name


def read_settings(file: str) -> Any:
    """The JSON document of a flag like `--settings`, as argparse's `type`.

    Raises ParamsError for a file that is not there or is not JSON.
    """
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror
    except ValueError as error:
        reason = f"not JSON ({error})"
    raise ParamsError(
        f"{file}: {reason}; expected a JSON file of settings. `snakemake -n` writes those of "
        "params.yaml, `snakemake -n -p` shows each step's command"
    )


def with_flags(flags: Namespace, *names: str) -> dict[str, Any]:
    """The values of `--settings` with those that have flags of their own.

    Raises ParamsError for a file that has a value of a flag, too.
    """
    if both := sorted(flags.settings.keys() & set(names)):
        raise ParamsError(
            f"--settings: found {', '.join(both)}, which the command gives as flags; remove them "
            "from the file"
        )
    return {**flags.settings, **{name: getattr(flags, name) for name in names}}


def typed(kind: type[Settings], values: dict[str, Any], **sections: type) -> Settings:
    """The values of a settings file as an object of the dataclass `kind`.

    `sections` are the dataclasses of the keys that are sections.

    Raises ParamsError for missing and unknown keys, as in a file of another version.
    """
    known: Any = fields(kind)  # type: ignore[arg-type]
    names = {field.name for field in known}
    required = {field.name for field in known if field.default is MISSING}
    mistakes = [f"missing key {name!r}" for name in sorted(required - values.keys())]
    mistakes += [f"unknown key {name!r}" for name in sorted(values.keys() - names)]
    if mistakes:
        raise ParamsError(
            f"--settings: {'; '.join(mistakes)}; expected the keys {', '.join(sorted(names))}. "
            "`snakemake -n` writes a new settings file from params.yaml"
        )
    parts: dict[str, Any] = {
        key: typed(part, values[key]) for key, part in sections.items() if key in values
    }
    return kind(**values | parts)
