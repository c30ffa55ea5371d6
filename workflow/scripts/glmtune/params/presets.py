"""A preset merged into the default parameters, as text, so that every comment stays.

`presets/default.yaml` is params.yaml as shipped. Another preset holds only what differs from it:

- a section is merged key by key; any other value, and any list, replaces the default's;
- of `models` and `methods` only the entries that the preset names remain;
- comments are above their key; a preset's follow the default's.

Knows the layout of these files, not what the keys mean; needs the standard library only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from glmtune.errors import ParamsError, shown_name

DEFAULT = "default"
# Sections whose entries are the user's own names.
NAMED_ENTRIES = ("models", "methods")
KEY = re.compile(r"( *)([\w.-]+):(?: |$)")
SECTION = re.compile(r" *[\w.-]+:\s*(#.*)?")


@dataclass(frozen=True)
class Entry:
    """A key with the comments above it and the lines below it."""

    key: str
    comments: list[str]
    line: str
    below: list[str] = field(default_factory=list)

    def inside(self) -> list[Entry]:
        """The entries of a section; none for a value or a list."""
        return _entries(self.below) if SECTION.fullmatch(self.line) else []


def preset_names(root: Path) -> list[str]:
    """The presets of a project, by name."""
    return sorted(path.stem for path in (root / "presets").glob("*.yaml"))


def preset_text(root: Path, name: str) -> str:
    """The params.yaml that a preset makes; ParamsError for an unknown name."""
    names = preset_names(root)
    if name not in names:
        raise ParamsError(_unknown(name, names))
    default = _read(root, DEFAULT)
    return default if name == DEFAULT else merge_texts(default, _read(root, name))


def merge_texts(default: str, preset: str) -> str:
    r"""The default's text with what a preset changes.

    Example: "# Peak.\nlr: 1\nseed: 42\n" and "lr: 2\n" -> "# Peak.\nlr: 2\nseed: 42\n"
    """
    header, changes = _split_header(preset.splitlines())
    default_header, entries = _split_header(default.splitlines())
    merged = _merge(_entries(entries), _entries(changes))
    return "\n".join([*header, *default_header, *_lines(merged)]) + "\n"


def _read(root: Path, name: str) -> str:
    return (root / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def _unknown(name: str, presets: list[str]) -> str:
    found = f"found no preset {shown_name(name)!r}" if name else "NAME is missing"
    near = difflib.get_close_matches(name, presets, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; e.g. make preset NAME={presets[0]}"
    return f"presets/: {found}; expected one of {', '.join(presets)}{hint}"


def _split_header(lines: list[str]) -> tuple[list[str], list[str]]:
    """The header, up to the last empty line before the first key; and the rest."""
    first = next((i for i, line in enumerate(lines) if KEY.match(line)), len(lines))
    end = max((i + 1 for i in range(first) if not lines[i].strip()), default=0)
    return lines[:end], lines[end:]


def _entries(lines: Iterable[str]) -> list[Entry]:
    """The keys of one level, in order."""
    entries: list[Entry] = []
    above: list[str] = []
    indent = None
    for line in lines:
        key = KEY.match(line)
        if key and indent in (None, key[1]):
            indent = key[1]
            entries.append(Entry(key[2], above, line))
            above = []
        elif not line.strip() or line.lstrip().startswith("#"):
            above.append(line)
        elif entries:
            entries[-1].below.extend([*above, line])
            above = []
    if entries:
        entries[-1].below.extend(above)
    return entries


def _lines(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        yield from (*entry.comments, entry.line, *entry.below)


def _merge(entries: list[Entry], changes: list[Entry], *, named_only: bool = False) -> list[Entry]:
    """The entries of one level with their changes; new keys follow."""
    known = {entry.key: entry for entry in entries}
    changed = {change.key: change for change in changes}
    keys = changed if named_only else {**known, **changed}
    return [
        _merge_entry(known[key], changed[key])
        if key in known and key in changed
        else changed.get(key) or known[key]
        for key in keys
    ]


def _merge_entry(entry: Entry, change: Entry) -> Entry:
    comments = [*entry.comments, *change.comments]
    inside, changes = entry.inside(), change.inside()
    if not (inside and changes):
        return Entry(change.key, comments, change.line, change.below)
    merged = _merge(inside, changes, named_only=entry.key in NAMED_ENTRIES)
    return Entry(entry.key, comments, entry.line, list(_lines(merged)))
