"""Content decides: files of the same name, size and time are told apart, and cost one reading."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from glmtune import content_hashes
from glmtune.content_hashes import TICK_NS, hash_files
from glmtune.errors import WeightsError
from glmtune.files import sha256_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"first")
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read; their times count as long past."""
    found: list[Path] = []

    def counted(path: Path) -> str:
        found.append(path)
        return sha256_of(path)

    monkeypatch.setattr(content_hashes, "sha256_of", counted)
    later(monkeypatch, 2 * TICK_NS)
    return found


def later(monkeypatch: pytest.MonkeyPatch, nanoseconds: int) -> None:
    now = time.time_ns
    monkeypatch.setattr(content_hashes.time, "time_ns", lambda: now() + nanoseconds)


def replace_unseen(file: Path, content: bytes) -> None:
    """Other content of the same size under the same name, with the times that it had."""
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)


def test_a_file_is_read_once(file: Path, tmp_path: Path, reads: list[Path]) -> None:
    for _ in range(3):
        assert hash_files([file], tmp_path / "store") == {file: sha256_of(file)}
    assert reads == [file]


def test_other_content_of_the_same_size_and_time_is_noticed(
    file: Path, tmp_path: Path, reads: list[Path]
) -> None:
    before = hash_files([file], tmp_path / "store")
    replace_unseen(file, b"other")
    assert hash_files([file], tmp_path / "store") != before
    assert reads == [file, file]


def test_a_file_put_in_its_place_is_noticed(file: Path, tmp_path: Path, reads: list[Path]) -> None:
    before = hash_files([file], tmp_path / "store")
    other = tmp_path / "other"
    other.write_bytes(b"other")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    assert hash_files([file], tmp_path / "store") != before


def test_a_file_written_just_now_is_read_again(
    file: Path, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change within the same tick of the clock would leave no trace in its times."""
    later(monkeypatch, -2 * TICK_NS)
    for _ in range(2):
        hash_files([file], tmp_path / "store")
    assert reads == [file, file]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00", b"[1]", b'{"status": null}'])
def test_a_damaged_record_costs_a_reading(
    file: Path, tmp_path: Path, reads: list[Path], content: bytes
) -> None:
    hash_files([file], tmp_path / "store")
    (record,) = (tmp_path / "store" / "hashes").iterdir()
    record.write_bytes(content)
    assert hash_files([file], tmp_path / "store") == {file: sha256_of(file)}
    assert reads == [file, file]


def test_a_store_that_cannot_be_written_costs_time_only(
    file: Path, tmp_path: Path, reads: list[Path]
) -> None:
    (tmp_path / "store").write_text("a file")
    assert hash_files([file], tmp_path / "store") == {file: sha256_of(file)}


def test_a_file_that_changes_while_it_is_read_is_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grows(path: Path) -> str:
        digest = sha256_of(path)
        path.write_bytes(b"still downloading")
        return digest

    monkeypatch.setattr(content_hashes, "sha256_of", grows)
    with pytest.raises(WeightsError, match=r"safetensors: changed while it was read; run again"):
        hash_files([file], tmp_path / "store")
