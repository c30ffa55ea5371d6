"""Files: written whole or not at all, the same bytes for the same content, readable complaints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glmtune.errors import DataError
from glmtune.files import (
    atomic_path,
    hash_folder,
    read_json,
    read_jsonl,
    remove_leftovers,
    sha256_of,
    write_json,
    write_jsonl,
    write_text,
)


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_failed_writing_leaves_what_was_there_and_no_other_file(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_text(file, "before")

    def rows() -> Iterator[dict[str, int]]:
        yield {"n": 1}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_jsonl(file, rows())
    assert file.read_text() == "before"
    assert names_below(tmp_path) == ["result.json"]


def test_a_failed_folder_leaves_the_former_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "model/weights", "before")

    def write_half() -> None:
        with atomic_path(tmp_path / "model") as temporary:
            write_text(temporary / "weights", "half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert (tmp_path / "model/weights").read_text() == "before"
    assert names_below(tmp_path) == ["model", "model/weights"]


def test_what_a_killed_process_left_half_written_goes_and_nothing_else(tmp_path: Path) -> None:
    kept = [
        *("model/weights", ".gitignore", ".cache.abcdefgh/other", ".notes.abcdefgh"),
        ".model.abcdefgh0/model",
    ]
    for name in kept:
        write_text(tmp_path / name, "kept")
    before = names_below(tmp_path)
    process = os.fork()
    if process == 0:
        with atomic_path(tmp_path / "model") as temporary:
            write_text(temporary / "weights", "half")
            with atomic_path(tmp_path / "deep" / "report.md"):
                os._exit(0)
    os.waitpid(process, 0)
    assert len(names_below(tmp_path)) == len(before) + 5
    remove_leftovers(tmp_path)
    assert names_below(tmp_path) == sorted([*before, "deep"])


def test_a_folder_replaces_the_former_one_with_all_its_files(tmp_path: Path) -> None:
    write_text(tmp_path / "model/old", "old")
    with atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert names_below(tmp_path) == ["model", "model/new"]


def test_a_file_that_is_a_link_is_replaced_and_its_target_is_not(tmp_path: Path) -> None:
    """DVC links outputs to its cache."""
    for name, link in (("soft", os.symlink), ("hard", os.link)):
        cached = tmp_path / f"cached-{name}"
        cached.write_text("cached")
        link(cached, tmp_path / name)
        write_text(tmp_path / name, "new")
        assert cached.read_text() == "cached"
        assert (tmp_path / name).read_text() == "new"
        assert not (tmp_path / name).is_symlink()


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, int]]:
        yield {"n": 1}
        assert not (tmp_path / "rows.jsonl").exists()
        yield {"n": 2}

    write_jsonl(tmp_path / "rows.jsonl", rows())
    assert read_jsonl(tmp_path / "rows.jsonl") == [{"n": 1}, {"n": 2}]


def test_equal_content_is_equal_bytes_and_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "1", {"颜色": "白色", "a": 0.1})
    write_json(tmp_path / "2", {"a": 0.1, "颜色": "白色"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert "白色" in (tmp_path / "1").read_text(encoding="utf-8")
    assert read_json(tmp_path / "1") == {"a": 0.1, "颜色": "白色"}


def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "scores.json", {"loss": float("nan")})
    assert names_below(tmp_path) == []


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "a\nb\r\n")
    assert (tmp_path / "a.csv").read_bytes() == b"a\nb\r\n"
    write_jsonl(tmp_path / "a.jsonl", [{"text": "一\n二\u2028三"}])
    assert read_jsonl(tmp_path / "a.jsonl") == [{"text": "一\n二\u2028三"}]


@pytest.mark.parametrize("read", [read_json, read_jsonl, sha256_of])
def test_a_missing_file_is_named_with_what_writes_it(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "manifest.json")
    assert str(caught.value) == (
        f"{tmp_path / 'manifest.json'}: no such file; run the step that writes it first"
    )


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "dev.jsonl"
    file.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(
        DataError, match=r"dev\.jsonl: line 2: not JSON .*; delete the file and run"
    ):
        read_jsonl(file)
    with pytest.raises(DataError, match=r"dev\.jsonl: not a JSON document .*; delete it and run"):
        read_json(file)


def test_a_folder_s_hashes_name_every_file_below_it(tmp_path: Path) -> None:
    for name in ("b", "a/c"):
        write_text(tmp_path / name, name)
    expected = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a/c", "b")}
    assert hash_folder(tmp_path) == expected
    assert list(hash_folder(tmp_path)) == ["a/c", "b"]
