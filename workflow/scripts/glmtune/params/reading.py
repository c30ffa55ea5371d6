"""Reads params.yaml so that it means the same to this project and to DVC.

This project uses PyYAML (YAML 1.1), DVC uses ruamel.yaml (YAML 1.2). Values that the two read
differently are refused, and so is anything that makes reading slow or endless. Does not know what
the keys mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from glmtune.errors import ParamsError, shown_name
from glmtune.params.yaml_rules import FLOAT, TAG, is_text, quoted, read_scalar

# Far more than a params.yaml needs, and read in seconds.
MOST_BYTES, MOST_VALUES, MOST_LEVELS, LONGEST_KEY = 1_000_000, 20_000, 30, 200
# One screen of mistakes at a time.
MOST_MISTAKES = 40
# Line breaks in YAML 1.1, ordinary characters in YAML 1.2.
LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class _Mistake(Exception):
    """A mistake that stops reading; the text begins with the line."""


class _Loader(yaml.SafeLoader):
    """PyYAML's rules, but `1e-2` is the number 0.01, and nesting and size are limited."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.level = self.count = 0

    def process_directives(self) -> Any:
        """Refuse `%YAML` and `%TAG`: they change the rules, for DVC only."""
        if self.check_token(yaml.DirectiveToken):
            token = self.peek_token()
            raise _Mistake(f"{_line(token)}: found a line %{token.name}; remove it")
        return super().process_directives()

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node; refuse tags, deep nesting and too many values."""
        event: Any = self.peek_event()
        self.count += 1
        self.level += 1
        if getattr(event, "tag", None):
            tag = shown_name(event.tag.replace(TAG, "!!"), 40)
            raise _Mistake(f"{_line(event)}: found the tag {tag}; remove it (quotes make a string)")
        if self.count > MOST_VALUES:
            raise _Mistake(f"{_line(event)}: found more than {MOST_VALUES:,} values; write fewer")
        if self.level > MOST_LEVELS:
            raise _Mistake(
                f"{_line(event)}: found more than {MOST_LEVELS} nested sections or lists; "
                "expected a few; look for a bracket that is not closed"
            )
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


_Loader.add_implicit_resolver(TAG + "float", FLOAT, list("-+0123456789."))


def read_yaml(path: Path) -> Any:
    """The values of a file, made of dict, list, str, int, float, bool and None.

    Raises ParamsError with every value that DVC reads differently, one per line.
    """
    text = _read_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        reading = _Reading(loader)
        reading.mistakes += _check_keys(node)
        values = reading.value(node, "")
    except _Mistake as error:
        raise ParamsError(f"{path}: {error}") from None
    except (ValueError, OverflowError):  # PyYAML makes a character of "\UFFFFFFFF"
        raise ParamsError(
            f"{path}: not readable as YAML: found an escape that is no character; remove it"
        ) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if reading.mistakes:
        raise all_mistakes(path, reading.mistakes)
    return values


def all_mistakes(path: Path | str, mistakes: Sequence[str]) -> ParamsError:
    """One error with a file's mistakes, one per line; at most MOST_MISTAKES of them."""
    lines = [f"{path}: {mistake}" for mistake in mistakes[:MOST_MISTAKES]]
    further = len(mistakes) - len(lines)
    rest = [f"{path}: {further:,} more mistakes"] if further else []
    return ParamsError("\n".join([*lines, *rest]))


def _read_text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ParamsError(f"{path}: found a folder or device; expected a file")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `git checkout params.yaml` restores it") from None
    except UnicodeDecodeError as error:
        if len(content) <= MOST_BYTES:  # else the last character may only be cut
            raise ParamsError(f"{path}: not readable as YAML: {error}; save it as UTF-8") from None
    if len(content) > MOST_BYTES:
        raise ParamsError(f"{path}: found more than {MOST_BYTES:,} bytes; expected a few thousand")
    odd = LINE_ENDS.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        escape = odd.group().encode("unicode_escape").decode()
        raise ParamsError(
            f"{path}: line {line}: found the character {escape}, a line break for Snakemake "
            f'but not for DVC; remove it or write "{escape}" in double quotes'
        )
    return text


def _check_size(root: yaml.Node) -> None:
    """Refuse aliases that make the tree endless, too deep, or far larger than its text."""
    sizes: dict[int, tuple[int, int] | None] = {}  # None: its children are being counted

    def measure(node: yaml.Node) -> tuple[int, int]:
        if id(node) not in sizes:
            sizes[id(node)] = None
            values, levels = zip((0, 0), *map(measure, _children(node)), strict=True)
            sizes[id(node)] = 1 + sum(values), 1 + max(levels)
        known = sizes[id(node)]
        if known is None:
            raise _Mistake(f"{_line(node)}: found an alias inside its own value; remove it")
        return known

    values, levels = measure(root)
    if values > MOST_VALUES or levels > MOST_LEVELS:
        raise _Mistake(
            f"found aliases (`*name`) that expand to more than {MOST_VALUES:,} values or "
            f"{MOST_LEVELS} levels; write out the values"
        )


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _check_keys(root: yaml.Node) -> Iterator[str]:
    """Refuse duplicate keys and keys that are lists; yield the keys that are not strings."""
    for node in _each_once(root):
        seen: set[str] = set()
        for name, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(name, yaml.ScalarNode):
                kind = "list" if isinstance(name, yaml.SequenceNode) else "section"
                raise _Mistake(f"{_line(name)}: found a {kind} as a key; expected a string")
            shown = shown_name(name.value, 60)
            if len(name.value) > LONGEST_KEY:
                found = f"found a key of {len(name.value):,} characters, {shown}"
                raise _Mistake(f"{_line(name)}: {found}; expected at most {LONGEST_KEY}")
            if name.value in seen:
                raise _Mistake(f"{_line(name)}: duplicate key {shown!r}; remove one")
            seen.add(name.value)
            if name.style is None and name.tag != TAG + "merge" and not is_text(name):
                found = f"{_line(name)}: found the key {shown}, which is not a string in YAML"
                yield f"{found}; write {quoted(shown)}"


def _each_once(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once, in the order of the file."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += reversed(list(_children(node)))


class _Reading:
    """Turns nodes into values; `mistakes` collects what DVC reads differently."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.mistakes: list[str] = []

    def value(self, node: yaml.Node, key: str) -> Any:
        """What is set under `key`, e.g. `training.batch_size`."""
        prefix = f"{key}." if key else ""
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{prefix}{i}") for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            self.loader.flatten_mapping(node)  # `<<: *name`, which both read alike
            return {
                name.value: self.value(value, f"{prefix}{shown_name(name.value, 60)}")
                for name, value in node.value
            }
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, key)

    def _scalar(self, node: yaml.ScalarNode, key: str) -> Any:
        try:
            return read_scalar(self.loader, node)
        except ValueError as error:
            mistake = f"{_line(node)}: {key}: {error}" if key else f"{_line(node)}: {error}"
            if mistake not in self.mistakes:  # a merge repeats it
                self.mistakes.append(mistake)
            return None


def _line(place: Any) -> str:
    return f"line {place.start_mark.line + 1}"
