"""params.yaml means the same to Snakemake and DVC, or is refused; odd files end in one message."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from glmtune.errors import ParamsError
from glmtune.params.presets import preset_names
from glmtune.params.reading import read_yaml
from glmtune.params.yaml_rules import CONVERSIONS, tag_for_dvc

ROOT = Path(__file__).resolve().parents[1]
MEANS_TWO_THINGS = ["010", "1:30", "no", "yes", "on", "Off", "0o10", "09", "1:30.5", ".5e3"]
MEANS_ONE = [
    "1e-2",
    "1e2",
    ".5",
    "+.5",
    "5.",
    "1_000",
    "0b1",
    "0x1F",
    "-.INF",
    ".nan",
    "~",
    "True",
    "y",
]
NO_VALUE = ["2020-01-01", "2020-13-45", "2001-12-14t21:59:43.10-05:00", "=", "<<", "-_", "+._"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def message_for(file: Path, text: str | bytes) -> str:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParamsError) as caught:
        read_yaml(file)
    return str(caught.value).removeprefix(f"{file}: ")


def read_as_dvc(text: str) -> Any:
    """What DVC's `parse_yaml` returns; YAMLError or ValueError for what it cannot read."""
    return YAML(typ="safe").load(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "seed: 010",
            "line 2: seed: found 010; Snakemake reads 8 (YAML 1.1), DVC 10 (YAML 1.2); "
            'write 8 or 10 or "010" for a string',
        ),
        (
            "seed: 1:30",
            'line 2: seed: found 1:30; Snakemake reads 90 (YAML 1.1), DVC "1:30" (YAML 1.2); '
            'write 90 or "1:30"',
        ),
        (
            "generation: {do_sample: no}",
            "line 2: generation.do_sample: found no; Snakemake reads false (YAML 1.1), "
            'DVC "no" (YAML 1.2); write false or "no"',
        ),
        (
            "examples: [a, 0o10]",
            'line 2: examples.1: found 0o10; Snakemake reads "0o10" (YAML 1.1), DVC 8 (YAML 1.2); '
            'write "0o10" or 8',
        ),
        (
            "models: {010: 1}",
            'line 2: found the key 010, which is not a string in YAML; write "010"',
        ),
        (
            "dataset: 2020-01-01",
            'line 2: dataset: found 2020-01-01, a date in YAML; write "2020-01-01" for a string',
        ),
        (
            "dataset: 2020-13-45",
            'line 2: dataset: found 2020-13-45, a date in YAML; write "2020-13-45" for a string',
        ),
        (
            "seed: -_",
            "line 2: seed: found -_, which looks like a number but is not one; write digits, or "
            '"-_" for a string',
        ),
        (
            "seed: " + 5000 * "9",
            "line 2: seed: found a number of 5,000 characters; expected at most 100",
        ),
        ("lr: 1\nlr: 2", "line 3: duplicate key 'lr'; remove one"),
    ],
)
def test_the_message_says_what_each_engine_reads(file: Path, line: str, message: str) -> None:
    assert message_for(file, f"# first line\n{line}\n") == message


def test_every_ambiguous_value_is_reported_at_once(file: Path) -> None:
    lines = message_for(file, "a: 010\nb: [no, yes]\n").splitlines()
    assert [line.removeprefix(f"{file}: ")[:14] for line in lines] == [
        "line 1: a: fou",
        "line 2: b.0: f",
        "line 2: b.1: f",
    ]


def test_of_very_many_mistakes_the_first_are_reported(file: Path) -> None:
    lines = message_for(file, f"a: [{100 * '010, '}]\n").splitlines()
    assert len(lines) == 41
    assert lines[-1] == f"{file}: 60 more mistakes"


@pytest.mark.parametrize("text", MEANS_TWO_THINGS)
def test_quotes_make_any_value_a_text_for_both(file: Path, text: str) -> None:
    assert "Snakemake reads" in message_for(file, f"a: {text}\n")
    file.write_text(f"a: '{text}'\n", encoding="utf-8")
    assert read_yaml(file) == {"a": text} == read_as_dvc(f"a: '{text}'\n")


@pytest.mark.parametrize("text", MEANS_ONE)
def test_a_value_that_means_one_thing_is_read(file: Path, text: str) -> None:
    file.write_text(f"a: {text}\n", encoding="utf-8")
    assert repr(read_yaml(file)) == repr(read_as_dvc(f"a: {text}\n"))


@pytest.mark.parametrize("name", preset_names(ROOT))
def test_every_preset_is_the_same_to_dvc(preset_file: Callable[[str], Path], name: str) -> None:
    path = preset_file(name)
    assert read_yaml(path) == read_as_dvc(path.read_text(encoding="utf-8"))


@given(st.from_regex(r"[-+]?[0-9._:xobeEaA]{1,9}", fullmatch=True))
def test_our_table_reads_numbers_as_dvc_does(text: str) -> None:
    check_table(text)


@pytest.mark.parametrize("text", [*MEANS_TWO_THINGS, *MEANS_ONE, *NO_VALUE, "Null", "TRUE", "n"])
def test_our_table_reads_words_as_dvc_does(text: str) -> None:
    check_table(text)


def check_table(text: str) -> None:
    try:
        theirs = read_as_dvc(f"- {text}\n")
    except (YAMLError, ValueError):
        theirs = [ValueError]
    if not isinstance(theirs, list) or isinstance(theirs[0], dict | list):
        return  # not a scalar, e.g. `1:`
    assert repr(read_by_table(text)) == repr(theirs[0])


