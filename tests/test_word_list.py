"""The lint that knows a plainer word."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import word_list  # noqa: E402


def found_in(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    return list(word_list.findings(path))


def test_a_phrase_is_found_with_its_line_also_across_a_line_break(tmp_path: Path) -> None:
    (found,) = found_in(tmp_path / "a.md", "A loss\nthat is no\nnumber.\n")
    assert found.endswith("a.md:2: 'is no number' -> is NaN or infinite")
    (found,) = found_in(tmp_path / "a.py", "# a loss that is no\n# number\n")
    assert ":1: 'is no number'" in found


def test_whole_words_only(tmp_path: Path) -> None:
    assert found_in(tmp_path / "a.md", "Recommend, amend, mendable.\n") == []


def test_what_markdown_quotes_is_not_looked_at(tmp_path: Path) -> None:
    text = "`the key 'a' stands twice`\n```\nso many\n```\n[a](so many.md)\n"
    assert found_in(tmp_path / "a.md", text) == []
    assert len(found_in(tmp_path / "a.py", text)) == 3


def test_files_without_findings_exit_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.md"
    for text, code in (("Fix it.", 0), ("Mend it.", 1)):
        file.write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["word_list.py", str(file)])
        assert word_list.main() == code
    assert "'mend' -> fix" in capsys.readouterr().out


def test_documents_and_code_are_in_its_scope_and_no_word_that_it_recommends_is_refused() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in word_list.files_in_scope()}
    assert {"README.md", "docs/tutorial.md", "tools/doctor.py", "params.yaml"} <= names
    listed = word_list.word_list()
    assert not [r for r in listed.values() if any(word_list.phrase(w).search(r) for w in listed)]
