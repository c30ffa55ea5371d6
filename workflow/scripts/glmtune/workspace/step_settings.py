"""A step's settings as a file, named by their content: other settings are another file.

A command line cannot carry them. They may hold any text, and Snakemake takes `{word}` in a
parameter for a wildcard; they may be long, and one argument holds 128 KiB at most on Linux.
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
# Below the workspace; as in the commands of the Snakefile.
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
    """The values of `--settings` with those that are flags of their own; no value may be both.

    Raises ParamsError for a file that has one of these, too.
    """
    if both := sorted(flags.settings.keys() & set(names)):
        raise ParamsError(
            f"--settings: found {', '.join(both)}, which the command gives as flags; remove them "
            "from the file"
        )
    return {**flags.settings, **{name: getattr(flags, name) for name in names}}


def typed(kind: type[Settings], values: dict[str, Any], **sections: type) -> Settings:
    """The values of a settings file as an object of the dataclass `kind`.

    `sections` are the dataclasses of the keys that hold keys of their own.

    Raises ParamsError for missing and unknown keys, such as a file of another version has.
    """
    known: Any = fields(kind)  # type: ignore[arg-type]
    names = {field.name for field in known}
    required = {field.name for field in known if field.default is MISSING}
    mistakes = [f"missing key {name!r}" for name in sorted(required - values.keys())]
    mistakes += [f"unknown key {name!r}" for name in sorted(values.keys() - names)]
    if mistakes:
        raise ParamsError(
            f"--settings: {'; '.join(mistakes)}; expected the keys {', '.join(sorted(names))}. "
            "`snakemake -n` writes the settings of params.yaml anew"
        )
    parts: dict[str, Any] = {
        key: typed(part, values[key]) for key, part in sections.items() if key in values
    }
    return kind(**values | parts)
