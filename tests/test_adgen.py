"""AdvertiseGen: only the original, from any source that has it, and one clear message."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import SHARED
from file_server import FileServer, Handler, serving, whole

from glmtune.data.adgen.fetching import SOURCES, AdgenFiles, KnownFile, fetch_adgen
from glmtune.errors import DataError


def lines(first: int, count: int, keys: tuple[str, str] = ("content", "summary")) -> bytes:
    """Rows serialized like the original, with characters that are easy to get wrong."""
    texts = ((f"类型#裙*长#{n}", f'第{n}款 "裙" \u2028\t😀') for n in range(first, first + count))
    rows = (json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) for row in texts)
    return "".join(f"{row}\n" for row in rows).encode()


TRAIN, DEV = lines(0, 600), lines(600, 7)
TINY = (
    KnownFile("dev.json", 7, "sha256", hashlib.sha256(DEV).hexdigest()),
    KnownFile(
        "train.json", 600, "git_blob", hashlib.sha1(b"blob %d\0" % len(TRAIN) + TRAIN).hexdigest()
    ),
)


def packed(train: bytes = TRAIN, dev: bytes = DEV, how: str = "w:gz") -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=how) as tar:  # type: ignore[call-overload]
        for name, content in (("AdvertiseGen/train.json", train), ("AdvertiseGen/dev.json", dev)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


def fetch(folder: Path, *places: str) -> AdgenFiles:
    return fetch_adgen(folder, known=places, files=TINY)


def assert_fetched(folder: Path, *places: str) -> None:
    files = fetch(folder, *places)
    assert (files.train.read_bytes(), files.dev.read_bytes()) == (TRAIN, DEV)


def complaint(folder: Path, *places: str) -> str:
    with pytest.raises(DataError) as caught:
        fetch(folder, *places)
    assert not (folder / "train.json").exists()
    return str(caught.value)


# --- the original --------------------------------------------------------------------------------


def test_an_archive_is_fetched_once_and_verified_at_each_use(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/a.tar.gz"] = [whole(packed())]
    for _ in range(2):
        assert_fetched(tmp_path, f"{server.url}/a.tar.gz")
    assert len(server.asked) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.json", "lock", "train.json"]
    (tmp_path / "train.json").write_bytes(TRAIN[:-1])
    assert_fetched(tmp_path, f"{server.url}/a.tar.gz")
    assert len(server.asked) == 2


def test_two_workspaces_at_a_time_download_once(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_waits = threading.Event()
    monkeypatch.setattr("glmtune.files.print", lambda *_, **__: second_waits.set(), raising=False)

    def late(request: Handler) -> None:
        assert second_waits.wait(20)
        whole(packed())(request)

    server.answers["/a.tar.gz"] = [late]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: fetch(tmp_path, f"{server.url}/a.tar.gz"), range(2)))
    assert server.asked == ["/a.tar.gz"]


def test_the_source_describes_the_files_and_not_their_origin(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/a.tar.gz"] = [whole(packed())]
    facts = fetch(tmp_path / "1", f"{server.url}/a.tar.gz").source
    (tmp_path / "by-hand").mkdir()
    (tmp_path / "by-hand/train.json").write_bytes(TRAIN)
    (tmp_path / "by-hand/dev.json").write_bytes(DEV)
    assert fetch(tmp_path / "2", str(tmp_path / "by-hand")).source == facts
    assert facts == {
        "kind": "adgen",
        "train": {"rows": 600, "git_blob": TINY[1].digest},
        "dev": {"rows": 7, "sha256": TINY[0].digest},
    }


def test_a_folder_on_a_server_is_fetched_file_by_file(server: FileServer, tmp_path: Path) -> None:
    server.answers = {"/x/train.json": [whole(TRAIN)], "/x/dev.json": [whole(DEV)]}
    assert_fetched(tmp_path, f"{server.url}/x/")


@pytest.mark.parametrize("how", ["w:gz", "w"])
def test_other_archives_of_the_same_files_are_accepted(
    server: FileServer, tmp_path: Path, how: str
) -> None:
    server.answers["/a"] = [whole(packed(how=how))]
    assert_fetched(tmp_path, f"{server.url}/a")


def test_renamed_columns_get_their_original_names(server: FileServer, tmp_path: Path) -> None:
    names = ("src", "tgt")
    server.answers["/a"] = [whole(packed(lines(0, 600, names), lines(600, 7, names)))]
    assert_fetched(tmp_path, f"{server.url}/a")


def test_windows_line_endings_are_converted_back(server: FileServer, tmp_path: Path) -> None:
    train, dev = (content.replace(b"\n", b"\r\n") for content in (TRAIN, DEV))
    server.answers["/a"] = [whole(packed(train, dev))]
    assert_fetched(tmp_path, f"{server.url}/a")


def test_renaming_serializes_rows_like_the_original() -> None:
    files = sorted((SHARED / "adgen").glob("*.json"))
    if not files:
        pytest.skip("rows of the data set are not beside this checkout")
    for file in files:
        for row in file.read_bytes().split(b"\n")[:-1]:
            assert json.dumps(json.loads(row), ensure_ascii=False).encode() == row


# --- from one source to the next -----------------------------------------------------------------


def test_a_wrong_source_is_named_and_the_next_one_used(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/wrong"] = [whole(packed(train=DEV))]
    server.answers["/right"] = [whole(packed())]
    assert_fetched(tmp_path, f"{server.url}/gone", f"{server.url}/wrong", f"{server.url}/right")
    log = capsys.readouterr().err
    assert f"AdvertiseGen: {server.url}/gone: HTTP 404 Not Found\n" in log
    assert f"AdvertiseGen: {server.url}/wrong: train.json: a different file with 7 lines" in log


def test_the_user_s_sources_come_before_the_known_ones(server: FileServer, tmp_path: Path) -> None:
    server.answers = {"/mine": [whole(packed())], "/known": [whole(packed())]}
    own, known = f"{server.url}/mine", f"{server.url}/known"
    fetch_adgen(tmp_path, sources=[own], known=[known], files=TINY)
    assert server.asked == ["/mine"]


@pytest.mark.parametrize(
    ("train", "lines_found", "first"),
    [
        (DEV, 7, '{"content": "类型#裙*长#600", '),  # a mirror's mix-up
        (lines(0, 599), 599, '{"content": "类型#裙*长#0", '),
        (lines(1, 600), 600, '{"content": "类型#裙*长#1", '),
        (lines(0, 598, ("src", "tgt")), 598, '{"src": "类型#裙*长#0", "tgt": '),
        (lines(0, 600, ("prompt", "answer")), 600, '{"prompt": "类型#裙*长#0", "answer": '),
        (b"", 0, ""),
        (b"<!DOCTYPE html>\n<title>Sign in</title>\n", 2, "<!DOCTYPE html>"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            2,
            "version https://git-lfs.github.com/spec/",
        ),
    ],
)
def test_the_message_identifies_a_wrong_file(
    server: FileServer, tmp_path: Path, train: bytes, lines_found: int, first: str
) -> None:
    server.answers["/a"] = [whole(packed(train=train))]
    message = complaint(tmp_path, f"{server.url}/a")
    where = f"\n  - {server.url}/a: train.json: a different file with {lines_found} lines"
    assert f"{where}, beginning '{first}" in message
    assert f"; expected 600 lines with the git_blob hash {TINY[1].digest[:12]}…\n" in message


def test_a_wrong_small_file_saves_the_download_of_the_large_one(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers = {"/x/train.json": [whole(TRAIN)], "/x/dev.json": [whole(TRAIN)]}
    message = complaint(tmp_path, f"{server.url}/x/")
    assert f"{server.url}/x/: dev.json: a different file with 600 lines" in message
    assert server.asked == ["/x/dev.json"]


# --- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["archive", "files"])
@pytest.mark.parametrize("named", [True, False], ids=["as a source", "in the folder itself"])
def test_files_fetched_by_hand_need_no_network(tmp_path: Path, where: str, named: bool) -> None:
    by_hand = tmp_path / ("by-hand" if named else "cache")
    by_hand.mkdir()
    if where == "archive":
        (by_hand / "AdvertiseGen.tar.gz").write_bytes(packed())
    else:
        (by_hand / "train.json").write_bytes(TRAIN)
        (by_hand / "dev.json").write_bytes(DEV)
    assert_fetched(tmp_path / "cache", *([str(by_hand)] if named else []))
    if named:
        shutil.rmtree(by_hand)
        assert_fetched(tmp_path / "cache")


def test_a_local_archive_may_have_any_name_and_stays(tmp_path: Path) -> None:
    archive = tmp_path / "index.html?dl=1"  # what wget makes of the first source
    archive.write_bytes(packed())
    assert_fetched(tmp_path / "cache", str(archive))
    assert archive.read_bytes() == packed()


def test_a_relative_path_is_relative_to_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.tar.gz").write_bytes(packed())
    queued = tmp_path / ".dvc/tmp/exps/queued"
    queued.mkdir(parents=True)
    monkeypatch.chdir(queued)
    assert_fetched(tmp_path / "cache", "mine.tar.gz")


def test_wrong_files_put_in_the_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "AdvertiseGen.tar.gz").write_bytes(packed(dev=TRAIN))
    message = complaint(tmp_path)
    assert f"\n  - {tmp_path}: dev.json: a different file with 600 lines" in message


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nowhere", "[Errno 2] No such file or directory: "),
        ("empty", "[Errno 2] No such file or directory: "),
        ("text", "not an archive; expected a .tar.gz, .tar or .zip file"),
    ],
)
def test_a_local_source_without_the_data_is_named(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("text")
    message = complaint(tmp_path / "cache", str(tmp_path / name))
    assert f"\n  - {tmp_path / name}: {found}" in message


# --- nowhere -------------------------------------------------------------------------------------


def test_without_a_network_one_message_names_every_place_and_the_way_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []

    def unknown(host: str, *_: object, **__: object) -> None:
        looked_up.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("time.sleep", pytest.fail)
    with pytest.raises(DataError) as caught:
        fetch_adgen(tmp_path)
    assert len(looked_up) == len(SOURCES)
    first, *places, by_hand = str(caught.value).splitlines()
    assert first == (
        "dataset adgen: no source has the original AdvertiseGen "
        "(train.json with 114,599 rows and dev.json with 1,070 rows):"
    )
    assert len(places) == len(SOURCES)
    for place, source in zip(places, SOURCES, strict=True):
        assert place.startswith(f"  - {source}")
        assert "[Errno -3] Temporary failure in name resolution" in place
    assert f"put AdvertiseGen.tar.gz, or train.json and dev.json, into {tmp_path}, or" in by_hand
    assert "data: {adgen_sources: [path/to/AdvertiseGen.tar.gz]}" in by_hand
    assert "dataset: {train: path/to/train.json, dev: path/to/dev.json}" in by_hand
