"""What the documents and the shipped parameter files say is so."""

from __future__ import annotations

import re
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

import glmtune
from glmtune.data.formats import FORMATS
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.scorings import METRICS
from glmtune.metrics.statistics import STATISTICS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
# The library's own paths are written from its folder's name on.
STARTS = (ROOT, ROOT / "workflow" / "scripts")
FOLDERS = {"workflow", "glmtune", "tests", "tools", "docs", "presets", "profiles"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def looks_like_a_path(word: str) -> bool:
    """Example: `glmtune/data.py` and `dvc.yaml`; not `lr`, `results/report.md`, `docs/<a>.md`."""
    if not re.fullmatch(r"[\w./-]+", word):
        return False
    first, slash, _ = word.partition("/")
    is_file_name = word.endswith((".py", ".yaml", ".toml", ".lock")) or word == "Snakefile"
    return first in FOLDERS if slash else is_file_name


def named_paths(document: str) -> set[str]:
    """Every path of the repository in backticks, alone or as part of a command."""
    spans = re.findall(r"`([^`\n]+)`", document)
    words = {word for span in spans for word in span.split()}
    return {word for word in words if looks_like_a_path(word)}


def link_targets(document: str) -> set[str]:
    targets = re.findall(r"\]\(([^)#\s]+)", document)
    return {target for target in targets if not target.startswith(("http", "mailto:"))}


def anchors(document: str) -> set[str]:
    """The anchor of each heading, as code hosts and the site make them.

    Example: "## The texts (`predict`)" -> "the-texts-predict"
    """
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", document, flags=re.M | re.S), re.M)
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {word.replace(" ", "-") for word in words}


def anchored_links(path: Path) -> set[tuple[Path, str]]:
    """Every (page, anchor) that the links of a page lead to."""
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text(path))
    return {
        ((path.parent / page).resolve() if page else path, anchor)
        for page, anchor in links
        if not page.startswith("http")
    }


def all_words() -> str:
    return "\n".join(map(text, DOCUMENTS))


def test_a_wrong_path_in_a_document_would_be_found() -> None:
    document = "`glmtune/no_such.py`, `python tools/no_such.py DIR`, `docs/<name>.md`, `lr`, `a/b`"
    assert named_paths(document) == {"glmtune/no_such.py", "tools/no_such.py"}


def names_in_files(document: str) -> set[tuple[str, str]]:
    """Every (name, file) that a document says is there, as "`Params` in `glmtune/x.py`"."""
    return set(re.findall(r"`(?:\w+\.)?(\w+)`\s+in\s+`(glmtune/[\w/]+\.py)`", document))


def test_a_wrong_name_in_a_document_would_be_found() -> None:
    document = "`Params.runs` in `glmtune/params/values.py`, `no_such` in\n`glmtune/errors.py`"
    assert names_in_files(document) == {
        ("runs", "glmtune/params/values.py"),
        ("no_such", "glmtune/errors.py"),
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_name_is_in_the_file_that_a_document_says(path: Path) -> None:
    missing = {
        (word, file)
        for word, file in names_in_files(text(path))
        if not re.search(rf"\b{word}\b", text(ROOT / "workflow" / "scripts" / file))
    }
    assert missing == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_path_that_a_document_names_exists(path: Path) -> None:
    missing = {
        word
        for word in named_paths(text(path))
        if not any((start / word).exists() for start in STARTS)
    }
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_link_of_a_document_leads_to_a_file(path: Path) -> None:
    assert not {t for t in link_targets(text(path)) if not (path.parent / t).exists()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_anchor_of_a_link_is_a_heading(path: Path) -> None:
    links = anchored_links(path)
    assert {(name(page), a) for page, a in links if a not in anchors(text(page))} == set()


def test_the_site_has_every_page_and_no_other() -> None:
    listed = re.findall(r": ([\w/]+\.md)$", text(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert sorted(listed) == sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")
    )


def test_no_document_names_a_place_of_this_machine() -> None:
    """The checkout, home and temporary folder of whoever writes it are no use to a reader."""
    places = (f"{ROOT}/", f"{Path.home()}/", f"{tempfile.gettempdir()}/", "file://", "localhost:")
    assert [place for place in places if place in all_words()] == []


def test_git_ignores_the_folders_that_the_tutorial_fills() -> None:
    tutorial = text(ROOT / "docs" / "tutorial.md")
    filled = re.findall(r"--(?:train|dev|out|out-dir|local-dir)[ =](\w+)", tutorial)
    assert set(filled) == {"my", "checked", "weights", "exported"}
    assert {f"/{folder}/" for folder in filled} <= set(text(ROOT / ".gitignore").splitlines())


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    # As a command: in backticks, or at the start of a line.
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", all_words(), re.MULTILINE))
    assert "report" in named
    assert named <= targets


def test_every_preset_that_is_named_exists() -> None:
    named = set(re.findall(r"make preset NAME=([\w.-]+)", all_words()))
    for path in PRESETS:
        named |= set(re.findall(r"make preset NAME=([\w.-]+)", text(path)))
    assert named
    assert named <= {path.stem for path in PRESETS}


@pytest.mark.parametrize(
    "registry",
    [METRICS, STATISTICS, PROTOCOLS, FORMATS],
    ids=["metrics", "statistics", "protocols", "readers"],
)
def test_every_entry_of_a_registry_is_in_the_recipes(registry: Iterable[str]) -> None:
    recipes = text(ROOT / "docs" / "extending.md")
    assert [entry for entry in registry if f"`{entry}`" not in recipes] == []


def test_the_version_is_that_of_the_code_everywhere() -> None:
    """`__version__` is its one place; the changelog's newest section is the one being written."""
    project = tomllib.loads(text(ROOT / "pyproject.toml"))
    assert "version" not in project["project"]
    dynamic = project["tool"]["setuptools"]["dynamic"]["version"]
    assert dynamic == {"attr": "glmtune.__version__"}
    citation = yaml.safe_load(text(ROOT / "CITATION.cff"))
    newest = re.search(r"^## \[(.+?)\] - (.+)$", text(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert citation["version"] == newest[1] == glmtune.__version__
    assert str(citation.get("date-released", "unreleased")) == newest[2]