def read_by_table(text: str) -> Any:
    """As our table says; dates as ruamel reads them, because any date is refused."""
    tag = tag_for_dvc(text)
    if tag == "timestamp":
        try:
            return read_as_dvc(text)
        except ValueError:
            return ValueError
    try:
        return CONVERSIONS[tag](text)
    except (KeyError, ValueError):
        return ValueError


PIECES = ["a", "b", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "'", '"', "#", "010", "no"]
PIECES += [
    "1e3",
    "1.5",
    "&x ",
    "*x",
    "<<",
    "|",
    ">",
    "!",
    "%",
    "?",
    "\t",
    "\u2028",
    "\\",
    "---",
    "é",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_a_file_that_is_read_is_the_same_to_dvc(tmp_path_factory: Any, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "params.yaml"
    file.write_bytes(text.encode())
    try:
        ours = read_yaml(file)
    except ParamsError:
        return
    assert repr(ours) == repr(read_as_dvc(text))


BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{9 * f'*a{i - 1}, '}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{9 * f'*a{i - 1}, '}]}}\n" for i in range(1, 12)
)
CHAIN = "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))
TOO_MANY = "found aliases (`*name`) that expand to more than 20,000 values or 30 levels"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(BOMB, TOO_MANY, id="a billion laughs"),
        pytest.param(MERGES, TOO_MANY, id="merges"),
        pytest.param(CHAIN, TOO_MANY, id="a chain of aliases"),
        pytest.param("a: &x [*x]\n", "line 1: found an alias inside its", id="a circle"),
        pytest.param("a: &x {<<: *x}\n", "line 1: found an alias inside its", id="own merge"),
        pytest.param("a: " + 10_000 * "[", "line 1: found more than 30 nested", id="brackets"),
        pytest.param("a: " + 10_000 * "{a: ", "line 1: found more than 30 nested", id="braces"),
        pytest.param("- " * 10_000, "line 1: found more than 30 nested", id="dashes"),
        pytest.param(
            f"seeds: [{','.join(map(str, range(140_000)))}]",
            "line 1: found more than 20,000 values; write fewer",
            id="seeds",
        ),
        pytest.param("# " + 2_000_000 * "x", "found more than 1,000,000 bytes", id="large"),
        pytest.param("é" * 1_000_000, "found more than 1,000,000 bytes", id="large, cut in an é"),
        pytest.param("[a]: 1\n", "line 1: found a list as a key; expected a string", id="list key"),
        pytest.param("{a: 1}: 1\n", "line 1: found a section as a key", id="section key"),
        pytest.param("? [a]\n: 1\n? [a]\n: 2\n", "line 1: found a list as a key", id="list keys"),
        pytest.param(
            f"? {5000 * 'k'}\n: 1\n", "line 1: found a key of 5,000 characters, k", id="long key"
        ),
        pytest.param("null: 1\n", "line 1: found the key null, which is not", id="null key"),
        pytest.param(
            "a: !!python/object:os.system x\n",
            "line 1: found the tag !!python/object:os.system; remove it (quotes make a string)",
            id="python",
        ),
        pytest.param("a: !!binary aGk=\n", "line 1: found the tag !!binary; remove", id="binary"),
        pytest.param("a: ! 010\n", "line 1: found the tag !; remove it", id="bare tag"),
        pytest.param("%YAML 1.2\n---\na: 1\n", "line 1: found a line %YAML; remove", id="version"),
        pytest.param("%TAG ! !x\n---\na: 1\n", "line 1: found a line %TAG; remove", id="tag line"),
        pytest.param("a: 1\n---\nb: 2\n", "not readable as YAML: expected a single", id="two"),
        pytest.param("a: \0\n", "not readable as YAML: unacceptable character #x0000", id="NUL"),
        pytest.param("a: 1\n\tb: 2\n", "not readable as YAML: ", id="a tab"),
        pytest.param(b"a: \xff\n", "not readable as YAML: 'utf-8' codec can't", id="no UTF-8"),
        pytest.param(
            "a: x\u2028b: 1\n", "line 1: found the character \\u2028, a line", id="U+2028"
        ),
        pytest.param('a: "\\ud800"\n', "line 1: a: found half a character", id="surrogate"),
        pytest.param('a: "\\UFFFFFFFF"\n', "not readable as YAML: found an esc", id="no character"),
        pytest.param("a: 0x" + 99_999 * "f", "line 1: a: found a number of 100,001", id="hex"),
        pytest.param("a: *x\n", "not readable as YAML: found undefined alias", id="no anchor"),
        pytest.param("a: &x 1\nb: &x 2\n", "not readable as YAML: found duplicate", id="anchors"),
    ],
)
def test_an_odd_file_ends_in_one_line_and_soon(file: Path, text: Any, message: str) -> None:
    began = time.process_time()
    found = message_for(file, text)
    assert found.startswith(message)
    assert "\n" not in found
    assert len(found) < 400
    assert time.process_time() - began < 20  # without the limits: minutes, or all memory


def test_a_folder_in_its_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="found a folder or device; expected a file$"):
        read_yaml(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbflr: 1\n")
    assert read_yaml(file) == {"lr": 1}


def test_anchors_and_merges_are_read_as_dvc_reads_them(file: Path) -> None:
    text = "a: &a {x: 1, y: [2]}\nb: &b {<<: *a, x: 3}\nc: *b\nd: {<<: [*b, *a], z: *a}\n"
    file.write_text(text, encoding="utf-8")
    assert read_yaml(file) == read_as_dvc(text)
    assert read_yaml(file)["c"] == {"x": 3, "y": [2]}
