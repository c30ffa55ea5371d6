"""The YAML of params.yaml, read so that it means the same to this project and to DVC.

Snakemake's side reads it with PyYAML, whose rules are YAML 1.1's, DVC with ruamel.yaml, whose rules
are YAML 1.2's. A value that the two would read differently is refused, and so is whatever makes
reading it slow or endless. Knows nothing of what the keys mean.
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
# A screen of mistakes is enough to begin with.
MOST_MISTAKES = 40
# Line ends of YAML 1.1 that are characters like any other in YAML 1.2.
LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class _Mistake(Exception):
    """A file that cannot be read on; the text begins with the line."""


class _Loader(yaml.SafeLoader):
    """PyYAML's rules, but `1e-2` is the number 0.01, and what nests or repeats is limited."""

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
        """Compose a node, unless it has a tag or is one too many."""
        event: Any = self.peek_event()
        self.count += 1
        self.level += 1
        if getattr(event, "tag", None):
            tag = shown_name(event.tag.replace(TAG, "!!"), 40)
            raise _Mistake(f"{_line(event)}: found the tag {tag}; remove it (quotes make a text)")
        if self.count > MOST_VALUES:
            raise _Mistake(f"{_line(event)}: found more than {MOST_VALUES:,} values; write fewer")
        if self.level > MOST_LEVELS:
            raise _Mistake(
                f"{_line(event)}: found more than {MOST_LEVELS} sections or lists inside each "
                "other; expected a few; is a bracket not closed?"
            )
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


_Loader.add_implicit_resolver(TAG + "float", FLOAT, list("-+0123456789."))


def read_yaml(path: Path) -> Any:
    """The values of a file, made of dict, list, str, int, float, bool and None.

    Raises ParamsError with every value that means something else to DVC, one a line.
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
            f"{path}: not readable as YAML: found an escape of no character"
        ) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if reading.mistakes:
        raise all_mistakes(path, reading.mistakes)
    return values


def all_mistakes(path: Path | str, mistakes: Sequence[str]) -> ParamsError:
    """One error of a file's mistakes, one a line; of very many, the first."""
    lines = [f"{path}: {mistake}" for mistake in mistakes[:MOST_MISTAKES]]
    further = len(mistakes) - len(lines)
    return ParamsError("\n".join([*lines, *([f"{path}: {further:,} more"] if further else [])]))


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
            f"{path}: line {line}: found the character {escape}, which ends a line here and not "
            f'for DVC; remove it or write "{escape}" in double quotes'
        )
    return text


def _check_size(root: yaml.Node) -> None:
    """Refuse a tree that aliases make endless, too deep, or far larger than its text."""
    sizes: dict[int, tuple[int, int] | None] = {}  # None: its children are being counted

    def measure(node: yaml.Node) -> tuple[int, int]:
        if id(node) not in sizes:
            sizes[id(node)] = None
            values, levels = zip((0, 0), *map(measure, _children(node)), strict=True)
            sizes[id(node)] = 1 + sum(values), 1 + max(levels)
        known = sizes[id(node)]
        if known is None:
            raise _Mistake(f"{_line(node)}: found an alias inside what it stands for; remove it")
        return known

    values, levels = measure(root)
    if values > MOST_VALUES or levels > MOST_LEVELS:
        raise _Mistake(
            f"found aliases (`*name`) that stand for more than {MOST_VALUES:,} values or "
            f"{MOST_LEVELS} levels; write the values themselves"
        )


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _check_keys(root: yaml.Node) -> Iterator[str]:
    """Refuse duplicate keys and keys that are lists; say which keys are no texts."""
    for node in _each_once(root):
        seen: set[str] = set()
        for name, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(name, yaml.ScalarNode):
                kind = "list" if isinstance(name, yaml.SequenceNode) else "section"
                raise _Mistake(f"{_line(name)}: found a {kind} as a key; expected a text")
            shown = shown_name(name.value, 60)
            if len(name.value) > LONGEST_KEY:
                found = f"found a key of {len(name.value):,} characters, {shown}"
                raise _Mistake(f"{_line(name)}: {found}; expected at most {LONGEST_KEY}")
            if name.value in seen:
                raise _Mistake(f"{_line(name)}: duplicate key {shown!r}; remove one")
            seen.add(name.value)
            if name.style is None and name.tag != TAG + "merge" and not is_text(name):
                found = f"{_line(name)}: found the key {shown}, no text in YAML"
                yield f"{found}; write {quoted(shown)}"


def _each_once(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node in the file's order, that of an alias where it is first met."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += reversed(list(_children(node)))


class _Reading:
    """From nodes to values; `mistakes` collects what DVC would read differently."""

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
